"""What the store promises about letting go of what is old."""

import asyncio
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from tests.builders import (
    GROUP_ID,
    accepted,
    make_attempt,
    make_delivery,
    make_event,
    make_group,
    make_job,
    make_settled,
    make_webhook,
    new_id,
    refused,
    unreachable,
)
from tests.contract.backends import Store
from tests.contract.steps import (
    ADA,
    EVE,
    HOUR,
    LEASE,
    SECOND,
    add_task,
    add_webhook,
    detail,
    edit_webhook,
    emit_many,
    emit_one,
    ids,
    lease_one,
    leased_with_one,
    publish,
    read,
    read_one,
    record,
    record_settled,
)
from tests.fakes import NOW

from gatepost.domain.deliveries import Delivery, replayed
from gatepost.domain.outcomes import response_of
from gatepost.domain.replays import JobStatus, ReplayJob
from gatepost.domain.retention import Kept
from gatepost.domain.retry import ONE_ATTEMPT
from gatepost.domain.stats import BUCKET, start_of_bucket
from gatepost.domain.webhooks import Webhook
from gatepost.ports import DeliveryQuery, EventQuery, Saved, StatsQuery, Step

LATER = NOW + SECOND  # what was finished at NOW is from before


@dataclass
class Purged:
    """What a purge to its end has done."""

    rows: int = 0
    steps: int = 0
    most_in_a_step: int = 0


async def purge(store: Store, kept: Kept, *, before: datetime = LATER) -> Purged:
    purged, after = Purged(), ""
    while True:
        step = await store.purge(kept, before=before, after=after)
        purged.rows += step.purged
        purged.steps += 1
        purged.most_in_a_step = max(purged.most_in_a_step, step.purged)
        if step.go_on_after is None:
            return purged
        after = step.go_on_after


async def delivered(store: Store) -> Delivery:
    """Add a webhook with one delivery, which got through now."""
    _, lane, delivery, queued = await leased_with_one(store)
    await record(store, lane, queued, accepted())
    return delivery


async def dead(store: Store) -> Delivery:
    _, lane, delivery, queued = await leased_with_one(store)
    await record_settled(store, lane, make_settled(queued, refused(503), policy=ONE_ATTEMPT))
    return delivery


async def listed(store: Store) -> list[str]:
    return ids((await store.deliveries(GROUP_ID, DeliveryQuery(), limit=200, before=None)).items)


async def events_listed(store: Store) -> list[str]:
    return ids((await store.events(GROUP_ID, EventQuery(), limit=200, before=None)).items)


# --- the job -------------------------------------------------------------------------------------------------


async def take(store: Store, owner: str, *, now: datetime = NOW) -> bool:
    return await store.lease_retention(owner, now=now, lease=LEASE, every=HOUR)


async def test_one_owner_at_a_time_has_the_job_and_may_keep_it(store: Store, other_store: Store) -> None:
    assert await take(store, ADA)

    assert not await take(other_store, EVE, now=NOW + LEASE)
    assert await take(store, ADA, now=NOW + LEASE)
    assert not await take(other_store, EVE, now=NOW + 2 * LEASE)


async def test_the_job_of_an_owner_that_is_gone_is_taken_over(store: Store, other_store: Store) -> None:
    assert await take(store, ADA)

    assert await take(other_store, EVE, now=NOW + LEASE + SECOND)
    assert not await take(store, ADA, now=NOW + LEASE + SECOND)


async def test_a_lease_absurdly_far_ahead_is_none(store: Store, other_store: Store) -> None:
    assert await take(store, ADA, now=NOW + 24 * HOUR)

    assert await take(other_store, EVE)


async def test_the_job_that_was_done_is_due_again_when_its_time_has_passed(store: Store, other_store: Store) -> None:
    assert await take(store, ADA)
    await store.end_retention(ADA, done_at=NOW)

    assert not await take(other_store, EVE, now=NOW + HOUR - SECOND)
    assert await take(other_store, EVE, now=NOW + HOUR)


async def test_a_job_done_in_the_future_is_due(store: Store) -> None:
    assert await take(store, ADA)
    await store.end_retention(ADA, done_at=NOW + 24 * HOUR)

    assert await take(store, ADA)


async def test_the_job_that_was_given_back_undone_is_due_at_once(store: Store, other_store: Store) -> None:
    assert await take(store, ADA)
    await store.end_retention(ADA, done_at=None)

    assert await take(other_store, EVE)


async def test_who_has_lost_the_job_ends_nothing(store: Store, other_store: Store) -> None:
    assert await take(store, ADA)
    assert await take(other_store, EVE, now=NOW + LEASE + SECOND)

    await store.end_retention(ADA, done_at=NOW)

    assert not await take(store, ADA, now=NOW + LEASE + SECOND)
    assert await take(other_store, EVE, now=NOW + LEASE + SECOND)


async def test_two_who_ask_at_once_do_not_both_get_the_job(store: Store, other_store: Store) -> None:
    assert sorted(await asyncio.gather(take(store, ADA), take(other_store, EVE))) == [False, True]


# --- deliveries ----------------------------------------------------------------------------------------------


async def test_in_an_empty_store_there_is_nothing_to_purge(store: Store) -> None:
    assert [await purge(store, kept) for kept in Kept] == [Purged(steps=1)] * len(Kept)


async def test_bodies_go_and_what_they_came_with_stays(store: Store) -> None:
    delivery = await delivered(store)
    before = await detail(store, delivery)

    assert (await purge(store, Kept.BODIES)).rows == 1

    after = await detail(store, delivery)
    [was], [attempt] = before.attempts, after.attempts
    response = response_of(attempt.outcome)
    assert response is not None
    assert (response.status_code, response.headers, response.body) == (200, None, None)
    assert (attempt.id, attempt.duration, attempt.started_at) == (was.id, was.duration, was.started_at)
    assert (after.delivery, after.event) == (before.delivery, before.event)
    assert (await purge(store, Kept.BODIES)).rows == 0


async def test_bodies_go_of_all_attempts_of_dead_letters_and_of_probes(store: Store) -> None:
    _, lane, delivery, queued = await leased_with_one(store)
    probe = make_attempt(outcome=refused(503), probe=True)
    await record_settled(store, lane, make_settled(queued, attempt=probe, progress=None))
    await record(store, lane, queued, refused(503))
    await record_settled(store, lane, make_settled(replace(queued, attempt_count=1), refused(500), policy=ONE_ATTEMPT))

    await purge(store, Kept.BODIES)

    attempts = (await detail(store, delivery)).attempts
    responses = [response_of(attempt.outcome) for attempt in attempts]
    assert [each and (each.status_code, each.headers, each.body) for each in responses] == [
        (503, None, None),
        (503, None, None),
        (500, None, None),
    ]


async def test_what_an_answer_never_had_is_told_from_what_is_no_longer_kept(store: Store) -> None:
    _, lane, delivery, queued = await leased_with_one(store)
    empty = accepted(204, headers=(), body=b"")
    await record(store, lane, queued, empty)

    assert [attempt.outcome for attempt in (await detail(store, delivery)).attempts] == [empty]
    assert (await purge(store, Kept.BODIES)).rows == 1

    expired = accepted(204, headers=None, body=None)
    assert [attempt.outcome for attempt in (await detail(store, delivery)).attempts] == [expired]


async def test_delivered_ones_go_with_their_attempts_and_dead_letters_do_not(store: Store) -> None:
    gone, stays = await delivered(store), await dead(store)

    assert (await purge(store, Kept.DELIVERIES)).rows == 1

    assert await listed(store) == [stays.id]
    assert await store.delivery(GROUP_ID, gone.webhook_id, gone.id) is None
    assert (await detail(store, stays)).attempts != []


async def test_dead_letters_go_and_delivered_ones_do_not(store: Store) -> None:
    stays, gone = await delivered(store), await dead(store)

    assert (await purge(store, Kept.DEAD_LETTERS)).rows == 1

    assert await listed(store) == [stays.id]
    assert await store.delivery(GROUP_ID, gone.webhook_id, gone.id) is None


async def test_what_was_finished_later_stays_however_long_ago_it_was_made(store: Store) -> None:
    webhook, lane, delivery, queued = await leased_with_one(store)
    await record(store, lane, queued, accepted(), at=NOW + HOUR)
    given_up = await emit_one(store, webhook)
    await record_settled(
        store,
        lane,
        make_settled(await read_one(store, webhook), unreachable(), policy=ONE_ATTEMPT, at=NOW + HOUR),
    )

    for kept in (Kept.BODIES, Kept.DELIVERIES, Kept.DEAD_LETTERS):
        assert (await purge(store, kept, before=NOW + HOUR)).rows == 0

    assert await listed(store) == [given_up.id, delivery.id]
    assert (await detail(store, delivery)).attempts[0].outcome == accepted()


async def test_what_is_unfinished_or_held_never_goes(store: Store) -> None:
    webhook, lane, failed, queued = await leased_with_one(store)
    await record(store, lane, queued, refused(503))
    waiting = await emit_one(store, webhook)
    disabled = await add_webhook(store)
    held = await emit_one(store, disabled)
    await edit_webhook(store, disabled, enabled=False)

    for kept in (Kept.BODIES, Kept.DELIVERIES, Kept.DEAD_LETTERS, Kept.EVENTS):
        assert (await purge(store, kept, before=NOW + 24 * 365 * HOUR)).rows == 0

    assert await listed(store) == [held.id, waiting.id, failed.id]
    assert [attempt.outcome for attempt in (await detail(store, failed)).attempts] == [refused(503)]
    assert [each.id for each in (await read(store, webhook)).deliveries] == [waiting.id]


async def test_a_purge_goes_on_where_its_last_step_ended_and_no_step_does_much(store: Store) -> None:
    webhook = await add_webhook(store)
    await emit_many(store, webhook, 600)
    lane = await lease_one(store, webhook)
    queued = (await read(store, webhook, limit=1000)).deliveries
    await record_settled(store, lane, *(make_settled(each) for each in queued[:-1]))

    purged = await purge(store, Kept.DELIVERIES)

    assert purged.rows == 599
    assert purged.steps > 1
    assert purged.most_in_a_step <= 500
    assert await listed(store) == [queued[-1].id]


async def test_a_purge_beside_recording_loses_nothing(store: Store, other_store: Store) -> None:
    webhook = await add_webhook(store)
    await emit_many(store, webhook, 60)
    lane = await lease_one(store, webhook)
    queued = (await read(store, webhook)).deliveries
    old, new = queued[:30], queued[30:]
    await record_settled(store, lane, *(make_settled(each) for each in old))

    async def record_all() -> None:
        for each in new:
            await record(store, lane, each, accepted(), at=LATER)

    await asyncio.gather(record_all(), *(purge(other_store, kept) for kept in Kept))

    assert sorted(await listed(store)) == sorted(each.id for each in new)
    for each in new:
        assert [attempt.outcome for attempt in (await detail(store, each)).attempts] == [accepted()]


async def test_two_who_purge_at_once_do_the_same(store: Store, other_store: Store) -> None:
    webhook = await add_webhook(store)
    await emit_many(store, webhook, 40)
    lane = await lease_one(store, webhook)
    await record_settled(store, lane, *(make_settled(each) for each in (await read(store, webhook)).deliveries))

    await asyncio.gather(purge(store, Kept.BODIES), purge(other_store, Kept.BODIES))
    for kept in (Kept.DELIVERIES, Kept.EVENTS):
        done = await asyncio.gather(purge(store, kept), purge(other_store, kept))
        assert sum(each.rows for each in done) == 40

    assert await listed(store) == []


# --- events --------------------------------------------------------------------------------------------------


async def test_an_event_stays_as_long_as_any_delivery_of_it(store: Store) -> None:
    webhook, lane, delivery, queued = await leased_with_one(store)
    await record(store, lane, queued, accepted())
    replay = replayed(delivery, new_id("dlv"), max_attempts=3, now=NOW)
    assert await store.add_replay(GROUP_ID, replay) is Saved.DONE
    await purge(store, Kept.DELIVERIES)

    assert (await purge(store, Kept.EVENTS)).rows == 0
    assert (await read_one(store, webhook)).body == queued.body

    await record(store, lane, await read_one(store, webhook), accepted())
    await purge(store, Kept.DELIVERIES)
    assert (await purge(store, Kept.EVENTS)).rows == 1
    assert await events_listed(store) == []


async def test_an_event_that_nobody_wanted_goes_when_it_is_old_enough(store: Store) -> None:
    task = await add_task(store)
    [event_id] = await events_listed(store)

    assert (await purge(store, Kept.EVENTS, before=NOW)).rows == 0
    assert (await purge(store, Kept.EVENTS)).rows == 1

    assert await store.routing(GROUP_ID, event_id) is None
    assert (await store.events(GROUP_ID, EventQuery(task_id=task.id), limit=10, before=None)).items == []
    assert await store.task(GROUP_ID, task.id) == task


@pytest.mark.parametrize("event_id", ["order-1", "zzz", "A", "evt_0"])
async def test_a_published_event_goes_by_its_age_whatever_its_id(store: Store, event_id: str) -> None:
    await publish(store, make_event(id=event_id, event="order.paid", tasks=()))

    assert (await purge(store, Kept.EVENTS, before=NOW)).rows == 0
    assert (await purge(store, Kept.EVENTS)).rows == 1

    assert await events_listed(store) == []


async def test_an_event_is_not_held_by_what_another_group_is_owed_for_one_of_the_same_id(store: Store) -> None:
    other = make_group(id=new_id("grp"), name="Another shift")
    await store.add_group(other)
    webhook = await add_webhook(store)
    held, free = (make_event(id="order-1", event="order.paid", group_id=each) for each in (GROUP_ID, other.id))
    await publish(store, held, make_delivery(held, webhook))
    await publish(store, free)

    assert (await purge(store, Kept.EVENTS)).rows == 1

    assert await events_listed(store) == [held.id]


async def test_events_of_all_groups_go(store: Store) -> None:
    groups = [make_group(id=new_id("grp"), name=f"group {number}") for number in range(3)]
    for group in groups:
        await store.add_group(group)
        await publish(store, make_event(group_id=group.id))
        await publish(store, make_event(group_id=group.id, created_at=LATER))

    assert (await purge(store, Kept.EVENTS)).rows == 3

    for group in groups:
        assert len((await store.events(group.id, EventQuery(), limit=10, before=None)).items) == 1


async def test_many_events_go_step_by_step(store: Store) -> None:
    for _ in range(30):
        await asyncio.gather(*(publish(store, make_event()) for _ in range(20)))

    purged = await purge(store, Kept.EVENTS)

    assert purged.rows == 600
    assert purged.steps > 1
    assert purged.most_in_a_step <= 500


async def test_a_replay_finds_the_bytes_of_its_event_or_is_refused(store: Store, other_store: Store) -> None:
    webhook = await add_webhook(store)
    for day in range(1, 10):
        event = make_event()
        await publish(store, event)
        replay = make_delivery(event, webhook, replay_of=new_id("dlv"))

        saved, purged = await asyncio.gather(store.add_replay(GROUP_ID, replay), purge(other_store, Kept.EVENTS))

        assert (saved, purged.rows) in [(Saved.DONE, 0), (Saved.STALE, 1)]
        if saved is Saved.DONE:
            lane = await lease_one(store, webhook, now=NOW + timedelta(days=day))
            await record(store, lane, await read_one(store, webhook), accepted())
            await purge(store, Kept.DELIVERIES)
            await purge(store, Kept.EVENTS)


# --- bulk replays --------------------------------------------------------------------------------------------


async def add_job(store: Store, webhook: Webhook, **changes: Any) -> ReplayJob:
    job = make_job(webhook, **changes)
    assert await store.add_job(GROUP_ID, job) is Saved.DONE
    return job


async def cancelled_job(store: Store, *, now: datetime = NOW) -> ReplayJob:
    job = await add_job(store, make_webhook())
    await store.cancel_job(GROUP_ID, job.webhook_id, job.id, now=now)
    return job


async def advance_jobs(store: Store, *, now: datetime = NOW) -> list[Step]:
    """Do with all jobs what an engine does twice: of some databases, it also tidies up after those that have ended."""
    first = await store.lease_jobs(ADA, limit=10, now=now, lease=LEASE)
    advanced = [(await store.advance_job(each, limit=50, now=now)).step for each in first]
    await store.lease_jobs(ADA, limit=10, now=now, lease=LEASE)
    return advanced


async def test_bulk_replays_go_when_they_ended_long_ago_however_they_did(store: Store) -> None:
    done, waiting = await add_job(store, await add_webhook(store)), await add_job(store, await add_webhook(store))
    failed, cancelled = await add_job(store, make_webhook()), await cancelled_job(store)
    cancelled_later = await cancelled_job(store, now=LATER)
    webhook = await store.webhook(GROUP_ID, waiting.webhook_id)
    assert webhook is not None
    await edit_webhook(store, webhook, enabled=False)
    assert await advance_jobs(store) == [Step.ENDED, Step.ENDED]

    assert (await purge(store, Kept.REPLAYS)).rows == 3

    kept = [await store.job(GROUP_ID, each.webhook_id, each.id) for each in (done, failed, cancelled)]
    assert kept == [None, None, None]
    left = [await store.job(GROUP_ID, each.webhook_id, each.id) for each in (waiting, cancelled_later)]
    assert [each and each.status for each in left] == [JobStatus.RUNNING, JobStatus.CANCELLED]


async def test_what_a_bulk_replay_has_made_outlives_it_and_is_taken_by_no_other(store: Store) -> None:
    original = await delivered(store)
    webhook = await store.webhook(GROUP_ID, original.webhook_id)
    assert webhook is not None
    first = await add_job(store, webhook)
    assert await advance_jobs(store) == [Step.ENDED]
    assert (await purge(store, Kept.REPLAYS)).rows == 1
    assert (await store.jobs(GROUP_ID, webhook.id, limit=9, before=None)).items == []

    replay = await read_one(store, webhook)
    lane = await lease_one(store, webhook, EVE, now=NOW + HOUR)
    await record(store, lane, replay, accepted())
    found = await store.count_replayable(GROUP_ID, webhook.id, first.filter, now=NOW + HOUR, sample=5)
    await add_job(store, webhook, created_at=NOW + HOUR)
    await advance_jobs(store, now=NOW + HOUR)

    assert (found.count, ids(found.sample)) == (1, [original.id])
    assert (await detail(store, replay)).delivery.replay_of == original.id
    page = await store.deliveries(GROUP_ID, DeliveryQuery(), limit=9, before=None)
    assert [each.replay_of for each in page.items].count(original.id) == 2


async def test_many_bulk_replays_go_step_by_step_past_those_that_run(store: Store) -> None:
    running = await add_job(store, make_webhook())
    for _ in range(30):
        await asyncio.gather(*(cancelled_job(store) for _ in range(20)))
    await store.lease_jobs(ADA, limit=10, now=NOW, lease=LEASE)

    purged = await purge(store, Kept.REPLAYS)

    assert purged.rows == 600
    assert purged.steps > 1
    assert purged.most_in_a_step <= 500
    assert await store.job(GROUP_ID, running.webhook_id, running.id) == running


# --- stats ---------------------------------------------------------------------------------------------------


async def test_old_stats_go_and_newer_ones_stay(store: Store) -> None:
    webhook = await add_webhook(store)
    await emit_many(store, webhook, 2)
    lane = await lease_one(store, webhook)
    old, new = (await read(store, webhook)).deliveries
    await record(store, lane, old, accepted())
    await record(store, lane, new, accepted(), at=NOW + HOUR)

    assert (await purge(store, Kept.STATS, before=NOW + HOUR - BUCKET)).rows >= 1

    start = start_of_bucket(NOW, HOUR)
    asked = StatsQuery(start, start + 3 * HOUR, BUCKET)
    left = await store.stats(GROUP_ID, asked, limit=10, most_read=100, before=None)
    assert [each.start_at for each in left.items] == [start_of_bucket(NOW + HOUR, BUCKET)]
