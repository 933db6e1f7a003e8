"""Tasks, their history and what their changes emit, in SQL."""

from collections.abc import Sequence

from gatepost.adapters.storage.paging import page_of
from gatepost.adapters.storage.rows import (
    HISTORY_COLUMNS,
    TASK_COLUMNS,
    history_from,
    history_row,
    task_from,
    task_row,
)
from gatepost.adapters.storage.scripts import Database, Emitted, Script, execute, fetch
from gatepost.adapters.storage.sql_deliveries import store_deliveries, store_event
from gatepost.domain.deliveries import Delivery, queued
from gatepost.domain.tasks import HistoryEntry, Task, TaskChange
from gatepost.ports import Page, Saved, TaskQuery

_TASK = f"SELECT {TASK_COLUMNS} FROM tasks WHERE group_id = ? AND id = ?"

# Newest first, as ids are time-ordered. The conditions of a query are appended.
_TASKS = f"SELECT {TASK_COLUMNS} FROM tasks WHERE group_id = ?"

_HISTORY = """
SELECT version, at, actor_id, event, changes, reason FROM task_history
WHERE task_id = ? AND group_id = ? ORDER BY version
"""

# What every emit asks first: have webhooks been written since its event was matched, and is this a write that was
# made before and whose answer got lost?
BEFORE_EMIT = """
SELECT coalesce((SELECT webhooks_version FROM groups WHERE id = ?), 0),
       EXISTS (SELECT 1 FROM events WHERE group_id = ? AND id = ?)
"""

_ADD_TASK = f"""
INSERT INTO tasks ({TASK_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO NOTHING
"""

# All columns but the key, if the version is still the one that the change started from.
_SAVE_TASK = """
UPDATE tasks SET title = ?, description = ?, status = ?, assigned_to = ?, difficulty = ?, due_at = ?,
       external_id = ?, source = ?, version = ?, created_at = ?, updated_at = ?, completed_at = ?
WHERE group_id = ? AND id = ? AND version = ?
"""

_ADD_HISTORY = f"INSERT INTO task_history ({HISTORY_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"


class SqlTasks:
    """Implements `ports.TaskStore`."""

    _database: Database

    async def task(self, group_id: str, task_id: str) -> Task | None:
        return await self._database.read(_task(group_id, task_id))

    async def history(self, group_id: str, task_id: str) -> Sequence[HistoryEntry]:
        return await self._database.read(_history(group_id, task_id))

    async def tasks(self, group_id: str, query: TaskQuery, *, limit: int, before: str | None) -> Page[Task]:
        return await self._database.read(_tasks(group_id, query, limit, before))

    async def save_change(
        self, group_id: str, change: TaskChange, deliveries: Sequence[Delivery], *, webhooks_version: int
    ) -> Saved:
        emitted = await self._database.write(_save_change(group_id, change, deliveries, webhooks_version))
        return emitted.saved


def _task(group_id: str, task_id: str) -> Script[Task | None]:
    rows = yield fetch(_TASK, (group_id, task_id))
    return task_from(rows[0]) if rows else None


def _history(group_id: str, task_id: str) -> Script[Sequence[HistoryEntry]]:
    rows = yield fetch(_HISTORY, (task_id, group_id))
    return [history_from(row) for row in rows]


def _tasks(group_id: str, query: TaskQuery, limit: int, before: str | None) -> Script[Page[Task]]:
    conditions = {
        "status = ?": query.status and query.status.value,
        "assigned_to = ?": query.assigned_to,
        "id < ?": before,
    }
    asked = {sql: value for sql, value in conditions.items() if value is not None}
    sql = " AND ".join([_TASKS, *asked]) + " ORDER BY id DESC LIMIT ?"
    rows = yield fetch(sql, (group_id, *asked.values(), limit + 1))
    return page_of([task_from(row) for row in rows], limit)


def _save_change(
    group_id: str, change: TaskChange, deliveries: Sequence[Delivery], webhooks_version: int
) -> Script[Emitted]:
    if change.task.group_id != group_id:
        return Emitted(Saved.STALE)
    [(stored_version, is_repeat)] = yield fetch(BEFORE_EMIT, (group_id, group_id, change.event.id))
    if is_repeat:
        return Emitted(Saved.DONE)
    if stored_version != webhooks_version:
        return Emitted(Saved.WEBHOOKS_MOVED)
    if not (yield from _save_task(change)):
        # The other one of two equal writes may have been first, while this one waited for its row.
        [(_, is_repeat)] = yield fetch(BEFORE_EMIT, (group_id, group_id, change.event.id))
        return Emitted(Saved.DONE if is_repeat else Saved.STALE)
    yield execute(_ADD_HISTORY, history_row(group_id, change.task.id, change.history))
    yield from store_event(change.event)
    yield from store_deliveries(deliveries)
    event = change.event
    return Emitted(Saved.DONE, [queued(each, body=event.body, hop=event.hop) for each in deliveries])


def _save_task(change: TaskChange) -> Script[bool]:
    row = task_row(change.task)
    if change.expected_version == 0:
        return bool((yield execute(_ADD_TASK, row)))
    return bool((yield execute(_SAVE_TASK, (*row[2:], *row[:2], change.expected_version))))
