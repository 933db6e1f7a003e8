"""What the store promises about what it counts."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from tests.builders import (
    GROUP_ID,
    accepted,
    make_attempt,
    make_group,
    make_outcomes,
    make_progress,
    make_settled,
    new_id,
    refused,
    unreachable,
)
from tests.contract.backends import Store
from tests.contract.steps import (
    HOUR,
    SECOND,
    add_webhook,
    emit_many,
    emit_one,
    lease_one,
    leased_with_one,
    read,
    record,
    record_settled,
)
from tests.fakes import NOW

from gatepost.domain.deliveries import Status
from gatepost.domain.outcomes import ErrorClass, Outcome
from gatepost.domain.retry import ONE_ATTEMPT
from gatepost.domain.stats import BUCKET, Bucket, bin_of, start_of_step

MINUTE = 60 * SECOND
STARTED = start_of_step(NOW, BUCKET)


async def stats(store: Store, **asked: Any) -> Sequence[Bucket]:
    """Return what was counted around now."""
    start = start_of_step(NOW - HOUR, HOUR)
    asked = {"group_id": GROUP_ID, "webhook_id": None, "start": start, "end": start + 4 * HOUR, "step": BUCKET} | asked
    return await store.stats(asked.pop("group_id"), **asked)


def numbers(buckets: Sequence[Bucket]) -> list[tuple[int, int, int]]:
    return [(each.tally.delivered, each.tally.failed, each.tally.dead) for each in buckets]


async def test_without_attempts_there_is_nothing_to_show(store: Store) -> None:
    await emit_one(store, await add_webhook(store))

    assert await stats(store) == []


async def test_an_attempt_is_counted_by_what_became_of_its_delivery(store: Store) -> None:
    webhook = await add_webhook(store)
    await emit_many(store, webhook, 3)
    lane = await lease_one(store, webhook)
    through, failed, dead = (await read(store, webhook)).deliveries

    await record_settled(
        store,
        lane,
        make_settled(through),
        make_settled(failed, refused(503)),
        make_settled(dead, unreachable(), policy=ONE_ATTEMPT),
    )

    [bucket] = await stats(store)
    assert (bucket.webhook_id, bucket.start_at) == (webhook.id, STARTED)
    assert numbers([bucket]) == [(1, 1, 1)]


async def test_latencies_are_counted_in_their_bins(store: Store) -> None:
    webhook = await add_webhook(store)
    await emit_many(store, webhook, 3)
    lane = await lease_one(store, webhook)
    lasted = [timedelta(milliseconds=3), timedelta(milliseconds=3), timedelta(seconds=9)]

    await record_settled(
        store,
        lane,
        *(
            make_settled(queued, attempt=make_attempt(duration=duration))
            for queued, duration in zip((await read(store, webhook)).deliveries, lasted, strict=True)
        ),
    )

    [bucket] = await stats(store)
    assert {number: count for number, count in enumerate(bucket.tally.latencies) if count} == {
        bin_of(lasted[0]): 2,
        bin_of(lasted[2]): 1,
    }


async def test_batches_add_up_in_the_bucket_that_each_attempt_began_in(store: Store) -> None:
    webhook = await add_webhook(store)
    await emit_many(store, webhook, 4)
    lane = await lease_one(store, webhook)
    deliveries = (await read(store, webhook)).deliveries

    for queued, at in zip(deliveries, (STARTED, STARTED + BUCKET - SECOND, STARTED + BUCKET, STARTED), strict=True):
        await record(store, lane, queued, refused(503), at=at)

    buckets = await stats(store)
    assert [each.start_at for each in buckets] == [STARTED, STARTED + BUCKET]
    assert numbers(buckets) == [(0, 3, 0), (0, 1, 0)]


async def test_what_is_recorded_again_is_not_counted_again(store: Store) -> None:
    _, lane, _, queued = await leased_with_one(store)
    settled = make_settled(queued)

    await record_settled(store, lane, settled)
    await record_settled(store, lane, settled)

    assert numbers(await stats(store)) == [(1, 0, 0)]


async def test_one_delivery_twice_in_a_batch_counts_as_often_as_it_moved(store: Store) -> None:
    _, lane, _, queued = await leased_with_one(store)
    first = make_settled(queued, refused(503))

    await record_settled(store, lane, first, first, make_settled(replace(queued, attempt_count=1)))

    assert numbers(await stats(store)) == [(1, 1, 0)]


async def test_a_lane_that_is_lost_counts_nothing(store: Store) -> None:
    _, lane, _, queued = await leased_with_one(store)

    assert await record(store, replace(lane, token=lane.token + 1), queued, refused(503)) == {lane.webhook_id}

    assert await stats(store) == []


async def test_a_probe_that_failed_counts_for_nothing_and_one_that_got_through_counts(store: Store) -> None:
    _, lane, _, queued = await leased_with_one(store)
    unmoved = make_progress(status=Status.FAILED)
    failed = make_attempt(outcome=refused(503), probe=True)
    await record_settled(store, lane, make_settled(queued, attempt=failed, progress=unmoved))
    assert await stats(store) == []

    await record_settled(store, lane, make_settled(queued, attempt=make_attempt(probe=True)))

    assert numbers(await stats(store)) == [(1, 0, 0)]


@pytest.mark.parametrize(
    ("outcome", "numbered"),
    [(accepted(), (1, 0, 0)), (refused(503), (0, 1, 0)), (refused(503, headers=(("x", "\ud800"),)), (0, 1, 0))],
)
async def test_an_attempt_written_ahead_is_counted_once_by_its_amendment(
    store: Store, outcome: Outcome, numbered: tuple[int, int, int]
) -> None:
    _, lane, _, queued = await leased_with_one(store)
    await record(store, lane, queued, unreachable(ErrorClass.INTERNAL_ERROR))
    assert await stats(store) == []

    for _ in range(2):
        await record_settled(store, lane, make_settled(queued, outcome, amends=True))

    assert numbers(await stats(store)) == [numbered]


@pytest.mark.parametrize(("outcome", "numbered"), [(accepted(), (1, 0, 0)), (refused(503), (0, 0, 1))])
async def test_a_last_attempt_written_ahead_is_counted_once_by_its_amendment(
    store: Store, outcome: Outcome, numbered: tuple[int, int, int]
) -> None:
    _, lane, _, queued = await leased_with_one(store)
    died = unreachable(ErrorClass.INTERNAL_ERROR)
    await record_settled(store, lane, make_settled(queued, died, policy=ONE_ATTEMPT))
    assert await stats(store) == []

    for _ in range(2):
        await record_settled(store, lane, make_settled(queued, outcome, policy=ONE_ATTEMPT, amends=True))

    assert numbers(await stats(store)) == [numbered]


async def test_steps_add_up_what_lies_in_them(store: Store) -> None:
    webhook = await add_webhook(store)
    await emit_many(store, webhook, 3)
    lane = await lease_one(store, webhook)
    hour = start_of_step(NOW, HOUR)
    moments = (hour, hour + 59 * MINUTE, hour + 60 * MINUTE)
    for queued, at in zip((await read(store, webhook)).deliveries, moments, strict=True):
        await record(store, lane, queued, refused(503), at=at)

    buckets = await stats(store, step=HOUR)

    assert [each.start_at for each in buckets] == [hour, hour + HOUR]
    assert numbers(buckets) == [(0, 2, 0), (0, 1, 0)]
    assert [sum(each.tally.latencies) for each in buckets] == [2, 1]


async def test_the_start_belongs_to_what_is_asked_for_and_the_end_does_not(store: Store) -> None:
    _, lane, _, queued = await leased_with_one(store)
    await record(store, lane, queued, refused(503), at=STARTED + SECOND)

    assert len(await stats(store, start=STARTED, end=STARTED + BUCKET)) == 1
    assert await stats(store, start=STARTED - BUCKET, end=STARTED) == []
    assert await stats(store, start=STARTED + BUCKET, end=STARTED + HOUR) == []


async def test_webhooks_are_told_apart_the_newest_first(store: Store) -> None:
    webhooks = [await add_webhook(store) for _ in range(3)]
    for webhook in webhooks:
        await emit_one(store, webhook)
        lane = await lease_one(store, webhook)
        for queued in (await read(store, webhook)).deliveries:
            await record(store, lane, queued, refused(503))

    assert [each.webhook_id for each in await stats(store)] == [each.id for each in reversed(webhooks)]
    assert [each.webhook_id for each in await stats(store, webhook_id=webhooks[1].id)] == [webhooks[1].id]


async def test_one_batch_counts_for_each_of_its_lanes(store: Store) -> None:
    webhooks = [await add_webhook(store) for _ in range(2)]
    outcomes = []
    for webhook in webhooks:
        await emit_many(store, webhook, 2)
        lane = await lease_one(store, webhook)
        settled = [make_settled(queued) for queued in (await read(store, webhook)).deliveries]
        outcomes.append(make_outcomes(lane, settled))

    assert await store.record_attempts(outcomes) == set()

    assert numbers(await stats(store)) == [(2, 0, 0), (2, 0, 0)]


async def test_other_groups_and_deleted_webhooks_are_not_shown(store: Store) -> None:
    webhook, lane, _, queued = await leased_with_one(store)
    await record(store, lane, queued, refused(503))
    other = make_group(name="another", id=new_id("grp"))
    await store.add_group(other)

    assert await stats(store, group_id=other.id) == []
    assert await stats(store, group_id=other.id, webhook_id=webhook.id) == []
    await store.delete_webhook(GROUP_ID, webhook.id, now=NOW)
    assert await stats(store) == []
