"""Tasks, their history and what their changes emit, in SQL."""

from collections.abc import Sequence
from typing import Any

from gatepost.adapters.storage.paging import AFTER_ALL, page_of
from gatepost.adapters.storage.rows import (
    HISTORY_COLUMNS,
    TASK_COLUMNS,
    Row,
    history_from,
    history_row,
    searched_in,
    task_from,
    task_row,
    to_ms,
)
from gatepost.adapters.storage.scripts import Database, Emitted, Script, execute, fetch
from gatepost.adapters.storage.sql_emitting import before_emit, emit
from gatepost.domain.deliveries import Delivery
from gatepost.domain.tasks import HistoryEntry, Task, TaskChange, TaskDeletion
from gatepost.ports import Page, Saved, TaskQuery

# Not `deleted_at IS NULL` where a task is looked up by its id: the index of a status or a person would do for that.
IS_LIVE = "coalesce(deleted_at, 0) = 0"
TASK = f"SELECT {TASK_COLUMNS} FROM tasks WHERE group_id = ? AND id = ? AND {IS_LIVE}"

# Newest first, as ids are time-ordered. The conditions of a query are appended.
_TASKS = f"SELECT {TASK_COLUMNS} FROM tasks WHERE group_id = ?"

HISTORY = """
SELECT version, at, actor_id, event, changes, reason FROM task_history
WHERE task_id = ? AND group_id = ? ORDER BY version
"""

_ADD_TASK = f"""
INSERT INTO tasks ({TASK_COLUMNS}, searched) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO NOTHING
"""

# All columns but the key, if the version is still the one that the change started from.
SAVE_TASK = f"""
UPDATE tasks SET title = ?, description = ?, status = ?, assigned_to = ?, difficulty = ?, due_at = ?,
       external_id = ?, source = ?, version = ?, created_at = ?, updated_at = ?, completed_at = ?, searched = ?
WHERE group_id = ? AND id = ? AND version = ? AND {IS_LIVE}
"""
DELETE_TASK = f"""
UPDATE tasks SET version = ?, updated_at = ?, deleted_at = ? WHERE group_id = ? AND id = ? AND version = ? AND {IS_LIVE}
"""

_ADD_HISTORY = f"INSERT INTO task_history ({HISTORY_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
HISTORY_LINE = f"SELECT {HISTORY_COLUMNS} FROM task_history WHERE task_id = ? AND version = ?"


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

    async def delete_task(self, group_id: str, deletion: TaskDeletion) -> Saved:
        return await self._database.write(_delete_task(group_id, deletion))


def _task(group_id: str, task_id: str) -> Script[Task | None]:
    rows = yield fetch(TASK, (group_id, task_id))
    return task_from(rows[0]) if rows else None


def _history(group_id: str, task_id: str) -> Script[Sequence[HistoryEntry]]:
    rows = yield fetch(HISTORY, (task_id, group_id))
    return [history_from(row) for row in rows]


def _tasks(group_id: str, query: TaskQuery, limit: int, before: str | None) -> Script[Page[Task]]:
    sql, params = tasks_statement(group_id, query, before)
    rows = yield fetch(sql, (*params, limit + 1))
    return page_of([task_from(row) for row in rows], limit)


def tasks_statement(group_id: str, query: TaskQuery, before: str | None) -> tuple[str, Row]:
    """Return the list's statement and all its parameters but the last, the limit."""
    conditions: dict[str, Any] = {
        "status = ?": query.status and query.status.value,
        "assigned_to = ?": query.assigned_to,
        r"searched LIKE ? ESCAPE '\'": None if query.text is None else _pattern(query.text),
        "id < ?": before or AFTER_ALL,  # without it, SQLite would walk all of the group's tasks
    }
    asked = {sql: value for sql, value in conditions.items() if value is not None}
    has_index = query.status is not None or query.assigned_to is not None
    base = [_TASKS, "deleted_at IS NULL" if has_index else IS_LIVE]
    return " AND ".join([*base, *asked]) + " ORDER BY id DESC LIMIT ?", (group_id, *asked.values())


def _pattern(text: str) -> str:
    r"""Return the pattern of `LIKE` that finds a text, in whatever case.

    >>> _pattern("100%_Ü")
    '%100\\%\\_ü%'
    """
    for special in "\\%_":
        text = text.replace(special, f"\\{special}")
    return f"%{text.casefold()}%"


def _save_change(
    group_id: str, change: TaskChange, deliveries: Sequence[Delivery], webhooks_version: int
) -> Script[Emitted]:
    if change.task.group_id != group_id:
        return Emitted(Saved.STALE)
    told = yield from before_emit(group_id, change.event.id, webhooks_version)
    if told is not None:
        return Emitted(told)
    if not (yield from _save_task(change)):
        # The other one of two equal writes may have been first, while this one waited for its row.
        told = yield from before_emit(group_id, change.event.id, webhooks_version)
        return Emitted(Saved.DONE if told is Saved.DONE else Saved.STALE)
    yield from add_history(group_id, change.task.id, change.history)
    return (yield from emit(change.event, deliveries, webhooks_version))


def _save_task(change: TaskChange) -> Script[bool]:
    if change.expected_version == 0:
        return bool((yield execute(_ADD_TASK, (*task_row(change.task), searched_in(change.task)))))
    return (yield from update_task(change.task))


def update_task(task: Task) -> Script[bool]:
    """Write the next version of a task; False unless the version before it is stored."""
    key, values = task_row(task)[:2], task_row(task)[2:]
    return bool((yield execute(SAVE_TASK, (*values, searched_in(task), *key, task.version - 1))))


def add_history(group_id: str, task_id: str, entry: HistoryEntry) -> Script[None]:
    yield execute(_ADD_HISTORY, history_row(group_id, task_id, entry))


def _delete_task(group_id: str, deletion: TaskDeletion) -> Script[Saved]:
    task, line = deletion.task, history_row(group_id, deletion.task.id, deletion.history)
    at = to_ms(task.updated_at)
    if (yield execute(DELETE_TASK, (task.version, at, at, group_id, task.id, deletion.expected_version))):
        yield execute(_ADD_HISTORY, line)
        return Saved.DONE
    # Asked again after a doubtful end, it finds its own line.
    found = yield fetch(HISTORY_LINE, (task.id, task.version))
    return Saved.DONE if [tuple(row) for row in found] == [line] else Saved.STALE
