"""What was counted, as people see it. It is written by `LaneStore.record_attempts`."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Protocol

from gatepost.domain.stats import Bucket


class StatsStore(Protocol):
    """What became of attempts, in numbers."""

    async def stats(
        self, group_id: str, *, webhook_id: str | None, start: datetime, end: datetime, step: timedelta
    ) -> Sequence[Bucket]:
        """Return what was counted from `start` on and before `end` for the group's webhooks, or one of them.

        Shape: both are starts of steps, and a step is a multiple of a bucket. By webhook, the newest first, then by
               time; steps in which nothing was counted are left out, and so are webhooks that were deleted.
        """
