"""Tasks and their history in MongoDB, and the change of a task with all that it emits (`mongo_outbox.py`).

A list is read by a cursor that walks on while others write, and a swap changes two tasks. So the group counts the
approvals of its swaps, each before it is made and after its tasks are locked. A list looks at that number first and
last, and is read again when it has risen. While it stands still no swap is approved that was not on its way before; its
tasks are locked then, until they are written, and a list takes what is locked from `tasks_held`: both tasks of a swap
as they were, or both as they are.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from gatepost.adapters.storage.mongo_documents import (
    TASK_FIELDS,
    history_from_document,
    key_of,
    task_document,
    task_from_document,
)
from gatepost.adapters.storage.mongo_driver import Document, Mongo, fetch
from gatepost.adapters.storage.mongo_locks import (
    MOST_TRIES,
    STATE_FIELDS,
    made_way,
    swap_that_holds,
    task_as_it_stands,
    tasks_held,
)
from gatepost.adapters.storage.mongo_outbox import (
    MOST_PENDING_BYTES,
    MOST_PENDING_EVENTS,
    OUTBOX_FIELDS,
    emitted_entry,
    history_rows,
    relayed,
    sealed_entry,
    waiting_in,
    waits_from_now_on,
    waits_in_new,
)
from gatepost.adapters.storage.mongo_subscriptions import webhooks_version_of
from gatepost.adapters.storage.paging import AFTER_ALL, page_of
from gatepost.adapters.storage.rows import searched_in
from gatepost.domain.deliveries import Delivery, queued
from gatepost.domain.errors import StoreUnavailable
from gatepost.domain.tasks import HistoryEntry, Task, TaskChange, TaskDeletion
from gatepost.ports import Page, Saved, TaskQuery

_HISTORY_AT_ONCE = 1_000
_SEARCHED_AT_ONCE = 500
_DELETION = "deletion"  # what its entry in an outbox is called, which no event is


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

    async def delete_task(self, group_id: str, deletion: TaskDeletion) -> Saved:
        if deletion.task.group_id != group_id:
            return Saved.STALE
        return await self._mongo.write(_delete_task(self._mongo, deletion))


async def _task(mongo: Mongo, group_id: str, task_id: str) -> Task | None:
    found = await task_as_it_stands(mongo, group_id, task_id)
    return task_from_document(found) if found else None


async def _history(mongo: Mongo, group_id: str, task_id: str) -> list[HistoryEntry]:
    # What waits in outboxes first: what leaves them meanwhile is in the history already.
    task = await mongo.tasks.find_one(key_of(group_id, task_id), STATE_FIELDS)
    if task is None:
        return []
    waiting = waiting_in(task)
    if task["lock"]:
        waiting += waiting_in(await swap_that_holds(mongo, task))
    entries: dict[int, Document] = {}
    while not entries or len(entries) % _HISTORY_AT_ONCE == 0:
        after = {"group_id": group_id, "task_id": task_id, "version": {"$gt": max(entries, default=0)}}
        found = await fetch(mongo.history.find(after).sort("version", 1).limit(_HISTORY_AT_ONCE))
        if not found:
            break
        entries |= {each["version"]: each for each in found}
    entries |= {row["version"]: row for entry in waiting for row in entry["history"] if row["task_id"] == task_id}
    return [history_from_document(entries[version]) for version in sorted(entries)]


# --- listing -------------------------------------------------------------------------------------------------


async def _tasks(mongo: Mongo, group_id: str, query: TaskQuery, limit: int, before: str | None) -> Page[Task]:
    approvals = await _approvals(mongo, group_id)
    for _ in range(MOST_TRIES):
        found = await _listed(mongo, group_id, query, limit + 1, before or AFTER_ALL)
        counted, approvals = approvals, await _approvals(mongo, group_id)
        if counted == approvals:
            return page_of(found, limit)
    raise StoreUnavailable("the group's tasks are swapped too often at this moment; try again")


async def _approvals(mongo: Mongo, group_id: str) -> int:
    group = await mongo.groups.find_one({"_id": group_id}, {"approvals": 1})
    return int(group.get("approvals", 0)) if group else 0  # it has none until its first


async def _listed(mongo: Mongo, group_id: str, query: TaskQuery, limit: int, before: str) -> list[Task]:
    """Return the newest tasks before an id, as many as that, or all that there are."""
    held = {task_id: task_from_document(each) for task_id, each in (await tasks_held(mongo, group_id)).items()}
    found = [task for task in held.values() if task.id < before and _meets(task, query)]
    at_once = limit + len(held) if query.text is None else _SEARCHED_AT_ONCE
    wanted, last = limit + len(found), before
    while len(found) < wanted:
        asked = {**_asked(group_id, query), "id": {"$lt": last}}
        documents = await fetch(mongo.tasks.find(asked, TASK_FIELDS).sort("id", -1).limit(at_once))
        tasks = [task_from_document(each) for each in documents if each["id"] not in held]
        found += [task for task in tasks if _contains(task, query.text)]
        if len(documents) < at_once:
            break
        last = documents[-1]["id"]
    found.sort(key=lambda task: task.id, reverse=True)
    return found[:limit]


def _asked(group_id: str, query: TaskQuery) -> dict[str, Any]:
    """Return the filter of a list, without the text: nothing on a server finds that by an index."""
    asked: dict[str, Any] = {"group_id": group_id, "deleted": 0}
    if query.status is not None:
        asked["status"] = query.status.value
    if query.assigned_to is not None:
        asked["assigned_to"] = query.assigned_to
    return asked


def _meets(task: Task, query: TaskQuery) -> bool:
    return (
        query.status in (None, task.status)
        and query.assigned_to in (None, task.assigned_to)
        and _contains(task, query.text)
    )


def _contains(task: Task, text: str | None) -> bool:
    return text is None or text.casefold() in searched_in(task)


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
        entry = sealed_entry(
            change.task.version,
            **emitted_entry(event, deliveries, webhooks_version=webhooks_version),
            history=history_rows((change.task, change.history)),
        )
        task = await _commit(mongo, change, entry)
        if task is None:
            return await _repeated(mongo, change) or Saved.STALE
        if await relayed(mongo, mongo.tasks, task):
            hand_over()
    return Saved.DONE


async def _commit(mongo: Mongo, change: TaskChange, entry: Document) -> Document | None:
    """Write the task with its outbox; return it as it is then, or None when the task is not as the change expects."""
    document = task_document(change.task)
    if change.expected_version == 0:
        task = {**document, **waits_in_new(change.event.id, entry)}
        try:
            await mongo.tasks.insert_one(task)
        except DuplicateKeyError:
            return None
        return task
    return await _update(mongo, document, change.event.id, entry)


async def _delete_task(mongo: Mongo, deletion: TaskDeletion) -> Saved:
    entry = sealed_entry(deletion.task.version, history=history_rows((deletion.task, deletion.history)))
    task = await _update(mongo, {**task_document(deletion.task), "deleted": 1}, _DELETION, entry)
    if task is None:  # or it was deleted before, just like this, and the answer got lost
        history = await _history(mongo, deletion.task.group_id, deletion.task.id)
        return Saved.DONE if deletion.history in history else Saved.STALE
    await relayed(mongo, mongo.tasks, task)
    return Saved.DONE


async def _update(mongo: Mongo, task: Mapping[str, Any], name: str, entry: Document) -> Document | None:
    """Write a task's next version with an entry of its outbox; return it as it is then, None unless it had the last."""
    key = key_of(task["group_id"], task["id"])
    fields = {field: value for field, value in task.items() if field not in key}
    expected = task["version"] - 1
    for _ in range(MOST_TRIES):
        found: Document | None = await mongo.tasks.find_one_and_update(
            {
                **key,
                "version": expected,
                "deleted": 0,
                "lock": "",
                "pending_events": {"$lt": MOST_PENDING_EVENTS},
                "pending_bytes": {"$lt": MOST_PENDING_BYTES},
            },
            waits_from_now_on(name, entry, **fields),
            projection=OUTBOX_FIELDS,
            return_document=ReturnDocument.AFTER,
        )
        if found is not None or not await made_way(mongo, key, expected):
            return found
    raise StoreUnavailable("too many want to change the task at this moment; try again")


async def _repeated(mongo: Mongo, change: TaskChange) -> Saved | None:
    """Return DONE if this very change was written before, and its answer got lost."""
    task = await mongo.tasks.find_one(key_of(change.task.group_id, change.task.id), OUTBOX_FIELDS)
    if task is None:
        return None
    if change.event.id in task["outbox"]:
        await relayed(mongo, mongo.tasks, task)
        return Saved.DONE
    event = await mongo.events.find_one(key_of(change.event.group_id, change.event.id), {"_id": 1})
    return None if event is None else Saved.DONE
