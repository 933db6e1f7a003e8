"""A change of a task on MongoDB survives its writer at every step, is stored once, and is not handed over twice.

Each race is made, not waited for: a `Tap` stops one store just before a write, or lets its process die there.
"""

import pytest
from tests.builders import (
    GROUP_ID,
    accepted,
    make_delivery,
    make_event,
    make_occasion,
    make_task_change,
    new_id,
)
from tests.contract.backends import MongoBackend, Store
from tests.contract.steps import (
    EVE,
    HOUR,
    add_webhook,
    detail,
    edit_webhook,
    emit_one,
    ids,
    lease,
    lease_one,
    leased_with_one,
    read,
    read_one,
    record,
    save,
    taking,
)
from tests.fakes import NOW
from tests.integration.mongodb_rigs import documents, mongo_of
from tests.integration.taps import Broken, Tap

from gatepost.adapters.storage.mongo_outbox import MOST_PENDING_EVENTS
from gatepost.domain import tasks
from gatepost.domain.deliveries import Delivery, QueuedDelivery, Status, replayed
from gatepost.domain.errors import StoreUnavailable
from gatepost.domain.tasks import TaskChange, TaskDeletion
from gatepost.ports import DeliveryQuery, EventQuery, Saved, TaskQuery

EVERYTHING = DeliveryQuery()


@pytest.fixture
async def store(mongodb: MongoBackend) -> Store:
    return await mongodb.open()


@pytest.fixture
async def other_store(mongodb: MongoBackend) -> Store:
    return await mongodb.open()


CREATING = [
    "tasks.insert_one",
    "events.insert_many",
    "history.insert_many",
    "deliveries.insert_many",
    "lanes.bulk_write",
    "tasks.update_one",
]


async def test_a_change_is_committed_by_its_first_write(store: Store) -> None:
    webhook = await add_webhook(store)
    tap = Tap(store)

    await emit_one(store, webhook)

    assert tap.written == CREATING


@pytest.mark.parametrize("is_done_first", [False, True])
@pytest.mark.parametrize("number", range(1, len(CREATING) + 1))
@pytest.mark.parametrize("kind", ["create", "update"])
async def test_wherever_its_process_dies_a_change_is_there_whole_and_once(
    store: Store, other_store: Store, kind: str, number: int, is_done_first: bool
) -> None:
    webhooks = [await add_webhook(store) for _ in range(2)]
    before: list[TaskChange] = []
    change = make_task_change()
    if kind == "update":
        before = [change]
        assert await save(store, change) is Saved.DONE
        change = tasks.start(change.task, make_occasion())
    deliveries = [make_delivery(change.event, webhook) for webhook in webhooks]
    handed: list[QueuedDelivery] = []
    store.on_queued = taking(handed)
    Tap(store).die_at(number, is_done_first=is_done_first)
    is_committed = number > 1 or is_done_first

    try:
        saved = await save(store, change, *deliveries)
    except StoreUnavailable:
        saved = None

    assert saved is (Saved.DONE if number > 1 else None)
    assert handed == []  # what is not known to be stored is left to whoever passes it on
    changes = [*before, change] if is_committed else before
    assert list(await other_store.history(GROUP_ID, change.task.id)) == [each.history for each in changes]
    for _ in range(2):
        await other_store.sweep(now=NOW)
    await assert_whole(other_store, changes, deliveries if is_committed else [])
    assert set(await lease(other_store)) == ({webhook.id for webhook in webhooks} if is_committed else set())


@pytest.mark.parametrize("kind", ["create", "update"])
async def test_a_change_whose_answer_got_lost_is_found_again_by_its_ids(
    store: Store, other_store: Store, kind: str
) -> None:
    webhook = await add_webhook(store)
    change = make_task_change()
    if kind == "update":
        await save(store, change)
        change = tasks.start(change.task, make_occasion())
    delivery = make_delivery(change.event, webhook)
    Tap(store).die_at(1, is_done_first=True)
    with pytest.raises(StoreUnavailable):
        await save(store, change, delivery)
    await edit_webhook(other_store, webhook)  # whatever moved since

    saved = [await save(other_store, change, delivery) for _ in range(2)]

    assert saved == [Saved.DONE, Saved.DONE]
    assert list((await other_store.deliveries(GROUP_ID, EVERYTHING, limit=9, before=None)).items) == [delivery]
    assert set(await lease(other_store)) == {webhook.id}


async def test_two_that_pass_on_the_same_change_do_it_once(store: Store, other_store: Store) -> None:
    webhook = await add_webhook(store)
    change = make_task_change()
    delivery = make_delivery(change.event, webhook)

    for stop in CREATING[1:]:
        async with Tap(store).stopped_before(stop, save(store, change, delivery)) as saving:
            await other_store.sweep(now=NOW)
        assert saving.result() is Saved.DONE
        await assert_whole(other_store, [change], [delivery])
        change = make_task_change()
        delivery = make_delivery(change.event, webhook)
        await empty(store)


async def test_what_an_earlier_version_is_owed_is_stored_first(store: Store, other_store: Store) -> None:
    webhook = await add_webhook(store)
    created = make_task_change()
    started = tasks.start(created.task, make_occasion())
    deliveries = [make_delivery(each.event, webhook) for each in (created, started)]

    async with Tap(store).stopped_before("events.insert_many", save(store, created, deliveries[0])):
        tap = Tap(other_store)
        async with tap.stopped_before("tasks.update_one", save(other_store, started, deliveries[1])):
            # The later change is past its own commit, and has passed on the earlier one only.
            assert ids((await read(store, webhook)).deliveries) == [deliveries[0].id]

    assert ids((await read(store, webhook)).deliveries) == ids(deliveries)
    await assert_whole(store, [created, started], deliveries)


async def test_a_change_is_refused_when_too_much_waits_and_taken_once_it_is_passed_on(
    store: Store, other_store: Store
) -> None:
    webhook = await add_webhook(store)
    changes = [make_task_change()]
    await save(store, changes[0])
    mongo = mongo_of(store)
    events, mongo.events = mongo.events, Broken(mongo.events)
    deliveries: list[Delivery] = []
    for n in range(MOST_PENDING_EVENTS + 1):
        change = tasks.update(changes[-1].task, {"difficulty": n % 10 + 1}, make_occasion())
        assert change is not None
        deliveries.append(make_delivery(change.event, webhook))
        if n < MOST_PENDING_EVENTS:
            assert await save(store, change, deliveries[-1]) is Saved.DONE
            changes.append(change)
    with pytest.raises(StoreUnavailable, match="too many events"):
        await save(store, change, deliveries[-1])
    mongo.events = events

    assert await save(store, change, deliveries[-1]) is Saved.DONE

    await assert_whole(other_store, [*changes, change], deliveries)


# --- deletions and published events --------------------------------------------------------------------------

DELETING = ["tasks.find_one_and_update", "history.insert_many", "tasks.update_one"]
PUBLISHING = ["events.insert_many", "deliveries.insert_many", "lanes.bulk_write", "events.update_one"]


@pytest.mark.parametrize("finished_by", ["the sweep", "a repeat"])
@pytest.mark.parametrize("is_done_first", [False, True])
@pytest.mark.parametrize("number", range(1, len(DELETING) + 1))
async def test_wherever_its_process_dies_a_deletion_is_there_whole_or_not_at_all(
    store: Store, other_store: Store, number: int, is_done_first: bool, finished_by: str
) -> None:
    change = make_task_change()
    assert await save(store, change) is Saved.DONE
    deletion = tasks.delete(change.task, make_occasion())
    tap = Tap(store)
    tap.die_at(number, is_done_first=is_done_first)
    try:
        saved = await store.delete_task(GROUP_ID, deletion)
    except StoreUnavailable:
        saved = None
    assert (saved, tap.written) == (Saved.DONE if number > 1 else None, DELETING[:number])
    is_deleted = number > 1 or is_done_first
    await assert_deleted(other_store, change, deletion, is_deleted=is_deleted)

    if finished_by == "a repeat":
        assert await other_store.delete_task(GROUP_ID, deletion) is Saved.DONE
        is_deleted = True
    for _ in range(2):
        await other_store.sweep(now=NOW)

    await assert_deleted(other_store, change, deletion, is_deleted=is_deleted)
    found = await documents(other_store)
    assert [each["outbox"] for each in found["tasks"]] == [{}]
    assert len(found["history"]) == 1 + is_deleted


@pytest.mark.parametrize("finished_by", ["the sweep", "a repeat"])
@pytest.mark.parametrize("is_done_first", [False, True])
@pytest.mark.parametrize("number", range(1, len(PUBLISHING) + 1))
async def test_wherever_its_process_dies_a_published_event_is_there_whole_and_once(
    store: Store, other_store: Store, number: int, is_done_first: bool, finished_by: str
) -> None:
    webhook = await add_webhook(store)
    event = make_event(event="order.paid", tasks=())
    deliveries = [make_delivery(event, webhook)]
    handed: list[QueuedDelivery] = []
    store.on_queued = taking(handed)
    version = (await store.subscriptions(GROUP_ID)).version
    tap = Tap(store)
    tap.die_at(number, is_done_first=is_done_first)
    try:
        saved = await store.publish(GROUP_ID, event, deliveries, webhooks_version=version)
    except StoreUnavailable:
        saved = None
    assert (saved, tap.written, handed) == (Saved.DONE if number > 1 else None, PUBLISHING[:number], [])
    is_committed = number > 1 or is_done_first

    if finished_by == "a repeat":
        again = [make_delivery(event, webhook)]
        saved = await other_store.publish(GROUP_ID, event, again, webhooks_version=version)
        assert saved is (Saved.EXISTS if is_committed else Saved.DONE)
        deliveries = deliveries if is_committed else again
        is_committed = True
    for _ in range(2):
        await other_store.sweep(now=NOW)

    assert (
        list((await other_store.events(GROUP_ID, EventQuery(), limit=9, before=None)).items) == [event] * is_committed
    )
    listed = await other_store.deliveries(GROUP_ID, EVERYTHING, limit=9, before=None)
    assert list(listed.items) == deliveries * is_committed
    assert set(await lease(other_store)) == ({webhook.id} if is_committed else set())
    assert [each["outbox"] for each in (await documents(other_store))["events"]] == [{}] * is_committed


async def test_of_one_event_published_twice_at_once_the_second_brings_no_deliveries(
    store: Store, other_store: Store
) -> None:
    webhook = await add_webhook(store)
    event = make_event(event="order.paid", tasks=())
    first, second = make_delivery(event, webhook), make_delivery(event, webhook)
    version = (await store.subscriptions(GROUP_ID)).version
    publishing = store.publish(GROUP_ID, event, [first], webhooks_version=version)

    async with Tap(store).stopped_before("deliveries.insert_many", publishing) as slow:
        saved = await other_store.publish(GROUP_ID, event, [second], webhooks_version=version)

    assert (slow.result(), saved) == (Saved.DONE, Saved.EXISTS)
    assert list((await store.deliveries(GROUP_ID, EVERYTHING, limit=9, before=None)).items) == [first]


# --- handing over --------------------------------------------------------------------------------------------


async def test_what_was_sent_and_recorded_meanwhile_is_not_handed_over(store: Store) -> None:
    webhook, lane, *_ = await leased_with_one(store)
    handed: list[QueuedDelivery] = []
    store.on_queued = taking(handed)

    async with Tap(store).stopped_before("lanes.bulk_write", emit_one(store, webhook)) as emitting:
        for queued in (await read(store, webhook)).deliveries:
            await record(store, lane, queued, accepted())

    assert (await detail(store, emitting.result())).delivery.progress.status is Status.DELIVERED
    assert handed == []


async def test_of_a_lane_that_was_leased_meanwhile_nothing_is_handed_over(store: Store, other_store: Store) -> None:
    webhook, *_ = await leased_with_one(other_store)
    handed: list[QueuedDelivery] = []
    store.on_queued = taking(handed)

    async with Tap(store).stopped_before("lanes.bulk_write", emit_one(store, webhook)):
        theirs = await lease_one(other_store, webhook, EVE, now=NOW + HOUR)
        for queued in (await read(other_store, webhook)).deliveries:
            await record(other_store, theirs, queued, accepted())
        await lease_one(store, webhook, now=NOW + 2 * HOUR)

    assert handed == []


async def test_a_replay_that_was_sent_meanwhile_is_not_handed_over(store: Store) -> None:
    webhook, lane, delivery, queued = await leased_with_one(store)
    await record(store, lane, queued, accepted())
    handed: list[QueuedDelivery] = []
    store.on_queued = taking(handed)
    replay = replayed(delivery, new_id("dlv"), max_attempts=3, now=NOW)

    async with Tap(store).stopped_before("lanes.bulk_write", store.add_replay(GROUP_ID, replay)):
        await record(store, lane, await read_one(store, webhook), accepted())

    assert handed == []


# --- steps ---------------------------------------------------------------------------------------------------


async def assert_whole(store: Store, changes: list[TaskChange], deliveries: list[Delivery]) -> None:
    """Assert that these changes of one task, and these deliveries, are all there is, and that nothing waits."""
    found = await documents(store)
    assert [each["id"] for each in sorted(found["events"], key=lambda each: each["id"])] == [
        change.event.id for change in changes
    ]
    assert [
        (each["version"], each["event"]) for each in sorted(found["history"], key=lambda each: each["version"])
    ] == [(change.task.version, change.event.event) for change in changes]
    assert sorted(each["_id"] for each in found["deliveries"]) == sorted(ids(deliveries))
    for delivery in deliveries:
        assert (await detail(store, delivery)).delivery == delivery
    assert [(each["pending_events"], each["pending_bytes"], each["outbox"]) for each in found["tasks"]] == [
        (0, 0, {}) for _ in changes[:1]
    ]
    if changes:
        task_id = changes[-1].task.id
        assert await store.task(GROUP_ID, task_id) == changes[-1].task
        assert list(await store.history(GROUP_ID, task_id)) == [change.history for change in changes]


async def assert_deleted(store: Store, change: TaskChange, deletion: TaskDeletion, *, is_deleted: bool) -> None:
    assert await store.task(GROUP_ID, change.task.id) == (None if is_deleted else change.task)
    page = await store.tasks(GROUP_ID, TaskQuery(), limit=9, before=None)
    assert list(page.items) == ([] if is_deleted else [change.task])
    lines = [change.history, deletion.history] if is_deleted else [change.history]
    assert list(await store.history(GROUP_ID, change.task.id)) == lines


async def empty(store: Store) -> None:
    database = mongo_of(store).database
    for name in ("tasks", "events", "history", "deliveries"):
        await database[name].delete_many({})
