"""Tasks and their history in MongoDB, and the change of a task with all that it emits (`mongo_outbox.py`)."""

from collections.abc import Sequence
from typing import Any

import structlog
from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError, PyMongoError

from gatepost.adapters.storage.mongo_documents import (
    TASK_FIELDS,
    history_from_document,
    key_of,
    task_document,
    task_from_document,
)
from gatepost.adapters.storage.mongo_driver import Document, Mongo, fetch, said_by
from gatepost.adapters.storage.mongo_outbox import (
    MOST_PENDING_BYTES,
    MOST_PENDING_EVENTS,
    OUTBOX_FIELDS,
    entry_of,
    relay,
    waiting_in,
)
from gatepost.adapters.storage.mongo_webhooks import webhooks_version_of
from gatepost.adapters.storage.paging import page_of
from gatepost.domain.deliveries import Delivery, queued
from gatepost.domain.errors import StoreUnavailable
from gatepost.domain.tasks import HistoryEntry, Task, TaskChange
from gatepost.ports import Page, Saved, TaskQuery

log = structlog.get_logger()

_HISTORY_AT_ONCE = 1_000


class MongoTasks:
    """Implements `ports.TaskStore`."""

    _mongo: Mongo

    async def task(self, group_id: str, task_id: str) -> Task | None:
        return await self._mongo.read(_task(self._mongo, group_id, task_id))

    async def history(self, group_id: str, task_id: str) -> Sequence[HistoryEntry]:
        return await self._mongo.read(_history(self._mongo, group_id, task_id))

    async def tasks(self, group_id: str, query: TaskQuery, *, limit: int, before: str | None) -> Page[Task]:
        return await self._mongo.read(_tasks(self._mongo, group_id, query, limit, before))

    async def save_change(
        self, group_id: str, change: TaskChange, deliveries: Sequence[Delivery], *, webhooks_version: int
    ) -> Saved:
        if change.task.group_id != group_id:
            return Saved.STALE
        return await self._mongo.write(_save_change(self._mongo, change, deliveries, webhooks_version))


async def _task(mongo: Mongo, group_id: str, task_id: str) -> Task | None:
    found = await mongo.tasks.find_one(key_of(group_id, task_id), TASK_FIELDS)
    return task_from_document(found) if found else None


async def _history(mongo: Mongo, group_id: str, task_id: str) -> list[HistoryEntry]:
    # What waits in the outbox first: what leaves it meanwhile is in the history already.
    task = await mongo.tasks.find_one(key_of(group_id, task_id), OUTBOX_FIELDS)
    if task is None:
        return []
    entries: dict[int, Document] = {}
    while not entries or len(entries) % _HISTORY_AT_ONCE == 0:
        after = {"group_id": group_id, "task_id": task_id, "version": {"$gt": max(entries, default=0)}}
        found = await fetch(mongo.history.find(after).sort("version", 1).limit(_HISTORY_AT_ONCE))
        if not found:
            break
        entries |= {each["version"]: each for each in found}
    entries |= {entry["version"]: entry["history"] for entry in waiting_in(task)}
    return [history_from_document(entries[version]) for version in sorted(entries)]


async def _tasks(mongo: Mongo, group_id: str, query: TaskQuery, limit: int, before: str | None) -> Page[Task]:
    asked: dict[str, Any] = {"group_id": group_id}
    if query.status is not None:
        asked["status"] = query.status.value
    if query.assigned_to is not None:
        asked["assigned_to"] = query.assigned_to
    if before is not None:
        asked["id"] = {"$lt": before}
    found = await fetch(mongo.tasks.find(asked, TASK_FIELDS).sort("id", -1).limit(limit + 1))
    return page_of([task_from_document(each) for each in found], limit)


# --- changing ------------------------------------------------------------------------------------------------


async def _save_change(
    mongo: Mongo, change: TaskChange, deliveries: Sequence[Delivery], webhooks_version: int
) -> Saved:
    event = change.event
    emitted = [queued(each, body=event.body, hop=event.hop) for each in deliveries]
    with mongo.hand_over.emission(emitted) as hand_over:
        # Read just before the task is written. A webhook whose creation was answered before we were called has raised
        # it before that (`mongo_webhooks.py`); one that is being written right now may fall on either side.
        if await webhooks_version_of(mongo, event.group_id) != webhooks_version:
            return await _repeated(mongo, change) or Saved.WEBHOOKS_MOVED
        task = await _commit(mongo, change, deliveries)
        if task is None:
            return await _repeated(mongo, change) or Saved.STALE
        if await _relayed(mongo, task):
            hand_over()
    return Saved.DONE


async def _commit(mongo: Mongo, change: TaskChange, deliveries: Sequence[Delivery]) -> Document | None:
    """Write the task with its outbox; return it as it is then, or None when the task is not as the change expects."""
    entry = entry_of(change, deliveries)
    if change.expected_version == 0:
        return await _create(mongo, change, entry)
    task = await _update(mongo, change, entry)
    if task is None and await _make_room(mongo, change):
        task = await _update(mongo, change, entry)
    return task


async def _create(mongo: Mongo, change: TaskChange, entry: Document) -> Document | None:
    task = {
        **task_document(change.task),
        "pending_events": 1,
        "pending_bytes": entry["bytes"],
        "outbox": {change.event.id: entry},
    }
    try:
        await mongo.tasks.insert_one(task)
    except DuplicateKeyError:
        return None
    return task


async def _update(mongo: Mongo, change: TaskChange, entry: Document) -> Document | None:
    key = key_of(change.task.group_id, change.task.id)
    found: Document | None = await mongo.tasks.find_one_and_update(
        {
            **key,
            "version": change.expected_version,
            "pending_events": {"$lt": MOST_PENDING_EVENTS},
            "pending_bytes": {"$lt": MOST_PENDING_BYTES},
        },
        {
            "$set": {
                **{field: value for field, value in task_document(change.task).items() if field not in key},
                f"outbox.{change.event.id}": entry,
            },
            "$inc": {"pending_events": 1, "pending_bytes": entry["bytes"]},
        },
        projection=OUTBOX_FIELDS,
        return_document=ReturnDocument.AFTER,
    )
    return found


async def _make_room(mongo: Mongo, change: TaskChange) -> bool:
    """Pass on what waits, if it is too much for one more; say whether the task is as the change expects.

    Raises: StoreUnavailable, when it cannot be passed on.
    """
    task = await _outbox_of(mongo, change)
    if task is None or task["version"] != change.expected_version:
        return False
    if task["pending_events"] < MOST_PENDING_EVENTS and task["pending_bytes"] < MOST_PENDING_BYTES:
        return True  # somebody has passed it on since
    try:
        await relay(mongo, task)
    except PyMongoError as error:
        raise StoreUnavailable("too many events of this task wait to be passed on; try again in a minute") from error
    return True


async def _repeated(mongo: Mongo, change: TaskChange) -> Saved | None:
    """Return DONE if this very change was written before, and its answer got lost."""
    task = await _outbox_of(mongo, change)
    if task is None:
        return None
    if change.event.id in task["outbox"]:
        await _relayed(mongo, task)
        return Saved.DONE
    event = await mongo.events.find_one(key_of(change.event.group_id, change.event.id), {"_id": 1})
    return None if event is None else Saved.DONE


async def _outbox_of(mongo: Mongo, change: TaskChange) -> Document | None:
    found: Document | None = await mongo.tasks.find_one(key_of(change.task.group_id, change.task.id), OUTBOX_FIELDS)
    return found


async def _relayed(mongo: Mongo, task: Document) -> bool:
    """Pass on what waits; say whether that went well. If not, the change is saved all the same: the sweep will."""
    try:
        await relay(mongo, task)
    except Exception as error:  # noqa: BLE001  # nothing may unsay what is committed
        log.warning("outbox.not_relayed", task_id=task["id"], group_id=task["group_id"], reason=said_by(error))
        return False
    return True
