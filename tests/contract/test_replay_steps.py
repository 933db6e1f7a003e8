"""Bulk replays as durable jobs: how they move, and who may move them."""

import asyncio
from dataclasses import astuple, replace

import pytest
from tests.builders import GROUP_ID, accepted, make_queued
from tests.contract.backends import Backend, Store
from tests.contract.replaying import (
    STEPPED_AT,
    add_job,
    current,
    finish,
    lease_job,
    replayed_in,
    replays_of,
    run_jobs,
    run_through,
    steps,
)
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
    ids,
    lease,
    lease_one,
    pokes_of,
    read,
    taking,
)

from gatepost.domain.deliveries import QueuedDelivery, Status
from gatepost.domain.replays import JobStatus, ReplayFilter, replayed_by
from gatepost.domain.retry import RetryPolicy
from gatepost.ports import Step

# --- steps ---------------------------------------------------------------------------------------------------


async def test_a_step_writes_pokes_and_hands_over_new_deliveries_of_the_same_events(store: Store) -> None:
    webhook = await add_webhook(store)
    originals = [await finish(store, webhook) for _ in range(3)]
    job = await add_job(store, webhook, total=3)
    held = await lease_job(store, job)
    handed: list[QueuedDelivery] = []
    store.on_queued = taking(handed)

    advanced = await store.advance_job(held, limit=2, now=STEPPED_AT)

    made = [replayed_by(job, each, max_attempts=webhook.policy.max_attempts, now=STEPPED_AT) for each in originals[:2]]
    events = [(await detail(store, each)).event for each in originals]
    assert tuple(advanced) == (Step.MOVED, 2)
    assert await replays_of(store, webhook) == made
    expected = [astuple(make_queued(each, event)) for each, event in zip(made, events[:2], strict=True)]
    assert sorted(map(astuple, handed)) == sorted(expected)
    assert set(await lease(store, now=STEPPED_AT)) == {webhook.id}
    assert ids((await read(store, webhook, now=STEPPED_AT)).deliveries) == sorted(ids(made))
    assert await current(store, job) == replace(job, done=2)
    assert [(await detail(store, each)).delivery for each in originals] == originals


async def test_a_step_raises_the_poke_counter_of_a_lane_that_is_leased(store: Store) -> None:
    webhook = await add_webhook(store)
    await finish(store, webhook)
    await emit_one(store, webhook)
    await lease_one(store, webhook)
    job = await add_job(store, webhook)
    before = await pokes_of(store, webhook.id)

    await store.advance_job(await lease_job(store, job), limit=5, now=STEPPED_AT)

    assert await pokes_of(store, webhook.id) > before


async def test_a_job_takes_everything_once_step_by_step_and_is_done(store: Store) -> None:
    webhook = await add_webhook(store)
    originals = [await finish(store, webhook) for _ in range(7)]
    job = await add_job(store, webhook, total=7)
    taken = []

    async for made in steps(store, job, limit=3):
        taken.append(made)

    assert sum(taken) == 7
    assert max(taken) <= 3
    assert await replayed_in(store, webhook) == ids(originals)
    ended = await current(store, job)
    assert ended == replace(job, status=JobStatus.DONE, done=7, finished_at=ended.finished_at)
    assert ended.finished_at is not None
    assert ended.finished_at >= STEPPED_AT
    assert await run_jobs(store, now=STEPPED_AT + HOUR) == []


async def test_what_there_is_beside_what_a_job_wants_does_not_stop_it(store: Store) -> None:
    webhook = await add_webhook(store)
    first = await finish(store, webhook)
    for _ in range(5):
        await finish(store, webhook, accepted())
    last = await finish(store, webhook)

    job = await add_job(store, webhook, filter=ReplayFilter(status=Status.DEAD_LETTER), total=2)
    await run_through(store, job, limit=1)

    assert await replayed_in(store, webhook) == [first.id, last.id]


async def test_a_job_without_anything_to_take_is_done(store: Store) -> None:
    job = await add_job(store)

    advanced = await store.advance_job(await lease_job(store, job), limit=5, now=STEPPED_AT)

    assert tuple(advanced) == (Step.ENDED, 0)
    assert await current(store, job) == replace(job, status=JobStatus.DONE, finished_at=STEPPED_AT)


async def test_new_deliveries_have_as_many_attempts_as_the_webhook_allows_now(store: Store) -> None:
    webhook = await add_webhook(store)
    await finish(store, webhook)
    job = await add_job(store, webhook)
    await edit_webhook(store, webhook, policy=RetryPolicy((1.0, 2.0, 3.0, 4.0)))

    await run_through(store, job)

    [replay] = await replays_of(store, webhook)
    assert replay.progress.max_attempts == 5


async def test_deliveries_whose_events_are_no_longer_kept_are_passed_over(store: Store, backend: Backend) -> None:
    webhook = await add_webhook(store)
    originals = [await finish(store, webhook) for _ in range(3)]
    await backend.lose_event(GROUP_ID, originals[1].event_id)
    job = await add_job(store, webhook, total=3)

    await run_through(store, job)

    assert await replayed_in(store, webhook) == [originals[0].id, originals[2].id]
    ended = await current(store, job)
    assert (ended.status, ended.done) == (JobStatus.DONE, 3)


async def test_a_job_whose_webhook_was_disabled_since_it_was_leased_makes_nothing(store: Store) -> None:
    webhook = await add_webhook(store)
    await finish(store, webhook)
    job = await add_job(store, webhook)
    held = await lease_job(store, job)
    await edit_webhook(store, webhook, enabled=False)

    advanced = await store.advance_job(held, limit=5, now=STEPPED_AT)

    assert tuple(advanced) == (Step.LOST, 0)
    assert (await current(store, job), await replays_of(store, webhook)) == (job, [])


@pytest.mark.parametrize("was_disabled", [False, True])
async def test_a_job_fails_when_its_webhook_is_deleted(store: Store, was_disabled: bool) -> None:
    webhook = await add_webhook(store)
    await finish(store, webhook)
    job = await add_job(store, webhook, total=1)
    if was_disabled:
        await edit_webhook(store, webhook, enabled=False)
    await store.delete_webhook(GROUP_ID, webhook.id, now=STEPPED_AT)

    advanced = await store.advance_job(await lease_job(store, job), limit=5, now=STEPPED_AT)

    assert tuple(advanced) == (Step.ENDED, 0)
    assert await current(store, job) == replace(job, status=JobStatus.FAILED, finished_at=STEPPED_AT)
    assert await replays_of(store, webhook) == []


# --- leases --------------------------------------------------------------------------------------------------


async def test_each_lease_raises_the_token_also_of_what_one_has(store: Store) -> None:
    job = await add_job(store)

    tokens = [(await lease_job(store, job, now=STEPPED_AT + n * SECOND)).token for n in range(3)]

    assert tokens == sorted(set(tokens))


async def test_one_owner_at_a_time_has_jobs(store: Store, other_store: Store) -> None:
    await lease_job(store, await add_job(store))
    await add_job(store)

    assert await run_jobs(other_store, EVE) == []
    assert len(await run_jobs(other_store, EVE, now=STEPPED_AT + LEASE + SECOND)) == 2
    assert await run_jobs(store, ADA, now=STEPPED_AT + LEASE + 2 * SECOND) == []


async def test_a_lease_far_ahead_counts_as_lapsed(store: Store, other_store: Store) -> None:
    job = await add_job(store)
    await lease_job(store, job, now=STEPPED_AT + 3 * LEASE)

    assert len(await run_jobs(other_store, EVE)) == 1


async def test_jobs_beyond_the_limit_come_in_turn(store: Store) -> None:
    made = [await add_job(store) for _ in range(3)]
    turns = [await run_jobs(store, limit=2, now=STEPPED_AT + n * SECOND) for n in range(3)]

    first, second, third = ({each.job_id for each in turn} for turn in turns)
    assert [len(first), len(second), len(third)] == [2, 2, 2]
    assert first | second == second | third == set(ids(made))


async def test_a_job_waits_while_its_webhook_is_disabled_and_is_not_even_leased(
    store: Store, other_store: Store
) -> None:
    webhook = await add_webhook(store)
    original = await finish(store, webhook)
    job = await add_job(store, webhook)
    held = await lease_job(store, job)
    disabled = await edit_webhook(store, webhook, enabled=False)

    waiting = [await run_jobs(store, now=STEPPED_AT + n * LEASE) for n in range(5)]
    meanwhile = await current(store, job)
    await edit_webhook(store, disabled, enabled=True)
    again = await lease_job(other_store, job, EVE, now=STEPPED_AT + 5 * LEASE)
    await other_store.advance_job(again, limit=5, now=STEPPED_AT + 5 * LEASE)

    assert (waiting, meanwhile) == ([[]] * 5, job)
    assert again.token == held.token + 1
    assert await replayed_in(store, webhook) == [original.id]


async def test_jobs_that_wait_take_no_turn_from_those_that_have_something_to_do(store: Store) -> None:
    ready = [await add_job(store) for _ in range(2)]
    waiting = [await add_webhook(store) for _ in range(7)]
    for webhook in waiting:
        await add_job(store, webhook)
        await edit_webhook(store, webhook, enabled=False)
    ready.append(await add_job(store))

    turns = [await run_jobs(store, limit=3, now=STEPPED_AT + n * SECOND) for n in range(3)]

    assert [[each.job_id for each in turn] for turn in turns] == [ids(ready)] * 3


async def test_what_waits_of_another_owner_s_keeps_nobody_from_the_rest(store: Store, other_store: Store) -> None:
    webhook = await add_webhook(store)
    await lease_job(store, await add_job(store, webhook))
    await edit_webhook(store, webhook, enabled=False)
    job = await add_job(store)

    assert [each.job_id for each in await run_jobs(other_store, EVE)] == [job.id]


async def test_of_many_jobs_that_one_owner_has_a_few_of_another_gets_none(store: Store, other_store: Store) -> None:
    for _ in range(7):
        await add_job(store)
    await run_jobs(store, limit=2)

    assert await run_jobs(other_store, EVE, limit=2) == []
    assert len(await run_jobs(store, limit=2)) == 2


async def test_under_a_token_that_is_not_the_last_a_step_writes_nothing(store: Store, other_store: Store) -> None:
    webhook = await add_webhook(store)
    await finish(store, webhook)
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
    originals = [await finish(store, webhook) for _ in range(12)]
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
    assert [each.replay_of for each in replays] == ids(originals)
    assert (made, (await current(store, job)).done) == (12, 12)
    assert sorted(ids(handed)) == sorted(ids(replays))


async def test_of_two_who_lease_at_once_only_one_can_advance_a_job(store: Store, other_store: Store) -> None:
    webhook = await add_webhook(store)
    await finish(store, webhook)
    job = await add_job(store, webhook, total=1)

    leased = await asyncio.gather(run_jobs(store, ADA), run_jobs(other_store, EVE))
    held = [each for of_one in leased for each in of_one]
    advanced = await asyncio.gather(*(store.advance_job(each, limit=5, now=STEPPED_AT) for each in held))

    assert sum(each.made for each in advanced) == 1
    assert (await current(store, job)).done == 1
