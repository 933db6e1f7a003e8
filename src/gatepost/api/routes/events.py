"""/api/integrations/events: an admin publishes, lists, asks for reasons; and the types, for anybody signed in."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path

from gatepost.api.answers import event_json, event_type_json, page_json, parse_opaque_cursor, routing_json
from gatepost.api.calls import AdminCall, AnybodysCall, Call, creating
from gatepost.api.event_types import event_types
from gatepost.api.once import OnceRoute
from gatepost.api.openapi import Cursor, EventFilter, Limit, TaskFilter, body_of
from gatepost.api.schemas import events as schemas
from gatepost.domain.events import EVENT_ID_PATTERN
from gatepost.domain.groups import Role
from gatepost.ports import EventQuery

router = APIRouter(tags=["events"], route_class=OnceRoute)

EventId = Annotated[str, Path(alias="eventId", pattern=f"^{EVENT_ID_PATTERN}$", description="The event.")]
Publish = Annotated[Call[schemas.EventPublish], Depends(creating(schemas.EventPublish, Role.ADMIN))]


@router.post(
    "/api/integrations/events",
    operation_id="publishEvent",
    summary="Publish an event of another application",
    status_code=202,
    response_model=schemas.EventPublished,
    openapi_extra=body_of(schemas.EventPublish),
)
async def publish_event(call: Publish) -> Any:
    body = call.body
    return {
        "id": await call.services.events.publish(call.caller, body.event, body.data, event_id=body.id, draws=call.draws)
    }


@router.get(
    "/api/integrations/events",
    operation_id="listEvents",
    summary="List events, newest first, those that matched no webhook too",
    response_model=schemas.EventPage,
)
async def list_events(
    call: AdminCall,
    event: EventFilter = None,
    task_id: TaskFilter = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Any:
    query = EventQuery(event=event, task_id=task_id)
    page = await call.services.events.list(call.group_id, query, limit=limit, before=parse_opaque_cursor(cursor))
    return page_json(page, event_json)


@router.get(
    "/api/integrations/events/{eventId}/routing",
    operation_id="getEventRouting",
    summary="Say for each webhook why it did or did not get an event",
    response_model=schemas.EventRouting,
)
async def get_event_routing(call: AdminCall, event_id: EventId) -> Any:
    return routing_json(await call.services.events.routing(call.group_id, event_id))


@router.get(
    "/api/integrations/event-types",
    operation_id="listEventTypes",
    summary="List the types of events, with JSON Schema and example",
    response_model=schemas.EventTypePage,
)
async def list_event_types(_: AnybodysCall) -> Any:
    return {"items": [event_type_json(each) for each in event_types()], "nextCursor": None}
