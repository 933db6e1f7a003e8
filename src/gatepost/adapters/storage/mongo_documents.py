"""Values to documents and back. Where a document has what a row of SQL has, it has it under the same name.

What a query filters by is always there and of one type: absent is ``""`` or 0, a moment that never comes `NEVER_MS`.
Moments are whole milliseconds, flags 0 or 1.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from gatepost.adapters.storage.mongo_driver import Document
from gatepost.adapters.storage.rows import (
    ATTEMPT_COLUMNS,
    DELIVERY_COLUMNS,
    EVENT_COLUMNS,
    HISTORY_COLUMNS,
    NEVER_MS,
    PROGRESS_COLUMNS,
    SWAP_COLUMNS,
    TASK_COLUMNS,
    attempt_from,
    attempt_row,
    delivery_from,
    delivery_row,
    event_from,
    event_row,
    history_from,
    history_row,
    progress_values,
    swap_from,
    swap_row,
    task_from,
    task_row,
    to_ms,
    to_words,
)
from gatepost.domain.deliveries import Attempt, DeadReason, Delivery, Progress, Status
from gatepost.domain.events import Event
from gatepost.domain.swaps import Swap
from gatepost.domain.tasks import HistoryEntry, Task

# Whether a delivery is unfinished. What only ran out of attempts is open to the amendment of its last one, and what was
# discarded to the success of what was under way.
OPEN, CLOSED, EXHAUSTED, DISCARDED = 1, 0, 2, 3

_TASK = TASK_COLUMNS.split(", ")
_HISTORY = HISTORY_COLUMNS.split(", ")
_SWAP = SWAP_COLUMNS.split(", ")
_EVENT = EVENT_COLUMNS.split(", ")
_DELIVERY = DELIVERY_COLUMNS.split(", ")
_PROGRESS = PROGRESS_COLUMNS.split(", ")
_ATTEMPT = ATTEMPT_COLUMNS.split(", ")

# What leaves something to be passed on has an outbox (`mongo_outbox.py`); these are without it.
TASK_FIELDS = dict.fromkeys((*_TASK, "lock"), 1)
SWAP_FIELDS = dict.fromkeys(_SWAP, 1)
EVENT_FIELDS = dict.fromkeys((*_EVENT, "task_ids", "task_versions", "webhooks_version"), 1)
DELIVERY_FIELDS = dict.fromkeys(_DELIVERY, 1)  # without the attempts


def key_of(group_id: str, document_id: str) -> Document:
    """Return what finds a document of a group, by `_id` and by shard key alike."""
    return {**_identity(group_id, document_id), "id": same(document_id)}


def same(text: str) -> Document:
    """Return what finds a text that others have chosen: one of digits only the stand-in would take for a number."""
    return {"$eq": text}


def _identity(group_id: str, document_id: str) -> Document:
    return {"_id": f"{group_id}/{document_id}", "group_id": group_id, "id": document_id}


def task_document(task: Task) -> Document:
    """Return the task, without its outbox."""
    fields = dict(zip(_TASK, task_row(task), strict=True))
    return {
        **_identity(task.group_id, task.id),
        **fields,
        "assigned_to": task.assigned_to or "",
        "deleted": 0,
        "lock": "",  # which swap holds it (`mongo_locks.py`)
    }


def task_from_document(document: Mapping[str, Any]) -> Task:
    return task_from(_row({**document, "assigned_to": document["assigned_to"] or None}, _TASK))


def history_document(group_id: str, task_id: str, entry: HistoryEntry) -> Document:
    fields = dict(zip(_HISTORY, history_row(group_id, task_id, entry), strict=True))
    return {"_id": f"{group_id}/{task_id}/{entry.version}", **fields}


def history_from_document(document: Mapping[str, Any]) -> HistoryEntry:
    return history_from(_row(document, ("version", "at", "actor_id", "event", "changes", "reason")))


def swap_document(swap: Swap) -> Document:
    """Return the swap, without its outbox."""
    return {
        **_identity(swap.group_id, swap.id),
        **dict(zip(_SWAP, swap_row(swap), strict=True)),
        "try": 0,  # of its approval
        "event_id": "",  # of the event that its approval emitted
    }


def swap_from_document(document: Mapping[str, Any]) -> Swap:
    return swap_from(_row(document, _SWAP))


def event_document(event: Event, webhooks_version: int) -> Document:
    """Return the event, without its outbox."""
    return {
        **_identity(event.group_id, event.id),
        **dict(zip(_EVENT, event_row(event), strict=True)),
        "task_ids": list(event.task_ids),
        "task_versions": [version for _, version in event.tasks],
        "order": event_order(to_ms(event.created_at), event.id),
        "webhooks_version": webhooks_version,  # that its webhooks were matched at
        "going": "",  # who is about to let go of it (`mongo_retention.py`)
    }


def event_order(created_at: int, event_id: str) -> str:
    """Return what lists of events are sorted by: others choose the ids of theirs."""
    return f"{created_at:015d}.{event_id}"


def event_from_document(document: Mapping[str, Any]) -> Event:
    tasks = tuple(zip(document["task_ids"], document["task_versions"], strict=True))
    return event_from(_row(document, _EVENT), tasks)


# --- deliveries ----------------------------------------------------------------------------------------------


def delivery_document(delivery: Delivery, *attempts: Attempt, tasks: Iterable[tuple[str, int]] = ()) -> Document:
    """Return a delivery whose place in order its event's tasks give, with their versions; a replay has none.

    Raises: UnicodeEncodeError, for half a surrogate pair in a header of an attempt.
    """
    # The last value of the row is SQL's key of replays; here the id is the key.
    fields = dict(zip(_DELIVERY, delivery_row(delivery)[:-1], strict=True))
    return {
        "_id": delivery.id,
        **fields,
        **progress_fields(delivery.progress),
        "task_ids": list(delivery.task_ids),
        "places": [place_of(*each) for each in tasks] if delivery.replay_of is None else [],
        "attempts": {str(attempt.number): attempt_document(attempt) for attempt in attempts},
        "probes": {},
        "made_by": "",  # the bulk replay that it is of, or "test"
        "recorded_by": "",  # which write did the last attempt
        "bare": 0,  # whether heads and bodies of the answers are gone
    }


def place_of(task_id: str, version: int) -> str:
    """Return the place that a task's version has among the others, as a text that sorts."""
    return f"{task_id}/{version:019d}"


def deliveries_key(webhooks: Mapping[str, str]) -> Document:
    """Return what finds deliveries, given with their webhooks, by `_id` and by the first field of the shard key."""
    return {"_id": {"$in": list(webhooks)}, "webhook_id": {"$in": sorted(set(webhooks.values()))}}


def delivery_from_document(document: Mapping[str, Any]) -> Delivery:
    next_at = document["next_attempt_at"]
    fields = {
        **document,
        "task_ids": to_words(document["task_ids"]),
        "next_attempt_at": None if next_at == NEVER_MS else next_at,
        "not_before": document["not_before"] or None,
    }
    return delivery_from(_row(fields, _DELIVERY))


def progress_fields(progress: Progress) -> Document:
    fields = dict(zip(_PROGRESS, progress_values(progress), strict=True))
    next_at = fields["next_attempt_at"]
    return {
        **fields,
        "next_attempt_at": NEVER_MS if next_at is None else next_at,
        "not_before": fields["not_before"] or 0,
        "open": _openness(progress),
    }


def dead_fields(reason: DeadReason, *, now: int) -> Document:
    """Return what makes an unfinished delivery dead, whatever came of it until now."""
    return {
        "status": Status.DEAD_LETTER.value,
        "dead_reason": reason.value,
        "next_attempt_at": NEVER_MS,
        "not_before": 0,
        "finished_at": now,
        "open": DISCARDED if reason is DeadReason.DISCARDED else CLOSED,
    }


def _openness(progress: Progress) -> int:
    if progress.finished_at is None:
        return OPEN
    if progress.dead_reason is DeadReason.DISCARDED:
        return DISCARDED
    return EXHAUSTED if progress.dead_reason is DeadReason.ATTEMPTS_EXHAUSTED else CLOSED


def attempt_document(attempt: Attempt) -> Document:
    """Raises: UnicodeEncodeError, for half a surrogate pair in a header."""
    return dict(zip(_ATTEMPT[1:], attempt_row("", attempt)[1:], strict=True))


def attempts_from_document(document: Mapping[str, Any]) -> list[Attempt]:
    """Return the attempts of a delivery in the order they were made."""
    kept = [*document["attempts"].values(), *document["probes"].values()]
    kept.sort(key=lambda each: (each["started_at"], each["number"], each["id"]))
    return [attempt_from(_row({"headers": None, "body": None, **each, "delivery_id": ""}, _ATTEMPT)) for each in kept]


def _row(document: Mapping[str, Any], fields: Iterable[str]) -> tuple[Any, ...]:
    return tuple(document[field] for field in fields)
