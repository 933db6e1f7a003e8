"""What receivers are sent, event by event: in words, as JSON Schema 2020-12, and as an example."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from gatepost.domain.events import EVENT_ID_PATTERN, TASK_EVENTS, TEST_EVENT, Json, Occasion
from gatepost.domain.samples import sample_event
from gatepost.domain.tasks import (
    DESCRIPTION_LIMIT,
    MOST_DIFFICULT,
    PERSON_PATTERN,
    REASON_LIMIT,
    TITLE_LIMIT,
    TaskStatus,
)

DIALECT = "https://json-schema.org/draft/2020-12/schema"

DESCRIPTIONS = {
    "task.created": "A task was created.",
    "task.updated": "Fields of a task were set, or it was started.",
    "task.completed": "A task was completed; it waits for approval.",
    "task.approved": "A completed task was approved.",
    "task.rejected": "A completed task was rejected, for a reason.",
    "task.swapped": "Two tasks exchanged their assignees.",
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
        EventType(event, DESCRIPTIONS[event], _message(event), _example(event)) for event in (*TASK_EVENTS, TEST_EVENT)
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


_MOMENT = _text(format="date-time")
_PERSON = _text(pattern=f"^{PERSON_PATTERN}$")
_ACTOR = _text(pattern="^(usr|key)_", description="A person, or an API key.")
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


def _message(event: str) -> Json:
    return _object(
        {
            "id": _text(
                pattern=f"^{EVENT_ID_PATTERN}$", description="The webhook-id of every request that carries it."
            ),
            "event": {"const": event},
            "groupId": _id("grp"),
            "timestamp": _MOMENT,
            "actorId": _or_null(_ACTOR),
            "origin": _text(description="Through which door it came: `api`, `ui`, or `inbound:` and a source."),
            "data": _data(event),
        }
    )


def _data(event: str) -> Json:
    if event == TEST_EVENT:
        return _object({"message": _text()})
    if event == "task.swapped":
        return _object(_SWAP)
    reason = {"reason": _text(REASON_LIMIT)} if event == "task.rejected" else {}
    return {"anyOf": [_object({**_TASK, **reason}, "The task as it is after the change."), _THIN]}
