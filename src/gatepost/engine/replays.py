"""Advancing bulk replays: a little at a time, so that new deliveries hardly notice.

A job is leased like a lane, and each step is one write under its token. Whoever dies in between loses nothing: the job
says how far it has come, and the next owner goes on from there.
"""

import asyncio
from datetime import timedelta

import structlog

from gatepost.ports import Clock, JobLease, ReplayStore, Step

PER_SECOND = 100  # new deliveries, of all jobs together: one owner at a time has them all
STEP = 50  # new deliveries in one write
JOBS_AT_ONCE = 10  # others come next
LEASE = timedelta(seconds=5)  # what a killed process delays them; a step is fenced by its token, not by time
PAUSE = timedelta(milliseconds=20)  # after steps that made nothing: there may be further to go

log = structlog.get_logger()


class Replays:
    """Works through whatever jobs there are."""

    def __init__(self, store: ReplayStore, clock: Clock, *, owner: str) -> None:
        self._store = store
        self._clock = clock
        self._owner = owner
        self._stepping = asyncio.Lock()
        self._finishing = False

    async def advance(self) -> timedelta | None:
        """Advance each job by a step; return how long to leave them then, None while there is nothing to do."""
        async with self._stepping:
            if self._finishing:
                return None
            jobs = await self._store.lease_jobs(self._owner, limit=JOBS_AT_ONCE, now=self._clock.now(), lease=LEASE)
            made = [await self._step(job, STEP // len(jobs)) for job in jobs]
        return max(PAUSE, timedelta(seconds=sum(made) / PER_SECOND)) if jobs else None

    async def finish(self) -> None:
        """Begin no more steps; return once the one that is under way has ended."""
        self._finishing = True
        async with self._stepping:
            pass

    async def _step(self, job: JobLease, limit: int) -> int:
        """Take a step; return how many deliveries it made."""
        if self._finishing:
            return 0
        advanced = await self._store.advance_job(job, limit=limit, now=self._clock.now())
        if advanced.step is Step.ENDED:
            log.info("replay.ended", job_id=job.job_id)
        return advanced.made
