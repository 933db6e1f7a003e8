"""Swaps in SQL.

Whoever writes a swap locks in one order: the swap if it is there, its tasks by their ids, then what is new. A change
of a task locks that task only, and emits lock neither webhooks nor their group: so nobody waits in a circle.
"""

from collections.abc import Mapping, Sequence

from gatepost.adapters.storage.paging import AFTER_ALL, page_of
from gatepost.adapters.storage.rows import SWAP_COLUMNS, Row, swap_from, swap_row, to_ms_or_none
from gatepost.adapters.storage.scripts import (
    IN_LIST,
    LOCKED,
    Database,
    Emitted,
    Script,
    execute,
    execute_many,
    fetch,
    listed,
)
from gatepost.adapters.storage.sql_emitting import before_emit, emit
from gatepost.adapters.storage.sql_tasks import IS_LIVE, add_history, update_task
from gatepost.domain.deliveries import Delivery
from gatepost.domain.swaps import Swap, SwapApproval, SwapStatus
from gatepost.ports import Page, Saved

SWAP = f"SELECT {SWAP_COLUMNS} FROM swaps WHERE group_id = ? AND id = ?"
# Newest first, as ids are time-ordered. The conditions of a query are appended.
_SWAPS = f"SELECT {SWAP_COLUMNS} FROM swaps WHERE group_id = ?"

VERSIONS = f"SELECT id, version FROM tasks WHERE group_id = ? AND id {IN_LIST} AND {IS_LIVE} ORDER BY id {LOCKED}"
OPEN = f"SELECT swap_id FROM open_swaps WHERE group_id = ? AND task_id {IN_LIST}"
STATUS = f"SELECT status FROM swaps WHERE group_id = ? AND id = ? {LOCKED}"

_ADD = f"INSERT INTO swaps ({SWAP_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_ADD_OPEN = "INSERT INTO open_swaps (group_id, task_id, swap_id) VALUES {rows}"
# `|| ''` keeps the planner from walking the group's pending swaps.
DECIDE = """
UPDATE swaps SET status = ?, decided_by = ?, decided_at = ? WHERE group_id = ? AND id = ? AND status || '' = 'pending'
"""
CLOSE = f"DELETE FROM open_swaps WHERE group_id = ? AND task_id {IN_LIST} AND swap_id = ?"


class SqlSwaps:
    """Implements `ports.SwapStore`."""

    _database: Database

    async def add_swap(self, group_id: str, swap: Swap) -> Saved:
        return await self._database.write(_add_swap(group_id, swap))

    async def swap(self, group_id: str, swap_id: str) -> Swap | None:
        return await self._database.read(_swap(group_id, swap_id))

    async def swaps(self, group_id: str, status: SwapStatus | None, *, limit: int, before: str | None) -> Page[Swap]:
        return await self._database.read(_swaps(group_id, status, limit, before))

    async def approve_swap(
        self, group_id: str, approval: SwapApproval, deliveries: Sequence[Delivery], *, webhooks_version: int
    ) -> Saved:
        emitted = await self._database.write(_approve_swap(group_id, approval, deliveries, webhooks_version))
        return emitted.saved

    async def reject_swap(self, group_id: str, swap: Swap) -> Saved:
        return await self._database.write(_reject_swap(group_id, swap))


def _add_swap(group_id: str, swap: Swap) -> Script[Saved]:
    sides = (swap.task, swap.with_task)
    # Of two who propose a swap of one task, the second waits here, and then finds the first.
    versions = yield from _locked_versions(group_id, swap.task_ids)
    if (yield fetch(SWAP, (group_id, swap.id))):
        return Saved.DONE
    if swap.group_id != group_id or versions != {side.task_id: side.version for side in sides}:
        return Saved.STALE
    if (yield fetch(OPEN, (group_id, listed(swap.task_ids)))):
        return Saved.EXISTS
    yield execute(_ADD, swap_row(swap))
    yield execute_many(_ADD_OPEN, [(group_id, task_id, swap.id) for task_id in swap.task_ids], "text text text")
    return Saved.DONE


def _swap(group_id: str, swap_id: str) -> Script[Swap | None]:
    rows = yield fetch(SWAP, (group_id, swap_id))
    return swap_from(rows[0]) if rows else None


def _swaps(group_id: str, status: SwapStatus | None, limit: int, before: str | None) -> Script[Page[Swap]]:
    sql, params = swaps_statement(group_id, status, before)
    rows = yield fetch(sql, (*params, limit + 1))
    return page_of([swap_from(row) for row in rows], limit)


def swaps_statement(group_id: str, status: SwapStatus | None, before: str | None) -> tuple[str, Row]:
    """Return the list's statement and all its parameters but the last, the limit."""
    base = _SWAPS
    conditions: dict[str, str | None] = {"id < ?": before or AFTER_ALL}
    # Pending ones have an index of their own, which SQLite takes only when it can read the status in the statement.
    if status is SwapStatus.PENDING:
        base += " AND status = 'pending'"
    else:
        conditions["status = ?"] = status and status.value
    asked = {sql: value for sql, value in conditions.items() if value is not None}
    return " AND ".join([base, *asked]) + " ORDER BY id DESC LIMIT ?", (group_id, *asked.values())


def _approve_swap(
    group_id: str, approval: SwapApproval, deliveries: Sequence[Delivery], webhooks_version: int
) -> Script[Emitted]:
    """Everything that may stand against it is asked before the first write: what is refused has changed nothing."""
    event, swap = approval.event, approval.swap
    told = yield from before_emit(group_id, event.id, webhooks_version)
    if told is not None:
        return Emitted(told)
    status = yield fetch(STATUS, (group_id, swap.id))
    if not status or status[0][0] != SwapStatus.PENDING:
        # The other one of two equal writes may have been first, while this one waited for its row.
        told = yield from before_emit(group_id, event.id, webhooks_version)
        return Emitted(Saved.DONE if told is Saved.DONE else Saved.EXISTS)
    versions = yield from _locked_versions(group_id, swap.task_ids)
    if versions != {each.task.id: each.task.version - 1 for each in approval.changes}:
        return Emitted(Saved.STALE)
    yield from _decide(group_id, swap)
    for each in approval.changes:
        yield from update_task(each.task)
        yield from add_history(group_id, each.task.id, each.history)
    return (yield from emit(event, deliveries, webhooks_version))


def _reject_swap(group_id: str, swap: Swap) -> Script[Saved]:
    return Saved.DONE if (yield from _decide(group_id, swap)) else Saved.EXISTS


def _decide(group_id: str, swap: Swap) -> Script[bool]:
    """Write a decision and free the tasks; False unless the swap is pending."""
    decision = (swap.status.value, swap.decided_by, to_ms_or_none(swap.decided_at))
    if not (yield execute(DECIDE, (*decision, group_id, swap.id))):
        return False
    yield execute(CLOSE, (group_id, listed(swap.task_ids), swap.id))
    return True


def _locked_versions(group_id: str, task_ids: Sequence[str]) -> Script[Mapping[str, int]]:
    """Lock tasks, and return the versions of those that are not deleted."""
    rows = yield fetch(VERSIONS, (group_id, listed(task_ids)))
    return dict(rows)
