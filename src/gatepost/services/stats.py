"""What became of attempts, in numbers: how a group's webhooks are doing, and did."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from gatepost.domain.errors import invalid
from gatepost.domain.stats import Bucket, start_of_step, step_for
from gatepost.ports import Clock, StatsStore, WebhookStore
from gatepost.services.webhooks import existing

MOST_BUCKETS = 300  # of one webhook
USUAL_LENGTH = timedelta(days=1)
LONGEST = timedelta(days=3650)  # nothing can be kept for longer


@dataclass(frozen=True, slots=True)
class Shown:
    """Buckets, and how wide each of them is."""

    step: timedelta
    buckets: Sequence[Bucket]


class Stats:
    """The stats of all groups."""

    def __init__(self, store: StatsStore, webhooks: WebhookStore, clock: Clock) -> None:
        self._store = store
        self._webhooks = webhooks
        self._clock = clock

    async def of(
        self, group_id: str, *, webhook_id: str | None, begins_at: datetime | None, ends_at: datetime | None
    ) -> Shown:
        """Return what was counted between two moments, in whole buckets: the wider, the longer that is.

        Until now unless the end is given, and the day before the end unless the beginning is.

        Raises: NotFound, when the group has no such webhook; InvalidInput, when the end is not after the beginning.
        """
        if webhook_id is not None:
            await existing(self._webhooks, group_id, webhook_id)
        if begins_at and ends_at and ends_at <= begins_at:
            raise invalid("to", "give a moment after `from`", code="range")
        now = self._clock.now()
        end = min(ends_at or now, now)
        begin = max(begins_at or end - USUAL_LENGTH, now - LONGEST)
        # A step less: a stretch that begins and ends within steps touches one more than fit into it.
        step = step_for(end - begin, most=MOST_BUCKETS - 1)
        start, stop = start_of_step(begin, step), start_of_step(end - timedelta.resolution, step) + step
        if stop <= start:
            return Shown(step, [])
        return Shown(step, await self._store.stats(group_id, webhook_id=webhook_id, start=start, end=stop, step=step))
