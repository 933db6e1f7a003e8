"""How webhooks are doing, in numbers: for admins, as deliveries are."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from gatepost.api.answers import page_json, parse_opaque_cursor, stats_json
from gatepost.api.calls import AdminCall
from gatepost.api.openapi import Cursor
from gatepost.api.schemas import stats as schemas
from gatepost.api.schemas.shapes import Moment, id_pattern

router = APIRouter(tags=["deliveries"])


class StatsFilter(BaseModel):
    """Which counts to show."""

    begins_at: Annotated[Moment | None, Field(alias="from", description="From this moment on; a day before `to`.")] = (
        None
    )
    ends_at: Annotated[Moment | None, Field(alias="to", description="Before this moment, after `from`; now.")] = None
    webhook_id: Annotated[
        str | None, Field(alias="webhookId", pattern=id_pattern("wh"), description="Those of this webhook only.")
    ] = None
    limit: Annotated[
        int, Field(ge=1, le=200, description="How many webhooks at most; the buckets of more than 10 are wider.")
    ] = 50
    cursor: Cursor = None


@router.get(
    "/api/integrations/stats",
    operation_id="getStats",
    summary="Count what became of attempts, in buckets of five minutes or more, by webhook, newest first",
    response_model=schemas.StatsPage,
)
async def get_stats(call: AdminCall, wanted: Annotated[StatsFilter, Query()]) -> Any:
    shown = await call.services.stats.of(
        call.group_id,
        webhook_id=wanted.webhook_id,
        begins_at=wanted.begins_at,
        ends_at=wanted.ends_at,
        limit=wanted.limit,
        before=parse_opaque_cursor(wanted.cursor),
    )
    return page_json(shown.page, lambda bucket: stats_json(bucket, shown.width))
