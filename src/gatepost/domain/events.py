"""Events: what happened to a task, as the exact bytes that every receiver gets."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from gatepost.domain.errors import PayloadTooLarge, invalid

EVENT_LIMIT_BYTES = 64 * 1024

TASK_EVENTS = (
    "task.created",
    "task.updated",
    "task.completed",
    "task.approved",
    "task.rejected",
    "task.swapped",
)
TEST_EVENT = "webhook.test"

# What starts with one of these is Gatepost's own to say.
RESERVED_FAMILIES = ("task.", "webhook.", "delivery.")

EVENT_TYPE_PATTERN = r"[a-z0-9_]+(\.[a-z0-9_]+)+"
EVENT_TYPE_LIMIT = 100
EVENT_ID_PATTERN = r"[A-Za-z0-9_-]{1,64}"

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Occasion:
    """Who changes something, when, through which door, and the id that the event of it will have.

    Shape: `hop` counts how many Gateposts the cause has come through, 1 for our own.
    """

    event_id: str
    at: datetime
    actor_id: str | None
    origin: str = "api"
    hop: int = 1


@dataclass(frozen=True, slots=True)
class Event:
    """One event, immutable; `body` is stored, signed and re-sent as it is.

    Shape: `tasks` pairs the ids of the tasks it is about with their versions after it.
    """

    id: str
    group_id: str
    event: str
    created_at: datetime
    actor_id: str | None
    origin: str
    hop: int
    tasks: tuple[tuple[str, int], ...]
    body: bytes

    @property
    def task_ids(self) -> tuple[str, ...]:
        return tuple(task_id for task_id, _ in self.tasks)


def make_event(
    event: str,
    *,
    group_id: str,
    occasion: Occasion,
    data: Json,
    tasks: tuple[tuple[str, int], ...] = (),
    thin_data: Json | None = None,
) -> Event:
    """Return the event with its canonical bytes.

    Shape:  compact UTF-8 JSON, keys in the documented order. Over 64 KiB, `thin_data` takes the place of `data`.
    Raises: PayloadTooLarge, when it is over 64 KiB and there is no thin form.
    """
    envelope = {
        "id": occasion.event_id,
        "event": event,
        "groupId": group_id,
        "timestamp": rfc3339(occasion.at),
        "actorId": occasion.actor_id,
        "origin": occasion.origin,
        "data": data,
    }
    body = to_json(envelope)
    if len(body) > EVENT_LIMIT_BYTES and thin_data is not None:
        body = to_json({**envelope, "data": {**thin_data, "truncated": True}})
    if len(body) > EVENT_LIMIT_BYTES:
        raise PayloadTooLarge(f"the event has {len(body)} bytes; at most {EVENT_LIMIT_BYTES} are sent")
    return Event(
        id=occasion.event_id,
        group_id=group_id,
        event=event,
        created_at=occasion.at,
        actor_id=occasion.actor_id,
        origin=occasion.origin,
        hop=occasion.hop,
        tasks=tasks,
        body=body,
    )


def publish(event: str, data: Json, *, group_id: str, occasion: Occasion) -> Event:
    """Return an event that another application tells of; its id is the occasion's.

    Raises: InvalidInput, when the type or the id is none, or the type is reserved; PayloadTooLarge.
    """
    if not is_event_type(event):
        raise invalid("event", "give two or more parts of a-z, 0-9 and _ with dots between", code="event_type")
    if event.startswith(RESERVED_FAMILIES):
        raise invalid("event", f"choose another beginning than {', '.join(RESERVED_FAMILIES)}", code="reserved")
    if not re.fullmatch(EVENT_ID_PATTERN, occasion.event_id, re.ASCII):
        raise invalid("id", "give 1 to 64 of A-Z, a-z, 0-9, _ and -", code="event_id")
    try:
        return make_event(event, group_id=group_id, occasion=occasion, data=data)
    except (ValueError, RecursionError):
        msg = "leave out unpaired surrogates, NaN, Infinity, numbers of thousands of digits, and thousands of levels"
        raise invalid("data", msg, code="not_json") from None


def is_event_type(name: str) -> bool:
    """Say whether a name can be an event's type.

    >>> [is_event_type(name) for name in ("task.created", "task", "Task.Created", "a.b.c_1")]
    [True, False, False, True]
    """
    return len(name) <= EVENT_TYPE_LIMIT and re.fullmatch(EVENT_TYPE_PATTERN, name) is not None


def to_json(value: Mapping[str, Any]) -> bytes:
    """Return compact UTF-8 JSON in the order of the mapping."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def rfc3339(moment: datetime) -> str:
    """Return a moment as the wire shows it: UTC, milliseconds, ``Z``.

    >>> rfc3339(datetime(2026, 11, 23, 12, 34, 56, 123000, tzinfo=UTC))
    '2026-11-23T12:34:56.123Z'
    """
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def rfc3339_or_none(moment: datetime | None) -> str | None:
    return None if moment is None else rfc3339(moment)
