"""What tests of bulk replays do before they get to their point: deliveries that are over, and jobs that move."""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from datetime import datetime
from typing import Any

from tests.builders import GROUP_ID, make_delivery, make_event, make_job, make_settled, refused
from tests.contract.backends import Store
from tests.contract.steps import (
    ADA,
    HOUR,
    LEASE,
    SECOND,
    add_webhook,
    detail,
    emit_one,
    give_back,
    lease_one,
    publish,
    read,
    record_settled,
)
from tests.fakes import NOW

from gatepost.domain.deliveries import Delivery
from gatepost.domain.outcomes import Outcome
from gatepost.domain.replays import JobStatus, ReplayFilter, ReplayJob
from gatepost.domain.retry import ONE_ATTEMPT
from gatepost.domain.webhooks import Webhook
from gatepost.ports import DeliveryQuery, JobLease, Replayable, Saved, Step

EVERYTHING = ReplayFilter()
MADE_AT = NOW + HOUR  # when the job is
STEPPED_AT = MADE_AT + SECOND
AT_ONCE = 250
MOST = 10_000  # deliveries of one webhook


async def finish(store: Store, webhook: Webhook, outcome: Outcome | None = None, *, at: datetime = NOW) -> Delivery:
    """Return a delivery of a task's event whose one attempt is over, its lane given back."""
    delivery = await emit_one(store, webhook, at=at)
    await finish_what_is_due(store, webhook, now=at, outcome=outcome, only={delivery.id})
    return (await detail(store, delivery)).delivery


async def finish_many(
    store: Store, webhook: Webhook, count: int, outcome: Outcome | None = None, *, at: datetime = NOW, **event: Any
) -> list[str]:
    """Return the ids of deliveries of published events whose one attempt is over, their lane given back."""
    made: list[str] = []
    while len(made) < count:
        adding = [_publish_one(store, webhook, at, event) for _ in range(min(AT_ONCE, count - len(made)))]
        made += await asyncio.gather(*adding)
    await finish_what_is_due(store, webhook, now=at, outcome=outcome, only=set(made))
    return made


async def _publish_one(store: Store, webhook: Webhook, at: datetime, changes: dict[str, Any]) -> str:
    event = make_event(group_id=webhook.group_id, created_at=at, tasks=(), **changes)
    delivery = make_delivery(event, webhook)
    assert await publish(store, event, delivery) is Saved.DONE
    return delivery.id


async def finish_what_is_due(
    store: Store,
    webhook: Webhook,
    *,
    now: datetime,
    outcome: Outcome | None = None,
    only: Collection[str] | None = None,
) -> None:
    """Record the last attempt of what waits for a webhook: refused, unless it is said otherwise."""
    lane = await lease_one(store, webhook, now=now)
    waiting = (await read(store, webhook, now=now, limit=MOST)).deliveries
    due = [each for each in waiting if only is None or each.id in only]
    settled = [make_settled(each, outcome or refused(), at=now, policy=ONE_ATTEMPT) for each in due]
    for start in range(0, len(settled), AT_ONCE):
        assert await record_settled(store, lane, *settled[start : start + AT_ONCE]) == set()
    await give_back(store, webhook, lane, now=now)


async def count(
    store: Store, webhook: Webhook, wanted: ReplayFilter = EVERYTHING, *, now: datetime = MADE_AT, sample: int = 5
) -> Replayable:
    return await store.count_replayable(GROUP_ID, webhook.id, wanted, now=now, sample=sample)


async def add_job(store: Store, webhook: Webhook | None = None, **changes: Any) -> ReplayJob:
    """Add a job, of a new webhook unless it is given."""
    webhook = webhook or await add_webhook(store)
    job = make_job(webhook, **{"created_at": MADE_AT, **changes})
    assert await store.add_job(job.group_id, job) is Saved.DONE
    return job


async def current(store: Store, job: ReplayJob) -> ReplayJob:
    """Return a job as it is by now."""
    found = await store.job(job.group_id, job.webhook_id, job.id)
    assert found is not None
    return found


async def run_jobs(
    store: Store, owner: str = ADA, *, now: datetime = STEPPED_AT, limit: int = 10
) -> Sequence[JobLease]:
    return await store.lease_jobs(owner, limit=limit, now=now, lease=LEASE)


async def lease_job(store: Store, job: ReplayJob, owner: str = ADA, *, now: datetime = STEPPED_AT) -> JobLease:
    leased = {each.job_id: each for each in await run_jobs(store, owner, now=now)}
    return leased[job.id]


async def steps(store: Store, job: ReplayJob, *, limit: int = 50, now: datetime = STEPPED_AT) -> AsyncIterator[int]:
    """Advance a job to its end, and tell how many deliveries each step makes."""
    held = await lease_job(store, job, now=now)
    for n in range(30):
        advanced = await store.advance_job(held, limit=limit, now=now + n * SECOND)
        assert advanced.step in (Step.MOVED, Step.ENDED)
        yield advanced.made
        if advanced.step is Step.ENDED:
            return
    raise AssertionError("it has no end")


async def run_through(store: Store, job: ReplayJob, *, limit: int = 50, now: datetime = STEPPED_AT) -> None:
    async for _ in steps(store, job, limit=limit, now=now):
        pass
    assert (await current(store, job)).status is JobStatus.DONE


async def replays_of(store: Store, webhook: Webhook) -> list[Delivery]:
    """Return a webhook's replays, in the order of what they replay."""
    query, found, before = DeliveryQuery(webhook_id=webhook.id), list[Delivery](), None
    while True:
        page = await store.deliveries(webhook.group_id, query, limit=1_000, before=before)
        found += [each for each in page.items if each.replay_of]
        before = page.next_cursor
        if before is None:
            return sorted(found, key=lambda each: each.replay_of or "")


async def replayed_in(store: Store, webhook: Webhook) -> list[str]:
    """Return what was replayed of a webhook, each as often as it was."""
    return [each.replay_of or "" for each in await replays_of(store, webhook)]
