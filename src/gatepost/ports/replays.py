"""Bulk replays: what people ask for, and what engines do about it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import NamedTuple, Protocol

from gatepost.domain.deliveries import Delivery
from gatepost.domain.replays import ReplayFilter, ReplayJob
from gatepost.ports.results import Page, Saved


@dataclass(frozen=True, slots=True)
class Replayable:
    """How many deliveries there are to replay, and the first few of them, in the order that they would be taken in."""

    count: int
    sample: Sequence[Delivery]


class JobLease(NamedTuple):
    """A job that is ours to advance; `token` rises with each lease and fences every step."""

    job_id: str
    token: int


class Step(Enum):
    """What became of a step."""

    MOVED = "moved"
    ENDED = "ended"
    LOST = "lost"  # the job is not ours, does not run any more, or waits


class Advanced(NamedTuple):
    """What became of a step, and how many deliveries it made."""

    step: Step
    made: int = 0


class ReplayStore(Protocol):
    """Bulk replays as durable jobs.

    A job takes the deliveries of its webhook that its filter wants, that are delivered or dead, that were finished when
    the job was made, and that no job has made; test sends it does not take. While its webhook is disabled, it waits.
    """

    async def count_replayable(
        self, group_id: str, webhook_id: str, wanted: ReplayFilter, *, now: datetime, sample: int
    ) -> Replayable:
        """Count what a job made at this moment would take, and return the first `sample` of it."""

    async def add_job(self, group_id: str, job: ReplayJob) -> Saved:
        """Add a job: DONE, also when this very one was added before, which then stays as it is; QUOTA_EXCEEDED while
        another one of its webhook runs."""

    async def job(self, group_id: str, webhook_id: str, job_id: str) -> ReplayJob | None:
        """Return a job of this webhook of this group, also of one that was deleted."""

    async def jobs(self, group_id: str, webhook_id: str, *, limit: int, before: str | None) -> Page[ReplayJob]:
        """Return the jobs of a webhook, newest first."""

    async def cancel_job(self, group_id: str, webhook_id: str, job_id: str, *, now: datetime) -> None:
        """Cancel a job, if it runs. What it has queued stays queued."""

    async def lease_jobs(self, owner: str, *, limit: int, now: datetime, lease: timedelta) -> Sequence[JobLease]:
        """Lease jobs that run and do not wait, each with a new token: free ones, and once more those that this owner
        has; those first that were leased least recently. None while another owner has any: one at a time works through
        them all. What waits is as if it were not there: it takes no turn, and nothing is written about it.

        A lease that ended before `now` is none, nor is one further ahead than twice its length.
        """

    async def advance_job(self, lease: JobLease, *, limit: int, now: datetime) -> Advanced:
        """Take the next deliveries of a job, at most `limit`, in the order of their ids, and queue each once more.

        One write for all of it: the new deliveries, under ids derived from the job and the original, and how far the
        job has come; all or nothing, and nothing under a token that is not the last one. Deliveries whose events are
        no longer kept are passed over. A step may find nothing and still move. Pokes and hands over.

        ENDED when there is nothing left to take, the job then being done; or when the webhook is deleted, the job
        having failed.
        """
