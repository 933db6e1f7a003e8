"""What was counted, as people see it. It is written by `LaneStore.record_attempts`."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from gatepost.domain.stats import Bucket
from gatepost.ports.results import Page


@dataclass(frozen=True, slots=True)
class StatsQuery:
    """Which counts to show: from `start` on and before `end`, in buckets of some width; of one webhook, unless None.

    Shape: the width is a multiple of `BUCKET`; `start` and `end` are where buckets of that width start.
    """

    start: datetime
    end: datetime
    width: timedelta
    webhook_id: str | None = None


class StatsStore(Protocol):
    """What became of attempts, in numbers."""

    async def stats(
        self, group_id: str, query: StatsQuery, *, limit: int, most_read: int, before: str | None
    ) -> Page[Bucket]:
        """Return what was counted for `limit` of the group's webhooks that are not deleted, those without counts, too.

        Newest first: by webhook, then by time; buckets in which nothing was counted are left out.

        Of no more than `most_read` buckets of five minutes is anything read. A webhook that does not fit into that any
        more is left to the next page; one that does not fit at all takes several pages, each of whole buckets.

        Shape: `most_read` is more than one bucket of that width has; `limit` is at most 200.
        Raises: InvalidInput, when `before` is no cursor of such a page.
        """
