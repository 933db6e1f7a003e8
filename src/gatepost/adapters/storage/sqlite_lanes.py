"""Lanes on SQLite, lane by lane: a statement costs no round trip. `sql_lanes.py` has what all of SQL shares."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from gatepost.adapters.storage.rows import NEVER_MS, from_ms, queued_from, to_ms
from gatepost.adapters.storage.scripts import IN_LIST, Script, execute, fetch
from gatepost.adapters.storage.sql_lanes import SqlLanes
from gatepost.ports import LaneRead, Release

# Only ever lowers `due_at`; the counter tells an owner about to release the lane that it has more to look at.
POKE = f"""
UPDATE lanes SET pokes = pokes + 1, due_at = CASE WHEN due_at > ? THEN ? ELSE due_at END WHERE webhook_id {IN_LIST}
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


class SqliteLanes(SqlLanes):
    """Implements reading and releasing of `ports.LaneStore`."""

    async def read_lanes(self, limits: Mapping[str, int], *, now: datetime) -> Mapping[str, LaneRead]:
        return await self._database.read_lanes(_read_lanes(limits, to_ms(now)))

    async def release_lanes(self, releases: Sequence[Release]) -> set[str]:
        return await self._database.write_lanes(_release_lanes(releases)) if releases else set()


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
