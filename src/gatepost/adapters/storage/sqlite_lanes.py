"""Lanes on SQLite, lane by lane: a statement costs no round trip. `sql_lanes.py` has what all of SQL shares."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from gatepost.adapters.storage.looking import HEAD, MOST_VERSIONS, Place, place_of, position_of
from gatepost.adapters.storage.rows import NEVER_MS, Row, from_ms, queued_from, to_ms
from gatepost.adapters.storage.scripts import IN_LIST, Script, execute, fetch
from gatepost.adapters.storage.sql_lanes import SqlLanes
from gatepost.ports import LaneAsk, LaneRead, Position, Reading, Release

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
_QUEUED = """
SELECT d.next_attempt_at,
       d.id, d.group_id, d.webhook_id, d.event_id, d.event, e.body, e.hop, d.attempt_count, d.created_at
"""
_EVENT = "JOIN events e ON e.group_id = d.group_id AND e.id = d.event_id"
DUE = f"""
{_QUEUED} FROM deliveries d {_EVENT}
WHERE d.webhook_id = ? AND d.finished_at IS NULL AND d.next_attempt_at <= ?
ORDER BY d.next_attempt_at, d.id LIMIT ?
"""
_ONWARD = """
FROM deliveries WHERE webhook_id = ? AND finished_at IS NULL AND next_attempt_at <= ? AND (next_attempt_at, id) > (?, ?)
ORDER BY next_attempt_at, id
"""
# Of each task, down from the version before: what has something unfinished before it mostly has it right there.
LOOK = f"""
{_QUEUED} FROM (SELECT * {_ONWARD} LIMIT ?) AS d {_EVENT}
WHERE coalesce(d.not_before, 0) <= ? AND (d.replay_key <> '' OR NOT EXISTS (
    SELECT 1 FROM json_each('["' || replace(e.tasks, ' ', '","') || '"]')
    WHERE (
        SELECT 1 FROM (
            SELECT event_id FROM event_tasks
            WHERE group_id = d.group_id AND task_id = substr(value, 1, instr(value, ':') - 1)
                  AND version < CAST(substr(value, instr(value, ':') + 1) AS INTEGER)
            ORDER BY version DESC LIMIT {MOST_VERSIONS}
        ) AS earlier CROSS JOIN deliveries AS before
        WHERE before.event_id = earlier.event_id AND before.webhook_id = d.webhook_id AND before.replay_key = ''
              AND coalesce(before.finished_at, 0) = 0
        LIMIT 1
    )
))
ORDER BY d.next_attempt_at, d.id LIMIT ?
"""
LOOKED_TO = f"SELECT next_attempt_at, id {_ONWARD} LIMIT 1 OFFSET ? - 1"
PROBE = f"""
{_QUEUED} FROM deliveries d {_EVENT}
WHERE d.webhook_id = ? AND d.finished_at IS NULL AND coalesce(d.not_before, 0) <= ?
ORDER BY d.next_attempt_at, d.id LIMIT ?
"""
NEXT_ATTEMPT = """
SELECT next_attempt_at FROM deliveries WHERE webhook_id = ? AND finished_at IS NULL AND next_attempt_at > ?
ORDER BY next_attempt_at LIMIT 1
"""


class SqliteLanes(SqlLanes):
    """Implements reading and releasing of `ports.LaneStore`."""

    async def read_lanes(self, asked: Mapping[str, LaneAsk], *, now: datetime) -> Mapping[str, LaneRead]:
        return await self._database.read_lanes(_read_lanes(asked, to_ms(now)))

    async def release_lanes(self, releases: Sequence[Release]) -> set[str]:
        return await self._database.write_lanes(_release_lanes(releases)) if releases else set()


def _read_lanes(asked: Mapping[str, LaneAsk], now: int) -> Script[Mapping[str, LaneRead]]:
    read: dict[str, LaneRead] = {}
    for webhook_id, ask in asked.items():
        lane = yield fetch(LANE, (webhook_id,))
        if not lane:
            continue
        [(token, pokes)] = lane
        looked_to = None
        if ask.reading in (Reading.IN_ORDER, Reading.PROBE_IN_ORDER):
            rows, looked_to = yield from _look_round(webhook_id, ask, now)
        else:  # one more, to know when it is due
            rows = yield fetch(DUE if ask.reading is Reading.DUE else PROBE, (webhook_id, now, ask.limit + 1))
        after = rows[ask.limit :] or (yield fetch(NEXT_ATTEMPT, (webhook_id, now)))
        deliveries = [queued_from(row[1:]) for row in rows[: ask.limit]]
        read[webhook_id] = LaneRead(token, pokes, deliveries, from_ms(after[0][0]) if after else None, looked_to)
    return read


def _look_round(webhook_id: str, ask: LaneAsk, now: int) -> Script[tuple[Sequence[Row], Position | None]]:
    """Return what may start in order, at the head of the queue and further on, and where to go on next time."""
    due = (webhook_id, now if ask.reading is Reading.IN_ORDER else NEVER_MS)
    at_head = yield fetch(LOOK, (*due, *HEAD, ask.look_at, now, ask.limit))
    if len(at_head) == ask.limit:
        return at_head, ask.onward_from
    head_ends = _place_in((yield fetch(LOOKED_TO, (*due, *HEAD, ask.look_at))))
    if head_ends is None:
        return at_head, None
    begin = max(head_ends, place_of(ask.onward_from))
    onward = yield fetch(LOOK, (*due, *begin, ask.look_at, now, ask.limit - len(at_head)))
    is_full = len(at_head) + len(onward) == ask.limit
    end = _place_in(onward[-1:] if is_full else (yield fetch(LOOKED_TO, (*due, *begin, ask.look_at))))
    return [*at_head, *onward], position_of(end)


def _place_in(rows: Sequence[Row]) -> Place | None:
    """Return where a look ended; None when it came to the end of the queue."""
    return Place(*rows[0][:2]) if rows else None


def _release_lanes(releases: Sequence[Release]) -> Script[set[str]]:
    given_back: set[str] = set()
    for each in sorted(releases, key=lambda release: release.webhook_id):
        lane = (each.webhook_id, each.token)
        if (yield execute(HAND_BACK, lane) if each.pokes is None else execute(RELEASE, (*lane, each.pokes))):
            given_back.add(each.webhook_id)
    return given_back
