"""Is the process up, and can it serve: for supervisors and load balancers, without a key."""

from typing import Any, Literal

from fastapi import APIRouter, Request

from gatepost.api.openapi import problems_of
from gatepost.api.schemas.shapes import Answer
from gatepost.domain.errors import StoreUnavailable

router = APIRouter(tags=["health"])


class HealthStatus(Answer):
    status: Literal["ok"]


@router.get(
    "/health/live",
    operation_id="getLiveness",
    summary="Answer as long as the process runs",
    response_model=HealthStatus,
    openapi_extra={"security": []},
)
async def get_liveness() -> Any:
    return {"status": "ok"}


@router.get(
    "/health/ready",
    operation_id="getReadiness",
    summary="Answer 200 when requests can be served, else 503",
    response_model=HealthStatus,
    openapi_extra={"security": [], **problems_of("store_unavailable")},
)
async def get_readiness(request: Request) -> Any:
    if not request.app.state.ready():
        raise StoreUnavailable("not ready to serve")
    return {"status": "ok"}
