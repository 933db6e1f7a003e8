"""What became of attempts, in numbers: how a group's webhooks are doing, and did."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from gatepost.domain.stats import BUCKET, Bucket, start_of_bucket, width_for
from gatepost.ports import Clock, Page, StatsQuery, StatsStore, WebhookStore
from gatepost.services.stretches import check_stretch
from gatepost.services.webhooks import existing

MOST_BUCKETS = 300  # of one webhook
MOST_ON_PAGE = 3_000  # of all webhooks: the event loop stands still while they are made JSON of
MOST_READ = 10_000  # of five minutes each, for one page
USUAL_LENGTH = timedelta(days=1)
LONGEST = timedelta(days=3650)  # nothing can be kept for longer


@dataclass(frozen=True, slots=True)
class ShownStats:
    """A page of buckets, and how wide each of them is."""

    width: timedelta
    page: Page[Bucket]


class Stats:
    """The stats of all groups."""

    def __init__(self, store: StatsStore, webhooks: WebhookStore, clock: Clock) -> None:
        self._store = store
        self._webhooks = webhooks
        self._clock = clock

    async def of(
        self,
        group_id: str,
        *,
        webhook_id: str | None,
        begins_at: datetime | None,
        ends_at: datetime | None,
        limit: int,
        before: str | None,
    ) -> ShownStats:
        """Return what was counted between two moments for so many webhooks, newest first, in whole buckets.

        Until now unless the end is given, and the day before the end unless the beginning is. The buckets are the
        wider, the longer that is, and the more webhooks are asked for at once.

        Raises: NotFound, when the group has no such webhook; InvalidInput, when the end is not after the beginning.
        """
        if webhook_id is not None:
            await existing(self._webhooks, group_id, webhook_id)
            limit = 1
        begin, end = self._stretch(begins_at, ends_at)
        # One less: a stretch that begins and ends within buckets touches one more than fit into it.
        width = width_for(end - begin, most=min(MOST_BUCKETS, MOST_ON_PAGE // limit) - 1)
        if end <= begin:
            return ShownStats(width, Page([], None))
        stop = start_of_bucket(end - timedelta.resolution, width) + width
        query = StatsQuery(start_of_bucket(begin, width), stop, width, webhook_id)
        most_read = max(MOST_READ, width // BUCKET + 1)
        page = await self._store.stats(group_id, query, limit=limit, most_read=most_read, before=before)
        return ShownStats(width, page)

    def _stretch(self, begins_at: datetime | None, ends_at: datetime | None) -> tuple[datetime, datetime]:
        """Return between which moments to look, of those of which anything may be kept."""
        check_stretch(begins_at, ends_at)
        now = self._clock.now()
        oldest = now - LONGEST
        end = min(max(ends_at or now, oldest), now)
        begin = min(max(begins_at or end - USUAL_LENGTH, oldest), now)
        return begin, end
