"""Events, whoever caused them, in SQL: published, listed, and whom they were routed to."""

from collections.abc import Sequence

from gatepost.adapters.storage.paging import page_of_events, parse_event_cursor
from gatepost.adapters.storage.rows import Row, from_words
from gatepost.adapters.storage.scripts import IN_LIST, Database, Emitted, Script, fetch, listed
from gatepost.adapters.storage.sql_emitting import EVENT, add_event_once, before_emit, event_of, owe
from gatepost.domain.deliveries import Delivery
from gatepost.domain.events import Event
from gatepost.domain.webhooks import Subscription
from gatepost.ports import EventQuery, Page, RoutedWebhook, Routing, Saved

# Newest first. The conditions of a query are appended.
_EVENTS = f"SELECT {EVENT} FROM events WHERE group_id = ? AND created_at >= 0"
# A task has few events and a group has many: from the task's side.
_EVENTS_OF_TASK = f"""
SELECT {EVENT} FROM events
WHERE group_id = ? AND id IN (SELECT event_id FROM event_tasks WHERE group_id = ? AND task_id = ?)
"""

EVENT_AND_VERSION = f"SELECT {EVENT}, webhooks_version FROM events WHERE group_id = ? AND id = ?"
# Every webhook that the group has ever had has a revision. They are few: each was written by hand.
REVISIONS = """
SELECT webhook_id, from_version, enabled, events, ignore_origins, deleted FROM webhook_revisions
WHERE group_id = ? ORDER BY webhook_id, from_version
"""
ROUTED_WEBHOOKS = f"SELECT id, name, max_attempts, deleted_at FROM webhooks WHERE id {IN_LIST} ORDER BY id DESC"
# Other groups may have an event of this id: `|| ''` keeps the planner from walking the group's deliveries.
FIRST_DELIVERIES = """
SELECT webhook_id, id FROM deliveries WHERE event_id = ? AND replay_key IN ('', 'test') AND group_id || '' = ?
"""


class SqlEvents:
    """Implements `ports.EventStore`."""

    _database: Database

    async def publish(
        self, group_id: str, event: Event, deliveries: Sequence[Delivery], *, webhooks_version: int
    ) -> Saved:
        emitted = await self._database.write(_publish(group_id, event, deliveries, webhooks_version))
        return emitted.saved

    async def events(self, group_id: str, query: EventQuery, *, limit: int, before: str | None) -> Page[Event]:
        return await self._database.read(_events(group_id, query, limit, before))

    async def routing(self, group_id: str, event_id: str) -> Routing | None:
        return await self._database.read(_routing(group_id, event_id))


def _publish(group_id: str, event: Event, deliveries: Sequence[Delivery], webhooks_version: int) -> Script[Emitted]:
    told = yield from before_emit(group_id, event.id, webhooks_version)
    if told is not None:
        return Emitted(Saved.EXISTS if told is Saved.DONE else told)
    if not (yield from add_event_once(event, webhooks_version)):
        return Emitted(Saved.EXISTS)  # another was first
    return (yield from owe(event, deliveries))


def _events(group_id: str, query: EventQuery, limit: int, before: str | None) -> Script[Page[Event]]:
    sql, params = events_statement(group_id, query, before)
    rows = yield fetch(sql, (*params, limit + 1))
    return page_of_events([event_of(row) for row in rows], limit)


def events_statement(group_id: str, query: EventQuery, before: str | None) -> tuple[str, Row]:
    """Return the list's statement and all its parameters but the last, the limit.

    Raises: InvalidInput, when `before` is no cursor of ours.
    """
    base, created_at = _EVENTS, "created_at"
    params: Row = (group_id,)
    if query.task_id is not None:  # `+ 0` keeps the planner from walking all events of the group
        base, params, created_at = _EVENTS_OF_TASK, (group_id, group_id, query.task_id), "created_at + 0"
    if query.event is not None:
        base, params = f"{base} AND event = ?", (*params, query.event)
    if before is not None:
        base, params = f"{base} AND ({created_at}, id) < (?, ?)", (*params, *parse_event_cursor(before))
    return f"{base} ORDER BY {created_at} DESC, id DESC LIMIT ?", params


def _routing(group_id: str, event_id: str) -> Script[Routing | None]:
    rows = yield fetch(EVENT_AND_VERSION, (group_id, event_id))
    if not rows:
        return None
    *event, version = rows[0]
    revisions = yield fetch(REVISIONS, (group_id,))
    asked = {row[0]: row[2:] for row in revisions if row[1] <= version}  # the last one of each webhook stays
    webhooks = yield fetch(ROUTED_WEBHOOKS, (listed({row[0] for row in revisions}),))
    deliveries = dict((yield fetch(FIRST_DELIVERIES, (event_id, group_id))))
    routed = []
    for webhook_id, name, max_attempts, deleted_at in webhooks:
        subscription = _subscription(webhook_id, max_attempts, asked.get(webhook_id))
        if subscription is not None or deleted_at is None:
            routed.append(RoutedWebhook(webhook_id, name, subscription, deliveries.get(webhook_id)))
    return Routing(event_of(tuple(event)), routed)


def _subscription(webhook_id: str, max_attempts: int, revision: Row | None) -> Subscription | None:
    """Return what a webhook asked for by its last revision; None when it was not there, yet or any more."""
    if revision is None:
        return None
    enabled, events, ignored, deleted = revision
    if deleted:
        return None
    return Subscription(webhook_id, bool(enabled), from_words(events), from_words(ignored), max_attempts)
