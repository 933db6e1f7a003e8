"""How events and what is owed for them are written in SQL: a part of every write that emits."""

from collections.abc import Sequence

from gatepost.adapters.storage.rows import (
    DELIVERY_COLUMNS,
    DELIVERY_TYPES,
    EVENT_COLUMNS,
    Row,
    delivery_row,
    event_from,
    event_row,
    from_words,
    to_words,
)
from gatepost.adapters.storage.scripts import Emitted, Script, execute, execute_many, fetch, fetch_many, poke
from gatepost.domain.deliveries import Delivery, QueuedDelivery, queued
from gatepost.domain.events import Event
from gatepost.ports import Saved

# What every emit asks first: have webhooks been written since its event was matched, and is this a write that was
# made before and whose answer got lost?
BEFORE_EMIT = """
SELECT coalesce((SELECT webhooks_version FROM groups WHERE id = ?), 0),
       EXISTS (SELECT 1 FROM events WHERE group_id = ? AND id = ?)
"""

EVENT = f"{EVENT_COLUMNS}, tasks"
_ADD_EVENT = f"INSERT INTO events ({EVENT}, webhooks_version) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_ADD_EVENT_ONCE = f"{_ADD_EVENT} ON CONFLICT DO NOTHING"
ADD_EVENTS_ONCE = f"INSERT INTO events ({EVENT}, webhooks_version) VALUES {{rows}} ON CONFLICT DO NOTHING RETURNING id"
ADD_EVENTS_TYPES = "text text text bigint text text bigint bytea text bigint"
_ADD_EVENT_TASKS = "INSERT INTO event_tasks (group_id, task_id, version, event_id) VALUES {rows}"
ADD_DELIVERIES = f"INSERT INTO deliveries ({DELIVERY_COLUMNS}, replay_key) VALUES {{rows}}"


def before_emit(group_id: str, event_id: str, webhooks_version: int) -> Script[Saved | None]:
    """Return how an emit ends that is not to be written: DONE for one that was; None for one that may be."""
    [(stored_version, is_there)] = yield fetch(BEFORE_EMIT, (group_id, group_id, event_id))
    if is_there:
        return Saved.DONE
    return None if stored_version == webhooks_version else Saved.WEBHOOKS_MOVED


def emit(event: Event, deliveries: Sequence[Delivery], webhooks_version: int) -> Script[Emitted]:
    """Add the event of a change and what is owed for it. The change is written, so it is not there yet."""
    yield execute(_ADD_EVENT, _event_row(event, webhooks_version))
    rows = [(event.group_id, task_id, version, event.id) for task_id, version in event.tasks]
    yield execute_many(_ADD_EVENT_TASKS, rows, "text text bigint text")
    return (yield from owe(event, deliveries))


def add_event_once(event: Event, webhooks_version: int) -> Script[bool]:
    """Add an event that belongs to no task; False when one of its id is there."""
    return bool((yield execute(_ADD_EVENT_ONCE, _event_row(event, webhooks_version))))


def emit_once(emissions: Sequence[tuple[Event, Sequence[Delivery], int]]) -> Script[list[QueuedDelivery]]:
    """Add events that belong to no task, and what is owed for those that are not there yet.

    Shape: with each event the version of its group's webhooks; of one group or of several.
    """
    rows = [_event_row(event, webhooks_version) for event, _, webhooks_version in emissions]
    added = {event_id for (event_id,) in (yield fetch_many(ADD_EVENTS_ONCE, rows, ADD_EVENTS_TYPES))}
    new = [(event, deliveries) for event, deliveries, _ in emissions if event.id in added]
    yield from _add_deliveries([each for _, deliveries in new for each in deliveries])
    return [queued(each, body=event.body, hop=event.hop) for event, deliveries in new for each in deliveries]


def owe(event: Event, deliveries: Sequence[Delivery]) -> Script[Emitted]:
    """Add the deliveries that are owed for an event, and poke their lanes."""
    yield from _add_deliveries(deliveries)
    return Emitted(Saved.DONE, [queued(each, body=event.body, hop=event.hop) for each in deliveries])


def _add_deliveries(deliveries: Sequence[Delivery]) -> Script[None]:
    if deliveries:
        rows = [delivery_row(each) for each in deliveries]
        yield execute_many(ADD_DELIVERIES, rows, DELIVERY_TYPES)
        yield poke({row[2]: row[9] for row in rows})


def _event_row(event: Event, webhooks_version: int) -> Row:
    tasks = to_words([f"{task_id}:{version}" for task_id, version in event.tasks])
    return (*event_row(event), tasks, webhooks_version)


def event_of(row: Row) -> Event:
    """Return an event from the columns of `EVENT`."""
    *columns, tasks = row
    pairs = (pair.rpartition(":") for pair in from_words(tasks))
    return event_from(tuple(columns), tuple((task_id, int(version)) for task_id, _, version in pairs))
