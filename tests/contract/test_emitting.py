"""`TaskStore.save_change`: a change, its event and the event's deliveries are one write."""

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import astuple, replace
from datetime import timedelta

import pytest
from tests.builders import (
    GROUP_ID,
    make_delivery,
    make_group,
    make_occasion,
    make_queued,
    make_task_change,
    make_webhook,
)
from tests.contract.backends import Backend, Store
from tests.contract.steps import (
    HOUR,
    add_task,
    add_webhook,
    detail,
    edit_webhook,
    emit_one,
    give_back,
    lease,
    lease_one,
    pokes_of,
    read,
    save,
    taking,
)
from tests.fakes import NOW

from gatepost.domain import tasks
from gatepost.domain.deliveries import QueuedDelivery
from gatepost.domain.errors import StoreUnavailable
from gatepost.ports import DeliveryQuery, LaneAsk, Saved

EVERYTHING = DeliveryQuery()


async def test_a_change_brings_its_event_and_its_deliveries_with_it(store: Store, other_store: Store) -> None:
    first, second = await add_webhook(store), await add_webhook(store)
    change = make_task_change(title="Rosen gießen 🌹")
    deliveries = [make_delivery(change.event, webhook) for webhook in (first, second)]

    saved = await save(store, change, *deliveries)

    assert saved is Saved.DONE
    for delivery in deliveries:
        found = await detail(other_store, delivery)
        assert (found.delivery, found.event, list(found.attempts)) == (delivery, change.event, [])


async def test_the_event_comes_back_as_it_was_to_its_last_byte(store: Store) -> None:
    webhook = await add_webhook(store)
    change = make_task_change(at=NOW + timedelta(milliseconds=1))
    odd = replace(
        change.event,
        hop=3,
        origin="inbound:jira",
        actor_id=None,
        tasks=((change.task.id, 1), ("tsk_2", 7)),
        body=b'{"order":"of keys","is":1e2,"kept":"\\u00e9"} \xc3\xa9',
    )
    delivery = make_delivery(odd, webhook)

    await save(store, replace(change, event=odd), delivery)

    assert (await detail(store, delivery)).event == odd


async def test_a_stale_change_leaves_no_event_and_no_delivery(store: Store) -> None:
    webhook = await add_webhook(store)
    task = await add_task(store)
    change = tasks.start(replace(task, version=2), make_occasion())
    delivery = make_delivery(change.event, webhook)

    saved = await save(store, change, delivery)

    assert saved is Saved.STALE
    await assert_nothing_is_owed(store, webhook.id, delivery.id)


async def test_a_change_matched_against_webhooks_that_were_written_since_changes_nothing(
    store: Store, other_store: Store
) -> None:
    webhook = await add_webhook(store)
    matched = await store.subscriptions(GROUP_ID)
    change = make_task_change()
    delivery = make_delivery(change.event, webhook)
    await add_webhook(other_store)

    saved = await store.save_change(GROUP_ID, change, [delivery], webhooks_version=matched.version)

    assert saved is Saved.WEBHOOKS_MOVED
    assert await store.task(GROUP_ID, change.task.id) is None
    assert list(await store.history(GROUP_ID, change.task.id)) == []
    await assert_nothing_is_owed(store, webhook.id, delivery.id)


async def test_matched_again_the_same_change_is_written(store: Store) -> None:
    before = await store.subscriptions(GROUP_ID)
    change = make_task_change()
    webhook = await add_webhook(store)
    await store.save_change(GROUP_ID, change, [], webhooks_version=before.version)
    delivery = make_delivery(change.event, webhook)

    saved = await save(store, change, delivery)

    assert saved is Saved.DONE
    assert (await detail(store, delivery)).event == change.event


async def test_the_webhooks_of_another_group_move_nothing(store: Store) -> None:
    matched = await store.subscriptions(GROUP_ID)
    other = make_group()
    await store.add_group(other)
    await add_webhook(store, group_id=other.id)

    saved = await store.save_change(GROUP_ID, make_task_change(), [], webhooks_version=matched.version)

    assert saved is Saved.DONE


async def test_a_webhook_added_while_tasks_are_created_misses_none_that_came_after(
    store: Store, other_store: Store
) -> None:
    async def create() -> tuple[bool, Saved]:
        matched = await store.subscriptions(GROUP_ID)
        change = make_task_change()
        saved = await store.save_change(GROUP_ID, change, [], webhooks_version=matched.version)
        return webhook.id in {each.webhook_id for each in matched.items}, saved

    webhook = make_webhook()
    adding = asyncio.create_task(other_store.add_webhook(GROUP_ID, webhook, quota=10))
    seen: list[tuple[bool, Saved]] = []
    while not adding.done():
        seen.append(await create())
    after = await create()

    # Those that did not see the webhook were written before it, or not at all.
    assert after == (True, Saved.DONE)
    assert [saw_it for saw_it, saved in seen if saved is Saved.DONE] == sorted(
        saw_it for saw_it, saved in seen if saved is Saved.DONE
    )


async def test_asked_again_with_the_same_ids_nothing_is_owed_twice(store: Store, other_store: Store) -> None:
    webhook = await add_webhook(store)
    change = make_task_change()
    delivery = make_delivery(change.event, webhook)

    saved = [await save(each, change, delivery) for each in (store, store, other_store)]

    assert saved == [Saved.DONE] * 3
    page = await store.deliveries(GROUP_ID, EVERYTHING, limit=10, before=None)
    assert list(page.items) == [delivery]


async def test_a_caller_who_gives_up_leaves_all_of_a_change_or_nothing(backend: Backend, store: Store) -> None:
    webhook = await add_webhook(store)
    version = (await store.subscriptions(GROUP_ID)).version
    changes = [make_task_change() for _ in range(12)]
    deliveries = [make_delivery(change.event, webhook) for change in changes]
    for turns, (change, delivery) in enumerate(zip(changes, deliveries, strict=True)):
        saving = asyncio.create_task(store.save_change(GROUP_ID, change, [delivery], webhooks_version=version))
        for _ in range(turns):
            await asyncio.sleep(0)
        saving.cancel()
        await asyncio.wait([saving])

    reopened = await backend.reopen()

    for change, delivery in zip(changes, deliveries, strict=True):
        task = await reopened.task(GROUP_ID, change.task.id)
        history = list(await reopened.history(GROUP_ID, change.task.id))
        found = await reopened.delivery(GROUP_ID, webhook.id, delivery.id)
        owed = found and (found.delivery, found.event)
        assert (task, history, owed) in [
            (change.task, [change.history], (delivery, change.event)),
            (None, [], None),
        ]


async def test_a_store_that_was_closed_says_that_it_cannot_be_reached(backend: Backend, store: Store) -> None:
    change = make_task_change()
    await backend.close()

    with pytest.raises(StoreUnavailable):
        await store.save_change(GROUP_ID, change, [], webhooks_version=0)
    with pytest.raises(StoreUnavailable):
        await store.task(GROUP_ID, change.task.id)


# --- handing over --------------------------------------------------------------------------------------------


async def test_exactly_the_committed_deliveries_are_handed_over_before_the_caller_goes_on(store: Store) -> None:
    handed: list[QueuedDelivery] = []
    store.on_queued = taking(handed)
    webhooks = [await add_webhook(store) for _ in range(3)]
    change = make_task_change()
    deliveries = [make_delivery(change.event, webhook) for webhook in webhooks[:2]]

    await save(store, change, *deliveries)

    assert [astuple(queued) for queued in handed] == [
        astuple(make_queued(delivery, change.event)) for delivery in deliveries
    ]


async def test_what_is_handed_over_is_committed_already(store: Store, other_store: Store) -> None:
    webhook = await add_webhook(store)
    seen: list[asyncio.Task[object]] = []

    def look(handed: Sequence[QueuedDelivery]) -> set[str]:
        seen.extend(asyncio.ensure_future(other_store.delivery(GROUP_ID, each.webhook_id, each.id)) for each in handed)
        return set()

    store.on_queued = look

    await emit_one(store, webhook)

    assert len(seen) == 1
    assert await seen[0] is not None


async def test_the_hand_over_happens_on_the_thread_of_the_caller(store: Store) -> None:
    webhook = await add_webhook(store)
    threads: list[int] = []

    def note(_: Sequence[QueuedDelivery]) -> set[str]:
        threads.append(threading.get_ident())
        return set()

    store.on_queued = note

    await emit_one(store, webhook)

    assert set(threads) == {threading.get_ident()}


async def test_nothing_is_handed_over_of_a_change_that_was_not_written(store: Store) -> None:
    version = (await store.subscriptions(GROUP_ID)).version
    webhook = await add_webhook(store)
    task = await add_task(store)
    handed: list[QueuedDelivery] = []
    store.on_queued = taking(handed)
    stale = tasks.start(replace(task, version=2), make_occasion())
    moved = make_task_change()

    saved = [
        await save(store, stale, make_delivery(stale.event, webhook)),
        await store.save_change(GROUP_ID, moved, [make_delivery(moved.event, webhook)], webhooks_version=version),
    ]

    assert saved == [Saved.STALE, Saved.WEBHOOKS_MOVED]
    assert handed == []


async def test_other_processes_are_handed_nothing(store: Store, other_store: Store) -> None:
    handed: list[QueuedDelivery] = []
    other_store.on_queued = taking(handed)

    await emit_one(store, await add_webhook(store))

    assert handed == []


# --- pokes ---------------------------------------------------------------------------------------------------


async def test_a_change_makes_the_lanes_of_its_deliveries_due_at_once_and_no_other(store: Store) -> None:
    webhooks = [await add_webhook(store) for _ in range(3)]
    for webhook in webhooks:
        await emit_one(store, webhook, due_at=NOW + HOUR)
    for webhook_id, lane in (await lease(store)).items():
        await give_back(store, next(each for each in webhooks if each.id == webhook_id), lane)
    assert await lease(store) == {}

    change = make_task_change()
    await save(store, change, *(make_delivery(change.event, webhook) for webhook in webhooks[:2]))

    assert set(await lease(store)) == {webhook.id for webhook in webhooks[:2]}


async def test_a_change_that_is_due_later_makes_no_lane_due_later(store: Store) -> None:
    webhook = await add_webhook(store)
    await emit_one(store, webhook)

    await emit_one(store, webhook, at=NOW + HOUR)

    assert set(await lease(store)) == {webhook.id}


async def test_a_change_raises_the_poke_counter_of_a_lane_that_is_leased(store: Store, other_store: Store) -> None:
    webhook = await add_webhook(store)
    await emit_one(store, webhook)
    await lease_one(store, webhook)
    before = (await read(store, webhook)).pokes

    await emit_one(other_store, webhook)

    assert (await read(store, webhook)).pokes > before


@pytest.mark.parametrize("outcome", [Saved.STALE, Saved.WEBHOOKS_MOVED])
async def test_a_change_that_was_not_written_pokes_nothing(store: Store, outcome: Saved) -> None:
    webhook = await add_webhook(store)
    task = await add_task(store)
    before = await pokes_of(store, webhook.id)
    change = tasks.start(replace(task, version=2 if outcome is Saved.STALE else 1), make_occasion())
    version = (await store.subscriptions(GROUP_ID)).version
    if outcome is Saved.WEBHOOKS_MOVED:
        webhook = await edit_webhook(store, webhook)
        before = await pokes_of(store, webhook.id)

    saved = await store.save_change(GROUP_ID, change, [make_delivery(change.event, webhook)], webhooks_version=version)

    assert saved is outcome
    assert await pokes_of(store, webhook.id) == before


async def test_many_changes_at_once_are_each_written_poked_and_handed_over(store: Store, other_store: Store) -> None:
    webhooks = [await add_webhook(store) for _ in range(4)]
    handed: list[QueuedDelivery] = []
    store.on_queued = taking(handed)
    other_store.on_queued = taking(handed)

    emitted = await asyncio.gather(*(emit_one([store, other_store][n % 2], webhooks[n % 4]) for n in range(40)))

    assert sorted(queued.id for queued in handed) == sorted(delivery.id for delivery in emitted)
    assert set(await lease(store)) == {webhook.id for webhook in webhooks}
    reads = await store.read_lanes({webhook.id: LaneAsk(100) for webhook in webhooks}, now=NOW)
    assert sorted(queued.id for lane in reads.values() for queued in lane.deliveries) == sorted(
        delivery.id for delivery in emitted
    )


async def assert_nothing_is_owed(store: Store, webhook_id: str, delivery_id: str) -> None:
    assert await store.delivery(GROUP_ID, webhook_id, delivery_id) is None
    page = await store.deliveries(GROUP_ID, EVERYTHING, limit=10, before=None)
    assert list(page.items) == []
    assert list((await store.read_lanes({webhook_id: LaneAsk(10)}, now=NOW))[webhook_id].deliveries) == []
