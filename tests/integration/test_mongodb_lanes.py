"""Leasing, releasing and recording on MongoDB: each is one write of one document, and races end as they should."""

import pytest
from tests.builders import GROUP_ID, accepted, make_settled, refused
from tests.contract.backends import MongoBackend, Store
from tests.contract.steps import (
    ADA,
    EVE,
    HOUR,
    SECOND,
    add_webhook,
    detail,
    edit_webhook,
    emit_one,
    lease,
    lease_one,
    leased_with_one,
    pokes_of,
    read,
    read_one,
    record,
    record_settled,
    release,
)
from tests.fakes import NOW
from tests.integration.taps import Tap


@pytest.fixture
async def store(mongodb: MongoBackend) -> Store:
    return await mongodb.open()


@pytest.fixture
async def other_store(mongodb: MongoBackend) -> Store:
    return await mongodb.open()


async def test_a_lane_that_another_was_quicker_to_lease_is_theirs(store: Store, other_store: Store) -> None:
    webhook = await add_webhook(store)
    await emit_one(store, webhook)

    async with Tap(store).stopped_before("lanes.find_one_and_update", lease(store, ADA)) as leasing:
        theirs = await lease_one(other_store, webhook, EVE)

    assert leasing.result() == {}
    assert (await read(store, webhook)).token == theirs.token


async def test_a_lapsed_lane_that_its_owner_renewed_meanwhile_stays_theirs(store: Store, other_store: Store) -> None:
    webhook, lane, *_ = await leased_with_one(store)
    now = NOW + HOUR

    async with Tap(other_store).stopped_before(
        "lanes.find_one_and_update", lease(other_store, EVE, now=now)
    ) as leasing:
        renewal = await store.renew_lanes(ADA, {webhook.id: lane.token}, now=now, lease=30 * SECOND)

    assert (renewal.lost, leasing.result()) == (set(), {})


async def test_a_lane_that_was_held_meanwhile_is_not_leased(store: Store, other_store: Store) -> None:
    webhook = await add_webhook(store)
    await emit_one(store, webhook)

    async with Tap(store).stopped_before("lanes.find_one_and_update", lease(store, ADA)) as leasing:
        await edit_webhook(other_store, webhook, enabled=False)

    assert leasing.result() == {}


async def test_lanes_that_others_are_quicker_to_lease_are_made_up_for(store: Store, other_store: Store) -> None:
    for n in range(4):
        await emit_one(store, await add_webhook(store), at=NOW - n * SECOND)

    async with Tap(store).stopped_before("lanes.find_one_and_update", lease(store, ADA, limit=2)) as leasing:
        theirs = await lease(other_store, EVE, limit=2)

    assert len(leasing.result()) == 2
    assert not leasing.result().keys() & theirs.keys()


async def test_a_release_that_looked_before_a_delivery_came_fails_or_is_poked_after(
    store: Store, other_store: Store
) -> None:
    webhook, lane, _, queued = await leased_with_one(store)
    await record(store, lane, queued, accepted())
    pokes = await pokes_of(store, webhook.id)

    async with Tap(store).stopped_before("lanes.update_one", release(store, lane, pokes=pokes)) as releasing:
        late = await emit_one(other_store, webhook)
    assert releasing.result() is False
    await record(store, lane, await read_one(store, webhook), accepted())
    pokes = await pokes_of(store, webhook.id)

    async with Tap(other_store).stopped_before("lanes.bulk_write", emit_one(other_store, webhook)) as emitting:
        await record(store, lane, await read_one(store, webhook), refused(), at=NOW + HOUR)
        assert await release(store, lane, pokes=pokes)
        assert await lease(store) == {}

    assert set(await lease(store)) == {webhook.id}
    assert late.id != emitting.result().id


async def test_lanes_leased_before_an_error_are_told_and_served(store: Store, other_store: Store) -> None:
    for n in range(3):
        await emit_one(store, await add_webhook(store), at=NOW - n * SECOND)
    Tap(store).die_at(3, is_done_first=False)

    leased = await lease(store, ADA)

    assert len(leased) == 2
    assert len(await lease(other_store, EVE)) == 1


@pytest.mark.parametrize("theirs_first", [True, False])
async def test_of_two_owners_that_record_one_attempt_the_first_is_kept_whole(
    store: Store, other_store: Store, theirs_first: bool
) -> None:
    webhook, lane, delivery, queued = await leased_with_one(store)
    ours, their_own = make_settled(queued, refused()), make_settled(queued, accepted(), at=NOW + HOUR)

    # Past the look at the token, which still stood.
    async with Tap(store).stopped_before("deliveries.bulk_write", record_settled(store, lane, ours)):
        theirs = await lease_one(other_store, webhook, EVE, now=NOW + HOUR)
        if theirs_first:
            assert await record_settled(other_store, theirs, their_own) == set()
    await record_settled(other_store, theirs, their_own)

    kept = their_own if theirs_first else ours
    found = await detail(store, delivery)
    assert (list(found.attempts), found.delivery.progress) == ([kept.attempt], kept.progress)


async def test_the_window_of_an_owner_that_lost_its_lane_meanwhile_is_not_kept(
    store: Store, other_store: Store
) -> None:
    webhook, lane, _, queued = await leased_with_one(store)

    async with Tap(store).stopped_before("lanes.bulk_write", record(store, lane, queued, accepted(), window=9)):
        await lease_one(other_store, webhook, EVE, now=NOW + HOUR)

    theirs = await lease_one(other_store, webhook, EVE, now=NOW + 2 * HOUR)
    assert (theirs.window, theirs.unclean) == (1, 2)


async def test_an_owner_that_looks_again_while_its_backlog_is_discarded_is_told_to_look_once_more(
    store: Store, other_store: Store
) -> None:
    webhook, _, delivery, _ = await leased_with_one(store)

    discarding = store.discard_backlog(GROUP_ID, webhook.id, now=NOW)
    async with Tap(store).stopped_before("deliveries.update_many", discarding):
        before = (await other_store.lane_marks([webhook.id]))[webhook.id]
        assert (await read_one(other_store, webhook)).id == delivery.id

    after = (await other_store.lane_marks([webhook.id]))[webhook.id]
    assert after.config_version > before.config_version > webhook.config_version
    assert (await read(other_store, webhook)).deliveries == []
