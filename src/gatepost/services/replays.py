"""What admins do about many old deliveries at once: look what there is, and have them replayed by a durable job."""

from gatepost.domain.errors import NotFound, QuotaExceeded, WebhookDisabled
from gatepost.domain.replays import ReplayFilter, ReplayJob
from gatepost.ports import Clock, Draws, Page, Replayable, ReplayStore, Saved, WebhookStore
from gatepost.services.stretches import check_stretch
from gatepost.services.webhooks import existing

SAMPLE = 5


class Replays:
    """The bulk replays of all groups.

    Raises: NotFound, when the group has no such webhook, or the webhook no such job.
    """

    def __init__(self, store: ReplayStore, webhooks: WebhookStore, clock: Clock) -> None:
        self._store = store
        self._webhooks = webhooks
        self._clock = clock

    async def preview(self, group_id: str, webhook_id: str, wanted: ReplayFilter) -> Replayable:
        """Return what a job would take, were it started now.

        Raises: InvalidInput, when the filter's end is not after its beginning.
        """
        check_stretch(wanted.created_from, wanted.created_to)
        await existing(self._webhooks, group_id, webhook_id)
        return await self._store.count_replayable(group_id, webhook_id, wanted, now=self._clock.now(), sample=SAMPLE)

    async def start(self, group_id: str, webhook_id: str, wanted: ReplayFilter, *, draws: Draws) -> ReplayJob:
        """Have an engine queue once more whatever the filter wants.

        Raises: WebhookDisabled; QuotaExceeded, while another one of this webhook runs; InvalidInput, as `preview` does.
        """
        check_stretch(wanted.created_from, wanted.created_to)
        webhook = await existing(self._webhooks, group_id, webhook_id)
        job_id = draws.chance.new_id("rpl")
        if started := await self._store.job(group_id, webhook_id, job_id):
            return started  # by this very request, whatever has become of the webhook since
        if not webhook.enabled:
            raise WebhookDisabled("the webhook is disabled; enable it first")
        found = await self._store.count_replayable(group_id, webhook_id, wanted, now=draws.at, sample=0)
        job = ReplayJob(job_id, group_id, webhook_id, wanted, total=found.count, created_at=draws.at)
        if await self._store.add_job(group_id, job) is Saved.QUOTA_EXCEEDED:
            raise QuotaExceeded("a bulk replay of this webhook is running; wait for its end, or cancel it")
        return job

    async def get(self, group_id: str, webhook_id: str, job_id: str) -> ReplayJob:
        """Return one job as it is now, though its webhook be deleted: then it has failed."""
        job = await self._store.job(group_id, webhook_id, job_id)
        if job is None:
            raise NotFound("this webhook has no such replay")
        return job

    async def list(self, group_id: str, webhook_id: str, *, limit: int, before: str | None) -> Page[ReplayJob]:
        """Return a webhook's jobs, newest first."""
        await existing(self._webhooks, group_id, webhook_id)
        return await self._store.jobs(group_id, webhook_id, limit=limit, before=before)

    async def cancel(self, group_id: str, webhook_id: str, job_id: str) -> ReplayJob:
        """Have a job make nothing more; one that has ended stays as it is. Return it."""
        await self._store.cancel_job(group_id, webhook_id, job_id, now=self._clock.now())
        return await self.get(group_id, webhook_id, job_id)
