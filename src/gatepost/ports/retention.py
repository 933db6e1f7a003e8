"""Letting go of what was kept for long enough."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from gatepost.domain.retention import Kept


@dataclass(frozen=True, slots=True)
class PurgeStep:
    """What one step has done: how much went, and after what the next one goes on; None at the end."""

    purged: int
    go_on_after: str | None


class RetentionStore(Protocol):
    """What is too old, a little at a time: nobody who delivers has to wait for it."""

    async def lease_retention(self, owner: str, *, now: datetime, lease: timedelta, every: timedelta) -> bool:
        """Take the job, or keep it, and say whether that is so: not while another owner has it, nor for so long after
        it was done.

        A lease that ended before `now` is none, nor is one further ahead than twice its length (a clock stepped back).
        It saves work and no more: two who purge at once do the same.
        """

    async def end_retention(self, owner: str, *, done_at: datetime | None) -> None:
        """Give the job back, if it is still this owner's: done, or without a moment for somebody else to do."""

    async def purge(self, kept: Kept, *, before: datetime, after: str) -> PurgeStep:
        """Let go of some of what is from before a moment, beginning after where the step before ended, first at "".

        At most some hundreds of rows, found by looking at some thousands. Deliveries are as old as their end, so that
        unfinished ones never go. A delivery goes with its attempts; of its answers status and duration stay when their
        heads and bodies go. An event goes when no delivery of it is left, and no one can be added meanwhile. A bulk
        replay is as old as its end, too; what it has made stays.
        """
