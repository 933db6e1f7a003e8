"""Attempts in SQL: recording what came of them, in batches, fenced by the tokens of their lanes."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from gatepost.adapters.storage.recording import without_response
from gatepost.adapters.storage.rows import (
    ATTEMPT_COLUMNS,
    ATTEMPT_TYPES,
    PROGRESS_COLUMNS,
    PROGRESS_TYPES,
    Row,
    attempt_row,
    progress_values,
)
from gatepost.adapters.storage.scripts import IN_LIST, LOCKED, Database, Script, Unstorable, execute_many, fetch, listed
from gatepost.ports import LaneOutcomes, Settled

# On PostgreSQL a plain update under the token's condition that waits for a row still writes after the token has moved:
# the lanes are locked first, and written for only if they are still ours then.
STANDING = f"""
SELECT webhook_id, token, unclean, "window" FROM lanes WHERE webhook_id {IN_LIST} ORDER BY webhook_id {LOCKED}
"""
# An attempt is written only where it moves its delivery, and before that is moved. What is there already is recorded:
# a batch whose COMMIT got lost is written again unharmed. CROSS JOIN: from the rows given, one look-up for each.
_INSERT_ATTEMPTS = f"""
WITH new ({ATTEMPT_COLUMNS}) AS (VALUES {{rows}})
INSERT INTO attempts ({ATTEMPT_COLUMNS})
SELECT {", ".join(f"new.{column}" for column in ATTEMPT_COLUMNS.split(", "))}
FROM new CROSS JOIN deliveries WHERE deliveries.id = new.delivery_id
"""
# Not `IS NULL`: an index of the unfinished would be walked for what is to be looked up by id.
_UNFINISHED = "coalesce(deliveries.finished_at, 0) = 0"
ADD_ATTEMPTS = f"""
{_INSERT_ATTEMPTS} AND deliveries.attempt_count = new.number - 1 AND {_UNFINISHED}
ON CONFLICT DO NOTHING
"""
# The attempt written ahead of sending may have been the last one: what it finished is open to its own amendment.
_IS_OPEN = "(deliveries.finished_at IS NULL OR deliveries.dead_reason = 'attempts_exhausted')"
REPLACE_ATTEMPTS = f"""
{_INSERT_ATTEMPTS} AND deliveries.attempt_count = new.number AND {_IS_OPEN}
ON CONFLICT (delivery_id, number, probe) DO UPDATE SET
    id = excluded.id, started_at = excluded.started_at, duration_us = excluded.duration_us,
    outcome = excluded.outcome, status_code = excluded.status_code, headers = excluded.headers,
    body = excluded.body, truncated = excluded.truncated, error_class = excluded.error_class,
    detail = excluded.detail
"""
_SET_PROGRESS = f"""
WITH new (id, expected_count, {PROGRESS_COLUMNS}) AS (VALUES {{rows}})
UPDATE deliveries SET {", ".join(f"{column} = new.{column}" for column in PROGRESS_COLUMNS.split(", "))}
FROM new WHERE deliveries.id = new.id AND deliveries.attempt_count = new.expected_count
"""
MOVE = f"{_SET_PROGRESS} AND {_UNFINISHED}"
AMEND = f"{_SET_PROGRESS} AND {_IS_OPEN}"
CLEAN = """
WITH clean (webhook_id, "window") AS (VALUES {rows})
UPDATE lanes SET unclean = 0, "window" = clean."window" FROM clean WHERE lanes.webhook_id = clean.webhook_id
"""

MOVE_TYPES = f"text bigint {PROGRESS_TYPES}"
_STEPS = (
    (ADD_ATTEMPTS, ATTEMPT_TYPES),
    (MOVE, MOVE_TYPES),
    (REPLACE_ATTEMPTS, ATTEMPT_TYPES),
    (AMEND, MOVE_TYPES),
)

# Of one lane: the rows of `ADD_ATTEMPTS`, of `MOVE`, and of their amending counterparts.
LaneRows = tuple[list[Row], list[Row], list[Row], list[Row]]


class SqlAttempts:
    """Implements the recording of `ports.LaneStore`."""

    _database: Database

    async def record_attempts(self, batch: Sequence[LaneOutcomes]) -> set[str]:
        try:
            return await self._database.write_lanes(_record(batch))
        except (Unstorable, UnicodeEncodeError):
            return {lost for outcomes in batch for lost in await self._record_singly(outcomes)}

    async def _record_singly(self, outcomes: LaneOutcomes) -> set[str]:
        lost: set[str] = set()
        for settled in outcomes.settled:
            try:
                lost |= await self._database.write_lanes(_record([replace(outcomes, settled=[settled])]))
            except (Unstorable, UnicodeEncodeError):
                bare = replace(outcomes, settled=[without_response(settled)])
                lost |= await self._database.write_lanes(_record([bare]))
        return lost


def _record(batch: Sequence[LaneOutcomes]) -> Script[set[str]]:
    """Return the script with its rows made: the write lock is not held for that."""
    return _write_rounds([(part, [_rows_of(outcomes.settled) for outcomes in part]) for part in _rounds(batch)])


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


def _write_rounds(rounds: Sequence[tuple[Sequence[LaneOutcomes], Sequence[LaneRows]]]) -> Script[set[str]]:
    lost: set[str] = set()
    for batch, rows in rounds:
        lost |= yield from _write_outcomes(batch, rows)
    return lost


def _rows_of(settled: Iterable[Settled]) -> LaneRows:
    attempts: list[Row] = []
    moves: list[Row] = []
    replaced: list[Row] = []
    amended: list[Row] = []
    for each in settled:
        delivery_id, attempt, progress = each.delivery.id, each.attempt, each.progress
        if each.amends:
            replaced.append(attempt_row(delivery_id, attempt))
            amended.append((delivery_id, attempt.number, *progress_values(progress)))
            continue
        attempts.append(attempt_row(delivery_id, attempt))
        # A failed probe counts for nothing and moves nothing; one that got through finishes its delivery.
        if not attempt.probe or progress.finished_at is not None:
            moves.append((delivery_id, attempt.number - 1, *progress_values(progress)))
    return attempts, moves, replaced, amended


def _write_outcomes(batch: Sequence[LaneOutcomes], rows: Sequence[LaneRows]) -> Script[set[str]]:
    stored = yield fetch(STANDING, (listed(sorted(outcomes.webhook_id for outcomes in batch)),))
    lanes = {webhook_id: (token, unclean, window) for webhook_id, token, unclean, window in stored}
    lost: set[str] = set()
    cleaned: list[Row] = []
    kinds: tuple[list[Row], ...] = ([], [], [], [])
    for outcomes, rows_of_lane in zip(batch, rows, strict=True):
        token, unclean, window = lanes.get(outcomes.webhook_id, (None, 0, 0))
        if token != outcomes.token:
            lost.add(outcomes.webhook_id)
            continue
        for kind, more in zip(kinds, rows_of_lane, strict=True):
            kind.extend(more)
        if unclean or window != outcomes.window:
            cleaned.append((outcomes.webhook_id, outcomes.window))
    for (sql, types), its_rows in zip(_STEPS, kinds, strict=True):
        if its_rows:
            yield execute_many(sql, its_rows, types)
    if cleaned:
        yield execute_many(CLEAN, sorted(cleaned), "text bigint")
    return lost
