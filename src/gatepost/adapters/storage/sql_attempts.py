"""Attempts in SQL: recording what came of them, in batches, fenced by the tokens of their lanes."""

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import NamedTuple

from gatepost.adapters.storage.recording import PROBES_KEPT, without_response
from gatepost.adapters.storage.rows import (
    ATTEMPT_COLUMNS,
    ATTEMPT_TYPES,
    CONDITION_COLUMNS,
    CONDITION_TYPES,
    NEVER_MS,
    PROGRESS_COLUMNS,
    PROGRESS_TYPES,
    Row,
    attempt_row,
    condition_row,
    progress_values,
    to_ms_or_none,
)
from gatepost.adapters.storage.scripts import (
    IN_LIST,
    LOCKED,
    Database,
    Recorded,
    Script,
    Unstorable,
    execute,
    execute_many,
    fetch,
    fetch_many,
    listed,
)
from gatepost.adapters.storage.sql_consequences import Told, disable_webhooks, lock_disabled, tell
from gatepost.adapters.storage.sql_stats import counted
from gatepost.domain.deliveries import QueuedDelivery, Status
from gatepost.ports import LaneOutcomes, Saved, Settled

# On PostgreSQL a plain update under the token's condition that waits for a row still writes after the token has moved:
# the lanes are locked first, and written for only if they are still ours then.
STANDING = f"""
SELECT webhook_id, token, unclean, enabled_at, "window", hold_until, {CONDITION_COLUMNS} FROM lanes
WHERE webhook_id {IN_LIST} ORDER BY webhook_id {LOCKED}
"""
# An attempt is written only where it moves its delivery, and before that is moved. What is there already is recorded:
# a batch whose COMMIT got lost is written again unharmed. CROSS JOIN: from the rows given, one look-up for each.
_INSERT_ATTEMPTS = f"""
WITH new ({ATTEMPT_COLUMNS}, delivers) AS (VALUES {{rows}})
INSERT INTO attempts ({ATTEMPT_COLUMNS})
SELECT {", ".join(f"new.{column}" for column in ATTEMPT_COLUMNS.split(", "))}
FROM new CROSS JOIN deliveries WHERE deliveries.id = new.delivery_id
"""
# Not `IS NULL`: an index of the unfinished would be walked for what is to be looked up by id.
# What was discarded while it was under way is delivered all the same, if it is.
_OPEN = "(coalesce(deliveries.finished_at, 0) = 0 OR deliveries.dead_reason = 'discarded' AND {})"
_DELIVERS, _DELIVERED = "new.delivers = 1", "new.status = 'delivered'"
ADD_ATTEMPTS = f"""
{_INSERT_ATTEMPTS} AND deliveries.attempt_count = new.number - 1 AND {_OPEN.format(_DELIVERS)}
ON CONFLICT DO NOTHING
"""
# The attempt written ahead of sending may have been the last one: what it finished is open to its own amendment, once.
_STILL_OPEN = f"""
deliveries.last_error_class = 'internal_error' AND ({_OPEN} OR deliveries.dead_reason = 'attempts_exhausted')
"""
REPLACE_ATTEMPTS = f"""
{_INSERT_ATTEMPTS} AND deliveries.attempt_count = new.number AND {_STILL_OPEN.format(_DELIVERS)}
ON CONFLICT (delivery_id, number, probe_key) DO UPDATE SET
    id = excluded.id, started_at = excluded.started_at, duration_us = excluded.duration_us,
    outcome = excluded.outcome, status_code = excluded.status_code, headers = excluded.headers,
    body = excluded.body, truncated = excluded.truncated, error_class = excluded.error_class,
    detail = excluded.detail
"""
# Failed probes are all unfinished deliveries have without end: the newest tell what was the matter.
TRIM_PROBES = f"""
DELETE FROM attempts WHERE delivery_id = ? AND probe_key <> '' AND probe_key NOT IN (
    SELECT probe_key FROM attempts WHERE delivery_id = ? AND probe_key <> ''
    ORDER BY started_at DESC, probe_key DESC LIMIT {PROBES_KEPT}
)
"""
_SET_PROGRESS = f"""
WITH new (id, expected_count, {PROGRESS_COLUMNS}) AS (VALUES {{rows}})
UPDATE deliveries SET {", ".join(f"{column} = new.{column}" for column in PROGRESS_COLUMNS.split(", "))}
FROM new WHERE deliveries.id = new.id AND deliveries.attempt_count = new.expected_count
"""
MOVE = f"{_SET_PROGRESS} AND {_OPEN.format(_DELIVERED)}"
AMEND = f"{_SET_PROGRESS} AND {_STILL_OPEN.format(_DELIVERED)}"
_WHICH = "RETURNING deliveries.id"
MOVE_SOME, AMEND_SOME = f"{MOVE} {_WHICH}", f"{AMEND} {_WHICH}"
_KEPT = f'"window", hold_until, {CONDITION_COLUMNS}'
CLEAN = f"""
WITH clean (webhook_id, {_KEPT}) AS (VALUES {{rows}})
UPDATE lanes SET unclean = 0, {", ".join(f"{column} = clean.{column}" for column in _KEPT.split(", "))}
FROM clean WHERE lanes.webhook_id = clean.webhook_id
"""

ADD_TYPES = f"{ATTEMPT_TYPES} bigint"
MOVE_TYPES = f"text bigint {PROGRESS_TYPES}"
CLEAN_TYPES = f"text bigint bigint {CONDITION_TYPES}"
_ROWS_OF = (ADD_ATTEMPTS, MOVE, REPLACE_ATTEMPTS, AMEND)


class Kept(NamedTuple):
    """What a lane's next owner is to know, in the order of `_KEPT`."""

    window: int
    hold_until: int
    streak: int
    failing_since: int | None
    suspended_at: int | None
    draining: int


class Standing(NamedTuple):
    """A lane as it is stored, in the order of `STANDING`."""

    token: int
    unclean: int
    enabled_at: int
    kept: Kept


@dataclass(frozen=True, slots=True)
class LaneRows:
    """What is to be written of one lane. Shape: `rows` by their statement; `kept` counts since `enabled_at` only."""

    outcomes: LaneOutcomes
    rows: dict[str, list[Row]]
    kept: Kept
    enabled_at: int | None


class SqlAttempts:
    """Implements the recording of `ports.LaneStore`."""

    _database: Database

    async def record_attempts(self, batch: Sequence[LaneOutcomes]) -> set[str]:
        try:
            return set((await self._database.write_lanes(_record(batch))).lost)
        except (Unstorable, UnicodeEncodeError):
            return {lost for outcomes in batch for lost in await self._record_singly(outcomes)}

    async def _record_singly(self, outcomes: LaneOutcomes) -> set[str]:
        lost: set[str] = set()
        for settled in outcomes.settled:
            try:
                recorded = await self._database.write_lanes(_record([replace(outcomes, settled=[settled])]))
            except (Unstorable, UnicodeEncodeError):
                bare = replace(outcomes, settled=[without_response(settled)])
                recorded = await self._database.write_lanes(_record([bare]))
            lost |= recorded.lost
        return lost


def _record(batch: Sequence[LaneOutcomes]) -> Script[Recorded]:
    """Return the script with its rows made: the write lock is not held for that."""
    return _write_rounds([[_rows_of(outcomes) for outcomes in part] for part in _rounds(batch)])


def _rounds(batch: Sequence[LaneOutcomes]) -> list[Sequence[LaneOutcomes]]:
    """Part a batch so that each part has a delivery once: a statement over rows sees what was before all of them."""
    ids = [each.delivery.id for outcomes in batch for each in outcomes.settled]
    if len(set(ids)) == len(ids):
        return [batch]
    earlier: Counter[str] = Counter()
    rounds: dict[int, list[LaneOutcomes]] = {}
    for outcomes in batch:
        parts: dict[int, list[Settled]] = {0: []}
        for each in outcomes.settled:
            parts.setdefault(earlier[each.delivery.id], []).append(each)
            earlier[each.delivery.id] += 1
        for number, settled in parts.items():
            rounds.setdefault(number, []).append(replace(outcomes, settled=settled))
    return [rounds[number] for number in sorted(rounds)]


def _rows_of(outcomes: LaneOutcomes) -> LaneRows:
    rows: dict[str, list[Row]] = {sql: [] for sql in _ROWS_OF}
    for each in outcomes.settled:
        delivery_id, number, progress = each.delivery.id, each.attempt.number, each.progress
        delivers = progress is not None and progress.status is Status.DELIVERED
        attempt = (*attempt_row(delivery_id, each.attempt, moves=progress is not None), int(delivers))
        rows[REPLACE_ATTEMPTS if each.amends else ADD_ATTEMPTS].append(attempt)
        if progress is not None:
            expected = number if each.amends else number - 1
            rows[AMEND if each.amends else MOVE].append((delivery_id, expected, *progress_values(progress)))
    kept = Kept(outcomes.window, to_ms_or_none(outcomes.held_until) or 0, *condition_row(outcomes.condition))
    return LaneRows(outcomes, rows, kept, to_ms_or_none(outcomes.enabled_at))


def _write_rounds(rounds: Sequence[Sequence[LaneRows]]) -> Script[Recorded]:
    lost: set[str] = set()
    queued: list[QueuedDelivery] = []
    for part in rounds:
        recorded = yield from _write_lanes(part)
        lost |= recorded.lost
        queued += recorded.queued
    return Recorded(Saved.DONE, queued, lost)


def _write_lanes(lanes: Sequence[LaneRows]) -> Script[Recorded]:
    yield from lock_disabled([lane.outcomes for lane in lanes])
    ids = {lane.outcomes.webhook_id for lane in lanes}
    rows = yield fetch(STANDING, (listed(sorted(ids)),))
    stored = {
        webhook_id: Standing(token, unclean, enabled_at, Kept(*kept))
        for webhook_id, token, unclean, enabled_at, *kept in rows
    }
    standing = [lane for lane in lanes if _stands(lane, stored)]
    moved = yield from _write_attempts(standing)
    cleaned = [row for lane in standing if (row := _cleaned(lane, stored[lane.outcomes.webhook_id])) is not None]
    if cleaned:
        yield execute_many(CLEAN, sorted(cleaned, key=itemgetter(0)), CLEAN_TYPES)
    outcomes = [lane.outcomes for lane in standing]
    if counts := counted(each for lane in outcomes for each in lane.settled if each.delivery.id in moved):
        yield counts
    told = [*_told(outcomes, moved), *(yield from disable_webhooks(outcomes))]
    queued = yield from tell(told)
    return Recorded(Saved.DONE, queued, ids - {each.webhook_id for each in outcomes})


def _stands(lane: LaneRows, stored: Mapping[str, Standing]) -> bool:
    row = stored.get(lane.outcomes.webhook_id)
    return row is not None and row.token == lane.outcomes.token


def _write_attempts(lanes: Sequence[LaneRows]) -> Script[set[str]]:
    """Write attempts and progress; return which deliveries have moved.

    As a rule all of them have, since all attempts were new: which ones is asked for only when that was not so.
    """
    added, moves, replaced, amended = ([row for lane in lanes for row in lane.rows[sql]] for sql in _ROWS_OF)
    moved: set[str] = set()
    are_new = bool(added) and (yield execute_many(ADD_ATTEMPTS, added, ADD_TYPES)) == len(added)
    if moves and are_new:
        yield execute_many(MOVE, moves, MOVE_TYPES)
        moved |= {row[0] for row in moves}
    elif moves:
        moved |= {delivery_id for (delivery_id,) in (yield fetch_many(MOVE_SOME, moves, MOVE_TYPES))}
    for probed in [each.delivery.id for lane in lanes for each in lane.outcomes.settled if each.progress is None]:
        yield execute(TRIM_PROBES, (probed, probed))
    if replaced:
        yield execute_many(REPLACE_ATTEMPTS, replaced, ADD_TYPES)
        moved |= {delivery_id for (delivery_id,) in (yield fetch_many(AMEND_SOME, amended, MOVE_TYPES))}
    return moved


def _cleaned(lane: LaneRows, before: Standing) -> Row | None:
    """Return what is to be written of the lane itself; None when it stands there already.

    What was seen of a receiver before its webhook was enabled is not kept, nor is a disabled one's lane set free.
    """
    is_current = before.enabled_at == lane.enabled_at
    after = lane.kept if is_current else before.kept._replace(window=lane.kept.window)
    if before.kept.hold_until == NEVER_MS:
        after = after._replace(hold_until=NEVER_MS)
    return (lane.outcomes.webhook_id, *after) if before.unclean or after != before.kept else None


def _told(batch: Sequence[LaneOutcomes], moved: Set[str]) -> list[Told]:
    return [
        (event, outcomes.webhook_id)
        for outcomes in batch
        for each in outcomes.settled
        for event in (each.given_up if each.delivery.id in moved else None, each.of_health)
        if event is not None
    ]
