"""Lanes in SQL: the engine's view of the store. The rules are those of `docs/delivery-protocol.md`.

Statements that touch several lanes take them in the order of `webhook_id`, so that two writers on a database with row
locks cannot wait for each other.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from gatepost.adapters.storage.rows import (
    ATTEMPT_COLUMNS,
    NEVER_MS,
    Row,
    attempt_row,
    from_ms,
    from_ms_or_none,
    progress_row,
    queued_from,
    to_ms,
)
from gatepost.adapters.storage.scripts import (
    IN_LIST,
    Database,
    Script,
    Unstorable,
    execute,
    execute_many,
    fetch,
    listed,
)
from gatepost.domain.deliveries import ErrorClass, Unreachable
from gatepost.ports import LaneOutcomes, LaneRead, Leased, LeasedLane, Release, Settled

# --- hints ---------------------------------------------------------------------------------------------------

# Only ever lowers `due_at`; the counter tells an owner about to release the lane that it has more to look at.
POKE = """
WITH poked (webhook_id, at) AS (VALUES {rows})
UPDATE lanes SET pokes = pokes + 1, due_at = CASE WHEN due_at > poked.at THEN poked.at ELSE due_at END
FROM poked WHERE lanes.webhook_id = poked.webhook_id
"""

# --- leasing -------------------------------------------------------------------------------------------------

# Due lanes that nobody has, and lanes whose lease is over or absurdly far ahead (a clock stepped back). Two halves,
# each by its own partial index: lanes that are leased are not stepped over.
LEASABLE = """
SELECT webhook_id, token, unclean, window, owner FROM (
    SELECT * FROM (
        SELECT webhook_id, token, unclean, window, owner, due_at FROM lanes
        WHERE owner = '' AND due_at <= ? AND hold_until <= ? ORDER BY due_at LIMIT ?
    )
    UNION ALL
    SELECT webhook_id, token, unclean, window, owner, due_at FROM lanes
    WHERE owner <> '' AND lease_until < ? AND due_at <= ? AND hold_until <= ?
    UNION ALL
    SELECT webhook_id, token, unclean, window, owner, due_at FROM lanes
    WHERE owner <> '' AND lease_until > ? AND due_at <= ? AND hold_until <= ?
) ORDER BY due_at, webhook_id LIMIT ?
"""
_LEASE = """
WITH taken (webhook_id, token, unclean, owner, lease_until) AS (VALUES {rows})
UPDATE lanes SET owner = taken.owner, lease_until = taken.lease_until, token = taken.token, unclean = taken.unclean
FROM taken WHERE lanes.webhook_id = taken.webhook_id
"""
NEXT_DUE = """
SELECT due_at FROM lanes WHERE owner = '' AND due_at > ? AND hold_until <= ? ORDER BY due_at LIMIT 1
"""

LEASES = f"SELECT webhook_id, token, owner FROM lanes WHERE webhook_id {IN_LIST}"
_RENEW = f"UPDATE lanes SET lease_until = ? WHERE webhook_id {IN_LIST}"
# Nothing but this raises `due_at`: from what the deliveries say now, for whoever has seen every poke.
RELEASE = f"""
UPDATE lanes SET owner = '', lease_until = 0, due_at = coalesce(
    (SELECT min(next_attempt_at) FROM deliveries
     WHERE webhook_id = lanes.webhook_id AND finished_at IS NULL), {NEVER_MS})
WHERE webhook_id = ? AND token = ? AND pokes = ?
"""

# --- reading -------------------------------------------------------------------------------------------------

LANE = "SELECT token, pokes FROM lanes WHERE webhook_id = ?"
DUE = """
SELECT d.id, d.group_id, d.webhook_id, d.event_id, d.event, e.body, e.hop, d.attempt_count, d.created_at
FROM deliveries d JOIN events e ON e.group_id = d.group_id AND e.id = d.event_id
WHERE d.webhook_id = ? AND d.finished_at IS NULL AND d.next_attempt_at <= ?
ORDER BY d.next_attempt_at, d.id LIMIT ?
"""
# The first one that `DUE` did not return.
NEXT_ATTEMPT = """
SELECT next_attempt_at FROM deliveries WHERE webhook_id = ? AND finished_at IS NULL
ORDER BY next_attempt_at, id LIMIT 1 OFFSET ?
"""

# --- recording -----------------------------------------------------------------------------------------------

STANDING = f"SELECT webhook_id, token, unclean, window FROM lanes WHERE webhook_id {IN_LIST}"
# An attempt is written only where it moves its delivery, and before that is moved. What is there already is recorded:
# a batch whose COMMIT got lost is written again unharmed. CROSS JOIN: from the rows given, one look-up for each.
_INSERT_ATTEMPTS = f"""
WITH new ({ATTEMPT_COLUMNS}) AS (VALUES {{rows}})
INSERT INTO attempts ({ATTEMPT_COLUMNS})
SELECT {", ".join(f"new.{column}" for column in ATTEMPT_COLUMNS.split(", "))}
FROM new CROSS JOIN deliveries WHERE deliveries.id = new.delivery_id
"""
ADD_ATTEMPTS = f"""
{_INSERT_ATTEMPTS} AND deliveries.attempt_count = new.number - 1 AND deliveries.finished_at IS NULL
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
_SET_PROGRESS = """
WITH new (id, expected_count, status, attempt_count, max_attempts, next_attempt_at, last_status_code,
          last_error_class, dead_reason, finished_at) AS (VALUES {rows})
UPDATE deliveries SET status = new.status, attempt_count = new.attempt_count, max_attempts = new.max_attempts,
       next_attempt_at = new.next_attempt_at, last_status_code = new.last_status_code,
       last_error_class = new.last_error_class, dead_reason = new.dead_reason, finished_at = new.finished_at
FROM new WHERE deliveries.id = new.id AND deliveries.attempt_count = new.expected_count
"""
MOVE = f"{_SET_PROGRESS} AND deliveries.finished_at IS NULL"
AMEND = f"{_SET_PROGRESS} AND {_IS_OPEN}"
_CLEAN = """
WITH clean (webhook_id, "window") AS (VALUES {rows})
UPDATE lanes SET unclean = 0, "window" = clean."window" FROM clean WHERE lanes.webhook_id = clean.webhook_id
"""

# --- looking after -------------------------------------------------------------------------------------------

# Lanes that hint at later, although something of theirs is due. A leased lane is due as long as it is leased.
FORGOTTEN = """
SELECT webhook_id FROM lanes WHERE owner = '' AND due_at > ? AND hold_until <= ? AND EXISTS (
    SELECT 1 FROM deliveries
    WHERE webhook_id = lanes.webhook_id AND finished_at IS NULL AND next_attempt_at <= ?)
"""
ORPHANING = """
SELECT id FROM webhooks WHERE deleted_at IS NOT NULL AND EXISTS (
    SELECT 1 FROM deliveries WHERE webhook_id = webhooks.id AND finished_at IS NULL)
"""
BURY = """
UPDATE deliveries SET status = 'dead-letter', dead_reason = 'webhook_deleted', next_attempt_at = NULL, finished_at = ?
WHERE id IN (SELECT id FROM deliveries WHERE webhook_id = ? AND finished_at IS NULL LIMIT ?)
"""
_BURIED_AT_ONCE = 500  # a few milliseconds of the one writer


# Of one lane: the rows of `ADD_ATTEMPTS`, of `MOVE`, and of their amending counterparts.
LaneRows = tuple[list[Row], list[Row], list[Row], list[Row]]


class SqlLanes:
    """Implements the statements of `ports.LaneStore`; who is alive is the driver's to know."""

    _database: Database

    async def lease_lanes(self, owner: str, *, limit: int, now: datetime, lease: timedelta) -> Leased:
        return await self._database.write(_lease_lanes(owner, limit, now, lease))

    async def read_lanes(self, limits: Mapping[str, int], *, now: datetime) -> Mapping[str, LaneRead]:
        return await self._database.read(_read_lanes(limits, to_ms(now)))

    async def record_attempts(self, batch: Sequence[LaneOutcomes], *, now: datetime) -> set[str]:  # noqa: ARG002  # every moment written is in the batch
        try:
            return await self._database.write(_record(batch))
        except (Unstorable, UnicodeEncodeError):
            return {lost for outcomes in batch for lost in await self._record_singly(outcomes)}

    async def release_lanes(self, releases: Sequence[Release]) -> set[str]:
        return await self._database.write(_release_lanes(releases)) if releases else set()

    async def sweep(self, *, now: datetime) -> int:
        # Searched for by a reader, as there is nothing to find most of the time.
        forgotten, orphaning = await self._database.read(_look_for_work(to_ms(now)))
        for webhook_id in orphaning:
            while await self._database.write(_bury(webhook_id, to_ms(now))) == _BURIED_AT_ONCE:
                pass
        if forgotten:
            await self._database.write(poke(dict.fromkeys(forgotten, to_ms(now))))
        return len(forgotten)

    async def _record_singly(self, outcomes: LaneOutcomes) -> set[str]:
        lost: set[str] = set()
        for settled in outcomes.settled:
            try:
                lost |= await self._database.write(_record([replace(outcomes, settled=[settled])]))
            except (Unstorable, UnicodeEncodeError):
                bare = replace(outcomes, settled=[_without_response(settled)])
                lost |= await self._database.write(_record([bare]))
        return lost


def poke(moments: Mapping[str, int]) -> Script[None]:
    """Make lanes due at the given moments, unless they are earlier."""
    yield execute_many(POKE, sorted(moments.items()))


def renew(owner: str, tokens: Mapping[str, int], lease_until: int) -> Script[set[str]]:
    """Extend the leases that are still the owner's; return the others."""
    rows = yield fetch(LEASES, (listed(tokens),))
    kept = [webhook_id for webhook_id, token, by in rows if by == owner and token == tokens[webhook_id]]
    yield execute(_RENEW, (lease_until, listed(kept)))
    return set(tokens).difference(kept)


def _lease_lanes(owner: str, limit: int, now: datetime, lease: timedelta) -> Script[Leased]:
    at, limit = to_ms(now), max(limit, 0)
    absurd = to_ms(now + 2 * lease)
    rows = yield fetch(LEASABLE, (at, at, limit, at, at, at, absurd, at, at, limit))
    until = to_ms(now + lease)
    lanes = [
        LeasedLane(webhook_id, token + 1, unclean + 1 if previous else unclean, window)
        for webhook_id, token, unclean, window, previous in rows
    ]
    if lanes:
        yield execute_many(_LEASE, sorted((lane.webhook_id, lane.token, lane.unclean, owner, until) for lane in lanes))
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
        rows = yield fetch(DUE, (webhook_id, now, max(limit, 0)))
        after = yield fetch(NEXT_ATTEMPT, (webhook_id, len(rows)))
        read[webhook_id] = LaneRead(
            token,
            pokes,
            [queued_from(row) for row in rows],
            from_ms(after[0][0]) if after else None,
        )
    return read


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
            amended.append(progress_row(delivery_id, progress, expected_count=attempt.number))
            continue
        attempts.append(attempt_row(delivery_id, attempt))
        # A failed probe counts for nothing and moves nothing; one that got through finishes its delivery.
        if not attempt.probe or progress.finished_at is not None:
            moves.append(progress_row(delivery_id, progress, expected_count=attempt.number - 1))
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
    for sql, its_rows in zip((ADD_ATTEMPTS, MOVE, REPLACE_ATTEMPTS, AMEND), kinds, strict=True):
        if its_rows:
            yield execute_many(sql, its_rows)
    if cleaned:
        yield execute_many(_CLEAN, sorted(cleaned))
    return lost


def _without_response(settled: Settled) -> Settled:
    """Return an attempt that the store can hold in any case; what it means for the delivery stays."""
    code = settled.progress.last_status_code
    bare = replace(
        settled.attempt,
        outcome=Unreachable(ErrorClass.INTERNAL_ERROR, "the store could not hold the response"),
        duration=min(max(settled.attempt.duration, timedelta(0)), timedelta(days=1)),
    )
    holds = code is None or 0 <= code < 2**31
    return replace(
        settled,
        attempt=bare,
        progress=settled.progress if holds else replace(settled.progress, last_status_code=None),
    )


def _release_lanes(releases: Sequence[Release]) -> Script[set[str]]:
    given_back: set[str] = set()
    for each in sorted(releases, key=lambda release: release.webhook_id):
        if (yield execute(RELEASE, (each.webhook_id, each.token, each.pokes))):
            given_back.add(each.webhook_id)
    return given_back


def _look_for_work(now: int) -> Script[tuple[list[str], list[str]]]:
    forgotten = yield fetch(FORGOTTEN, (now, now, now))
    orphaning = yield fetch(ORPHANING)
    return [webhook_id for (webhook_id,) in forgotten], [webhook_id for (webhook_id,) in orphaning]


def _bury(webhook_id: str, now: int) -> Script[int]:
    buried: int = yield execute(BURY, (now, webhook_id, _BURIED_AT_ONCE))
    return buried
