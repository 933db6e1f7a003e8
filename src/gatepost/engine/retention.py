"""Letting go of what is old: once an hour, by one engine for all, a step at a time with pauses for deliveries between.

The job is leased, so that others need not do it, too. Whoever dies in between loses nothing: the next owner begins
anew, and finds what is left.
"""

import asyncio
from collections import Counter, deque
from contextlib import suppress
from datetime import datetime, timedelta

import structlog

from gatepost.domain.errors import StoreUnavailable
from gatepost.domain.retention import Kept, Retention
from gatepost.ports import Clock, RetentionStore

EVERY = timedelta(hours=1)
CHECK_EVERY = timedelta(minutes=1)  # whether it is time, and somebody else is not at it
PAUSE = timedelta(milliseconds=100)  # between steps
LEASE = timedelta(minutes=1)

log = structlog.get_logger()


class Purges:
    """Works through whatever has expired."""

    def __init__(self, store: RetentionStore, clock: Clock, *, owner: str, retention: Retention) -> None:
        self._store = store
        self._clock = clock
        self._owner = owner
        self._retention = retention
        self._look_at = clock.boot() + CHECK_EVERY.total_seconds()  # an engine that starts has more urgent things to do
        self._todo: deque[tuple[Kept, datetime]] = deque()
        self._after = ""  # where the next step of the first of them begins
        self._purged: Counter[Kept] = Counter()
        self._stepping = asyncio.Lock()
        self._finishing = False

    async def advance(self) -> timedelta | None:
        """Take a step; return how long to pause then, None while there is nothing to do, or it is not ours to do."""
        async with self._stepping:
            if self._finishing or not await self._is_ours():
                return None
            kept, before = self._todo[0]
            step = await self._store.purge(kept, before=before, after=self._after)
            self._purged[kept] += step.purged
            self._after = step.go_on_after or ""
            if step.go_on_after is None:
                self._todo.popleft()
            if not self._todo:
                await self._end()
                return None
            return PAUSE

    async def finish(self) -> None:
        """Begin no more steps; once the one that is under way has ended, leave the job to others."""
        self._finishing = True
        async with self._stepping:
            if self._todo:
                with suppress(StoreUnavailable):  # then its lease ends by itself
                    await self._store.end_retention(self._owner, done_at=None)

    async def _is_ours(self) -> bool:
        """Lease the job when it is time to look, and when a third of the lease is over."""
        boot = self._clock.boot()
        if boot < self._look_at:
            return bool(self._todo)
        now = self._clock.now()
        if not await self._store.lease_retention(self._owner, now=now, lease=LEASE, every=EVERY):
            self._look_at = boot + CHECK_EVERY.total_seconds()
            self._todo.clear()
            return False
        self._look_at = boot + LEASE.total_seconds() / 3
        if not self._todo:
            self._todo.extend(self._retention.expired(now=now))
            self._after = ""
            self._purged.clear()
        return True

    async def _end(self) -> None:
        self._look_at = self._clock.boot() + CHECK_EVERY.total_seconds()
        await self._store.end_retention(self._owner, done_at=self._clock.now())
        if any(self._purged.values()):
            log.info("retention.done", **{kept.name.lower(): self._purged[kept] for kept in Kept})
