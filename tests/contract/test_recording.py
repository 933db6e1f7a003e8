"""`LaneStore.record_attempts`: each attempt is kept once, under a lease that stands, and moves its delivery on."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from tests.builders import (
    GROUP_ID,
    accepted,
    make_outcomes,
    make_settled,
    new_id,
    refused,
    unreachable,
)
from tests.contract.backends import Store
from tests.contract.steps import (
    EVE,
    HOUR,
    add_webhook,
    detail,
    emit_many,
    emit_one,
    lease,
    lease_one,
    leased_with_one,
    read,
    read_one,
    record,
    record_settled,
)
from tests.fakes import NOW

from gatepost.domain.deliveries import Status
from gatepost.domain.outcomes import ErrorClass, Outcome, Refused, Unreachable
from gatepost.ports import LeasedLane

MS = timedelta(milliseconds=1)


async def test_an_attempt_is_written_and_its_delivery_moves_on(store: Store, other_store: Store) -> None:
    _, lane, delivery, queued = await leased_with_one(store)
    settled = make_settled(queued, refused(503), at=NOW + MS)

    lost = await record_settled(store, lane, settled)

    found = await detail(other_store, delivery)
    assert lost == set()
    assert found.delivery == replace(delivery, progress=settled.progress)
    assert list(found.attempts) == [settled.attempt]


async def test_each_outcome_goes_to_its_own_delivery(store: Store) -> None:
    webhooks = [await add_webhook(store) for _ in range(3)]
    deliveries = [await emit_one(store, webhook) for webhook in webhooks for _ in range(3)]
    lanes = await lease(store)
    outcomes: list[Outcome] = [accepted(), refused(500), unreachable()] * 3
    settled = {
        queued.id: make_settled(queued, outcomes.pop())
        for webhook in webhooks
        for queued in (await read(store, webhook)).deliveries
    }

    lost = await store.record_attempts(
        [
            make_outcomes(lane, [each for each in settled.values() if each.delivery.webhook_id == lane.webhook_id])
            for lane in lanes.values()
        ]
    )

    assert lost == set()
    for delivery in deliveries:
        found = await detail(store, delivery)
        assert found.delivery.progress == settled[delivery.id].progress
        assert list(found.attempts) == [settled[delivery.id].attempt]


async def test_two_attempts_of_one_delivery_in_one_batch_are_both_written(store: Store) -> None:
    _, lane, delivery, queued = await leased_with_one(store)
    first = make_settled(queued, refused())
    second = make_settled(replace(queued, attempt_count=1), accepted(), at=NOW + HOUR)

    await record_settled(store, lane, first, second)

    found = await detail(store, delivery)
    assert found.delivery.progress == second.progress
    assert list(found.attempts) == [first.attempt, second.attempt]


async def test_a_batch_of_any_size_is_written_whole(store: Store) -> None:
    webhook = await add_webhook(store)
    await emit_many(store, webhook, 600)
    lane = await lease_one(store, webhook)
    queued = (await read(store, webhook, limit=1_000)).deliveries
    outcomes: list[Outcome] = [accepted(), refused(500)] * 300
    settled = [make_settled(each, outcome) for each, outcome in zip(queued, outcomes, strict=True)]

    lost = await record_settled(store, lane, *settled)

    assert lost == set()
    for each in settled[::100] + settled[-3:]:
        found = await detail(store, each.delivery)
        assert (found.delivery.progress, list(found.attempts)) == (each.progress, [each.attempt])
    unfinished = await read(store, webhook, now=NOW + HOUR, limit=1_000)
    assert len(unfinished.deliveries) == 300


async def test_an_empty_batch_records_nothing_and_loses_nothing(store: Store) -> None:
    assert await store.record_attempts([]) == set()


async def test_recording_makes_no_lane_due_later_or_sooner(store: Store) -> None:
    webhook, lane, _, queued = await leased_with_one(store)
    pokes = (await read(store, webhook)).pokes

    await record(store, lane, queued, refused())

    assert (await read(store, webhook)).pokes == pokes
    assert set(await lease(store, EVE, now=NOW + HOUR)) == {webhook.id}


# --- the fence -----------------------------------------------------------------------------------------------


async def test_a_stale_token_records_nothing(store: Store, other_store: Store) -> None:
    webhook, lane, delivery, queued = await leased_with_one(store)
    await lease_one(other_store, webhook, EVE, now=NOW + HOUR)

    lost = await record(store, lane, queued, accepted())

    found = await detail(store, delivery)
    assert lost == {webhook.id}
    assert (found.delivery, list(found.attempts)) == (delivery, [])


async def test_a_stale_token_takes_nothing_back_from_the_new_owner(store: Store, other_store: Store) -> None:
    webhook, lane, delivery, queued = await leased_with_one(store)
    theirs = await lease_one(other_store, webhook, EVE, now=NOW + HOUR)
    await record(other_store, theirs, queued, refused(500), window=5)
    recorded = await detail(store, delivery)

    await record(store, lane, queued, accepted(), window=9)

    assert await detail(store, delivery) == recorded
    assert (await lease_one(store, webhook, now=NOW + 2 * HOUR)).window == 5


async def test_a_stale_token_leaves_unclean_as_it_is(store: Store) -> None:
    webhook, lane, _, queued = await leased_with_one(store)
    await lease_one(store, webhook, EVE, now=NOW + HOUR)

    await record(store, lane, queued, accepted())

    assert (await lease_one(store, webhook, now=NOW + 2 * HOUR)).unclean == 2


async def test_the_neighbours_of_a_stale_token_are_written(store: Store, other_store: Store) -> None:
    (lost_one, lost_lane, _, lost_queued), *kept = [await leased_with_one(store) for _ in range(3)]
    await lease_one(other_store, lost_one, EVE, now=NOW + HOUR)  # takes all three
    lanes = await lease(store, now=NOW + 2 * HOUR)
    batch = [make_outcomes(lost_lane, [make_settled(lost_queued)])]
    for n, (webhook, _, _, queued) in enumerate(kept):
        batch.insert(2 * n, make_outcomes(lanes[webhook.id], [make_settled(queued)]))

    lost = await store.record_attempts(batch)

    assert lost == {lost_one.id}
    for _, _, delivery, _ in kept:
        assert (await detail(store, delivery)).delivery.progress.status is Status.DELIVERED


async def test_a_lane_that_is_not_there_is_lost(store: Store) -> None:
    lane = LeasedLane(webhook_id=new_id("wh"), token=1, pokes=0, unclean=0, window=1)

    lost = await store.record_attempts([make_outcomes(lane, [make_settled()])])

    assert lost == {lane.webhook_id}


async def test_whoever_takes_over_while_an_outcome_is_recorded_sees_it_or_it_is_lost(
    store: Store, other_store: Store
) -> None:
    for _ in range(10):
        webhook, lane, delivery, queued = await leased_with_one(store)

        lost, taken = await asyncio.gather(
            record(store, lane, queued, accepted()), lease(other_store, EVE, now=NOW + HOUR)
        )

        if webhook.id not in taken:  # it was passed over while it was written to
            taken = await lease(other_store, EVE, now=NOW + HOUR)
        seen = (await read(other_store, webhook, now=NOW + HOUR)).deliveries
        attempts = (await detail(store, delivery)).attempts
        assert webhook.id in taken
        assert (bool(lost), len(attempts), len(seen)) in [(True, 0, 1), (False, 1, 0)]


# --- once, and in order --------------------------------------------------------------------------------------


async def test_recording_twice_changes_nothing(store: Store, other_store: Store) -> None:
    _, lane, delivery, queued = await leased_with_one(store)
    settled = make_settled(queued, refused(503))
    await record_settled(store, lane, settled)
    once = await detail(store, delivery)

    lost = await record_settled(store, lane, settled) | await record_settled(other_store, lane, settled)

    assert lost == set()
    assert await detail(store, delivery) == once


async def test_of_two_attempts_with_one_number_the_first_recorded_is_kept(store: Store) -> None:
    _, lane, delivery, queued = await leased_with_one(store)
    await record(store, lane, queued, refused(503))
    once = await detail(store, delivery)

    lost = await record(store, lane, queued, accepted(), at=NOW + HOUR)

    assert lost == set()
    assert await detail(store, delivery) == once


async def test_attempt_numbers_cannot_skip(store: Store) -> None:
    _, lane, delivery, queued = await leased_with_one(store)

    await record(store, lane, replace(queued, attempt_count=1), accepted())

    found = await detail(store, delivery)
    assert found.delivery == delivery
    assert list(found.attempts) == []


async def test_an_attempt_already_recorded_does_not_keep_its_batch_from_being_written(store: Store) -> None:
    webhook, lane, first, queued = await leased_with_one(store)
    await record(store, lane, queued, refused())
    second = await emit_one(store, webhook)
    fresh = make_settled(await read_one(store, webhook))

    await record_settled(store, lane, make_settled(queued, accepted()), fresh)

    assert (await detail(store, first)).delivery.progress.status is Status.FAILED
    assert (await detail(store, second)).delivery.progress == fresh.progress


@pytest.mark.parametrize("ending", [accepted(), refused(500)])
async def test_a_finished_delivery_never_changes_again(store: Store, ending: Outcome) -> None:
    _, lane, delivery, queued = await leased_with_one(store)
    last = make_settled(queued, ending)
    over = replace(last.progress, finished_at=NOW, next_attempt_at=None)
    if isinstance(ending, Refused):
        over = replace(over, status=Status.DEAD_LETTER)
    await record_settled(store, lane, replace(last, progress=over))
    finished = await detail(store, delivery)

    for outcome in (accepted(201), refused(500)):
        await record(store, lane, replace(queued, attempt_count=1), outcome, at=NOW + HOUR)

    assert await detail(store, delivery) == finished


async def test_an_attempt_that_was_under_way_does_not_raise_what_the_sweep_buried(store: Store) -> None:
    webhook, lane, delivery, queued = await leased_with_one(store)
    await store.delete_webhook(GROUP_ID, webhook.id, now=NOW)
    await store.sweep(now=NOW + HOUR)  # the lease is over
    buried = (await detail(store, delivery)).delivery

    await record(store, lane, queued, accepted(), at=NOW + HOUR)

    assert (await detail(store, delivery)).delivery == buried


async def test_what_is_in_flight_when_its_webhook_is_deleted_is_recorded_as_it_ends(store: Store) -> None:
    webhook, lane, delivery, queued = await leased_with_one(store)
    await store.delete_webhook(GROUP_ID, webhook.id, now=NOW)
    await store.sweep(now=NOW)

    await record(store, lane, queued, accepted())

    assert (await detail(store, delivery)).delivery.progress.status is Status.DELIVERED


# --- attempts written ahead ----------------------------------------------------------------------------------


DIED = Unreachable(ErrorClass.INTERNAL_ERROR, "process died")


@pytest.mark.parametrize("outcome", [accepted(), refused(503), unreachable()])
async def test_an_amendment_takes_the_place_of_the_attempt_written_ahead(store: Store, outcome: Outcome) -> None:
    _, lane, delivery, queued = await leased_with_one(store)
    await record(store, lane, queued, DIED)
    amended = make_settled(queued, outcome, at=NOW + MS, amends=True)

    lost = await record_settled(store, lane, amended) | await record_settled(store, lane, amended)

    found = await detail(store, delivery)
    assert lost == set()
    assert found.delivery.progress == amended.progress
    assert list(found.attempts) == [amended.attempt]


async def test_an_amendment_may_undo_the_end_that_was_written_ahead(store: Store) -> None:
    _, lane, delivery, queued = await leased_with_one(store)
    for n in range(2):
        await record(store, lane, replace(queued, attempt_count=n), refused(), at=NOW + n * HOUR)
    last = replace(queued, attempt_count=2)
    await record(store, lane, last, DIED, at=NOW + 2 * HOUR)
    amended = make_settled(last, accepted(), at=NOW + 2 * HOUR, amends=True)

    await record_settled(store, lane, amended)

    found = await detail(store, delivery)
    assert found.delivery.progress == amended.progress
    assert [attempt.number for attempt in found.attempts] == [1, 2, 3]
    assert found.attempts[2] == amended.attempt


async def test_an_amendment_is_fenced_too(store: Store, other_store: Store) -> None:
    webhook, lane, delivery, queued = await leased_with_one(store)
    await record(store, lane, queued, DIED)
    await lease_one(other_store, webhook, EVE, now=NOW + HOUR)
    written_ahead = await detail(store, delivery)

    lost = await record_settled(store, lane, make_settled(queued, accepted(), amends=True))

    assert lost == {webhook.id}
    assert await detail(store, delivery) == written_ahead


async def test_an_amendment_of_an_earlier_attempt_changes_nothing(store: Store) -> None:
    _, lane, delivery, queued = await leased_with_one(store)
    await record(store, lane, queued, refused())
    await record(store, lane, replace(queued, attempt_count=1), refused(), at=NOW + HOUR)
    before = await detail(store, delivery)

    await record_settled(store, lane, make_settled(queued, accepted(), amends=True))

    assert await detail(store, delivery) == before


async def test_an_amendment_does_not_raise_what_the_sweep_buried(store: Store) -> None:
    webhook, lane, delivery, queued = await leased_with_one(store)
    await record(store, lane, queued, DIED)
    await store.delete_webhook(GROUP_ID, webhook.id, now=NOW)
    await store.sweep(now=NOW + HOUR)
    buried = (await detail(store, delivery)).delivery

    await record_settled(store, lane, make_settled(queued, accepted(), amends=True))

    assert (await detail(store, delivery)).delivery == buried


async def test_what_an_amendment_delivered_is_delivered_for_good(store: Store) -> None:
    _, lane, delivery, queued = await leased_with_one(store)
    await record(store, lane, queued, DIED)
    await record_settled(store, lane, make_settled(queued, accepted(), amends=True))
    delivered = await detail(store, delivery)

    await record_settled(store, lane, make_settled(queued, refused(), amends=True))

    assert await detail(store, delivery) == delivered
