"""Bulk replays in SQL: jobs as people see them, and the steps that engines take."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from gatepost.adapters.storage.paging import AFTER_ALL, page_of
from gatepost.adapters.storage.rows import (
    DELIVERY_COLUMNS,
    DELIVERY_TYPES,
    Row,
    delivery_from,
    delivery_row,
    from_ms,
    from_ms_or_none,
    to_ms,
    to_ms_or_none,
)
from gatepost.adapters.storage.scripts import (
    IN_LIST,
    LOCKED,
    Database,
    Emitted,
    Script,
    execute,
    execute_many,
    fetch,
    listed,
    poke,
)
from gatepost.adapters.storage.sql_emitting import ADD_DELIVERIES
from gatepost.domain.deliveries import Delivery, Status, queued
from gatepost.domain.replays import JobStatus, ReplayFilter, ReplayJob, replayed_by
from gatepost.ports import Advanced, JobLease, Page, Replayable, Saved, Step

LOOKED_THROUGH_AT_ONCE = 2_000  # deliveries, for those that a job wants: a step is short, however few those are

# Of the deliveries of one webhook: what can be replayed, and what no job has made (its replay keys begin with the job's
# id), nor a test. The conditions of a filter are appended.
_REPLAYABLE = """
FROM deliveries WHERE webhook_id = ? AND group_id || '' = ? AND finished_at <= ?
AND substr(replay_key, 1, 4) NOT IN ('rpl_', 'test')
"""
# Dead letters are few, and have an index of their own.
_REPLAYABLE_DEAD = """
FROM deliveries WHERE webhook_id || '' = ? AND group_id = ? AND status = 'dead-letter' AND finished_at <= ?
AND substr(replay_key, 1, 4) NOT IN ('rpl_', 'test')
"""

_COLUMNS = (
    "id, group_id, webhook_id, wanted_status, wanted_event, wanted_from, wanted_to, total, created_at, status, done,"
    " finished_at"
)
# Of each webhook one job runs: the index of those that run has room for no more.
_ADD = f"""
INSERT INTO replay_jobs ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING
"""
IS_THERE = "SELECT 1 FROM replay_jobs WHERE id = ?"
JOB = f"SELECT {_COLUMNS} FROM replay_jobs WHERE id = ? AND webhook_id = ? AND group_id = ?"
JOBS = f"""
SELECT {_COLUMNS} FROM replay_jobs WHERE webhook_id = ? AND group_id = ? AND id < ? ORDER BY id DESC LIMIT ?
"""
CANCEL = """
UPDATE replay_jobs SET status = 'cancelled', finished_at = ?
WHERE id = ? AND webhook_id = ? AND group_id = ? AND status = 'running'
"""

# --- leasing -------------------------------------------------------------------------------------------------

# All that have something to do: what waits for its webhook to be enabled is passed by.
READY = """
SELECT id, owner, token, lease_until FROM replay_jobs WHERE status = 'running' AND coalesce((
    SELECT enabled FROM webhooks WHERE webhooks.id = replay_jobs.webhook_id AND coalesce(deleted_at, 0) = 0
), 1) = 1 ORDER BY webhook_id
"""
# Of two who lease at once, the second sees what the first has taken.
READY_LOCKED = f"{READY} {LOCKED}"
LEASE = """
WITH taken (id, token, owner, lease_until) AS (VALUES {rows})
UPDATE replay_jobs SET token = taken.token, owner = taken.owner, lease_until = taken.lease_until
FROM taken WHERE replay_jobs.id = taken.id
"""

# --- steps ---------------------------------------------------------------------------------------------------

_OURS = "id = ? AND token = ? AND status = 'running'"
OURS = f"SELECT {_COLUMNS}, after_id FROM replay_jobs WHERE {_OURS}"
OWNER_OF_STEP = f"SELECT after_id FROM replay_jobs WHERE {_OURS} {LOCKED}"
_WEBHOOK = "SELECT enabled, max_attempts FROM webhooks WHERE id = ? AND coalesce(deleted_at, 0) = 0"
# Where the part of the list ends that one step looks through; nothing when it is the last one.
PART_ENDS_AT = f"""
SELECT id FROM deliveries WHERE webhook_id = ? AND id > ? ORDER BY id LIMIT 1 OFFSET {LOOKED_THROUGH_AT_ONCE - 1}
"""
BYTES = f"SELECT id, body, hop FROM events WHERE group_id = ? AND id {IN_LIST} ORDER BY id {LOCKED}"
_ADD_REPLAYS = f"{ADD_DELIVERIES} ON CONFLICT DO NOTHING"
MOVE_ON = "UPDATE replay_jobs SET after_id = ?, done = done + ?, status = ?, finished_at = ? WHERE id = ?"


class SqlReplays:
    """Implements `ports.ReplayStore`."""

    _database: Database

    async def count_replayable(
        self, group_id: str, webhook_id: str, wanted: ReplayFilter, *, now: datetime, sample: int
    ) -> Replayable:
        return await self._database.read(_count(group_id, webhook_id, wanted, to_ms(now), sample))

    async def add_job(self, group_id: str, job: ReplayJob) -> Saved:
        return await self._database.write(_add(_row(group_id, job)))

    async def job(self, group_id: str, webhook_id: str, job_id: str) -> ReplayJob | None:
        return await self._database.read(_job(group_id, webhook_id, job_id))

    async def jobs(self, group_id: str, webhook_id: str, *, limit: int, before: str | None) -> Page[ReplayJob]:
        return await self._database.read(_jobs(group_id, webhook_id, limit, before))

    async def cancel_job(self, group_id: str, webhook_id: str, job_id: str, *, now: datetime) -> None:
        await self._database.write(_cancel((to_ms(now), job_id, webhook_id, group_id)))

    async def lease_jobs(self, owner: str, *, limit: int, now: datetime, lease: timedelta) -> Sequence[JobLease]:
        # Asked of a reader first, as there is nothing to do most of the time.
        if not await self._database.read_lanes(_leasable(READY, owner, now, lease)):
            return []
        return await self._database.write_lanes(_lease(owner, limit, now, lease))

    async def advance_job(self, lease: JobLease, *, limit: int, now: datetime) -> Advanced:
        # Looked for by a reader: the step writes what is found, if the job is still where it was then.
        found = await self._database.read_lanes(_look(lease, limit, now))
        if found is None:
            return Advanced(Step.LOST)
        emitted = await self._database.write_lanes(_take(lease, found, now))
        if emitted.saved is not Saved.DONE:
            return Advanced(Step.LOST)
        return Advanced(Step.MOVED if found.status is JobStatus.RUNNING else Step.ENDED, len(emitted.queued))


# --- what people ask for -------------------------------------------------------------------------------------


def _count(group_id: str, webhook_id: str, wanted: ReplayFilter, now: int, sample: int) -> Script[Replayable]:
    sql, params = replayable_statement(group_id, webhook_id, wanted, now)
    [(count,)] = yield fetch(f"SELECT count(*) {sql}", params)
    rows = yield fetch(f"SELECT {DELIVERY_COLUMNS} {sql} ORDER BY id LIMIT ?", (*params, sample))
    return Replayable(count, [delivery_from(row) for row in rows])


def replayable_statement(group_id: str, webhook_id: str, wanted: ReplayFilter, now: int) -> tuple[str, Row]:
    """Return what finds a webhook's deliveries that can be replayed, but for the columns, with its parameters."""
    if wanted.status is Status.DEAD_LETTER:
        return _with_conditions(_REPLAYABLE_DEAD, (webhook_id, group_id, now), wanted)
    return _with_conditions(_REPLAYABLE, (webhook_id, group_id, now), wanted)


def part_statement(job: ReplayJob, after_id: str, until_id: str, limit: int) -> tuple[str, Row]:
    """Return the statement for what a job wants between two ids, the second included, with its parameters."""
    params = (job.webhook_id, job.group_id, to_ms(job.created_at))
    sql, params = _with_conditions(_REPLAYABLE, params, job.filter)
    return f"SELECT {DELIVERY_COLUMNS} {sql} AND id > ? AND id <= ? ORDER BY id LIMIT ?", (
        *params,
        after_id,
        until_id,
        limit,
    )


def _with_conditions(base: str, params: Row, wanted: ReplayFilter) -> tuple[str, Row]:
    conditions: dict[str, Any] = {
        "event = ?": wanted.event,
        "created_at >= ?": to_ms_or_none(wanted.created_from),
        "created_at < ?": to_ms_or_none(wanted.created_to),
        "status = ?": wanted.status and wanted.status.value,
    }
    asked = {sql: value for sql, value in conditions.items() if value is not None}
    return " AND ".join([base, *asked]), (*params, *asked.values())


def _add(row: Row) -> Script[Saved]:
    if (yield execute(_ADD, row)) or (yield fetch(IS_THERE, row[:1])):
        return Saved.DONE
    return Saved.QUOTA_EXCEEDED


def _job(group_id: str, webhook_id: str, job_id: str) -> Script[ReplayJob | None]:
    rows = yield fetch(JOB, (job_id, webhook_id, group_id))
    return _job_from(rows[0]) if rows else None


def _jobs(group_id: str, webhook_id: str, limit: int, before: str | None) -> Script[Page[ReplayJob]]:
    rows = yield fetch(JOBS, (webhook_id, group_id, before or AFTER_ALL, limit + 1))
    return page_of([_job_from(row) for row in rows], limit)


def _cancel(params: Row) -> Script[None]:
    yield execute(CANCEL, params)


# --- what engines do -----------------------------------------------------------------------------------------


def _leasable(sql: str, owner: str, now: datetime, lease: timedelta) -> Script[Sequence[Row]]:
    rows: Sequence[Row] = yield fetch(sql)
    at, absurd = to_ms(now), to_ms(now + 2 * lease)
    are_others = any(by not in ("", owner) and at <= lease_until <= absurd for _, by, _, lease_until in rows)
    return [] if are_others else rows


def _lease(owner: str, limit: int, now: datetime, lease: timedelta) -> Script[list[JobLease]]:
    rows = yield from _leasable(READY_LOCKED, owner, now, lease)
    in_turn = sorted(rows, key=lambda row: row[3])[:limit]
    leased = sorted(JobLease(job_id, token + 1) for job_id, _, token, _ in in_turn)
    if leased:
        until = to_ms(now + lease)
        yield execute_many(LEASE, [(*each, owner, until) for each in leased], "text bigint text bigint")
    return leased


@dataclass(frozen=True, slots=True)
class _Found:
    """What a step is to write.

    Shape: `status` is that of the job after it; `until_id` is how far it has come then.
    """

    job: ReplayJob
    after_id: str
    until_id: str
    status: JobStatus
    replays: Sequence[Delivery] = ()


def _look(lease: JobLease, limit: int, now: datetime) -> Script[_Found | None]:
    rows = yield fetch(OURS, lease)
    if not rows:
        return None
    *columns, after_id = rows[0]
    job = _job_from(tuple(columns))
    webhooks = yield fetch(_WEBHOOK, (job.webhook_id,))
    if not webhooks:
        return _Found(job, after_id, after_id, JobStatus.FAILED)
    [(enabled, max_attempts)] = webhooks
    if not enabled:
        return None
    part = yield fetch(PART_ENDS_AT, (job.webhook_id, after_id))
    until_id = part[0][0] if part else AFTER_ALL
    rows = yield fetch(*part_statement(job, after_id, until_id, limit))
    originals = [delivery_from(row) for row in rows]
    replays = [replayed_by(job, each, max_attempts=max_attempts, now=now) for each in originals]
    if len(originals) == limit:
        return _Found(job, after_id, originals[-1].id, JobStatus.RUNNING, replays)
    status = JobStatus.RUNNING if part else JobStatus.DONE
    return _Found(job, after_id, until_id, status, replays)


def _take(lease: JobLease, found: _Found, now: datetime) -> Script[Emitted]:
    rows = yield fetch(OWNER_OF_STEP, lease)
    if not rows or rows[0][0] != found.after_id:
        return Emitted(Saved.STALE)
    events = {}
    if found.replays:
        event_ids = listed({each.event_id for each in found.replays})
        rows = yield fetch(BYTES, (found.job.group_id, event_ids))
        events = {event_id: (body, hop) for event_id, body, hop in rows}
    made = [each for each in found.replays if each.event_id in events]
    if made:
        yield execute_many(_ADD_REPLAYS, [_replay_row(found.job, each) for each in made], DELIVERY_TYPES)
        yield poke({found.job.webhook_id: to_ms(now)})
    finished_at = None if found.status is JobStatus.RUNNING else to_ms(now)
    yield execute(MOVE_ON, (found.until_id, len(found.replays), found.status.value, finished_at, lease.job_id))
    ready = []
    for replay in made:
        body, hop = events[replay.event_id]
        ready.append(queued(replay, body=body, hop=hop))
    return Emitted(Saved.DONE, ready)


def _replay_row(job: ReplayJob, replay: Delivery) -> Row:
    *columns, _ = delivery_row(replay)
    return (*columns, f"{job.id} {replay.replay_of}")  # once for each original


# --- rows ----------------------------------------------------------------------------------------------------


def _row(group_id: str, job: ReplayJob) -> Row:
    return (
        job.id,
        group_id,
        job.webhook_id,
        job.filter.status and job.filter.status.value,
        job.filter.event,
        to_ms_or_none(job.filter.created_from),
        to_ms_or_none(job.filter.created_to),
        job.total,
        to_ms(job.created_at),
        job.status.value,
        job.done,
        to_ms_or_none(job.finished_at),
    )


def _job_from(row: Row) -> ReplayJob:
    return ReplayJob(
        id=row[0],
        group_id=row[1],
        webhook_id=row[2],
        filter=ReplayFilter(
            status=None if row[3] is None else Status(row[3]),
            event=row[4],
            created_from=from_ms_or_none(row[5]),
            created_to=from_ms_or_none(row[6]),
        ),
        total=row[7],
        created_at=from_ms(row[8]),
        status=JobStatus(row[9]),
        done=row[10],
        finished_at=from_ms_or_none(row[11]),
    )
