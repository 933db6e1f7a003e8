"""`LaneStore.lease_lanes` and `renew_lanes` among several owners: what part of the lanes each of them gets."""

from collections.abc import Sequence
from datetime import datetime

import pytest
from tests.contract.backends import Store
from tests.contract.steps import (
    ADA,
    EVE,
    LEASE,
    add_webhook,
    edit_webhook,
    emit_one,
    lease,
    pokes_of,
    read,
)
from tests.fakes import NOW

from gatepost.domain.webhooks import Webhook
from gatepost.ports import LeasedLane, Release

LATER = NOW + LEASE / 3  # when owners are seen for the first time after they joined
EACH_OF_TWO = 6  # half of ten, and one more


async def stay(store: Store, owner: str = ADA) -> None:
    """Join, and renew for the first time."""
    await store.join(owner, now=NOW)
    await store.renew_lanes(owner, {}, now=LATER, lease=LEASE)


async def due_webhooks(store: Store, count: int = 10) -> Sequence[Webhook]:
    webhooks = [await add_webhook(store) for _ in range(count)]
    for webhook in webhooks:
        await emit_one(store, webhook)
    return webhooks


def tokens_of(lanes: dict[str, LeasedLane]) -> dict[str, int]:
    return {webhook_id: lane.token for webhook_id, lane in lanes.items()}


async def surplus_of(store: Store, owner: str, lanes: dict[str, LeasedLane], *, now: datetime = LATER) -> int:
    return (await store.renew_lanes(owner, tokens_of(lanes), now=now, lease=LEASE)).surplus


async def test_an_owner_that_is_alone_gets_everything(store: Store) -> None:
    webhooks = await due_webhooks(store)
    await stay(store)

    leased = await lease(store, ADA, now=LATER)

    assert set(leased) == {webhook.id for webhook in webhooks}
    assert await surplus_of(store, ADA, leased) == 0


async def test_of_two_each_gets_half_and_one_more_however_often_it_asks(store: Store, other_store: Store) -> None:
    await due_webhooks(store)
    await stay(store)
    await stay(other_store, EVE)

    first = await lease(store, ADA, now=LATER)
    again = await lease(store, ADA, now=LATER)
    rest = await lease(other_store, EVE, now=LATER)

    assert (len(first), len(again), len(rest)) == (EACH_OF_TWO, 0, 10 - EACH_OF_TWO)
    assert first.keys().isdisjoint(rest)


async def test_a_share_does_not_raise_the_limit(store: Store, other_store: Store) -> None:
    await due_webhooks(store)
    await stay(store)
    await stay(other_store, EVE)
    assert len(await lease(store, ADA, now=LATER, limit=2)) == 2


async def test_an_owner_that_has_just_joined_is_left_nothing_yet(store: Store, other_store: Store) -> None:
    await due_webhooks(store)
    await stay(store)
    await other_store.join(EVE, now=LATER)

    leased = await lease(store, ADA, now=LATER)

    assert len(leased) == 10
    assert await surplus_of(store, ADA, leased) == 0


@pytest.mark.parametrize(("stays_for", "counts"), [(LEASE / 5, False), (LEASE / 3, True)])
async def test_an_owner_that_stays_is_made_room_for(
    store: Store, other_store: Store, stays_for: object, counts: bool
) -> None:
    await due_webhooks(store)
    await stay(store)
    leased = await lease(store, ADA, now=LATER)
    await other_store.join(EVE, now=LATER)
    await other_store.renew_lanes(EVE, {}, now=LATER + stays_for, lease=LEASE)

    surplus = await surplus_of(store, ADA, leased, now=LATER + LEASE / 3)

    assert surplus == (10 - EACH_OF_TWO if counts else 0)


async def test_a_process_that_dies_at_each_start_takes_no_lanes_from_others(store: Store, other_store: Store) -> None:
    await due_webhooks(store)
    await stay(store)
    for number in range(8):
        await other_store.join(f"owner-{number}", now=LATER)

    assert len(await lease(store, ADA, now=LATER)) == 10


async def test_an_owner_not_seen_for_a_lease_counts_no_more(store: Store, other_store: Store) -> None:
    await due_webhooks(store)
    await stay(store)
    await stay(other_store, EVE)
    leased = await lease(store, ADA, now=LATER + LEASE)
    assert len(leased) == 10


async def test_an_owner_that_retires_keeps_its_lanes_and_counts_no_more(store: Store, other_store: Store) -> None:
    await due_webhooks(store)
    await stay(store)
    await stay(other_store, EVE)
    held = await lease(other_store, EVE, now=LATER)

    await other_store.retire(EVE)
    renewed = await other_store.renew_lanes(EVE, tokens_of(held), now=LATER, lease=LEASE)

    assert renewed.lost == set()
    assert len(await lease(store, ADA, now=LATER)) == 10 - len(held)


async def test_an_owner_seen_in_the_future_is_not_alive(store: Store, other_store: Store) -> None:
    await due_webhooks(store)
    await other_store.join(EVE, now=LATER)
    await other_store.renew_lanes(EVE, {}, now=LATER + 5 * LEASE, lease=LEASE)  # the clock was set back since

    assert len(await lease(store, ADA, now=LATER)) == 10


async def test_an_owner_that_left_counts_no_more(store: Store, other_store: Store) -> None:
    await due_webhooks(store)
    await stay(store)
    await stay(other_store, EVE)
    held = await lease(other_store, EVE, now=LATER)
    await other_store.leave(EVE)

    assert len(held) == EACH_OF_TWO
    assert len(await lease(store, ADA, now=LATER)) == 10


async def test_held_lanes_and_lanes_not_due_are_nobodys_share(store: Store, other_store: Store) -> None:
    for webhook in await due_webhooks(store, 6):
        await edit_webhook(store, webhook, enabled=False)
    for _ in range(6):
        await add_webhook(store)
    await due_webhooks(store, 4)
    await stay(store)
    await stay(other_store, EVE)

    assert len(await lease(store, ADA, now=LATER)) == 3


async def test_a_lane_handed_back_goes_to_another_owner_however_often_it_is_poked(
    store: Store, other_store: Store
) -> None:
    webhooks = await due_webhooks(store)
    await stay(store)
    leased = await lease(store, ADA, now=LATER)
    await stay(other_store, EVE)
    going = [webhook for webhook in webhooks if webhook.id in leased][:4]
    for webhook in going:
        await emit_one(store, webhook)

    released = await store.release_lanes([Release(each.id, leased[each.id].token, None) for each in going])
    ours = await lease(store, ADA, now=LATER)
    theirs = await lease(other_store, EVE, now=LATER)

    assert released == {webhook.id for webhook in going} == set(theirs)
    assert ours == {}
    assert {lane.unclean for lane in theirs.values()} == {0}
    assert [len((await read(other_store, webhook)).deliveries) for webhook in going] == [2] * 4


async def test_an_empty_lane_handed_back_is_due_until_somebody_has_looked(store: Store) -> None:
    webhook = await add_webhook(store)
    await emit_one(store, webhook)
    lane = (await lease(store))[webhook.id]
    pokes = await pokes_of(store, webhook.id)

    assert await store.release_lanes([Release(webhook.id, lane.token, None)]) == {webhook.id}

    again = (await lease(store))[webhook.id]
    assert (again.token, again.pokes) == (lane.token + 1, pokes)


async def test_a_lane_that_was_lost_is_not_handed_back(store: Store, other_store: Store) -> None:
    webhook = await add_webhook(store)
    await emit_one(store, webhook)
    lane = (await lease(store))[webhook.id]
    taken = (await lease(other_store, EVE, now=NOW + 2 * LEASE))[webhook.id]

    assert await store.release_lanes([Release(webhook.id, lane.token, None)]) == set()
    assert not (await other_store.renew_lanes(EVE, {webhook.id: taken.token}, now=NOW, lease=LEASE)).lost
