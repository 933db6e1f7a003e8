"""How webhooks are doing, in numbers: for admins, as deliveries are."""

from typing import Annotated, Any

from fastapi import APIRouter, Query

from gatepost.api.answers import stats_json
from gatepost.api.calls import AdminCall
from gatepost.api.schemas import stats as schemas
from gatepost.api.schemas.shapes import Moment, id_pattern

router = APIRouter(tags=["deliveries"])

From = Annotated[Moment | None, Query(alias="from", description="From this moment on; a day before `to`.")]
To = Annotated[Moment | None, Query(description="Before this moment; now.")]
OfWebhook = Annotated[
    str | None, Query(alias="webhookId", pattern=id_pattern("wh"), description="Those of this webhook only.")
]


@router.get(
    "/api/integrations/stats",
    operation_id="getStats",
    summary="Count what became of attempts, in buckets of five minutes or more, by webhook",
    response_model=schemas.StatsPage,
)
async def get_stats(call: AdminCall, start: From = None, to: To = None, webhook_id: OfWebhook = None) -> Any:
    shown = await call.services.stats.of(call.group_id, webhook_id=webhook_id, begins_at=start, ends_at=to)
    return {"items": [stats_json(each, shown.step) for each in shown.buckets], "nextCursor": None}
