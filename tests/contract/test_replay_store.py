"""Bulk replays as durable jobs: what they take, how they move, and who may move them."""

import asyncio
from collections.abc import Sequence
from dataclasses import astuple, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from tests.builders import GROUP_ID, accepted, make_job, make_queued, make_settled, new_id, refused
from tests.contract.backends import Backend, Store
from tests.contract.steps import (
    ADA,
    EVE,
    HOUR,
    LEASE,
    SECOND,
    add_webhook,
    detail,
    edit_webhook,
    emit_one,
    give_back,
    ids,
    lease,
    lease_one,
    pokes_of,
    read,
    read_one,
    record,
    record_settled,
    taking,
)
from tests.fakes import NOW

from gatepost.domain.deliveries import Delivery, QueuedDelivery, Status, replayed
from gatepost.domain.replays import JobStatus, ReplayFilter, ReplayJob, replayed_by
from gatepost.domain.retry import RetryPolicy
from gatepost.domain.webhooks import Webhook
from gatepost.ports import DeliveryQuery, JobLease, Saved, Step

EVERYTHING = ReplayFilter()
MADE_AT = NOW + HOUR  # when the job is
STEPPED_AT = MADE_AT + SECOND


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
        (ReplayFilter(status=Status.DELIVERED), ["good", "paid"]),
        (ReplayFilter(status=Status.DEAD_LETTER), ["bad"]),
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
    assert [each.replay_of for each in await replays_of(store, webhook)] == [made[name].id for name in found]


async def test_what_was_finished_after_the_job_was_made_is_not_taken(store: Store) -> None:
    webhook = await add_webhook(store)
    before = await finish(store, webhook, refused(), at=MADE_AT)
    await finish(store, webhook, refused(), at=MADE_AT + timedelta(milliseconds=1))
    counted = await count(store, webhook)

    await run_through(store, await add_job(store, webhook))

    assert counted.count == 1
    assert [each.replay_of for each in await replays_of(store, webhook)] == [before.id]


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

    assert sorted(each.replay_of or "" for each in await replays_of(store, webhook)) == sorted(
        [original.id, *[original.id, replay.id] * 2]
    )
    assert (counted.count, ids(counted.sample)) == (2, sorted([original.id, replay.id]))


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
    assert await store.cancel_job(GROUP_ID, other.id, job.id, now=NOW) is Saved.STALE
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

    cancelled = await store.cancel_job(GROUP_ID, webhook.id, job.id, now=STEPPED_AT)
    again = await store.cancel_job(GROUP_ID, webhook.id, job.id, now=STEPPED_AT + SECOND)

    assert (cancelled, again) == (Saved.DONE, Saved.STALE)
    assert (await store.advance_job(held, limit=1, now=STEPPED_AT)).step is Step.LOST
    assert await run_jobs(store, now=STEPPED_AT + HOUR) == []
    ended = replace(job, status=JobStatus.CANCELLED, done=1, finished_at=STEPPED_AT)
    assert await current(store, job) == ended
    assert len(await replays_of(store, webhook)) == 1
    assert [each.attempt_count for each in (await read(store, webhook, now=STEPPED_AT)).deliveries] == [0]


# --- steps ---------------------------------------------------------------------------------------------------


async def test_a_step_writes_pokes_and_hands_over_new_deliveries_of_the_same_events(store: Store) -> None:
    webhook = await add_webhook(store)
    originals = [await finish(store, webhook, refused()) for _ in range(3)]
    job = await add_job(store, webhook, total=3)
    held = await lease_job(store, job)
    handed: list[QueuedDelivery] = []
    store.on_queued = taking(handed)

    advanced = await store.advance_job(held, limit=2, now=STEPPED_AT)

    made = [replayed_by(job, each, max_attempts=webhook.policy.max_attempts, now=STEPPED_AT) for each in originals[:2]]
    events = [(await detail(store, each)).event for each in originals]
    assert tuple(advanced) == (Step.MOVED, 2)
    assert sorted(await replays_of(store, webhook), key=lambda each: each.replay_of or "") == made
    expected = [astuple(make_queued(each, event)) for each, event in zip(made, events[:2], strict=True)]
    assert sorted(map(astuple, handed)) == sorted(expected)
    assert set(await lease(store, now=STEPPED_AT)) == {webhook.id}
    assert ids((await read(store, webhook, now=STEPPED_AT)).deliveries) == sorted(ids(made))
    assert await current(store, job) == replace(job, done=2)
    assert [(await detail(store, each)).delivery for each in originals] == originals


async def test_a_step_raises_the_poke_counter_of_a_lane_that_is_leased(store: Store) -> None:
    webhook = await add_webhook(store)
    await finish(store, webhook, refused())
    await emit_one(store, webhook)
    await lease_one(store, webhook)
    job = await add_job(store, webhook)
    before = await pokes_of(store, webhook.id)

    await store.advance_job(await lease_job(store, job), limit=5, now=STEPPED_AT)

    assert await pokes_of(store, webhook.id) > before


async def test_a_job_takes_everything_once_step_by_step_and_is_done(store: Store) -> None:
    webhook = await add_webhook(store)
    originals = [await finish(store, webhook, refused()) for _ in range(7)]
    job = await add_job(store, webhook, total=7)
    taken = []

    async for made in steps(store, job, limit=3):
        taken.append(made)

    replays = await replays_of(store, webhook)
    assert sum(taken) == 7
    assert max(taken) <= 3
    assert sorted(each.replay_of or "" for each in replays) == ids(originals)
    ended = await current(store, job)
    assert ended == replace(job, status=JobStatus.DONE, done=7, finished_at=ended.finished_at)
    assert ended.finished_at is not None
    assert ended.finished_at >= STEPPED_AT
    assert await run_jobs(store, now=STEPPED_AT + HOUR) == []


async def test_what_there_is_beside_what_a_job_wants_does_not_stop_it(store: Store) -> None:
    webhook = await add_webhook(store)
    first = await finish(store, webhook, refused())
    for _ in range(5):
        await finish(store, webhook, accepted())
    last = await finish(store, webhook, refused())

    job = await add_job(store, webhook, filter=ReplayFilter(status=Status.DEAD_LETTER), total=2)
    await run_through(store, job, limit=1)

    assert [each.replay_of for each in await replays_of(store, webhook)] == [first.id, last.id]


async def test_a_job_without_anything_to_take_is_done(store: Store) -> None:
    job = await add_job(store, await add_webhook(store), total=0)

    advanced = await store.advance_job(await lease_job(store, job), limit=5, now=STEPPED_AT)

    assert tuple(advanced) == (Step.ENDED, 0)
    assert await current(store, job) == replace(job, status=JobStatus.DONE, finished_at=STEPPED_AT)


async def test_new_deliveries_have_as_many_attempts_as_the_webhook_allows_now(store: Store) -> None:
    webhook = await add_webhook(store)
    await finish(store, webhook, refused())
    job = await add_job(store, webhook)
    await edit_webhook(store, webhook, policy=RetryPolicy((1.0, 2.0, 3.0, 4.0)))

    await run_through(store, job)

    [replay] = await replays_of(store, webhook)
    assert replay.progress.max_attempts == 5


async def test_deliveries_whose_events_are_no_longer_kept_are_passed_over(store: Store, backend: Backend) -> None:
    webhook = await add_webhook(store)
    originals = [await finish(store, webhook, refused()) for _ in range(3)]
    await backend.lose_event(GROUP_ID, originals[1].event_id)
    job = await add_job(store, webhook, total=3)

    await run_through(store, job)

    assert [each.replay_of for each in await replays_of(store, webhook)] == [originals[0].id, originals[2].id]
    ended = await current(store, job)
    assert (ended.status, ended.done) == (JobStatus.DONE, 3)


async def test_a_job_waits_while_its_webhook_is_disabled_and_goes_on_afterwards(store: Store) -> None:
    webhook = await add_webhook(store)
    original = await finish(store, webhook, refused())
    job = await add_job(store, webhook)
    disabled = await edit_webhook(store, webhook, enabled=False)

    waiting = await store.advance_job(await lease_job(store, job), limit=5, now=STEPPED_AT)
    meanwhile = await current(store, job), await replays_of(store, webhook)
    await edit_webhook(store, disabled, enabled=True)
    await run_through(store, job)

    assert tuple(waiting) == (Step.WAITING, 0)
    assert meanwhile == (job, [])
    assert [each.replay_of for each in await replays_of(store, webhook)] == [original.id]


async def test_a_job_fails_when_its_webhook_is_deleted(store: Store) -> None:
    webhook = await add_webhook(store)
    await finish(store, webhook, refused())
    job = await add_job(store, webhook, total=1)
    await store.delete_webhook(GROUP_ID, webhook.id, now=STEPPED_AT)

    advanced = await store.advance_job(await lease_job(store, job), limit=5, now=STEPPED_AT)

    assert tuple(advanced) == (Step.ENDED, 0)
    assert await current(store, job) == replace(job, status=JobStatus.FAILED, finished_at=STEPPED_AT)
    assert await replays_of(store, webhook) == []


# --- leases --------------------------------------------------------------------------------------------------


async def test_each_lease_raises_the_token_also_of_what_one_has(store: Store) -> None:
    job = await add_job(store, await add_webhook(store))

    tokens = [(await lease_job(store, job, now=STEPPED_AT + n * SECOND)).token for n in range(3)]

    assert tokens == sorted(set(tokens))


async def test_one_owner_at_a_time_has_jobs(store: Store, other_store: Store) -> None:
    await lease_job(store, await add_job(store, await add_webhook(store)))
    await add_job(store, await add_webhook(store))

    assert await run_jobs(other_store, EVE) == []
    assert len(await run_jobs(other_store, EVE, now=STEPPED_AT + LEASE + SECOND)) == 2
    assert await run_jobs(store, ADA, now=STEPPED_AT + LEASE + 2 * SECOND) == []


async def test_a_lease_far_ahead_counts_as_lapsed(store: Store, other_store: Store) -> None:
    job = await add_job(store, await add_webhook(store))
    await lease_job(store, job, now=STEPPED_AT + 3 * LEASE)

    assert len(await run_jobs(other_store, EVE)) == 1


async def test_jobs_beyond_the_limit_come_in_turn(store: Store) -> None:
    made = [await add_job(store, await add_webhook(store)) for _ in range(3)]
    turns = [await run_jobs(store, limit=2, now=STEPPED_AT + n * SECOND) for n in range(3)]

    first, second, third = ({each.job_id for each in turn} for turn in turns)
    assert [len(first), len(second), len(third)] == [2, 2, 2]
    assert first | second == second | third == set(ids(made))


async def test_under_a_token_that_is_not_the_last_a_step_writes_nothing(store: Store, other_store: Store) -> None:
    webhook = await add_webhook(store)
    await finish(store, webhook, refused())
    job = await add_job(store, webhook)
    stale = await lease_job(store, job)
    later = STEPPED_AT + LEASE + SECOND
    held = await lease_job(other_store, job, EVE, now=later)
    handed: list[QueuedDelivery] = []
    store.on_queued = taking(handed)

    advanced = await store.advance_job(stale, limit=5, now=later)

    assert tuple(advanced) == (Step.LOST, 0)
    assert (handed, await replays_of(store, webhook)) == ([], [])
    assert (await other_store.advance_job(held, limit=5, now=later)).made == 1


async def test_two_who_advance_a_job_at_once_never_do_a_step_twice(store: Store, other_store: Store) -> None:
    webhook = await add_webhook(store)
    originals = [await finish(store, webhook, refused()) for _ in range(12)]
    handed: list[QueuedDelivery] = []
    for each in (store, other_store):
        each.on_queued = taking(handed)
    job = await add_job(store, webhook, total=12)
    held = await lease_job(store, job)

    made = 0
    for n in range(30):
        both = [each.advance_job(held, limit=2, now=STEPPED_AT + n * SECOND) for each in (store, other_store)]
        made += sum(advanced.made for advanced in await asyncio.gather(*both))
        if (await current(store, job)).status is JobStatus.DONE:
            break

    replays = await replays_of(store, webhook)
    assert sorted(each.replay_of or "" for each in replays) == ids(originals)
    assert (made, (await current(store, job)).done) == (12, 12)
    assert sorted(ids(handed)) == sorted(ids(replays))


async def test_of_two_who_lease_at_once_only_one_can_advance_a_job(store: Store, other_store: Store) -> None:
    webhook = await add_webhook(store)
    await finish(store, webhook, refused())
    job = await add_job(store, webhook, total=1)

    leased = await asyncio.gather(run_jobs(store, ADA), run_jobs(other_store, EVE))
    held = [each for of_one in leased for each in of_one]
    advanced = await asyncio.gather(*(store.advance_job(each, limit=5, now=STEPPED_AT) for each in held))

    assert sum(each.made for each in advanced) == 1
    assert (await current(store, job)).done == 1


# --- what these are made of ----------------------------------------------------------------------------------


async def finish(store: Store, webhook: Webhook, outcome: Any, *, at: datetime = NOW) -> Delivery:
    """Return a delivery whose one attempt is over, its lane given back."""
    delivery = await emit_one(store, webhook, at=at)
    await finish_what_is_due(store, webhook, now=at, outcome=outcome, only=delivery.id)
    return (await detail(store, delivery)).delivery


async def finish_what_is_due(
    store: Store, webhook: Webhook, *, now: datetime, outcome: Any = None, only: str | None = None
) -> None:
    lane = (await lease(store, now=now))[webhook.id]
    due = [each for each in (await read(store, webhook, now=now)).deliveries if only in (None, each.id)]
    settled = [make_settled(each, outcome or refused(), at=now, policy=RetryPolicy(())) for each in due]
    await record_settled(store, lane, *settled)
    await give_back(store, webhook, lane, now=now)


async def fail_once(store: Store, webhook: Webhook) -> None:
    """Leave a delivery of a webhook waiting for its retry."""
    await emit_one(store, webhook)
    lane = await lease_one(store, webhook)
    await record(store, lane, await read_one(store, webhook), refused())
    await give_back(store, webhook, lane)


async def count(
    store: Store, webhook: Webhook, wanted: ReplayFilter = EVERYTHING, *, now: datetime = MADE_AT, sample: int = 5
) -> Any:
    return await store.count_replayable(GROUP_ID, webhook.id, wanted, now=now, sample=sample)


async def add_job(store: Store, webhook: Webhook, **changes: Any) -> ReplayJob:
    job = make_job(webhook, **{"created_at": MADE_AT, **changes})
    assert await store.add_job(GROUP_ID, job) is Saved.DONE
    return job


async def current(store: Store, job: ReplayJob) -> ReplayJob:
    found = await store.job(GROUP_ID, job.webhook_id, job.id)
    assert found is not None
    return found


async def run_jobs(
    store: Store, owner: str = ADA, *, now: datetime = STEPPED_AT, limit: int = 10
) -> Sequence[JobLease]:
    return await store.lease_jobs(owner, limit=limit, now=now, lease=LEASE)


async def lease_job(store: Store, job: ReplayJob, owner: str = ADA, *, now: datetime = STEPPED_AT) -> JobLease:
    leased = {each.job_id: each for each in await run_jobs(store, owner, now=now)}
    return leased[job.id]


async def steps(store: Store, job: ReplayJob, *, limit: int = 50, now: datetime = STEPPED_AT) -> Any:
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


async def replays_of(store: Store, webhook: Webhook) -> list[Delivery]:
    """Return a webhook's replays, in the order of what they replay."""
    page = await store.deliveries(GROUP_ID, DeliveryQuery(webhook_id=webhook.id), limit=100, before=None)
    return sorted((each for each in page.items if each.replay_of), key=lambda each: each.replay_of or "")
