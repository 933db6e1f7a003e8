"""What only the MongoDB adapter can promise: a change survives its writer at every step, and races end as they should.

Each race is made, not waited for: a `Tap` stops one store just before a write, or lets its process die there.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests import standin
from tests.builders import (
    GROUP_ID,
    accepted,
    make_delivery,
    make_group,
    make_occasion,
    make_settled,
    make_task_change,
    make_webhook,
    new_id,
    refused,
)
from tests.contract.backends import SECRET_KEY, MongoBackend, Store
from tests.contract.steps import (
    ADA,
    EVE,
    HOUR,
    SECOND,
    add_task,
    add_webhook,
    detail,
    edit_webhook,
    emit_one,
    ids,
    lease,
    lease_one,
    leased_with_one,
    pokes_of,
    read,
    read_one,
    record,
    record_settled,
    release,
    save,
    taking,
)
from tests.fakes import NOW
from tests.integration.taps import Asking, Broken, Tap
from tests.standin import StandIn

from gatepost.adapters.secretbox import SecretBox
from gatepost.adapters.storage import mongo_driver
from gatepost.adapters.storage.mongo_outbox import MOST_PENDING_EVENTS
from gatepost.adapters.storage.mongo_schema import INDEXES, SCHEMA_VERSION
from gatepost.adapters.storage.mongodb import MongoStore
from gatepost.domain import tasks
from gatepost.domain.deliveries import Delivery, QueuedDelivery, Status, replayed
from gatepost.domain.errors import StoreUnavailable
from gatepost.domain.tasks import TaskChange, TaskStatus
from gatepost.domain.webhooks import with_changes
from gatepost.ports import DeliveryQuery, Saved, TaskQuery

BOX = SecretBox(SECRET_KEY)
EVERYTHING = DeliveryQuery()


@pytest.fixture
async def backend(tmp_path: Path) -> AsyncIterator[MongoBackend]:
    if reason := MongoBackend.missing():
        if os.environ.get("GATEPOST_REQUIRE_SERVERS") == "1":
            pytest.fail(f"{reason}, and GATEPOST_REQUIRE_SERVERS=1 asks for it")
        pytest.skip(reason)
    backend = MongoBackend(tmp_path)
    await (await backend.open()).add_group(make_group(id=GROUP_ID, name="the group of the builders"))
    yield backend
    await backend.close()


@pytest.fixture
async def store(backend: MongoBackend) -> Store:
    return await backend.open()


@pytest.fixture
async def other_store(backend: MongoBackend) -> Store:
    return await backend.open()


# --- the outbox ----------------------------------------------------------------------------------------------

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
    mongo: Any = store._mongo  # type: ignore[attr-defined]
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


# --- lanes ---------------------------------------------------------------------------------------------------


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


async def test_probes_are_kept_beside_the_attempts_the_newest_twenty(store: Store) -> None:
    _, lane, delivery, queued = await leased_with_one(store)
    probes = []
    for n in range(25):
        settled = make_settled(queued, refused(), at=NOW + n * timedelta(minutes=10))
        probes.append(replace(settled, attempt=replace(settled.attempt, probe=True)))
        for _ in range(2):
            await record_settled(store, lane, probes[-1])

    found = await detail(store, delivery)

    assert found.delivery == delivery
    assert list(found.attempts) == [each.attempt for each in probes[5:]]
    through = make_settled(queued, accepted(), at=NOW + HOUR)
    await record_settled(store, lane, replace(through, attempt=replace(through.attempt, probe=True)))
    assert (await detail(store, delivery)).delivery.progress == through.progress


# --- webhooks ------------------------------------------------------------------------------------------------


async def test_whoever_matched_before_a_webhook_was_written_is_refused_after_it_was_answered(
    store: Store, other_store: Store
) -> None:
    for stop in ("lanes.insert_many", "webhooks.insert_many", "groups.update_one", "webhooks.update_one"):
        async with Tap(store).stopped_before(stop, add_webhook(store)):
            matched = await other_store.subscriptions(GROUP_ID)

        webhooks = await other_store.subscriptions(GROUP_ID)
        saved = await other_store.save_change(GROUP_ID, make_task_change(), [], webhooks_version=matched.version)
        assert saved is Saved.WEBHOOKS_MOVED or matched == webhooks


@pytest.mark.parametrize("number", range(1, 7))
async def test_wherever_its_writer_dies_a_new_webhook_can_be_added_again(
    store: Store, other_store: Store, number: int
) -> None:
    webhook = make_webhook()
    await add_webhook(store)
    Tap(store).die_at(number, is_done_first=True)
    with pytest.raises(StoreUnavailable):
        await store.add_webhook(GROUP_ID, webhook, quota=2)
    matched = await other_store.subscriptions(GROUP_ID)

    saved = await other_store.add_webhook(GROUP_ID, webhook, quota=2)

    assert saved is Saved.DONE
    assert await other_store.save_change(GROUP_ID, make_task_change(), [], webhooks_version=matched.version) is (
        Saved.WEBHOOKS_MOVED
    )
    await emit_one(other_store, webhook)
    assert set(await lease(other_store)) == {webhook.id}
    assert await other_store.add_webhook(GROUP_ID, make_webhook(), quota=2) is Saved.QUOTA_EXCEEDED


@pytest.mark.parametrize("number", range(1, 7))
async def test_wherever_its_writer_dies_a_webhook_that_can_be_matched_can_be_delivered_to(
    store: Store, other_store: Store, number: int
) -> None:
    await add_webhook(store)
    Tap(store).die_at(number, is_done_first=True)
    webhook = make_webhook()
    with pytest.raises(StoreUnavailable):
        await store.add_webhook(GROUP_ID, webhook, quota=2)

    await other_store.sweep(now=NOW)

    if await other_store.webhook(GROUP_ID, webhook.id) is not None:
        await emit_one(other_store, webhook)
        assert set(await lease(other_store)) == {webhook.id}


@pytest.mark.parametrize("is_done_first", [False, True])
@pytest.mark.parametrize("number", range(1, 5))
@pytest.mark.parametrize("change", ["disable", "enable", "delete"])
async def test_wherever_its_writer_dies_an_edit_holds_or_frees_the_lane_and_is_told(
    store: Store, other_store: Store, change: str, number: int, is_done_first: bool
) -> None:
    webhook = await add_webhook(store, enabled=change != "enable")
    await emit_one(store, webhook)
    matched = await other_store.subscriptions(GROUP_ID)
    Tap(store).die_at(number, is_done_first=is_done_first)
    if change == "delete":
        writing = store.delete_webhook(GROUP_ID, webhook.id, now=NOW)
    else:
        writing = store.save_webhook(GROUP_ID, with_changes(webhook, now=NOW, enabled=change == "enable"))
    with pytest.raises(StoreUnavailable):
        await writing

    await other_store.sweep(now=NOW)

    found = await other_store.webhook(GROUP_ID, webhook.id)
    is_live = found is not None and found.enabled
    assert set(await lease(other_store)) == ({webhook.id} if is_live else set())
    now = await other_store.subscriptions(GROUP_ID)
    assert (now.version != matched.version) == (now.items != matched.items)
    if change == "delete" and found is None:
        assert await other_store.add_webhook(GROUP_ID, make_webhook(), quota=1) is Saved.DONE


async def test_a_slow_edit_does_not_hold_the_lane_that_a_newer_one_has_freed(store: Store, other_store: Store) -> None:
    webhook = await add_webhook(store)
    await emit_one(store, webhook)

    async with Tap(store).stopped_before("lanes.update_one", edit_webhook(store, webhook, enabled=False)):
        disabled = await other_store.webhook(GROUP_ID, webhook.id)
        assert disabled is not None
        await edit_webhook(other_store, disabled, enabled=True)

    assert set(await lease(store)) == {webhook.id}


async def test_a_place_that_a_dead_writer_took_is_given_back_after_a_minute(store: Store, other_store: Store) -> None:
    await add_webhook(store)
    Tap(store).die_at(1, is_done_first=True)
    with pytest.raises(StoreUnavailable):
        await store.add_webhook(GROUP_ID, make_webhook(created_at=NOW), quota=2)

    saved = [
        await other_store.add_webhook(GROUP_ID, make_webhook(created_at=at), quota=2)
        for at in (NOW + 59 * SECOND, NOW + 61 * SECOND, NOW + HOUR)
    ]

    assert saved == [Saved.QUOTA_EXCEEDED, Saved.DONE, Saved.QUOTA_EXCEEDED]


async def test_what_is_owed_to_a_deleted_webhook_after_it_was_buried_is_buried_too(
    store: Store, other_store: Store
) -> None:
    webhook = await add_webhook(store)
    change = make_task_change()
    delivery = make_delivery(change.event, webhook)

    async with Tap(store).stopped_before("tasks.insert_one", save(store, change, delivery)):
        await other_store.delete_webhook(GROUP_ID, webhook.id, now=NOW)
        await other_store.sweep(now=NOW)
    await other_store.sweep(now=NOW + HOUR)

    assert (await detail(store, delivery)).delivery.progress.status is Status.DEAD_LETTER


async def test_secrets_and_header_values_are_sealed_in_every_document(store: Store) -> None:
    webhook = await add_webhook(store, headers=(("Authorization", "Bearer a-value-that-nobody-may-find"),))
    await emit_one(store, webhook)
    await edit_webhook(store, webhook, name="easy to find")

    everything = repr(await documents(store))

    assert "easy to find" in everything
    assert "nobody-may-find" not in everything
    assert webhook.secrets[0].value.removeprefix("whsec_") not in everything


# --- indexes and shards --------------------------------------------------------------------------------------

SHARD_KEYS = {
    "tasks": ["group_id", "id"],
    "events": ["group_id", "id"],
    "deliveries": ["webhook_id", "id"],
    "history": ["group_id", "task_id", "version"],
}
OF_ONE = {"find_one", "update_one", "bulk_write", "find_one_and_update"}
# The list of a group, and the sweep: what waits, and who has something due.
OF_ALL_SHARDS = [("deliveries", "group_id"), ("deliveries", "open"), ("tasks", "pending_events")]


async def test_whatever_is_asked_has_its_index_and_its_shard(store: Store) -> None:
    asked: dict[str, list[tuple[str, dict[str, Any]]]] = {name: [] for name in (*INDEXES, "groups")}
    mongo: Any = store._mongo  # type: ignore[attr-defined]
    for name, of in asked.items():
        setattr(mongo, name, Asking(getattr(mongo, name), of))
    await a_day_of(store)

    for name, questions in asked.items():
        assert questions, name
        for method, question in questions:
            fields = list(question)
            if "_id" not in question:
                assert any(set(index[:1]) <= set(fields) for index in INDEXES[name]), (name, question)
                ranges = {field for field, value in question.items() if isinstance(value, dict)}
                equal = set(fields) - ranges - {"event", "created_at", "group_id"}
                assert any(equal <= set(index) for index in INDEXES[name]), (name, question)
            if name in SHARD_KEYS and (name, fields[0]) not in OF_ALL_SHARDS:
                key = SHARD_KEYS[name] if method in OF_ONE else SHARD_KEYS[name][:1]
                assert set(key) <= set(fields), (name, method, question)


async def a_day_of(store: Store) -> None:
    """Do everything that is done, once."""
    await store.join(ADA, now=NOW)
    await store.join(EVE, now=NOW)
    webhook, lane, delivery, queued = await leased_with_one(store)
    task = await add_task(store, assigned_to="usr_ada")
    await save(store, tasks.start(task, make_occasion()))
    await save(store, tasks.start(task, make_occasion()))  # stale
    await store.renew_lanes(ADA, {webhook.id: lane.token, new_id("wh"): 1}, now=NOW, lease=HOUR)
    await record(store, lane, queued, accepted(), window=3)
    await release(store, lane, pokes=await pokes_of(store, webhook.id))
    await store.add_replay(GROUP_ID, replayed(delivery, new_id("dlv"), max_attempts=3, now=NOW))
    await detail(store, delivery)
    for query in (
        EVERYTHING,
        DeliveryQuery(webhook_id=webhook.id, event="task.created", created_from=NOW),
        DeliveryQuery(status=Status.DEAD_LETTER),
        DeliveryQuery(task_id=task.id),
    ):
        await store.deliveries(GROUP_ID, query, limit=1, before="dlv_z")
    for listed in (TaskQuery(), TaskQuery(status=TaskStatus.PENDING), TaskQuery(assigned_to="usr_ada")):
        await store.tasks(GROUP_ID, listed, limit=1, before=None)
    await store.task(GROUP_ID, task.id)
    await store.history(GROUP_ID, task.id)
    await store.webhooks(GROUP_ID, limit=1, before="wh_z")
    await store.webhook(GROUP_ID, webhook.id)
    await store.lane_marks([webhook.id])
    await store.webhooks_to_serve([webhook.id])
    await edit_webhook(store, webhook)
    await store.delete_webhook(GROUP_ID, webhook.id, now=NOW)
    await store.sweep(now=NOW)
    await store.leave(ADA)


# --- opening and losing the server ---------------------------------------------------------------------------


async def test_a_database_that_was_not_made_ready_is_refused_with_the_command(backend: MongoBackend) -> None:
    with pytest.raises(StoreUnavailable, match="run `gatepost migrate`"):
        await MongoStore.open(another_url(backend), box=BOX)


async def test_another_key_is_refused_at_the_start_and_by_migrate(backend: MongoBackend) -> None:
    other = SecretBox(bytes(32))

    for use in (MongoStore.open, MongoStore.migrate):
        with pytest.raises(StoreUnavailable, match="another secret key"):
            await use(backend.url, box=other)


async def test_a_database_of_a_newer_version_is_refused(backend: MongoBackend, store: Store) -> None:
    mongo: Any = store._mongo  # type: ignore[attr-defined]
    await mongo.meta.update_one({"_id": "schema"}, {"$set": {"version": SCHEMA_VERSION + 1}})

    for use in (MongoStore.open, MongoStore.migrate):
        with pytest.raises(StoreUnavailable, match="newer than this Gatepost"):
            await use(backend.url, box=BOX)


async def test_several_processes_make_a_database_ready_at_once(backend: MongoBackend) -> None:
    url = another_url(backend)

    await asyncio.gather(*(MongoStore.migrate(url, box=BOX) for _ in range(4)))

    store = await MongoStore.open(url, box=BOX)
    indexes = {name: len(await store._mongo.database[name].index_information()) for name in INDEXES}
    await store.close()
    assert indexes == {name: len(of) + 1 for name, of in INDEXES.items()}


async def test_the_options_of_the_url_do_not_weaken_what_the_store_promises() -> None:
    url = "mongodb://127.0.0.1:1/?w=1&journal=false&readPreference=secondary&retryWrites=true&readConcernLevel=local"
    mongo = mongo_driver.Mongo(url)
    database = mongo.database
    await mongo.close()

    assert database.name == "gatepost"
    assert database.write_concern.document == {"w": "majority", "j": True}
    assert (database.read_concern.level, database.read_preference.name) == ("majority", "Primary")
    assert mongo.client.options.retry_writes is False


@pytest.mark.parametrize("url", ["mongodb://u:secret@a:b:c/x", "mongodb://", "http://127.0.0.1"])
async def test_a_url_that_is_none_is_refused_without_being_quoted(url: str) -> None:
    with pytest.raises(StoreUnavailable) as refused_:
        await MongoStore.open(url, box=BOX)

    assert "secret" not in str(refused_.value)


async def test_a_server_that_cannot_be_reached_is_an_error_within_seconds() -> None:
    started = asyncio.get_running_loop().time()

    with pytest.raises(StoreUnavailable):
        await MongoStore.open("mongodb://127.0.0.1:1/gatepost", box=BOX)

    assert asyncio.get_running_loop().time() - started < 7


@pytest.mark.parametrize("loss", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_server_that_is_lost_is_an_error_and_what_it_acknowledged_is_there_when_it_is_back(
    monkeypatch: pytest.MonkeyPatch, loss: signal.Signals
) -> None:
    monkeypatch.setattr(mongo_driver, "FIND_SERVER_MS", 2_000)
    monkeypatch.setattr(mongo_driver, "ANSWER_MS", 2_000)
    server = StandIn()
    store: Any = None
    try:
        await MongoStore.migrate(server.url, box=BOX)
        store = await MongoStore.open(server.url, box=BOX)
        task = await add_task(store)
        server.process.send_signal(loss)

        async with asyncio.timeout(20):
            for asked in (store.task(GROUP_ID, task.id), save(store, make_task_change()), lease(store)):
                with pytest.raises(StoreUnavailable):
                    await asked

        if loss is signal.SIGKILL:
            server.process.wait()
            server.start()
        else:
            server.process.send_signal(signal.SIGCONT)
        await eventually(lambda: store.task(GROUP_ID, task.id), task)
    finally:
        if store is not None:
            await store.close()
        server.remove()


async def test_the_servers_clock_is_told(store: Store) -> None:
    moment = await store.server_time()  # type: ignore[attr-defined]

    assert moment is not None
    assert abs(moment - datetime.now(UTC)) < timedelta(minutes=5)


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


async def documents(store: Store) -> dict[str, list[dict[str, Any]]]:
    database = store._mongo.database  # type: ignore[attr-defined]
    return {name: await database[name].find({}).to_list() for name in (*INDEXES, "groups")}


async def empty(store: Store) -> None:
    database = store._mongo.database  # type: ignore[attr-defined]
    for name in ("tasks", "events", "history", "deliveries"):
        await database[name].delete_many({})


def another_url(backend: MongoBackend) -> str:
    """Return the URL of a database that is not there yet."""
    return standin.url(f"{urlsplit(backend.url).path[1:]}_new")


async def eventually(ask: Callable[[], Awaitable[Any]], answer: Any) -> None:
    """Ask until the store can answer, for twenty seconds."""
    for _ in range(200):
        try:
            assert await ask() == answer
            return
        except StoreUnavailable:
            await asyncio.sleep(0.1)
    pytest.fail("the store did not come back")
