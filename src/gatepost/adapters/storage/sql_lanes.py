"""Leasing lanes and looking after them, in SQL. The rules are those of `docs/delivery-protocol.md`.

What each database does best in its own way stands in `sqlite_lanes.py` and `postgres_lanes.py`: reading and releasing.
Statements that touch several lanes take them in the order of `webhook_id`, so that two writers on a database with row
locks cannot wait for each other.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from gatepost.adapters.storage.rows import (
    NEVER_MS,
    condition_from,
    from_ms_or_none,
    to_ms,
)
from gatepost.adapters.storage.scripts import (
    IN_LIST,
    LOCK_LANE,
    UNLESS_LOCKED,
    Database,
    Script,
    execute,
    execute_many,
    fetch,
    listed,
    poke,
)
from gatepost.adapters.storage.sql_owners import room_for
from gatepost.domain.health import NO_HOLD_IS_AS_LONG_AS
from gatepost.ports import Leased, LeasedLane

# --- leasing -------------------------------------------------------------------------------------------------

# Due lanes that nobody has, and lanes whose lease is over or absurdly far ahead (a clock stepped back). Two halves,
# each by its own partial index: lanes that are leased are not stepped over.
# What was found is asked again where the row is locked: others lease at the same time. The longest due that nobody else
# is at are looked for, or all who lease at once would find the same ones and all but one go without.
LEASABLE = f"""
SELECT lanes.webhook_id, lanes.token, lanes.pokes, lanes.unclean, lanes."window", lanes.owner,
       lanes.streak, lanes.failing_since, lanes.suspended_at, lanes.draining FROM (
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

# --- looking after -------------------------------------------------------------------------------------------

# Lanes that hint at later, although something of theirs is due. A leased lane is due as long as it is leased.
# Scalar queries, which are answered by the index for each lane; EXISTS may be turned into a walk over all deliveries.
FORGOTTEN = """
SELECT webhook_id FROM lanes WHERE owner = '' AND due_at > ? AND hold_until <= ? AND (
    SELECT next_attempt_at FROM deliveries
    WHERE webhook_id = lanes.webhook_id AND finished_at IS NULL ORDER BY next_attempt_at LIMIT 1) <= ?
"""
HELD_ABSURDLY = f"""
SELECT webhook_id FROM lanes WHERE owner = '' AND due_at <= ? AND hold_until > ? AND hold_until < {NEVER_MS}
"""
LET_GO = f"UPDATE lanes SET hold_until = 0 WHERE webhook_id {IN_LIST} AND hold_until > ? AND hold_until < {NEVER_MS}"
# Not while somebody holds the lane: what is in flight may yet be answered, and is then recorded as it ended.
_NOT_HELD = "NOT EXISTS (SELECT 1 FROM lanes WHERE webhook_id = {} AND owner <> '' AND lease_until >= ?)"
ORPHANING = f"""
SELECT id FROM webhooks WHERE deleted_at IS NOT NULL AND {_NOT_HELD.format("webhooks.id")} AND (
    SELECT id FROM deliveries WHERE webhook_id = webhooks.id AND finished_at IS NULL LIMIT 1) IS NOT NULL
"""
BURY = f"""
UPDATE deliveries SET status = 'dead-letter', dead_reason = 'webhook_deleted', next_attempt_at = NULL,
       not_before = NULL, finished_at = ?
WHERE id IN (SELECT id FROM deliveries WHERE webhook_id = ? AND finished_at IS NULL LIMIT ?)
      AND coalesce(finished_at, 0) = 0 AND {_NOT_HELD.format("?")}
"""
_BURIED_AT_ONCE = 500  # a few milliseconds of the one writer


class SqlLanes:
    """Implements leasing and the sweep of `ports.LaneStore`."""

    _database: Database

    async def lease_lanes(self, owner: str, *, limit: int, now: datetime, lease: timedelta) -> Leased:
        return await self._database.write_lanes(_lease_lanes(owner, limit, now, lease))

    async def sweep(self, *, now: datetime) -> int:
        # Searched for by a reader, as there is nothing to find most of the time.
        absurd = to_ms(now + NO_HOLD_IS_AS_LONG_AS)
        forgotten, orphaning, held = await self._database.read_lanes(_look_for_work(to_ms(now), absurd))
        if held:
            await self._database.write_lanes(_let_go(held, absurd))
        for webhook_id in orphaning:
            while await self._database.write_lanes(_bury(webhook_id, to_ms(now))) == _BURIED_AT_ONCE:
                pass
        if forgotten:
            await self._database.write_lanes(_poke(dict.fromkeys(forgotten, to_ms(now))))
        return len(forgotten)


def _poke(moments: Mapping[str, int]) -> Script[None]:
    yield poke(moments)


def _lease_lanes(owner: str, limit: int, now: datetime, lease: timedelta) -> Script[Leased]:
    room = yield from room_for(owner, now=now, lease=lease)
    at, limit = to_ms(now), max(limit if room is None else min(limit, room), 0)
    absurd = to_ms(now + 2 * lease)
    rows = yield fetch(LEASABLE, (at, at, limit, at, at, at, absurd, at, at, at, at, at, absurd, limit))
    until = to_ms(now + lease)
    lanes = [
        LeasedLane(
            webhook_id, token + 1, pokes, unclean + 1 if previous else unclean, window, condition_from(condition)
        )
        for webhook_id, token, pokes, unclean, window, previous, *condition in rows
    ]
    if lanes:
        taken = sorted((lane.webhook_id, lane.token, lane.unclean, owner, until) for lane in lanes)
        yield execute_many(LEASE, taken, "text bigint bigint text bigint")
    due = yield fetch(NEXT_DUE, (at, at))
    next_due_at = due[0][0] if due and due[0][0] < NEVER_MS else None
    return Leased(lanes, from_ms_or_none(next_due_at))


def _look_for_work(now: int, absurd: int) -> Script[tuple[list[str], list[str], list[str]]]:
    forgotten = yield fetch(FORGOTTEN, (now, now, now))
    orphaning = yield fetch(ORPHANING, (now,))
    held = yield fetch(HELD_ABSURDLY, (now, absurd))
    return [each for (each,) in forgotten], [each for (each,) in orphaning], [each for (each,) in held]


def _let_go(webhook_ids: Sequence[str], absurd: int) -> Script[None]:
    yield execute(LET_GO, (listed(sorted(webhook_ids)), absurd))


def _bury(webhook_id: str, now: int) -> Script[int]:
    # As whoever records does: what is being recorded is not buried.
    yield fetch(LOCK_LANE, (webhook_id,))
    buried: int = yield execute(BURY, (now, webhook_id, _BURIED_AT_ONCE, webhook_id, now))
    return buried
