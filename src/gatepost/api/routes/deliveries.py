"""Deliveries, of one webhook or of the whole group: all of it needs an admin."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query
from pydantic import BaseModel, Field

from gatepost.api.answers import delivery_detail_json, delivery_json, page_json, parse_cursor
from gatepost.api.calls import AdminCall, Call, changing
from gatepost.api.once import OnceRoute
from gatepost.api.openapi import Cursor, EventFilter, Limit, TaskFilter, body_of
from gatepost.api.routes.webhooks import WebhookId
from gatepost.api.schemas import deliveries as schemas
from gatepost.api.schemas.shapes import Moment, id_pattern
from gatepost.domain.deliveries import Status
from gatepost.domain.groups import Role
from gatepost.ports import DeliveryQuery

router = APIRouter(tags=["deliveries"], route_class=OnceRoute)

DeliveryId = Annotated[str, Path(alias="deliveryId", pattern=id_pattern("dlv"), description="The delivery.")]
Replay = Annotated[Call[schemas.Replay], Depends(changing(schemas.Replay, Role.ADMIN, keyed=True))]


class DeliveryFilter(BaseModel):
    """Which deliveries to list."""

    status: Annotated[Status | None, Field(description="Those of this status only.")] = None
    event: EventFilter = None
    task_id: TaskFilter = None
    created_from: Annotated[Moment | None, Field(alias="from", description="From this moment on.")] = None
    created_to: Annotated[Moment | None, Field(alias="to", description="Before this moment.")] = None
    limit: Limit = 50
    cursor: Cursor = None

    def query(self, webhook_id: str | None) -> DeliveryQuery:
        return DeliveryQuery(
            webhook_id=webhook_id,
            status=self.status,
            event=self.event,
            task_id=self.task_id,
            created_from=self.created_from,
            created_to=self.created_to,
        )


Wanted = Annotated[DeliveryFilter, Query()]


@router.get(
    "/api/integrations/webhooks/{webhookId}/deliveries",
    operation_id="listWebhookDeliveries",
    summary="List the deliveries of one webhook, newest first",
    response_model=schemas.DeliveryPage,
)
async def list_webhook_deliveries(call: AdminCall, webhook_id: WebhookId, wanted: Wanted) -> Any:
    return await _page(call, wanted, webhook_id=webhook_id)


@router.get(
    "/api/integrations/deliveries",
    operation_id="listDeliveries",
    summary="List the deliveries of all webhooks of the group, newest first",
    response_model=schemas.DeliveryPage,
)
async def list_deliveries(call: AdminCall, wanted: Wanted) -> Any:
    return await _page(call, wanted, webhook_id=None)


@router.get(
    "/api/integrations/webhooks/{webhookId}/deliveries/{deliveryId}",
    operation_id="getDelivery",
    summary="Look at one delivery: its request and every attempt",
    response_model=schemas.DeliveryDetail,
)
async def get_delivery(call: AdminCall, webhook_id: WebhookId, delivery_id: DeliveryId) -> Any:
    shown = await call.services.deliveries.get(call.group_id, webhook_id, delivery_id)
    return delivery_detail_json(shown)


@router.post(
    "/api/integrations/webhooks/{webhookId}/replay/{deliveryId}",
    operation_id="replayDelivery",
    summary="Send the event of a delivery once more, as a new delivery",
    status_code=202,
    response_model=schemas.Delivery,
    openapi_extra=body_of(schemas.Replay, "webhook_disabled", "payload_expired"),
)
async def replay_delivery(call: Replay, webhook_id: WebhookId, delivery_id: DeliveryId) -> Any:
    replay = await call.services.deliveries.replay(call.group_id, webhook_id, delivery_id, draws=call.draws)
    return delivery_json(replay)


async def _page(call: AdminCall, wanted: DeliveryFilter, *, webhook_id: str | None) -> Any:
    before = parse_cursor(wanted.cursor)
    page = await call.services.deliveries.list(
        call.group_id, wanted.query(webhook_id), limit=wanted.limit, before=before
    )
    return page_json(page, delivery_json)
