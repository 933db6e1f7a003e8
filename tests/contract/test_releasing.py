"""`LaneStore.renew_lanes` and `release_lanes`: keeping a lane, and giving it back without losing a poke."""

import asyncio
from datetime import timedelta

from tests.builders import accepted, new_id, refused
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
    leased_with_one,
    pokes_of,
    read,
    read_one,
    record,
    release,
)
from tests.fakes import NOW

from gatepost.ports import Release

MS = timedelta(milliseconds=1)
FAR_AWAY = NOW + 100_000 * HOUR


# --- renewing ------------------------------------------------------------------------------------------------


async def test_renewing_extends_a_lease(store: Store, other_store: Store) -> None:
    webhook, lane, *_ = await leased_with_one(store)

    lost = (await store.renew_lanes(ADA, {webhook.id: lane.token}, now=NOW + 20 * SECOND, lease=LEASE)).lost

    assert lost == set()
    assert await lease(other_store, EVE, now=NOW + 50 * SECOND - MS) == {}
    assert set(await lease(other_store, EVE, now=NOW + 50 * SECOND + MS)) == {webhook.id}


async def test_renewing_keeps_the_token(store: Store) -> None:
    webhook, lane, _, queued = await leased_with_one(store)

    await store.renew_lanes(ADA, {webhook.id: lane.token}, now=NOW + 20 * SECOND, lease=LEASE)

    assert (await read(store, webhook)).token == lane.token
    assert await record(store, lane, queued, accepted()) == set()


async def test_only_the_lanes_that_are_named_are_renewed(store: Store, other_store: Store) -> None:
    webhooks = [await add_webhook(store) for _ in range(2)]
    for webhook in webhooks:
        await emit_one(store, webhook)
    lanes = await lease(store)
    named, unnamed = webhooks

    await store.renew_lanes(ADA, {named.id: lanes[named.id].token}, now=NOW + 20 * SECOND, lease=LEASE)

    assert set(await lease(other_store, EVE, now=NOW + 40 * SECOND)) == {unnamed.id}


async def test_a_lane_that_somebody_took_over_is_lost_and_stays_with_them(store: Store, other_store: Store) -> None:
    webhook, lane, *_ = await leased_with_one(store)
    kept, kept_lane, *_ = await leased_with_one(store)
    tokens = {webhook.id: lane.token, kept.id: kept_lane.token}
    await store.renew_lanes(ADA, {kept.id: kept_lane.token}, now=NOW + 20 * SECOND, lease=LEASE)
    theirs = await lease_one(other_store, webhook, EVE, now=NOW + 40 * SECOND)

    lost = (await store.renew_lanes(ADA, tokens, now=NOW + 45 * SECOND, lease=LEASE)).lost

    assert lost == {webhook.id}
    assert (await read(store, webhook)).token == theirs.token
    assert set(await lease(store, ADA, now=NOW + 70 * SECOND + MS)) == {webhook.id}


async def test_an_earlier_lease_of_the_same_owner_is_lost_too(store: Store) -> None:
    webhook, lane, *_ = await leased_with_one(store)
    again = await lease_one(store, webhook, ADA, now=NOW + HOUR)

    lost = (await store.renew_lanes(ADA, {webhook.id: lane.token}, now=NOW + HOUR, lease=LEASE)).lost

    assert again.token > lane.token
    assert lost == {webhook.id}


async def test_a_lease_that_lapsed_but_that_nobody_took_is_extended(store: Store, other_store: Store) -> None:
    webhook, lane, *_ = await leased_with_one(store)

    lost = (await store.renew_lanes(ADA, {webhook.id: lane.token}, now=NOW + HOUR, lease=LEASE)).lost

    assert lost == set()
    assert await lease(other_store, EVE, now=NOW + HOUR) == {}


async def test_a_lane_that_was_given_back_is_lost_and_not_leased_again(store: Store, other_store: Store) -> None:
    webhook, lane, *_ = await leased_with_one(store)
    await give_back(store, webhook, lane)

    lost = (await store.renew_lanes(ADA, {webhook.id: lane.token}, now=NOW, lease=LEASE)).lost

    assert lost == {webhook.id}
    assert set(await lease(other_store, EVE)) == {webhook.id}


async def test_a_lane_that_is_not_there_is_lost(store: Store) -> None:
    unknown = new_id("wh")

    assert (await store.renew_lanes(ADA, {unknown: 1}, now=NOW, lease=LEASE)).lost == {unknown}
    assert (await store.renew_lanes(ADA, {}, now=NOW, lease=LEASE)).lost == set()


# --- releasing -----------------------------------------------------------------------------------------------


async def test_a_lane_given_back_can_be_leased_when_its_next_attempt_is_due(store: Store, other_store: Store) -> None:
    webhook, lane, _, queued = await leased_with_one(store)
    await emit_one(store, webhook, due_at=NOW + HOUR)
    await record(store, lane, queued, refused())
    retry_at = NOW + 5 * SECOND  # by the builders' policy

    assert await release(store, lane, pokes=await pokes_of(store, webhook.id))

    before = await other_store.lease_lanes(EVE, limit=10, now=retry_at - MS, lease=LEASE)
    assert (list(before.lanes), before.next_due_at) == ([], retry_at)
    assert set(await lease(other_store, EVE, now=retry_at)) == {webhook.id}


async def test_a_lane_given_back_with_something_due_can_be_leased_at_once(store: Store, other_store: Store) -> None:
    webhook, lane, *_ = await leased_with_one(store)

    await give_back(store, webhook, lane)

    assert set(await lease(other_store, EVE)) == {webhook.id}


async def test_a_lane_given_back_with_nothing_unfinished_is_never_due(store: Store) -> None:
    webhook, lane, _, queued = await leased_with_one(store)
    await record(store, lane, queued, accepted())

    await give_back(store, webhook, lane)

    leased = await store.lease_lanes(EVE, limit=10, now=FAR_AWAY, lease=LEASE)
    assert (list(leased.lanes), leased.next_due_at) == ([], None)


async def test_a_lane_that_was_never_due_again_is_due_once_something_is_emitted(store: Store) -> None:
    webhook, lane, _, queued = await leased_with_one(store)
    await record(store, lane, queued, accepted())
    await give_back(store, webhook, lane)

    await emit_one(store, webhook)

    assert set(await lease(store, EVE)) == {webhook.id}


async def test_a_poke_since_the_last_look_keeps_the_lane(store: Store, other_store: Store) -> None:
    webhook, lane, _, queued = await leased_with_one(store)
    await record(store, lane, queued, accepted())
    looked = await read(store, webhook)
    late = await emit_one(other_store, webhook)

    given_back = await release(store, lane, pokes=looked.pokes)

    assert not given_back
    assert await lease(other_store, EVE) == {}
    assert (await read_one(store, webhook)).id == late.id
    assert await record(store, lane, await read_one(store, webhook), accepted()) == set()


async def test_a_lane_kept_because_of_a_poke_is_given_back_after_another_look(store: Store) -> None:
    webhook, lane, *_ = await leased_with_one(store)
    looked = await read(store, webhook)
    await emit_one(store, webhook)
    await release(store, lane, pokes=looked.pokes)

    assert await release(store, lane, pokes=(await read(store, webhook)).pokes)


async def test_a_stale_token_gives_nothing_back(store: Store, other_store: Store) -> None:
    webhook, lane, *_ = await leased_with_one(store)
    theirs = await lease_one(other_store, webhook, EVE, now=NOW + HOUR)

    given_back = await release(store, lane, pokes=await pokes_of(store, webhook.id))

    assert not given_back
    assert await lease(store, now=NOW + HOUR) == {}
    assert (await read(store, webhook)).token == theirs.token


async def test_each_lane_is_given_back_or_kept_on_its_own(store: Store) -> None:
    (kept, kept_lane, *_), (free, free_lane, *_) = [await leased_with_one(store) for _ in range(2)]
    pokes = {webhook.id: await pokes_of(store, webhook.id) for webhook in (kept, free)}
    await emit_one(store, kept)

    given_back = await store.release_lanes(
        [
            Release(kept.id, kept_lane.token, pokes[kept.id]),
            Release(free.id, free_lane.token, pokes[free.id]),
            Release(new_id("wh"), 1, 0),
        ]
    )

    assert given_back == {free.id}
    assert set(await lease(store, EVE)) == {free.id}
    assert await store.release_lanes([]) == set()


async def test_an_edit_since_the_last_look_keeps_the_lane(store: Store) -> None:
    webhook, lane, *_ = await leased_with_one(store)
    looked = await read(store, webhook)
    await edit_webhook(store, webhook)

    assert not await release(store, lane, pokes=looked.pokes)


async def test_no_poke_is_lost_to_a_release_at_the_same_moment(store: Store, other_store: Store) -> None:
    webhook, lane, _, queued = await leased_with_one(store)
    await record(store, lane, queued, accepted())
    for _ in range(20):
        looked = await read(store, webhook)

        delivery, given_back = await asyncio.gather(
            emit_one(other_store, webhook), release(store, lane, pokes=looked.pokes)
        )

        if given_back:  # then whoever asks is given the lane at once; else its owner looks again
            lane = await lease_one(store, webhook)
        queued = await read_one(store, webhook)
        assert queued.id == delivery.id
        await record(store, lane, queued, accepted())
