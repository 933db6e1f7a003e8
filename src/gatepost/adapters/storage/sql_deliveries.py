"""Deliveries in SQL, as people look at them."""

from datetime import datetime
from typing import Any

from gatepost.adapters.storage.paging import page_of
from gatepost.adapters.storage.rows import (
    ATTEMPT_COLUMNS,
    ATTEMPT_TYPES,
    DELIVERY_COLUMNS,
    DELIVERY_TYPES,
    Row,
    attempt_from,
    attempt_row,
    delivery_from,
    delivery_row,
    to_ms,
    to_ms_or_none,
)
from gatepost.adapters.storage.scripts import (
    LOCK_LANE,
    LOCKED,
    Database,
    Emitted,
    Script,
    execute,
    execute_many,
    fetch,
    poke,
)
from gatepost.adapters.storage.sql_emitting import ADD_DELIVERIES, EVENT, add_event_once, event_of
from gatepost.domain.deliveries import Attempt, Delivery, Status, queued
from gatepost.domain.events import Event
from gatepost.ports import DeliveryDetail, DeliveryQuery, Page, Saved

_ADD_ATTEMPT = f"INSERT INTO attempts ({ATTEMPT_COLUMNS}) VALUES {{rows}}"

# Newest first. The conditions of a query are appended. `|| ''` keeps the planner from choosing the index of a column:
# with a webhook asked for, that of the webhook is the one to walk along.
_DELIVERIES = f"SELECT {DELIVERY_COLUMNS} FROM deliveries WHERE group_id = ?"
_DELIVERIES_OF_WEBHOOK = f"SELECT {DELIVERY_COLUMNS} FROM deliveries WHERE group_id || '' = ?"
# A task has few events and a group has many deliveries: from the task's side, or not at all.
_DELIVERIES_OF_TASK = f"""
SELECT {DELIVERY_COLUMNS} FROM deliveries
WHERE group_id || '' = ? AND event_id IN (SELECT event_id FROM event_tasks WHERE group_id = ? AND task_id = ?)
"""

_DELIVERY = f"SELECT {DELIVERY_COLUMNS} FROM deliveries WHERE id = ? AND webhook_id = ? AND group_id = ?"
_ATTEMPTS = f"""
SELECT {ATTEMPT_COLUMNS} FROM attempts WHERE delivery_id = ? ORDER BY started_at, number, id
"""
_EVENT = f"SELECT {EVENT} FROM events WHERE group_id = ? AND id = ?"

IS_THERE = "SELECT 1 FROM deliveries WHERE id = ? AND group_id || '' = ?"
# Locked: an event is not purged while a delivery of it is added.
_BYTES = f"SELECT body, hop FROM events WHERE group_id = ? AND id = ? {LOCKED}"
_ADD_REPLAY = f"""
INSERT INTO deliveries ({DELIVERY_COLUMNS}, replay_key)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING
"""

# The webhook first, then its lane, as edits do; and then as whoever records does: what is being recorded is not
# discarded. What comes in meanwhile is left, or it might go on for ever.
_RAISE_CONFIG_VERSION = """
UPDATE webhooks SET config_version = config_version + 1 WHERE id = ? AND group_id = ? AND deleted_at IS NULL
"""
DISCARD = """
UPDATE deliveries SET status = 'dead-letter', dead_reason = 'discarded', next_attempt_at = NULL, not_before = NULL,
       finished_at = ?
WHERE id IN (SELECT id FROM deliveries WHERE webhook_id = ? AND finished_at IS NULL AND created_at <= ? LIMIT ?)
      AND coalesce(finished_at, 0) = 0
"""
_DISCARDED_AT_ONCE = 500  # a few milliseconds of the one writer


class SqlDeliveries:
    """Implements `ports.DeliveryLog`."""

    _database: Database

    async def deliveries(
        self, group_id: str, query: DeliveryQuery, *, limit: int, before: str | None
    ) -> Page[Delivery]:
        return await self._database.read(_deliveries(group_id, query, limit, before))

    async def delivery(self, group_id: str, webhook_id: str, delivery_id: str) -> DeliveryDetail | None:
        return await self._database.read(_delivery(group_id, webhook_id, delivery_id))

    async def add_replay(self, group_id: str, delivery: Delivery) -> Saved:
        return (await self._database.write(_add_replay(group_id, delivery))).saved

    async def add_test(self, group_id: str, event: Event, delivery: Delivery, attempt: Attempt) -> None:  # noqa: ARG002  # the event names its group
        await self._database.write(_add_test(event, delivery, attempt))

    async def discard_backlog(self, group_id: str, webhook_id: str, *, now: datetime) -> int:
        at = to_ms(now)
        last = first = discarded = await self._database.write(_discard_first(group_id, webhook_id, at))
        while last == _DISCARDED_AT_ONCE:
            last = await self._database.write(_discard(webhook_id, at))
            discarded += last
        if discarded > first:  # owners may have read some of it since
            await self._database.write(_raise_config_version(group_id, webhook_id))
        return discarded


def _deliveries(group_id: str, query: DeliveryQuery, limit: int, before: str | None) -> Script[Page[Delivery]]:
    sql, params = deliveries_statement(group_id, query, before)
    rows = yield fetch(sql, (*params, limit + 1))
    return page_of([delivery_from(row) for row in rows], limit)


def deliveries_statement(group_id: str, query: DeliveryQuery, before: str | None) -> tuple[str, Row]:
    """Return the list's statement and all its parameters but the last, the limit."""
    base = _DELIVERIES
    params: Row = (group_id,)
    if query.task_id is not None:
        base, params = _DELIVERIES_OF_TASK, (group_id, group_id, query.task_id)
    elif query.webhook_id is not None:
        base = _DELIVERIES_OF_WEBHOOK
    conditions: dict[str, Any] = {
        "webhook_id = ?" if query.task_id is None else "webhook_id || '' = ?": query.webhook_id,
        "event = ?": query.event,
        "created_at >= ?": to_ms_or_none(query.created_from),
        "created_at < ?": to_ms_or_none(query.created_to),
        "id < ?": before,
    }
    # Dead letters have an index of their own, which SQLite takes only when it can read the status in the statement.
    if query.status is Status.DEAD_LETTER:
        base += " AND status = 'dead-letter'"
    else:
        conditions["status = ?"] = query.status and query.status.value
    asked = {sql: value for sql, value in conditions.items() if value is not None}
    return " AND ".join([base, *asked]) + " ORDER BY id DESC LIMIT ?", (*params, *asked.values())


def _delivery(group_id: str, webhook_id: str, delivery_id: str) -> Script[DeliveryDetail | None]:
    rows = yield fetch(_DELIVERY, (delivery_id, webhook_id, group_id))
    if not rows:
        return None
    delivery = delivery_from(rows[0])
    attempts = yield fetch(_ATTEMPTS, (delivery_id,))
    events = yield fetch(_EVENT, (group_id, delivery.event_id))
    event = event_of(events[0]) if events else None
    return DeliveryDetail(delivery, event, [attempt_from(row) for row in attempts])


def _add_replay(group_id: str, delivery: Delivery) -> Script[Emitted]:
    if (yield fetch(IS_THERE, (delivery.id, group_id))):
        return Emitted(Saved.DONE)
    rows = yield fetch(_BYTES, (group_id, delivery.event_id))
    if not rows:
        return Emitted(Saved.STALE)
    row = delivery_row(delivery)
    if not (yield execute(_ADD_REPLAY, row)):
        return Emitted(Saved.DONE)  # its twin was first
    yield poke({row[2]: row[9]})
    body, hop = rows[0]
    return Emitted(Saved.DONE, [queued(delivery, body=body, hop=hop)])


def _add_test(event: Event, delivery: Delivery, attempt: Attempt) -> Script[None]:
    if (yield from add_event_once(event, 0)):
        *columns, _ = delivery_row(delivery)
        yield execute_many(ADD_DELIVERIES, [(*columns, "test")], DELIVERY_TYPES)
        yield execute_many(_ADD_ATTEMPT, [attempt_row(delivery.id, attempt)], ATTEMPT_TYPES)


def _discard_first(group_id: str, webhook_id: str, now: int) -> Script[int]:
    if not (yield from _raise_config_version(group_id, webhook_id)):
        return 0
    return (yield from _discard(webhook_id, now))


def _raise_config_version(group_id: str, webhook_id: str) -> Script[bool]:
    return bool((yield execute(_RAISE_CONFIG_VERSION, (webhook_id, group_id))))


def _discard(webhook_id: str, now: int) -> Script[int]:
    yield fetch(LOCK_LANE, (webhook_id,))
    discarded: int = yield execute(DISCARD, (now, webhook_id, now, _DISCARDED_AT_ONCE))
    return discarded
