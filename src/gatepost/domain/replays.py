"""Bulk replay: a durable job that queues many old deliveries once more.

           ┌── all of them taken ──▶ done
running ───┼── somebody's order ───▶ cancelled
           └── webhook deleted ────▶ failed

It takes what was finished when it was made, in the order of the ids, and never what a job has made, nor a test send.
While its webhook is disabled, it waits. Of each webhook one runs at a time: two would send much of the same twice.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from gatepost.domain.deliveries import Delivery, Status, derived_id, replayed
from gatepost.domain.errors import invalid

REPLAYABLE = (Status.DELIVERED, Status.DEAD_LETTER)


class JobStatus(StrEnum):
    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"  # its webhook was deleted


@dataclass(frozen=True, slots=True)
class ReplayFilter:
    """Which deliveries of a webhook to replay; None asks nothing. `created_from` is inclusive, `created_to` exclusive.

    Raises: InvalidInput, for a status that is not the last one of a delivery.
    """

    status: Status | None = None
    event: str | None = None
    created_from: datetime | None = None
    created_to: datetime | None = None

    def __post_init__(self) -> None:
        if self.status not in (None, *REPLAYABLE):
            raise invalid("status", f"give {' or '.join(REPLAYABLE)}")

    @property
    def statuses(self) -> tuple[Status, ...]:
        return REPLAYABLE if self.status is None else (self.status,)


@dataclass(frozen=True, slots=True)
class ReplayJob:
    """One bulk replay.

    Shape: `total` is how many deliveries it found when it was made, `done` how many of them it has come past: those
           whose events are no longer kept count, too.
    """

    id: str
    group_id: str
    webhook_id: str
    filter: ReplayFilter
    total: int
    created_at: datetime
    status: JobStatus = JobStatus.RUNNING
    done: int = 0
    finished_at: datetime | None = None


def replayed_by(job: ReplayJob, original: Delivery, *, max_attempts: int, now: datetime) -> Delivery:
    """Return the new delivery that a job makes of an old one: always under the same id."""
    delivery_id = derived_id("dlv", job.created_at, job.id, original.id)
    return replayed(original, delivery_id, max_attempts=max_attempts, now=now)
