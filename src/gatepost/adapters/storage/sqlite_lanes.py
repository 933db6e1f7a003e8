"""Lanes on SQLite, lane by lane: a statement costs no round trip. `sql_lanes.py` has what all of SQL shares."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from gatepost.adapters.storage.looking import HEAD, Place, place_of, position_of
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
WHERE d.replay_key <> '' OR NOT EXISTS (
    SELECT 1 FROM json_each('["' || replace(e.tasks, ' ', '","') || '"]')
    WHERE (
        SELECT 1 FROM event_tasks AS earlier CROSS JOIN deliveries AS before
        WHERE earlier.group_id = d.group_id AND earlier.task_id = substr(value, 1, instr(value, ':') - 1)
              AND earlier.version < CAST(substr(value, instr(value, ':') + 1) AS INTEGER)
              AND before.event_id = earlier.event_id AND before.webhook_id = d.webhook_id AND before.replay_key = ''
              AND coalesce(before.finished_at, 0) = 0
        ORDER BY earlier.version DESC LIMIT 1
    )
)
ORDER BY d.next_attempt_at, d.id LIMIT ?
"""
LOOKED_TO = f"SELECT next_attempt_at, id {_ONWARD} LIMIT 1 OFFSET ? - 1"
# Within the index alone. `|| ''` keeps it there: the index of all that the webhook was ever sent has them by id.
PROBE = f"""
{_QUEUED} FROM deliveries d {_EVENT} WHERE d.id = (
    SELECT min(id || '') FROM deliveries
    WHERE webhook_id = ? AND finished_at IS NULL AND coalesce(not_before, 0) <= ?
) LIMIT ?
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
        if ask.reading is Reading.IN_ORDER:
            rows, looked_to = yield from _look(webhook_id, ask, now)
        else:  # one more, to know when it is due
            rows = yield fetch(DUE if ask.reading is Reading.DUE else PROBE, (webhook_id, now, ask.limit + 1))
        after = rows[ask.limit :] or (yield fetch(NEXT_ATTEMPT, (webhook_id, now)))
        deliveries = [queued_from(row[1:]) for row in rows[: ask.limit]]
        read[webhook_id] = LaneRead(token, pokes, deliveries, from_ms(after[0][0]) if after else None, looked_to)
    return read


def _look(webhook_id: str, ask: LaneAsk, now: int) -> Script[tuple[Sequence[Row], Position | None]]:
    """Return what may start in order, at the head of the queue and further on, and where to go on next time."""
    at_head = yield fetch(LOOK, (webhook_id, now, *HEAD, ask.look_at, ask.limit))
    if len(at_head) == ask.limit:
        return at_head, ask.onward_from
    head_ends = yield from _looked_to(webhook_id, now, HEAD, ask.look_at)
    if head_ends is None:
        return at_head, None
    begin = max(head_ends, place_of(ask.onward_from))
    onward = yield fetch(LOOK, (webhook_id, now, *begin, ask.look_at, ask.limit - len(at_head)))
    is_full = len(at_head) + len(onward) == ask.limit
    end = Place(*onward[-1][:2]) if is_full else (yield from _looked_to(webhook_id, now, begin, ask.look_at))
    return [*at_head, *onward], position_of(end)


def _looked_to(webhook_id: str, now: int, begin: Place, look_at: int) -> Script[Place | None]:
    """Return where a look at so many ended; None when it came to the end of the queue."""
    rows = yield fetch(LOOKED_TO, (webhook_id, now, *begin, look_at))
    return Place(*rows[0]) if rows else None


def _release_lanes(releases: Sequence[Release]) -> Script[set[str]]:
    given_back: set[str] = set()
    for each in sorted(releases, key=lambda release: release.webhook_id):
        lane = (each.webhook_id, each.token)
        if (yield execute(HAND_BACK, lane) if each.pokes is None else execute(RELEASE, (*lane, each.pokes))):
            given_back.add(each.webhook_id)
    return given_back
