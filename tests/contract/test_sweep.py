"""`LaneStore.sweep`: hints are made from the truth again."""

from datetime import timedelta

from tests.builders import GROUP_ID, accepted, make_outcomes, make_settled, refused
from tests.contract.backends import Backend, Store
from tests.contract.steps import (
    EVE,
    HOUR,
    add_webhook,
    edit_webhook,
    emit_many,
    emit_one,
    give_back,
    hand_back,
    lease,
    leased_with_one,
    pokes_of,
    read,
    read_one,
    record,
    webhook_due_at,
)
from tests.fakes import NOW


async def test_the_sweep_pokes_a_lane_whose_hint_was_lost(backend: Backend, store: Store) -> None:
    webhook = await add_webhook(store)
    delivery = await emit_one(store, webhook)
    before = await pokes_of(store, webhook.id)
    await backend.lose_hint(webhook.id)
    assert await lease(store) == {}

    poked = await store.sweep(now=NOW)

    assert poked == 1
    assert await pokes_of(store, webhook.id) > before
    assert set(await lease(store)) == {webhook.id}
    assert (await read_one(store, webhook)).id == delivery.id


async def test_the_sweep_leaves_lanes_alone_that_are_due_already(store: Store) -> None:
    webhook = await add_webhook(store)
    await emit_one(store, webhook)
    before = await pokes_of(store, webhook.id)

    poked = await store.sweep(now=NOW)

    assert (poked, await pokes_of(store, webhook.id)) == (0, before)


async def test_the_sweep_leaves_lanes_alone_that_are_owed_nothing_yet(store: Store) -> None:
    webhook = await webhook_due_at(store, NOW + HOUR)
    before = await pokes_of(store, webhook.id)

    poked = await store.sweep(now=NOW)

    assert (poked, await pokes_of(store, webhook.id)) == (0, before)
    assert await lease(store) == {}


async def test_the_sweep_leaves_lanes_alone_whose_deliveries_are_finished(backend: Backend, store: Store) -> None:
    webhook, lane, _, queued = await leased_with_one(store)
    await record(store, lane, queued, accepted())
    await give_back(store, webhook, lane)

    assert await store.sweep(now=NOW + HOUR) == 0
    assert await lease(store, EVE, now=NOW + HOUR) == {}


async def test_the_sweep_skips_lanes_that_are_held(backend: Backend, store: Store) -> None:
    webhook = await add_webhook(store)
    await emit_one(store, webhook)
    disabled = await edit_webhook(store, webhook, enabled=False)
    await backend.lose_hint(webhook.id)
    before = await pokes_of(store, webhook.id)

    poked = await store.sweep(now=NOW)

    assert (poked, await pokes_of(store, webhook.id)) == (0, before)
    await edit_webhook(store, disabled, enabled=True)
    assert set(await lease(store)) == {webhook.id}


async def test_the_sweep_pokes_only_the_lanes_that_need_it(backend: Backend, store: Store) -> None:
    lost, due = await add_webhook(store), await add_webhook(store)
    for webhook in (lost, due):
        await emit_one(store, webhook)
    await backend.lose_hint(lost.id)
    before = {webhook.id: await pokes_of(store, webhook.id) for webhook in (lost, due)}

    poked = await store.sweep(now=NOW)

    assert poked == 1
    assert await pokes_of(store, lost.id) > before[lost.id]
    assert await pokes_of(store, due.id) == before[due.id]


async def test_a_sweep_while_a_lane_is_leased_takes_it_from_nobody(backend: Backend, store: Store) -> None:
    webhook, lane, _, queued = await leased_with_one(store)
    await backend.lose_hint(webhook.id)

    await store.sweep(now=NOW)

    assert await lease(store, EVE) == {}
    assert await record(store, lane, queued, accepted()) == set()


async def test_burying_pokes_nothing_and_is_not_counted(store: Store) -> None:
    webhook = await add_webhook(store)
    await emit_one(store, webhook)
    await store.delete_webhook(GROUP_ID, webhook.id, now=NOW)

    swept = [await store.sweep(now=NOW), await store.sweep(now=NOW + HOUR)]

    assert swept == [0, 0]


async def test_the_sweep_buries_however_many_there_are(store: Store) -> None:
    webhook = await add_webhook(store)
    await emit_many(store, webhook, 600)
    await store.delete_webhook(GROUP_ID, webhook.id, now=NOW)

    await store.sweep(now=NOW)

    lane = await read(store, webhook, now=NOW + HOUR)
    assert (list(lane.deliveries), lane.next_due_at) == ([], None)


async def test_the_sweep_lets_go_of_what_a_clock_that_was_ahead_holds(store: Store) -> None:
    lanes = {}
    for held_for in (timedelta(minutes=10), timedelta(days=365)):
        webhook, lane, _, queued = await leased_with_one(store)
        outcomes = make_outcomes(lane, [make_settled(queued, refused())], held_until=NOW + held_for)
        assert await store.record_attempts([outcomes]) == set()
        assert await hand_back(store, lane)
        lanes[webhook.id] = held_for

    await store.sweep(now=NOW)

    assert [lanes[webhook_id] for webhook_id in await lease(store)] == [timedelta(days=365)]


async def test_the_sweep_lets_go_of_nothing_that_is_disabled(store: Store) -> None:
    webhook = await add_webhook(store)
    await emit_one(store, webhook)
    await edit_webhook(store, webhook, enabled=False)

    await store.sweep(now=NOW)

    assert await lease(store) == {}
