"""Lanes on PostgreSQL, all in one statement: each costs a round trip. `sql_lanes.py` has what all of SQL shares."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from gatepost.adapters.storage.looking import HEAD, MOST_VERSIONS, Place, place_of, position_of
from gatepost.adapters.storage.rows import NEVER_MS, Row, from_ms_or_none, queued_from, to_ms
from gatepost.adapters.storage.scripts import Script, fetch
from gatepost.adapters.storage.sql_lanes import SqlLanes
from gatepost.ports import LaneAsk, LaneRead, Reading, Release

# All lanes at once. `LIMIT 1` has events looked up one by one, too: a planner that believes in few of them would walk
# them all.
_READ_LANES = """
SELECT lanes.webhook_id, lanes.token, lanes.pokes, asked.most, later.next_attempt_at, {looked_to}, due.next_attempt_at,
       due.id, due.group_id, due.webhook_id, due.event_id, due.event, events.body, events.hop, due.attempt_count,
       due.created_at
FROM {asked}
JOIN lanes ON lanes.webhook_id = asked.webhook_id
{also}
LEFT JOIN LATERAL (
    SELECT next_attempt_at, id, group_id, webhook_id, event_id, event, attempt_count, created_at
    FROM {deliveries}
) AS due ON true
LEFT JOIN LATERAL (
    SELECT body, hop FROM events WHERE group_id = due.group_id AND id = due.event_id LIMIT 1
) AS events ON true
LEFT JOIN LATERAL (
    SELECT next_attempt_at FROM deliveries
    WHERE webhook_id = lanes.webhook_id AND finished_at IS NULL AND next_attempt_at > ?
    ORDER BY next_attempt_at LIMIT 1
) AS later ON true
ORDER BY lanes.webhook_id, due.next_attempt_at, due.id
"""
_ASKED = "unnest(?::text[], ?::bigint[]) AS asked (webhook_id, most)"
_DUE = "webhook_id = lanes.webhook_id AND finished_at IS NULL AND next_attempt_at <= ?"
_LONGEST_DUE_FIRST = "ORDER BY next_attempt_at, id"
# Each with one row more than was asked for, to know when that is due.
READ_LANES = {
    reading: _READ_LANES.format(asked=_ASKED, looked_to="NULL, NULL", also="", deliveries=f"deliveries WHERE {which}")
    for reading, which in (
        (Reading.DUE, f"{_DUE} {_LONGEST_DUE_FIRST} LIMIT asked.most + 1"),
        (
            Reading.PROBE,
            "webhook_id = lanes.webhook_id AND finished_at IS NULL AND coalesce(not_before, 0) <= ?"
            f" {_LONGEST_DUE_FIRST} LIMIT asked.most + 1",
        ),
    )
}
_ONWARD = f"""
FROM deliveries WHERE {_DUE} AND (next_attempt_at, id) > (asked.due_ms, asked.delivery_id) {_LONGEST_DUE_FIRST}
"""
# Of each task, down from the version before: what has something unfinished before it mostly has it right there.
# An event has few deliveries, a webhook many: `|| ''` has them looked up from the event's side.
LOOK = _READ_LANES.format(
    asked="unnest(?::text[], ?::bigint[], ?::bigint[], ?::bigint[], ?::text[])"
    " AS asked (webhook_id, most, look_at, due_ms, delivery_id)",
    also=f"""LEFT JOIN LATERAL (
    SELECT next_attempt_at, id {_ONWARD} LIMIT 1 OFFSET asked.look_at - 1
) AS looked_to ON true""",
    looked_to="looked_to.next_attempt_at, looked_to.id",
    deliveries=f"""(
    SELECT * {_ONWARD} LIMIT asked.look_at
) AS looked_through
WHERE coalesce(not_before, 0) <= ? AND (replay_key <> '' OR NOT EXISTS (
    SELECT 1 FROM (
        SELECT tasks FROM events
        WHERE group_id = looked_through.group_id AND id = looked_through.event_id LIMIT 1
    ) AS its_event CROSS JOIN LATERAL unnest(string_to_array(its_event.tasks, ' ')) AS task
    WHERE (
        SELECT 1 FROM (
            SELECT event_id FROM event_tasks
            WHERE group_id = looked_through.group_id AND task_id = split_part(task, ':', 1)
                  AND version < split_part(task, ':', 2)::bigint
            ORDER BY version DESC LIMIT {MOST_VERSIONS}
        ) AS earlier CROSS JOIN LATERAL (
            SELECT 1 FROM deliveries AS before
            WHERE before.event_id = earlier.event_id AND before.webhook_id || '' = looked_through.webhook_id
                  AND before.replay_key = '' AND coalesce(before.finished_at, 0) = 0
            LIMIT 1
        ) AS unfinished
        LIMIT 1
    ) = 1
))
{_LONGEST_DUE_FIRST} LIMIT asked.most""",
)
# As `sql_lanes.RELEASE` and `HAND_BACK`, for many lanes at once, locked in the order of their ids. Deliveries are seen
# as of the statement's start, lanes as of their lock: a poke in between fails the comparison, one after it makes the
# lane due again.
RELEASE_LANES = f"""
WITH locked AS (
    SELECT lanes.webhook_id, asked.pokes IS NULL AS as_due FROM lanes
    JOIN unnest(?::text[], ?::bigint[], ?::bigint[]) AS asked (webhook_id, token, pokes)
        ON lanes.webhook_id = asked.webhook_id
    WHERE lanes.token = asked.token AND (asked.pokes IS NULL OR lanes.pokes = asked.pokes)
    ORDER BY lanes.webhook_id FOR NO KEY UPDATE OF lanes
)
UPDATE lanes SET owner = '', lease_until = 0, due_at = CASE WHEN locked.as_due THEN due_at ELSE coalesce(
    (SELECT next_attempt_at FROM deliveries WHERE webhook_id = lanes.webhook_id AND finished_at IS NULL
     ORDER BY next_attempt_at LIMIT 1), {NEVER_MS}) END
FROM locked WHERE lanes.webhook_id = locked.webhook_id RETURNING lanes.webhook_id
"""


class PostgresLanes(SqlLanes):
    """Implements reading and releasing of `ports.LaneStore`."""

    async def read_lanes(self, asked: Mapping[str, LaneAsk], *, now: datetime) -> Mapping[str, LaneRead]:
        return await self._database.read_lanes(_read_lanes(asked, to_ms(now)))

    async def release_lanes(self, releases: Sequence[Release]) -> set[str]:
        if not releases:
            return set()
        asked = sorted({each.webhook_id: each for each in releases}.values(), key=lambda each: each.webhook_id)
        columns = zip(*((each.webhook_id, each.token, each.pokes) for each in asked), strict=True)
        rows = await self._database.write_lanes(rows_of(RELEASE_LANES, *columns))
        return {webhook_id for (webhook_id,) in rows}


def rows_of(sql: str, *params: object) -> Script[Sequence[Row]]:
    """Ask for the rows of one statement."""
    rows: Sequence[Row] = yield fetch(sql, params)
    return rows


def _read_lanes(asked: Mapping[str, LaneAsk], now: int) -> Script[Mapping[str, LaneRead]]:
    read: dict[str, LaneRead] = {}
    for reading, sql in READ_LANES.items():
        limits = {webhook_id: ask.limit for webhook_id, ask in asked.items() if ask.reading is reading}
        rows = (yield fetch(sql, (list(limits), list(limits.values()), now, now))) if limits else ()
        read |= {webhook_id: _lane_read(its_rows) for webhook_id, its_rows in _by_lane(rows).items()}
    for reading, until in ((Reading.IN_ORDER, now), (Reading.PROBE_IN_ORDER, NEVER_MS)):
        in_order = {webhook_id: ask for webhook_id, ask in asked.items() if ask.reading is reading}
        read |= yield from _read_in_order(in_order, now, until)
    return read


def _read_in_order(asked: Mapping[str, LaneAsk], now: int, until: int) -> Script[dict[str, LaneRead]]:
    """Look at the head of each queue; where that ends before the queue, and room is left, look further on as well."""
    read = yield from _look(
        {webhook_id: (ask.limit, ask.look_at, HEAD) for webhook_id, ask in asked.items()}, now, until
    )
    onward = {}
    for webhook_id, at_head in read.items():
        ask = asked[webhook_id]
        room = ask.limit - len(at_head.deliveries)
        if not room:
            read[webhook_id] = replace(at_head, looked_to=ask.onward_from)
        elif at_head.looked_to is not None:
            begin = max(place_of(at_head.looked_to), place_of(ask.onward_from))
            onward[webhook_id] = (room, ask.look_at, begin)
    for webhook_id, further in (yield from _look(onward, now, until)).items():
        deliveries = [*read[webhook_id].deliveries, *further.deliveries]
        read[webhook_id] = replace(read[webhook_id], deliveries=deliveries, looked_to=further.looked_to)
    return read


def _look(looks: Mapping[str, tuple[int, int, Place]], now: int, until: int) -> Script[dict[str, LaneRead]]:
    """Look for so many that may start, among so many from a place on.

    `looked_to` is where that ended, if before the queue's end.
    """
    if not looks:
        return {}
    rows_asked = [(webhook_id, most, look_at, *begin) for webhook_id, (most, look_at, begin) in looks.items()]
    columns = zip(*rows_asked, strict=True)
    rows = yield fetch(LOOK, (*map(list, columns), until, until, now, now))
    return {webhook_id: _looked_through(its_rows) for webhook_id, its_rows in _by_lane(rows).items()}


def _by_lane(rows: Sequence[Row]) -> Mapping[str, Sequence[Row]]:
    lanes: dict[str, list[Row]] = {}
    for row in rows:
        lanes.setdefault(row[0], []).append(row)
    return lanes


def _looked_through(rows: Sequence[Row]) -> LaneRead:
    _, _, _, most, _, due_ms, delivery_id, last_due_ms, last_id, *_ = rows[-1]
    if len(rows) == most and last_id is not None:
        due_ms, delivery_id = last_due_ms, last_id
    looked_to = None if due_ms is None else Place(due_ms, delivery_id)
    return replace(_lane_read(rows), looked_to=position_of(looked_to))


def _lane_read(rows: Sequence[Row]) -> LaneRead:
    _, token, pokes, most, later, *_ = rows[0]
    due = [row for row in rows if row[7] is not None]
    next_due_at = due[most][7] if len(due) > most else later
    return LaneRead(token, pokes, [queued_from(row[8:]) for row in due[:most]], from_ms_or_none(next_due_at))
