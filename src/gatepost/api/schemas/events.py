"""Events, their ways to webhooks, and the types that there are."""

from typing import Annotated, Any

from pydantic import Field

from gatepost.api.schemas.shapes import Answer, Body, WireMoment
from gatepost.domain.events import EVENT_ID_PATTERN, EVENT_TYPE_LIMIT, EVENT_TYPE_PATTERN, RESERVED_FAMILIES
from gatepost.domain.routing import Verdict

_TYPE = Field(
    json_schema_extra={"pattern": f"^{EVENT_TYPE_PATTERN}$", "maxLength": EVENT_TYPE_LIMIT},
    description=f"Two or more words with dots between; {', '.join(RESERVED_FAMILIES)} are Gatepost's own.",
)
_ID = Field(
    json_schema_extra={"pattern": f"^{EVENT_ID_PATTERN}$"},
    description="The webhook-id that receivers get, unique in the group; else one is made.",
)


class EventPublish(Body):
    event: Annotated[str, _TYPE]
    data: Annotated[dict[str, Any], Field(description="Any object; the whole event may have 64 KiB.")]
    id: Annotated[str, _ID] | None = None


class EventPublished(Answer):
    id: str


class Event(Answer):
    """The message as receivers get it, and the tasks that it is about."""

    id: str
    event: str
    group_id: str
    timestamp: WireMoment
    actor_id: str | None
    origin: str
    data: dict[str, Any]
    task_ids: list[str]


class EventPage(Answer):
    items: list[Event]
    next_cursor: str | None


class Route(Answer):
    webhook_id: str
    name: str
    verdict: Verdict
    delivery_id: str | None


class EventRouting(Answer):
    event_id: str
    event: str
    origin: str
    items: Annotated[list[Route], Field(description="Every webhook that the group had then or has now.")]


class EventType(Answer):
    event: str
    description: str
    json_schema: Annotated[dict[str, Any], Field(alias="schema", description="JSON Schema 2020-12 of the message.")]
    example: dict[str, Any]


class EventTypePage(Answer):
    items: list[EventType]
    next_cursor: None
