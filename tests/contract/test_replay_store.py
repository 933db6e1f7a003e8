"""Bulk replays as durable jobs: what they take, and what people see of them."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from tests.builders import (
    GROUP_ID,
    accepted,
    make_attempt,
    make_delivery,
    make_event,
    make_job,
    make_settled,
    new_id,
    refused,
)
from tests.contract.backends import Backend, Store
from tests.contract.replaying import (
    EVERYTHING,
    MADE_AT,
    STEPPED_AT,
    add_job,
    count,
    current,
    finish,
    finish_what_is_due,
    lease_job,
    replayed_in,
    replays_of,
    run_jobs,
    run_through,
)
from tests.contract.steps import (
    HOUR,
    SECOND,
    add_webhook,
    emit_one,
    give_back,
    ids,
    lease_one,
    read,
    read_one,
    record,
)
from tests.fakes import NOW

from gatepost.domain.deliveries import Delivery, Status, replayed
from gatepost.domain.outcomes import Outcome
from gatepost.domain.replays import JobStatus, ReplayFilter
from gatepost.domain.retry import ONE_ATTEMPT
from gatepost.domain.webhooks import Webhook
from gatepost.ports import Saved, Step

DELIVERED, DEAD = ReplayFilter(status=Status.DELIVERED), ReplayFilter(status=Status.DEAD_LETTER)


# --- what there is to replay ---------------------------------------------------------------------------------


async def test_what_is_delivered_or_dead_can_be_replayed_and_nothing_else(store: Store) -> None:
    webhook = await add_webhook(store)
    good, bad = await finish(store, webhook, accepted()), await finish(store, webhook, refused())
    await fail_once(store, webhook)
    await emit_one(store, webhook)

    found = await count(store, webhook)

    assert (found.count, list(found.sample)) == (2, [good, bad])


async def test_a_sample_is_the_first_few_in_the_order_that_they_would_be_taken_in(store: Store) -> None:
    webhook = await add_webhook(store)
    made = [await finish(store, webhook, refused()) for _ in range(4)]

    found = await count(store, webhook, sample=3)

    assert (found.count, list(found.sample)) == (4, made[:3])
    assert (await count(store, webhook, sample=0)).count == 4


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (EVERYTHING, ["good", "bad", "paid"]),
        (DELIVERED, ["good", "paid"]),
        (DEAD, ["bad"]),
        (ReplayFilter(event="task.created"), ["good", "bad", "paid"]),
        (ReplayFilter(event="task"), []),
        (ReplayFilter(created_from=NOW + SECOND), ["bad", "paid"]),
        (ReplayFilter(created_from=NOW + SECOND + timedelta(milliseconds=1)), ["paid"]),
        (ReplayFilter(created_to=NOW + SECOND), ["good"]),
        (ReplayFilter(created_from=NOW + SECOND, created_to=NOW + 2 * SECOND), ["bad"]),
        (ReplayFilter(status=Status.DELIVERED, created_from=NOW + SECOND), ["paid"]),
    ],
)
async def test_a_filter_takes_what_meets_all_of_it(store: Store, wanted: ReplayFilter, found: list[str]) -> None:
    webhook = await add_webhook(store)
    made = {
        "good": await finish(store, webhook, accepted()),
        "bad": await finish(store, webhook, refused(), at=NOW + SECOND),
        "paid": await finish(store, webhook, accepted(), at=NOW + 2 * SECOND),
    }
    counted = await count(store, webhook, wanted)

    await run_through(store, await add_job(store, webhook, filter=wanted))

    assert (counted.count, ids(counted.sample)) == (len(found), [made[name].id for name in found])
    assert await replayed_in(store, webhook) == [made[name].id for name in found]


async def test_what_was_finished_after_the_job_was_made_is_not_taken(store: Store) -> None:
    webhook = await add_webhook(store)
    before = await finish(store, webhook, refused(), at=MADE_AT)
    await finish(store, webhook, refused(), at=MADE_AT + timedelta(milliseconds=1))
    counted = await count(store, webhook)

    await run_through(store, await add_job(store, webhook))

    assert counted.count == 1
    assert await replayed_in(store, webhook) == [before.id]


async def test_a_replay_that_somebody_asked_for_is_taken_and_one_that_a_job_made_is_not(store: Store) -> None:
    webhook = await add_webhook(store)
    original = await finish(store, webhook, refused())
    replay = replayed(original, new_id("dlv"), max_attempts=1, now=NOW)
    assert await store.add_replay(GROUP_ID, replay) is Saved.DONE
    await finish_what_is_due(store, webhook, now=NOW)
    await run_through(store, await add_job(store, webhook))
    await finish_what_is_due(store, webhook, now=STEPPED_AT)
    later = MADE_AT + HOUR

    counted = await count(store, webhook, now=later)
    await run_through(store, await add_job(store, webhook, created_at=later), now=later)

    assert await replayed_in(store, webhook) == sorted([original.id, *[original.id, replay.id] * 2])
    assert (counted.count, ids(counted.sample)) == (2, sorted([original.id, replay.id]))


@pytest.mark.parametrize(("outcome", "wanted"), [(accepted(), EVERYTHING), (accepted(), DELIVERED), (refused(), DEAD)])
async def test_a_test_send_is_not_taken_and_a_replay_of_one_is(
    store: Store, outcome: Outcome, wanted: ReplayFilter
) -> None:
    webhook = await add_webhook(store)
    tested = await send_test(store, webhook, outcome)
    counted = await count(store, webhook, wanted)
    await run_through(store, await add_job(store, webhook, filter=wanted))
    assert (counted.count, list(counted.sample), await replayed_in(store, webhook)) == (0, [], [])

    replay = replayed(tested, new_id("dlv"), max_attempts=1, now=MADE_AT)
    assert await store.add_replay(GROUP_ID, replay) is Saved.DONE
    await finish_what_is_due(store, webhook, now=MADE_AT, outcome=outcome)

    assert (await count(store, webhook)).count == 1
    await run_through(store, await add_job(store, webhook))
    assert await replayed_in(store, webhook) == sorted([tested.id, replay.id])


async def test_another_webhook_s_deliveries_are_left_alone(store: Store) -> None:
    webhook, other = await add_webhook(store), await add_webhook(store)
    await finish(store, other, refused())

    await run_through(store, await add_job(store, webhook))

    assert (await count(store, webhook)).count == 0
    assert await replays_of(store, other) == []


# --- jobs ----------------------------------------------------------------------------------------------------


async def test_a_job_is_kept_as_it_was_made(store: Store, backend: Backend) -> None:
    webhook = await add_webhook(store)
    wanted = ReplayFilter(Status.DEAD_LETTER, "order.paid", NOW, NOW + HOUR)
    job = await add_job(store, webhook, filter=wanted, total=17)

    store = await backend.reopen()

    assert await store.job(GROUP_ID, webhook.id, job.id) == job


async def test_a_job_that_is_added_again_stays_as_it_is(store: Store, other_store: Store) -> None:
    webhook = await add_webhook(store)
    job = await add_job(store, webhook, total=3)
    await store.cancel_job(GROUP_ID, webhook.id, job.id, now=STEPPED_AT)
    before = await current(store, job)

    saved = [await each.add_job(GROUP_ID, replace(job, total=4)) for each in (store, other_store)]

    assert saved == [Saved.DONE, Saved.DONE]
    assert await current(store, job) == before
    assert await run_jobs(store) == []


@pytest.mark.parametrize("ending", ["cancelled", "done"])
async def test_a_webhook_has_one_running_job_at_a_time(store: Store, other_store: Store, ending: str) -> None:
    webhook, other = await add_webhook(store), await add_webhook(store)
    job, second = await add_job(store, webhook), make_job(webhook, created_at=MADE_AT)

    refused = [await each.add_job(GROUP_ID, second) for each in (store, other_store)]
    before = await store.job(GROUP_ID, webhook.id, second.id)
    await add_job(store, other)
    if ending == "cancelled":
        await store.cancel_job(GROUP_ID, webhook.id, job.id, now=STEPPED_AT)
    else:
        await run_through(store, job)

    assert (refused, before) == ([Saved.QUOTA_EXCEEDED] * 2, None)
    assert await other_store.add_job(GROUP_ID, second) is Saved.DONE
    assert await store.add_job(GROUP_ID, job) is Saved.DONE  # which was added before
    assert (await current(store, second)).status is JobStatus.RUNNING
    assert (await current(store, job)).status.value == ending


async def test_of_jobs_that_are_added_at_once_one_runs(store: Store, other_store: Store) -> None:
    webhook = await add_webhook(store)
    jobs = [make_job(webhook, created_at=MADE_AT) for _ in range(10)]

    adding = [each.add_job(GROUP_ID, job) for job in jobs for each in (store, other_store)]
    saved = [each.value for each in await asyncio.gather(*adding)]

    assert sorted(saved) == ["done"] * 2 + ["quota_exceeded"] * 18  # the same one, twice
    [job] = (await store.jobs(GROUP_ID, webhook.id, limit=20, before=None)).items
    assert {saved[2 * jobs.index(job)], saved[2 * jobs.index(job) + 1]} == {"done"}


async def test_a_job_is_found_under_its_own_webhook_only(store: Store) -> None:
    webhook, other = await add_webhook(store), await add_webhook(store)
    job = await add_job(store, webhook)

    assert await store.job(GROUP_ID, other.id, job.id) is None
    assert await store.job(GROUP_ID, webhook.id, new_id("rpl")) is None
    await store.cancel_job(GROUP_ID, other.id, job.id, now=NOW)
    assert await current(store, job) == job


async def test_jobs_are_listed_newest_first_page_by_page_to_the_end(store: Store) -> None:
    webhook, other = await add_webhook(store), await add_webhook(store)
    made = []
    for _ in range(3):
        job = await add_job(store, webhook)
        await store.cancel_job(GROUP_ID, webhook.id, job.id, now=STEPPED_AT)
        made.append(await current(store, job))
    await add_job(store, other)

    first = await store.jobs(GROUP_ID, webhook.id, limit=2, before=None)
    second = await store.jobs(GROUP_ID, webhook.id, limit=2, before=first.next_cursor)

    assert [*first.items, *second.items] == made[::-1]
    assert (len(first.items), second.next_cursor) == (2, None)


async def test_a_job_that_is_cancelled_makes_nothing_more_and_leaves_what_it_made(store: Store) -> None:
    webhook = await add_webhook(store)
    for _ in range(3):
        await finish(store, webhook, refused())
    job = await add_job(store, webhook, total=3)
    held = await lease_job(store, job)
    await store.advance_job(held, limit=1, now=STEPPED_AT)

    for n in range(2):  # the second time it changes nothing any more
        await store.cancel_job(GROUP_ID, webhook.id, job.id, now=STEPPED_AT + n * SECOND)

    assert (await store.advance_job(held, limit=1, now=STEPPED_AT)).step is Step.LOST
    assert await run_jobs(store, now=STEPPED_AT + HOUR) == []
    ended = replace(job, status=JobStatus.CANCELLED, done=1, finished_at=STEPPED_AT)
    assert await current(store, job) == ended
    assert len(await replays_of(store, webhook)) == 1
    assert [each.attempt_count for each in (await read(store, webhook, now=STEPPED_AT)).deliveries] == [0]


# --- what these are made of ----------------------------------------------------------------------------------


async def fail_once(store: Store, webhook: Webhook) -> None:
    """Leave a delivery of a webhook waiting for its retry."""
    await emit_one(store, webhook)
    lane = await lease_one(store, webhook)
    await record(store, lane, await read_one(store, webhook), refused())
    await give_back(store, webhook, lane)


async def send_test(store: Store, webhook: Webhook, outcome: Outcome) -> Delivery:
    event = make_event(event="webhook.test", tasks=())
    progress = make_settled(outcome=outcome, policy=ONE_ATTEMPT).progress
    delivery = make_delivery(event, webhook, progress=progress)
    await store.add_test(GROUP_ID, event, delivery, make_attempt(outcome=outcome))
    return delivery
