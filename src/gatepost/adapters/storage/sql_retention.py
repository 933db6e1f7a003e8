"""Letting go of what is old, in SQL, a little at a time.

Each step looks for rows as a reader does, along their ids, which sort by time, or along their time. Only what it has
found is written, in a transaction of its own, once it is locked and seen to be still what it was: whoever delivers
never waits for a search, and for some hundreds of rows at most.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from gatepost.adapters.storage.rows import Row, from_words, to_ms, to_ms_or_none
from gatepost.adapters.storage.scripts import (
    IN_LIST,
    LOCKED,
    Database,
    Script,
    execute,
    execute_many,
    fetch,
    fetch_many,
    listed,
)
from gatepost.domain.retention import Kept, first_id
from gatepost.ports import PurgeStep

MOST_ROWS = 500  # that one step removes or changes
MOST_SEEN = 5000  # that it looks at
GROUPS_AT_ONCE = 100  # most of them have nothing that is old

# Who has the job: upon a clock stepped back, neither a lease nor an end in the future keeps anybody from it.
LEASE_JOB = """
INSERT INTO housekeeping (job, owner, lease_until, done_at) VALUES ('retention', ?, ?, 0)
ON CONFLICT (job) DO UPDATE SET owner = excluded.owner, lease_until = excluded.lease_until
WHERE (housekeeping.owner IN ('', excluded.owner) OR housekeeping.lease_until < ? OR housekeeping.lease_until > ?)
      AND (housekeeping.done_at <= ? OR housekeeping.done_at > ?)
"""
END_JOB = """
UPDATE housekeeping SET owner = '', lease_until = 0, done_at = coalesce(?, done_at)
WHERE job = 'retention' AND owner = ?
"""

# --- deliveries ----------------------------------------------------------------------------------------------

# The last of the rows to look at in this step, if there are more.
PART_OF_DELIVERIES = "SELECT id FROM deliveries WHERE id > ? AND id < ? ORDER BY id LIMIT 1 OFFSET ?"
_OLD = f"""
SELECT id, attempt_count FROM (
    SELECT id, attempt_count, finished_at, dead_reason FROM deliveries
    WHERE id > ? AND id <= ? ORDER BY id LIMIT {MOST_SEEN}
) AS part
WHERE finished_at < ? AND {{}} ORDER BY id LIMIT ?
"""
# Not EXISTS, which may be turned into a walk over all attempts.
_HAS_BODIES = "(SELECT id FROM attempts WHERE delivery_id = part.id AND headers IS NOT NULL LIMIT 1) IS NOT NULL"
OLD_DELIVERIES = {
    Kept.BODIES: _OLD.format(_HAS_BODIES),
    Kept.DELIVERIES: _OLD.format("dead_reason IS NULL"),
    Kept.DEAD_LETTERS: _OLD.format("dead_reason IS NOT NULL"),
}
# One that was discarded may yet be delivered by a request that was in flight.
STILL_OLD = f"SELECT id FROM deliveries WHERE id {IN_LIST} AND finished_at < ? ORDER BY id {LOCKED}"
STRIP = f"UPDATE attempts SET headers = NULL, body = NULL WHERE delivery_id {IN_LIST} AND headers IS NOT NULL"
REMOVE_ATTEMPTS = f"DELETE FROM attempts WHERE delivery_id {IN_LIST}"
REMOVE_DELIVERIES = f"DELETE FROM deliveries WHERE id {IN_LIST}"

# --- events --------------------------------------------------------------------------------------------------

NEXT_GROUP = "SELECT id FROM groups WHERE id > ? ORDER BY id LIMIT 1"
# Others choose the ids of their events, so that age is what these are walked by. The moment to begin at comes first:
# of two lower bounds SQLite begins at the one that it reads first, and the other one is the condition of the index.
_OLD_ONES_OF_GROUP = "FROM events WHERE group_id = ? AND created_at >= ? AND created_at <= ? AND created_at >= 0"
PART_OF_EVENTS = f"SELECT created_at {_OLD_ONES_OF_GROUP} ORDER BY created_at LIMIT 1 OFFSET ?"
# Other groups may have an event of this id: `|| ''` keeps the planner from walking the group's deliveries.
_NO_DELIVERIES = """
(SELECT id FROM deliveries WHERE event_id = events.id AND group_id || '' = events.group_id LIMIT 1) IS NULL
"""
OLD_EVENTS = f"SELECT id, created_at {_OLD_ONES_OF_GROUP} AND {_NO_DELIVERIES} ORDER BY created_at LIMIT ?"
# Locked by a statement of its own: the one after it sees a replay that had them locked before, as it reads their bytes.
LOCK_EVENTS = f"""
WITH old (group_id, id) AS (VALUES {{rows}})
SELECT events.id FROM old CROSS JOIN events WHERE events.group_id = old.group_id AND events.id = old.id
ORDER BY events.group_id, events.id {LOCKED}
"""
REMOVE_EVENTS = f"""
WITH old (group_id, id) AS (VALUES {{rows}})
DELETE FROM events WHERE (group_id, id) IN (SELECT group_id, id FROM old) AND {_NO_DELIVERIES}
RETURNING group_id, tasks, id
"""
REMOVE_EVENT_TASKS = """
WITH old (group_id, task_id, version, event_id) AS (VALUES {rows})
DELETE FROM event_tasks
WHERE (group_id, task_id, version, event_id) IN (SELECT group_id, task_id, version, event_id FROM old)
"""
EVENT_TASK_TYPES = "text text bigint text"

# --- bulk replays --------------------------------------------------------------------------------------------

# What was made later has ended later, too. The others are gone already, but for a few that took long.
PART_OF_REPLAYS = "SELECT id, finished_at FROM replay_jobs WHERE id > ? AND id < ? ORDER BY id LIMIT ?"
REMOVE_REPLAYS = f"DELETE FROM replay_jobs WHERE id {IN_LIST}"

# --- stats ---------------------------------------------------------------------------------------------------

REMOVE_STATS = """
DELETE FROM stats WHERE (webhook_id, at, bin) IN
    (SELECT webhook_id, at, bin FROM stats WHERE at < ? AND bin >= 0 ORDER BY at LIMIT ?)
"""


class SqlRetention:
    """Implements `ports.RetentionStore`."""

    _database: Database

    async def lease_retention(self, owner: str, *, now: datetime, lease: timedelta, every: timedelta) -> bool:
        until, absurd = to_ms(now + lease), to_ms(now + 2 * lease)
        params = (owner, until, to_ms(now), absurd, to_ms(now - every), to_ms(now))
        return await self._database.write_lanes(_changes(LEASE_JOB, params)) > 0

    async def end_retention(self, owner: str, *, done_at: datetime | None) -> None:
        await self._database.write_lanes(_changes(END_JOB, (to_ms_or_none(done_at), owner)))

    async def purge(self, kept: Kept, *, before: datetime, after: str) -> PurgeStep:
        if kept is Kept.STATS:
            purged = await self._database.write(_changes(REMOVE_STATS, (to_ms(before), MOST_ROWS)))
            return PurgeStep(purged, "" if purged == MOST_ROWS else None)
        if kept is Kept.EVENTS:
            return await self._purge_events(before, after)
        if kept is Kept.REPLAYS:
            return await self._purge_replays(before, after)
        old, go_on_after = await self._database.read(_old_deliveries(kept, before, after))
        purged = await self._database.write(_purge_deliveries(kept, old, to_ms(before))) if old else 0
        return PurgeStep(purged, go_on_after)

    async def _purge_events(self, before: datetime, after: str) -> PurgeStep:
        old, go_on_after = await self._database.read(_old_events(before, after))
        purged = await self._database.write(_purge_events(old)) if old else 0
        return PurgeStep(purged, go_on_after)

    async def _purge_replays(self, before: datetime, after: str) -> PurgeStep:
        part = await self._database.read(_part_of_replays(before, after))
        old = [job_id for job_id, finished_at in part if finished_at is not None and finished_at < to_ms(before)]
        purged = await self._database.write(_changes(REMOVE_REPLAYS, (listed(old),))) if old else 0
        return PurgeStep(purged, part[-1][0] if len(part) == MOST_ROWS else None)


def _changes(sql: str, params: Row) -> Script[int]:
    changed: int = yield execute(sql, params)
    return changed


def _old_deliveries(kept: Kept, before: datetime, after: str) -> Script[tuple[Sequence[str], str | None]]:
    # What was made later was finished later, too: it need not be looked at.
    end = first_id("dlv", before)
    part = yield fetch(PART_OF_DELIVERIES, (after, end, MOST_SEEN - 1))
    last = part[0][0] if part else None
    rows = yield fetch(OLD_DELIVERIES[kept], (after, last or end, to_ms(before), MOST_ROWS))
    old = [delivery_id for delivery_id, _ in rows[: _within_a_step([attempts for _, attempts in rows])]]
    if len(old) == MOST_ROWS or len(old) < len(rows):
        last = old[-1]
    return old, last


def _within_a_step(attempts: Sequence[int]) -> int:
    """Return how many deliveries, each with so many attempts, are enough for one step."""
    rows = 0
    for number, count in enumerate(attempts):
        rows += 1 + count
        if rows > MOST_ROWS:
            return max(number, 1)
    return len(attempts)


def _purge_deliveries(kept: Kept, old: Sequence[str], before: int) -> Script[int]:
    rows = yield fetch(STILL_OLD, (listed(old), before))
    still_old = listed(delivery_id for (delivery_id,) in rows)
    if kept is Kept.BODIES:
        yield execute(STRIP, (still_old,))
    else:
        yield execute(REMOVE_ATTEMPTS, (still_old,))
        yield execute(REMOVE_DELIVERIES, (still_old,))
    return len(still_old)


def _old_events(before: datetime, after: str) -> Script[tuple[Sequence[Row], str | None]]:
    """Look for old events, group by group. `after` names a group, and from when on to look in it; ended, without."""
    group_id, _, begin = after.partition(" ")
    for _ in range(GROUPS_AT_ONCE):
        if not begin:
            following = yield fetch(NEXT_GROUP, (group_id,))
            if not following:
                return [], None
            [(group_id,)], begin = following, "0"
        part = yield fetch(PART_OF_EVENTS, (group_id, int(begin), to_ms(before) - 1, MOST_SEEN - 1))
        end = part[0][0] if part else to_ms(before) - 1
        old = yield fetch(OLD_EVENTS, (group_id, int(begin), end, MOST_ROWS))
        begin = str(end + 1) if part else ""
        if len(old) == MOST_ROWS:  # others may be of the same moment
            begin = str(old[-1][1])
        if old or part:
            return [(group_id, event_id) for event_id, _ in old], f"{group_id} {begin}"
    return [], f"{group_id} "


def _purge_events(old: Sequence[Row]) -> Script[int]:
    yield fetch_many(LOCK_EVENTS, old, "text text")
    removed = yield fetch_many(REMOVE_EVENTS, old, "text text")
    about = [
        (group_id, task_id, int(version), event_id)
        for group_id, tasks, event_id in removed
        for task_id, _, version in (pair.rpartition(":") for pair in from_words(tasks))
    ]
    if about:
        yield execute_many(REMOVE_EVENT_TASKS, about, EVENT_TASK_TYPES)
    return len(removed)


def _part_of_replays(before: datetime, after: str) -> Script[Sequence[Row]]:
    rows: Sequence[Row] = yield fetch(PART_OF_REPLAYS, (after, first_id("rpl", before), MOST_ROWS))
    return rows
