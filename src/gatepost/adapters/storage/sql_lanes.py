"""Lanes in SQL: the engine's view of the store. The rules are those of `docs/delivery-protocol.md`.

Statements that touch several lanes take them in the order of `webhook_id`, so that two writers on a database with row
locks cannot wait for each other.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from gatepost.adapters.storage.rows import (
    NEVER_MS,
    from_ms,
    from_ms_or_none,
    queued_from,
    to_ms,
)
from gatepost.adapters.storage.scripts import (
    IN_LIST,
    UNLESS_LOCKED,
    Database,
    Script,
    execute,
    execute_many,
    fetch,
    poke,
)
from gatepost.adapters.storage.sql_owners import room_in_share
from gatepost.ports import LaneRead, Leased, LeasedLane, Release

# --- hints ---------------------------------------------------------------------------------------------------

# Only ever lowers `due_at`; the counter tells an owner about to release the lane that it has more to look at.
# SQLite's; PostgreSQL's stands in `postgres_pokes.py`.
POKE = f"""
UPDATE lanes SET pokes = pokes + 1, due_at = CASE WHEN due_at > ? THEN ? ELSE due_at END WHERE webhook_id {IN_LIST}
"""

# --- leasing -------------------------------------------------------------------------------------------------

# Due lanes that nobody has, and lanes whose lease is over or absurdly far ahead (a clock stepped back). Two halves,
# each by its own partial index: lanes that are leased are not stepped over.
# What was found is asked again where the row is locked: others lease at the same time. The longest due that nobody else
# is at are looked for, or all who lease at once would find the same ones and all but one go without.
LEASABLE = f"""
SELECT lanes.webhook_id, lanes.token, lanes.pokes, lanes.unclean, lanes."window", lanes.owner FROM (
    SELECT * FROM (
        SELECT webhook_id FROM lanes
        WHERE owner = '' AND due_at <= ? AND hold_until <= ? ORDER BY due_at LIMIT ? {UNLESS_LOCKED}
    ) AS free
    UNION ALL
    SELECT webhook_id FROM lanes WHERE owner <> '' AND lease_until < ? AND due_at <= ? AND hold_until <= ?
    UNION ALL
    SELECT webhook_id FROM lanes WHERE owner <> '' AND lease_until > ? AND due_at <= ? AND hold_until <= ?
) AS found CROSS JOIN lanes
WHERE lanes.webhook_id = found.webhook_id AND lanes.due_at <= ? AND lanes.hold_until <= ?
      AND (lanes.owner = '' OR lanes.lease_until < ? OR lanes.lease_until > ?)
ORDER BY lanes.due_at, lanes.webhook_id LIMIT ? {UNLESS_LOCKED}
"""
LEASE = """
WITH taken (webhook_id, token, unclean, owner, lease_until) AS (VALUES {rows})
UPDATE lanes SET owner = taken.owner, lease_until = taken.lease_until, token = taken.token, unclean = taken.unclean
FROM taken WHERE lanes.webhook_id = taken.webhook_id
"""
NEXT_DUE = """
SELECT due_at FROM lanes WHERE owner = '' AND due_at > ? AND hold_until <= ? ORDER BY due_at LIMIT 1
"""

# Nothing but this raises `due_at`: from what the deliveries say now, for whoever has seen every poke.
RELEASE = f"""
UPDATE lanes SET owner = '', lease_until = 0, due_at = coalesce(
    (SELECT next_attempt_at FROM deliveries WHERE webhook_id = lanes.webhook_id AND finished_at IS NULL
     ORDER BY next_attempt_at LIMIT 1), {NEVER_MS})
WHERE webhook_id = ? AND token = ? AND pokes = ?
"""
# Due as it was: a lane that is leased is due, and only the statement above says otherwise.
HAND_BACK = "UPDATE lanes SET owner = '', lease_until = 0 WHERE webhook_id = ? AND token = ?"

# --- reading -------------------------------------------------------------------------------------------------

LANE = "SELECT token, pokes FROM lanes WHERE webhook_id = ?"
DUE = """
SELECT d.next_attempt_at,
       d.id, d.group_id, d.webhook_id, d.event_id, d.event, e.body, e.hop, d.attempt_count, d.created_at
FROM deliveries d JOIN events e ON e.group_id = d.group_id AND e.id = d.event_id
WHERE d.webhook_id = ? AND d.finished_at IS NULL AND d.next_attempt_at <= ?
ORDER BY d.next_attempt_at, d.id LIMIT ?
"""
NEXT_ATTEMPT = """
SELECT next_attempt_at FROM deliveries WHERE webhook_id = ? AND finished_at IS NULL AND next_attempt_at > ?
ORDER BY next_attempt_at LIMIT 1
"""

# --- looking after -------------------------------------------------------------------------------------------

# Lanes that hint at later, although something of theirs is due. A leased lane is due as long as it is leased.
# Scalar queries, which are answered by the index for each lane; EXISTS may be turned into a walk over all deliveries.
FORGOTTEN = """
SELECT webhook_id FROM lanes WHERE owner = '' AND due_at > ? AND hold_until <= ? AND (
    SELECT next_attempt_at FROM deliveries
    WHERE webhook_id = lanes.webhook_id AND finished_at IS NULL ORDER BY next_attempt_at LIMIT 1) <= ?
"""
# Not while somebody holds the lane: what is in flight may yet be answered, and is then recorded as it ended.
_NOT_HELD = "NOT EXISTS (SELECT 1 FROM lanes WHERE webhook_id = {} AND owner <> '' AND lease_until >= ?)"
ORPHANING = f"""
SELECT id FROM webhooks WHERE deleted_at IS NOT NULL AND {_NOT_HELD.format("webhooks.id")} AND (
    SELECT id FROM deliveries WHERE webhook_id = webhooks.id AND finished_at IS NULL LIMIT 1) IS NOT NULL
"""
BURY = f"""
UPDATE deliveries SET status = 'dead-letter', dead_reason = 'webhook_deleted', next_attempt_at = NULL, finished_at = ?
WHERE id IN (SELECT id FROM deliveries WHERE webhook_id = ? AND finished_at IS NULL LIMIT ?) AND {_NOT_HELD.format("?")}
"""
_BURIED_AT_ONCE = 500  # a few milliseconds of the one writer


class SqlLanes:
    """Implements the statements of `ports.LaneStore`; who is alive is the driver's to know."""

    _database: Database

    async def lease_lanes(self, owner: str, *, limit: int, now: datetime, lease: timedelta) -> Leased:
        return await self._database.write_lanes(_lease_lanes(owner, limit, now, lease))

    async def read_lanes(self, limits: Mapping[str, int], *, now: datetime) -> Mapping[str, LaneRead]:
        return await self._database.read_lanes(_read_lanes(limits, to_ms(now)))

    async def release_lanes(self, releases: Sequence[Release]) -> set[str]:
        return await self._database.write_lanes(_release_lanes(releases)) if releases else set()

    async def sweep(self, *, now: datetime) -> int:
        # Searched for by a reader, as there is nothing to find most of the time.
        forgotten, orphaning = await self._database.read_lanes(_look_for_work(to_ms(now)))
        for webhook_id in orphaning:
            while await self._database.write_lanes(_bury(webhook_id, to_ms(now))) == _BURIED_AT_ONCE:
                pass
        if forgotten:
            await self._database.write_lanes(_poke(dict.fromkeys(forgotten, to_ms(now))))
        return len(forgotten)


def _poke(moments: Mapping[str, int]) -> Script[None]:
    yield poke(moments)


def _lease_lanes(owner: str, limit: int, now: datetime, lease: timedelta) -> Script[Leased]:
    room = yield from room_in_share(owner, now=now, lease=lease)
    at, limit = to_ms(now), max(limit if room is None else min(limit, room), 0)
    absurd = to_ms(now + 2 * lease)
    rows = yield fetch(LEASABLE, (at, at, limit, at, at, at, absurd, at, at, at, at, at, absurd, limit))
    until = to_ms(now + lease)
    lanes = [
        LeasedLane(webhook_id, token + 1, pokes, unclean + 1 if previous else unclean, window)
        for webhook_id, token, pokes, unclean, window, previous in rows
    ]
    if lanes:
        taken = sorted((lane.webhook_id, lane.token, lane.unclean, owner, until) for lane in lanes)
        yield execute_many(LEASE, taken, "text bigint bigint text bigint")
    due = yield fetch(NEXT_DUE, (at, at))
    next_due_at = due[0][0] if due and due[0][0] < NEVER_MS else None
    return Leased(lanes, from_ms_or_none(next_due_at))


def _read_lanes(limits: Mapping[str, int], now: int) -> Script[Mapping[str, LaneRead]]:
    read: dict[str, LaneRead] = {}
    for webhook_id, limit in limits.items():
        lane = yield fetch(LANE, (webhook_id,))
        if not lane:
            continue
        [(token, pokes)] = lane
        rows = yield fetch(DUE, (webhook_id, now, limit + 1))  # one more, to know when it is due
        after = rows[limit:] or (yield fetch(NEXT_ATTEMPT, (webhook_id, now)))
        deliveries = [queued_from(row[1:]) for row in rows[:limit]]
        read[webhook_id] = LaneRead(token, pokes, deliveries, from_ms(after[0][0]) if after else None)
    return read


def _release_lanes(releases: Sequence[Release]) -> Script[set[str]]:
    given_back: set[str] = set()
    for each in sorted(releases, key=lambda release: release.webhook_id):
        lane = (each.webhook_id, each.token)
        if (yield execute(HAND_BACK, lane) if each.pokes is None else execute(RELEASE, (*lane, each.pokes))):
            given_back.add(each.webhook_id)
    return given_back


def _look_for_work(now: int) -> Script[tuple[list[str], list[str]]]:
    forgotten = yield fetch(FORGOTTEN, (now, now, now))
    orphaning = yield fetch(ORPHANING, (now,))
    return [webhook_id for (webhook_id,) in forgotten], [webhook_id for (webhook_id,) in orphaning]


def _bury(webhook_id: str, now: int) -> Script[int]:
    buried: int = yield execute(BURY, (now, webhook_id, _BURIED_AT_ONCE, webhook_id, now))
    return buried
