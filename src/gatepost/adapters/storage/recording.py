"""What every store does with an attempt that it cannot hold."""

from dataclasses import replace
from datetime import timedelta

from gatepost.domain.outcomes import ErrorClass, Unreachable
from gatepost.ports import Settled

PROBES_KEPT = 20  # of each delivery, of those that failed: the newest


def without_response(settled: Settled) -> Settled:
    """Return an attempt that the store can hold in any case; what it means for the delivery stays."""
    progress = settled.progress
    bare = replace(
        settled.attempt,
        outcome=Unreachable(ErrorClass.INTERNAL_ERROR, "the store could not hold the response"),
        duration=min(max(settled.attempt.duration, timedelta(0)), timedelta(days=1)),
    )
    if progress is not None and not 0 <= (progress.last_status_code or 0) < 2**31:
        progress = replace(progress, last_status_code=None)
    return replace(settled, attempt=bare, progress=progress)
