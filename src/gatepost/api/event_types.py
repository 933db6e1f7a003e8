"""What receivers are sent, event by event: in words, as JSON Schema 2020-12, and as an example."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from gatepost.domain.deliveries import DeadReason
from gatepost.domain.events import (
    EVENT_ID_PATTERN,
    EVENT_TYPE_LIMIT,
    EVENT_TYPE_PATTERN,
    TASK_EVENTS,
    TEST_EVENT,
    Json,
    Occasion,
)
from gatepost.domain.health import DisabledReason, Health
from gatepost.domain.operator_events import OPERATOR_EVENTS
from gatepost.domain.outcomes import ErrorClass
from gatepost.domain.samples import sample_event
from gatepost.domain.tasks import (
    DESCRIPTION_LIMIT,
    MOST_DIFFICULT,
    PERSON_PATTERN,
    REASON_LIMIT,
    TITLE_LIMIT,
    TaskStatus,
)
from gatepost.domain.webhooks import NAME_LIMIT

DIALECT = "https://json-schema.org/draft/2020-12/schema"

DESCRIPTIONS = {
    "task.created": "A task was created.",
    "task.updated": "Fields of a task were set, or it was started.",
    "task.completed": "A task was completed; it waits for approval.",
    "task.approved": "A completed task was approved.",
    "task.rejected": "A completed task was rejected, for a reason.",
    "task.swapped": "Two tasks exchanged their assignees.",
    "webhook.degraded": "A receiver has failed five times in a row; all goes on as before.",
    "webhook.suspended": "A receiver has failed for 24 hours: it is tried every ten minutes, and the rest waits.",
    "webhook.disabled": "A receiver has answered 410, or was suspended for 7 days: nothing is sent to it any more.",
    "webhook.recovered": "A receiver that was degraded or suspended has accepted a delivery.",
    "delivery.dead_lettered": "The attempts of a delivery are used up: it is not tried any more.",
    TEST_EVENT: "A test, sent by an admin of the group.",
}

EXAMPLE_GROUP = "grp_019ab0c0a8d17000a1b2c3d4e5f60718"
_OCCASION = Occasion(
    event_id="evt_019ab0c4f1a27000b2eea66f90660364",
    at=datetime(2026, 11, 23, 12, 34, 56, 123_000, tzinfo=UTC),
    actor_id="usr_019ab0c0b1e27000b1c2d3e4f5061728",
)


@dataclass(frozen=True, slots=True)
class EventType:
    """One type of event. Shape: `schema` is that of the whole message, complete in itself."""

    event: str
    description: str
    schema: Json
    example: Json


def event_types() -> list[EventType]:
    """Return every type that Gatepost itself sends, tests last."""
    return [
        EventType(event, DESCRIPTIONS[event], _message(event), _example(event))
        for event in (*TASK_EVENTS, *OPERATOR_EVENTS, TEST_EVENT)
    ]


def _example(event: str) -> Json:
    message: Json = json.loads(sample_event(event, EXAMPLE_GROUP, _OCCASION).body)
    return message


def _object(properties: Json, description: str | None = None) -> Json:
    """Return the schema of an object that has these; later versions may add others."""
    described = {} if description is None else {"description": description}
    return {"type": "object", **described, "properties": properties, "required": list(properties)}


def _text(longest: int | None = None, **more: Any) -> Json:
    return {"type": "string"} | ({} if longest is None else {"maxLength": longest}) | more


def _or_null(schema: Json) -> Json:
    return {**schema, "type": [schema["type"], "null"]}


def _id(prefix: str) -> Json:
    return _text(pattern=f"^{prefix}_[0-9a-f]{{32}}$")


_EVENT_ID = _text(pattern=f"^{EVENT_ID_PATTERN}$")
_MOMENT = _text(format="date-time")
_PERSON = _text(pattern=f"^{PERSON_PATTERN}$")
_ACTOR = _text(pattern="^(usr|key)_", description="A person, or an API key; null for `system`.")
_ORIGIN = "Through which door it came: `api`, `ui`, `inbound:` and a source, or `system`: Gatepost tells of itself."
_VERSION = {"type": "integer", "minimum": 1, "description": "Rises by one with each change of the task, without gaps."}
_STATUS = {"enum": [status.value for status in TaskStatus]}

_TASK = {
    "id": _id("tsk"),
    "groupId": _id("grp"),
    "title": _text(TITLE_LIMIT),
    "description": _or_null(_text(DESCRIPTION_LIMIT)),
    "status": _STATUS,
    "assignedTo": _or_null(_PERSON),
    "difficulty": _or_null({"type": "integer", "minimum": 1, "maximum": MOST_DIFFICULT}),
    "dueAt": _or_null(_MOMENT),
    "externalId": _or_null(_text()),
    "source": _or_null(_text()),
    "version": _VERSION,
    "createdAt": _MOMENT,
    "updatedAt": _MOMENT,
    "completedAt": _or_null(_MOMENT),
    "changes": {
        "type": "object",
        "description": "What is another than before, by field; all that is set, when the task was created.",
        "additionalProperties": _object({"from": {}, "to": {}}),
    },
}
_THIN = _object(
    {"id": _id("tsk"), "status": _STATUS, "version": _VERSION, "truncated": {"const": True}},
    "In place of a task that would not fit into 64 KiB.",
)
_SWAPPED = {"id": _id("tsk"), "from": _PERSON, "to": _PERSON, "version": _VERSION}
_SWAP = {
    "swapId": _id("swp"),
    "approvedBy": _ACTOR,
    "tasks": {"type": "array", "items": _object(_SWAPPED), "minItems": 2, "maxItems": 2},
}
_NO_LONGER = {"enum": [DisabledReason.GONE.value, DisabledReason.SUSPENDED_7D.value]}
_DEAD_LETTER = {
    "deliveryId": _id("dlv"),
    "webhookId": _id("wh"),
    "eventId": _EVENT_ID,
    "event": _text(EVENT_TYPE_LIMIT, pattern=f"^{EVENT_TYPE_PATTERN}$"),
    "attemptCount": {"type": "integer", "minimum": 1},
    "deadReason": {"enum": [reason.value for reason in DeadReason]},
    "lastStatusCode": {"type": ["integer", "null"], "description": "Null when the last attempt got no answer."},
    "lastErrorClass": {"enum": [each.value for each in ErrorClass]},
}


def _message(event: str) -> Json:
    return _object(
        {
            "id": {**_EVENT_ID, "description": "The webhook-id of every request that carries it."},
            "event": {"const": event},
            "groupId": _id("grp"),
            "timestamp": _MOMENT,
            "actorId": _or_null(_ACTOR),
            "origin": _text(description=_ORIGIN),
            "data": _data(event),
        }
    )


def _data(event: str) -> Json:
    if event == TEST_EVENT:
        return _object({"message": _text()})
    if event == "task.swapped":
        return _object(_SWAP)
    if event == "delivery.dead_lettered":
        return _object(_DEAD_LETTER)
    if event in OPERATOR_EVENTS:
        return _object(_health_news(event))
    reason = {"reason": _text(REASON_LIMIT)} if event == "task.rejected" else {}
    return {"anyOf": [_object({**_TASK, **reason}, "The task as it is after the change."), _THIN]}


def _health_news(event: str) -> Json:
    """Return the fields of an event that tells how the receiver of a webhook is from then on."""
    health = Health.HEALTHY if event == "webhook.recovered" else Health(event.removeprefix("webhook."))
    return {
        "webhookId": _id("wh"),
        "name": _text(NAME_LIMIT),
        "health": {"const": health.value},
        "disabledReason": _NO_LONGER if health is Health.DISABLED else {"type": "null"},
        "failingSince": {**_or_null(_MOMENT), "description": "The first failure of those that have led to it."},
        "suspendedAt": _or_null(_MOMENT),
    }
