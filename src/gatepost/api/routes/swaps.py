"""/api/swaps: proposed by an assignee or an admin's key, decided by an admin."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query

from gatepost.api.answers import page_json, parse_cursor
from gatepost.api.calls import AdminCall, Call, MemberCall, creating
from gatepost.api.once import OnceRoute
from gatepost.api.openapi import Cursor, Limit, body_of, problems_of
from gatepost.api.schemas import swaps as schemas
from gatepost.api.schemas.shapes import id_pattern
from gatepost.domain.groups import Role
from gatepost.domain.swaps import SwapStatus, as_json

router = APIRouter(tags=["swaps"], route_class=OnceRoute)

SwapId = Annotated[str, Path(alias="swapId", pattern=id_pattern("swp"), description="The swap.")]
Propose = Annotated[Call[schemas.SwapPropose], Depends(creating(schemas.SwapPropose, Role.MEMBER))]


@router.post(
    "/api/swaps",
    operation_id="proposeSwap",
    summary="Propose that two tasks exchange their assignees",
    status_code=201,
    response_model=schemas.Swap,
    openapi_extra=body_of(schemas.SwapPropose, "forbidden", "not_found", "invalid_transition", "version_conflict"),
)
async def propose_swap(call: Propose) -> Any:
    body = call.body
    proposed = await call.services.swaps.propose(
        call.caller, body.task_id, body.with_task_id, reason=body.reason, draws=call.draws
    )
    return as_json(proposed)


@router.get(
    "/api/swaps",
    operation_id="listSwaps",
    summary="List swaps, newest first",
    response_model=schemas.SwapPage,
)
async def list_swaps(
    call: MemberCall,
    status: Annotated[SwapStatus | None, Query(description="Those of this status only.")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Any:
    page = await call.services.swaps.list(call.group_id, status, limit=limit, before=parse_cursor(cursor))
    return page_json(page, as_json)


@router.get(
    "/api/swaps/{swapId}",
    operation_id="getSwap",
    summary="Look at one swap",
    response_model=schemas.Swap,
)
async def get_swap(call: MemberCall, swap_id: SwapId) -> Any:
    return as_json(await call.services.swaps.get(call.group_id, swap_id))


@router.post(
    "/api/swaps/{swapId}/approve",
    operation_id="approveSwap",
    summary="Exchange the assignees of the two tasks (admin)",
    response_model=schemas.Swap,
    openapi_extra=problems_of("swap_decided", "swap_stale", "version_conflict"),
)
async def approve_swap(call: AdminCall, swap_id: SwapId) -> Any:
    return as_json(await call.services.swaps.approve(call.caller, swap_id))


@router.post(
    "/api/swaps/{swapId}/reject",
    operation_id="rejectSwap",
    summary="Leave the two tasks as they are (admin)",
    response_model=schemas.Swap,
    openapi_extra=problems_of("swap_decided"),
)
async def reject_swap(call: AdminCall, swap_id: SwapId) -> Any:
    return as_json(await call.services.swaps.reject(call.caller, swap_id))
