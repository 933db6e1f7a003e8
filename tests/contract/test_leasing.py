"""`LaneStore.lease_lanes`: one owner at a time, each with a token of its own."""

import asyncio
from datetime import timedelta

from tests.builders import accepted
from tests.contract.backends import Store
from tests.contract.steps import (
    ADA,
    EVE,
    HOUR,
    LEASE,
    SECOND,
    add_webhook,
    edit_webhook,
    emit_one,
    give_back,
    lease,
    lease_one,
    read_one,
    record,
    webhook_due_at,
)
from tests.fakes import NOW

from gatepost.domain.webhooks import Webhook

MS = timedelta(milliseconds=1)


async def test_a_due_lane_is_leased_for_the_first_time_clean_and_with_a_window_of_one(store: Store) -> None:
    webhook = await due_webhook(store)

    lane = await lease_one(store, webhook)

    assert (lane.webhook_id, lane.unclean, lane.window) == (webhook.id, 0, 1)


async def test_without_a_due_lane_nothing_is_leased(store: Store) -> None:
    leased = await store.lease_lanes(ADA, limit=10, now=NOW, lease=LEASE)

    assert list(leased.lanes) == []
    assert leased.next_due_at is None


async def test_a_lane_is_leased_from_the_moment_it_is_due(store: Store) -> None:
    webhook = await webhook_due_at(store, NOW + HOUR)

    before = await lease(store, now=NOW + HOUR - MS)
    after = await lease(store, now=NOW + HOUR)

    assert (set(before), set(after)) == (set(), {webhook.id})


async def test_a_leased_lane_is_leased_to_nobody_else_and_not_again_to_its_owner(
    store: Store, other_store: Store
) -> None:
    await due_webhook(store)
    await lease(store, ADA)

    again = [
        await lease(store, ADA),
        await lease(other_store, EVE),
        await lease(other_store, EVE, now=NOW + LEASE - MS),
    ]

    assert again == [{}, {}, {}]


async def test_a_poke_does_not_end_a_lease(store: Store, other_store: Store) -> None:
    webhook = await due_webhook(store)
    await lease(store, ADA)

    await emit_one(store, webhook)

    assert await lease(other_store, EVE) == {}


async def test_the_longest_due_come_first_and_no_more_than_were_asked_for(store: Store) -> None:
    second, third, first = [await webhook_due_at(store, NOW + n * SECOND) for n in (2, 3, 1)]

    leased = [
        await store.lease_lanes(ADA, limit=2, now=NOW + HOUR, lease=LEASE),
        await store.lease_lanes(EVE, limit=2, now=NOW + HOUR, lease=LEASE),
    ]

    assert [[lane.webhook_id for lane in each.lanes] for each in leased] == [[first.id, second.id], [third.id]]


async def test_the_answer_says_when_the_next_lane_will_be_due(store: Store) -> None:
    due = await webhook_due_at(store, NOW)
    await webhook_due_at(store, NOW + 2 * HOUR)
    await webhook_due_at(store, NOW + HOUR + MS)

    leased = await store.lease_lanes(ADA, limit=10, now=NOW, lease=LEASE)

    assert [lane.webhook_id for lane in leased.lanes] == [due.id]
    assert leased.next_due_at == NOW + HOUR + MS


async def test_a_lane_that_is_held_is_not_the_next(store: Store) -> None:
    disabled = await webhook_due_at(store, NOW + 2 * HOUR)
    await edit_webhook(store, disabled, now=NOW + HOUR, enabled=False)

    leased = await store.lease_lanes(ADA, limit=10, now=NOW, lease=LEASE)

    assert (list(leased.lanes), leased.next_due_at) == ([], None)


async def test_a_lane_that_is_leased_is_not_the_next(store: Store, other_store: Store) -> None:
    await webhook_due_at(store, NOW + HOUR)
    await lease(other_store, EVE, now=NOW + HOUR)  # whose clock is a second ahead of ours

    leased = await store.lease_lanes(ADA, limit=10, now=NOW + HOUR - SECOND, lease=LEASE)

    assert (list(leased.lanes), leased.next_due_at) == ([], None)


# --- tokens and leases that end ------------------------------------------------------------------------------


async def test_each_lease_raises_the_token(store: Store, other_store: Store) -> None:
    webhook = await due_webhook(store)
    tokens = []
    for n, (handle, owner) in enumerate([(store, ADA), (other_store, EVE), (store, ADA)]):
        now = NOW + n * HOUR
        lane = await lease_one(handle, webhook, owner, now=now)
        tokens.append(lane.token)
        if n == 1:
            await give_back(handle, webhook, lane, now=now)

    assert tokens == sorted(set(tokens))
    assert len(tokens) == 3


async def test_a_lease_that_ended_is_none(store: Store, other_store: Store) -> None:
    webhook = await due_webhook(store)
    await lease(store, ADA)

    leased = await lease(other_store, EVE, now=NOW + LEASE + MS)

    assert set(leased) == {webhook.id}


async def test_a_lease_further_ahead_than_twice_its_length_is_none(store: Store, other_store: Store) -> None:
    webhook = await due_webhook(store)
    await lease(store, ADA, now=NOW + LEASE + 2 * SECOND)

    leased = await lease(other_store, EVE, now=NOW)

    assert set(leased) == {webhook.id}


async def test_a_lease_no_further_ahead_than_twice_its_length_stands(store: Store, other_store: Store) -> None:
    await due_webhook(store)
    await lease(store, ADA, now=NOW + LEASE - 2 * SECOND)

    assert await lease(other_store, EVE, now=NOW) == {}


async def test_two_processes_that_lease_at_once_never_get_the_same_lane(store: Store, other_store: Store) -> None:
    webhooks = [await due_webhook(store) for _ in range(30)]
    leasers = [(store, ADA), (other_store, EVE)] * 5

    leased = await asyncio.gather(*(lease(handle, owner, limit=4) for handle, owner in leasers))

    granted = [webhook_id for lanes in leased for webhook_id in lanes]
    assert len(granted) == len(set(granted))
    rest = await lease(store, ADA)
    assert sorted([*granted, *rest]) == sorted(webhook.id for webhook in webhooks)


async def test_two_processes_that_take_over_at_once_never_get_the_same_lane(store: Store, other_store: Store) -> None:
    webhooks = [await due_webhook(store) for _ in range(12)]
    await lease(store, "owner-gone")
    now = NOW + HOUR

    leased = await asyncio.gather(*(lease(*leaser, now=now) for leaser in [(store, ADA), (other_store, EVE)] * 3))

    assert sorted(webhook_id for lanes in leased for webhook_id in lanes) == sorted(each.id for each in webhooks)


# --- what a lane remembers -----------------------------------------------------------------------------------


async def test_each_take_over_of_a_lane_that_was_not_released_adds_one_to_unclean(store: Store) -> None:
    webhook = await due_webhook(store)

    lanes = [await lease_one(store, webhook, owner, now=NOW + n * HOUR) for n, owner in enumerate([ADA, EVE, ADA])]

    assert [lane.unclean for lane in lanes] == [0, 1, 2]


async def test_a_take_over_because_a_clock_stepped_back_is_unclean_too(store: Store, other_store: Store) -> None:
    webhook = await due_webhook(store)
    await lease(store, ADA, now=NOW + HOUR)

    assert (await lease_one(other_store, webhook, EVE)).unclean == 1


async def test_a_lane_that_was_released_is_taken_clean(store: Store) -> None:
    webhook = await due_webhook(store)
    await give_back(store, webhook, await lease_one(store, webhook))

    lane = await lease_one(store, webhook, EVE, now=NOW + HOUR)

    assert lane.unclean == 0


async def test_a_recorded_outcome_sets_unclean_back_to_zero(store: Store) -> None:
    webhook = await due_webhook(store)
    for n in range(3):
        lane = await lease_one(store, webhook, now=NOW + n * HOUR)
    await record(store, lane, await read_one(store, webhook), accepted())
    await emit_one(store, webhook)

    lane = await lease_one(store, webhook, now=NOW + 3 * HOUR)

    assert lane.unclean == 1


async def test_the_window_last_recorded_is_kept_for_the_next_owner(store: Store) -> None:
    webhook = await due_webhook(store)
    lane = await lease_one(store, webhook)
    await record(store, lane, await read_one(store, webhook), accepted(), window=7)
    await give_back(store, webhook, lane)
    await emit_one(store, webhook)

    lane = await lease_one(store, webhook, EVE)

    assert lane.window == 7


async def due_webhook(store: Store) -> Webhook:
    webhook = await add_webhook(store)
    await emit_one(store, webhook)
    return webhook
