"""What a MongoDB server or process that fails half-way does to others: an error by name, nothing lost, nothing told."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
    ExecutionTimeout,
    InvalidOperation,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
)
from structlog.testing import capture_logs
from structlog.typing import EventDict
from tests.builders import GROUP_ID, accepted, make_occasion, make_settled, make_task_change, new_id, refused
from tests.contract.backends import SECRET_KEY, MongoBackend, Store
from tests.contract.steps import (
    ADA,
    EVE,
    HOUR,
    LEASE,
    SECOND,
    add_webhook,
    detail,
    edit_webhook,
    emit_many,
    emit_one,
    ids,
    lease,
    lease_one,
    leased_with_one,
    read,
    read_one,
    record,
    record_settled,
    save,
    taking,
)
from tests.fakes import NOW
from tests.integration.mongodb_rigs import documents, mongo_of, nothing
from tests.integration.taps import Asking, Broken, Failing, Standing, Tap

from gatepost.adapters.secretbox import SecretBox
from gatepost.adapters.storage import mongo_sweep, mongodb
from gatepost.adapters.storage.mongo_outbox import MOST_PENDING_BYTES, MOST_PENDING_EVENTS
from gatepost.domain import tasks
from gatepost.domain.deliveries import QueuedDelivery, Status, replayed
from gatepost.domain.errors import StoreUnavailable
from gatepost.domain.outcomes import ErrorClass, Unreachable
from gatepost.domain.tasks import Task, TaskChange
from gatepost.ports import Saved


def refusal(code: int, errmsg: str = "it was refused", document: dict[str, Any] | None = None) -> BulkWriteError:
    """Return what the driver raises when a server refuses one write of several."""
    error = {"index": 0, "code": code, "errmsg": errmsg, "op": document or {}}
    return BulkWriteError({"writeErrors": [error], "writeConcernErrors": [], "nInserted": 0, "nMatched": 0})


@pytest.fixture
async def store(mongodb: MongoBackend) -> Store:
    return await mongodb.open()


@pytest.fixture
async def other_store(mongodb: MongoBackend) -> Store:
    return await mongodb.open()


@pytest.fixture
def logged() -> Iterator[list[EventDict]]:
    with capture_logs() as lines:
        yield lines


# --- recording -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [6, 89, 133, 279, 365, 371, 9001, 99_999])
async def test_what_a_server_says_of_itself_delays_an_outcome_and_does_not_change_it(store: Store, code: int) -> None:
    _, lane, delivery, queued = await leased_with_one(store)
    failing(store, "deliveries", "bulk_write", *[refusal(code)] * 3)

    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await record(store, lane, queued, accepted())
    await record(store, lane, queued, accepted())

    found = await detail(store, delivery)
    assert found.delivery.progress.status is Status.DELIVERED
    assert [attempt.outcome for attempt in found.attempts] == [accepted()]


async def test_an_outcome_that_is_refused_even_without_its_response_is_an_error_of_the_store(store: Store) -> None:
    _, lane, delivery, queued = await leased_with_one(store)
    failing(store, "deliveries", "bulk_write", *[refusal(121)] * 3)

    with pytest.raises(StoreUnavailable):
        await record(store, lane, queued, accepted())

    await record(store, lane, queued, accepted())
    assert (await detail(store, delivery)).attempts[0].outcome == accepted()


async def test_an_amendment_does_not_take_the_place_of_what_another_owner_has_recorded(
    store: Store, other_store: Store
) -> None:
    webhook, lane, delivery, queued = await leased_with_one(store)
    ours = make_settled(queued, refused())

    async with Tap(store).stopped_before("deliveries.bulk_write", record_settled(store, lane, ours)):
        theirs = await lease_one(other_store, webhook, EVE, now=NOW + HOUR)
        their_queued = await read_one(other_store, webhook)
    died = Unreachable(ErrorClass.INTERNAL_ERROR, "process died")
    await record(other_store, theirs, their_queued, died, at=NOW + HOUR)
    await record_settled(other_store, theirs, make_settled(their_queued, accepted(), at=NOW + HOUR, amends=True))

    found = await detail(store, delivery)
    assert (list(found.attempts), found.delivery.progress) == ([ours.attempt], ours.progress)


# --- saving --------------------------------------------------------------------------------------------------


async def test_a_replay_whose_answer_got_lost_is_not_handed_over_by_its_repeat(
    store: Store, other_store: Store
) -> None:
    _, lane, delivery, queued = await leased_with_one(store)
    await record(store, lane, queued, accepted())
    replay = replayed(delivery, new_id("dlv"), max_attempts=3, now=NOW)
    handed: list[QueuedDelivery] = []
    other_store.on_queued = taking(handed)
    Tap(store).die_at(1, is_done_first=True)
    with pytest.raises(StoreUnavailable):
        await store.add_replay(GROUP_ID, replay)

    assert await other_store.add_replay(GROUP_ID, replay) is Saved.DONE

    assert handed == []


async def test_a_change_for_which_somebody_else_made_room_meanwhile_is_saved(store: Store, other_store: Store) -> None:
    change = make_task_change()
    await save(store, change)
    mongo = mongo_of(store)
    events, mongo.events = mongo.events, Broken(mongo.events)
    for n in range(MOST_PENDING_EVENTS + 1):
        change = update(change.task, n)
        if n < MOST_PENDING_EVENTS:
            assert await save(store, change) is Saved.DONE
    mongo.events = events
    find_one = mongo.tasks.find_one

    async def swept_before(*args: Any, **options: Any) -> Any:
        await other_store.sweep(now=NOW)
        return await find_one(*args, **options)

    mongo.tasks = Standing(mongo.tasks, find_one=swept_before)

    assert await save(store, change) is Saved.DONE


async def test_subscriptions_that_change_while_they_are_read_are_read_again(store: Store, other_store: Store) -> None:
    first = await add_webhook(store)
    mongo = mongo_of(store)
    find_one, edits = mongo.groups.find_one, [add_webhook(other_store), add_webhook(other_store)]

    async def edited_after(*args: Any, **options: Any) -> Any:
        group = await find_one(*args, **options)
        if edits:
            await edits.pop()
        return group

    mongo.groups = Standing(mongo.groups, find_one=edited_after)
    found = await store.subscriptions(GROUP_ID)

    assert found == await other_store.subscriptions(GROUP_ID)
    assert len(found.items) == 3
    assert first.id in {each.webhook_id for each in found.items}


# --- leaving -------------------------------------------------------------------------------------------------


async def test_a_lease_that_is_under_way_when_its_owner_leaves_keeps_nothing(store: Store, other_store: Store) -> None:
    for _ in range(40):  # more than are taken at once
        await emit_one(store, await add_webhook(store))
    await store.join(ADA, now=NOW)

    async with Tap(store).stopped_before("lanes.find_one_and_update", lease(store, ADA)) as leasing:
        leasing.cancel()  # as the engine does with its loops when it ends
        leaving = asyncio.create_task(store.leave(ADA))
        await asyncio.wait([leaving], timeout=0.5)
    await leaving
    await store.close()  # whatever was under way has ended

    assert len(await lease(other_store, EVE)) == 40
    assert (await documents(other_store))["workers"] == []


async def test_an_owner_that_left_neither_leases_nor_renews_until_it_joins_again(store: Store) -> None:
    webhook, lane, *_ = await leased_with_one(store)
    await store.leave(ADA)

    assert await lease(store, ADA) == {}
    assert (await store.renew_lanes(ADA, {webhook.id: lane.token}, now=NOW, lease=LEASE)).lost == {webhook.id}
    assert (await documents(store))["workers"] == []
    await store.join(ADA, now=NOW)
    assert set(await lease(store, ADA)) == {webhook.id}


# --- renewing ------------------------------------------------------------------------------------------------


async def test_a_renewal_that_was_given_up_and_comes_late_does_not_shorten_a_lease(
    store: Store, other_store: Store
) -> None:
    webhook, lane, *_ = await leased_with_one(store)
    tokens = {webhook.id: lane.token}

    late = store.renew_lanes(ADA, tokens, now=NOW, lease=LEASE)
    async with Tap(store).stopped_before("lanes.bulk_write", late):
        await other_store.renew_lanes(ADA, tokens, now=NOW + 20 * SECOND, lease=LEASE)

    assert await lease(other_store, EVE, now=NOW + 49 * SECOND) == {}
    assert set(await lease(other_store, EVE, now=NOW + 51 * SECOND)) == {webhook.id}


async def test_a_lease_absurdly_far_ahead_is_shortened_by_its_renewal(store: Store, other_store: Store) -> None:
    webhook, lane, *_ = await leased_with_one(store)
    tokens = {webhook.id: lane.token}
    await store.renew_lanes(ADA, tokens, now=NOW + HOUR, lease=LEASE)  # and then the clock steps back

    renewal = await store.renew_lanes(ADA, tokens, now=NOW, lease=LEASE)

    assert renewal.lost == set()
    assert await lease(other_store, EVE, now=NOW + 29 * SECOND) == {}
    assert set(await lease(other_store, EVE, now=NOW + 31 * SECOND)) == {webhook.id}


# --- the sweep -----------------------------------------------------------------------------------------------


async def test_what_cannot_be_passed_on_keeps_nobody_from_the_others_and_is_tried_once(
    store: Store, other_store: Store
) -> None:
    webhook = await add_webhook(store)
    mongo, other = mongo_of(store), mongo_of(other_store)
    events, mongo.events = mongo.events, Broken(mongo.events)
    await emit_many(store, webhook, 120)
    (healthy,) = await asyncio.gather(emit_one(store, webhook))
    mongo.events = events
    tried: list[str] = []

    async def insert_many(documents: list[dict[str, Any]], **options: Any) -> Any:
        tried.append(documents[0]["id"])
        if documents[0]["id"] != healthy.event_id:
            raise refusal(133)
        return await events.insert_many(documents, **options)

    other.events = Standing(events, insert_many=insert_many)
    await other_store.sweep(now=NOW)

    assert len(tried) == len(set(tried)) == 121
    assert ids((await read(other_store, webhook, limit=200)).deliveries) == [healthy.id]


async def test_a_task_whose_swap_is_lost_keeps_the_sweep_from_nobody_else(store: Store) -> None:
    webhook = await add_webhook(store)
    delivery = await emit_one(store, webhook)
    await store.delete_webhook(GROUP_ID, webhook.id, now=NOW)
    lock = f"{new_id('swp')}/0"  # a backup of shards that was not taken at one moment
    await mongo_of(store).tasks.update_many({}, {"$set": {"lock": lock}})

    await store.sweep(now=NOW)

    assert (await detail(store, delivery)).delivery.progress.status is Status.DEAD_LETTER
    assert {each["lock"] for each in (await documents(store))["tasks"]} == {lock}


async def test_a_sweep_has_few_outboxes_in_memory_at_once(store: Store, other_store: Store) -> None:
    webhook = await add_webhook(store)
    mongo, other = mongo_of(store), mongo_of(other_store)
    events, mongo.events = mongo.events, Broken(mongo.events)
    await emit_many(store, webhook, 25)
    mongo.events = events
    asked: list[tuple[str, dict[str, Any]]] = []
    other.tasks = Asking(other.tasks, asked)

    await other_store.sweep(now=NOW)

    read_at_once = [len(question["_id"]["$in"]) for method, question in asked if method == "find" and "_id" in question]
    assert sum(read_at_once) == 25
    assert max(read_at_once) * MOST_PENDING_BYTES < 16 * 1024 * 1024  # no more than one document may have anyway
    assert len((await read(other_store, webhook)).deliveries) == 25


async def test_a_sweep_ends_early_when_the_server_is_gone(store: Store, other_store: Store) -> None:
    webhook = await add_webhook(store)
    mongo, other = mongo_of(store), mongo_of(other_store)
    events, mongo.events = mongo.events, Broken(mongo.events)
    await emit_many(store, webhook, 30)
    mongo.events = events
    tap = Tap(other_store)
    other.events = Broken(other.events)

    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        await other_store.sweep(now=NOW)

    assert [write for write in tap.written if not write.startswith("lanes.")] == []


async def test_a_step_of_the_sweep_that_fails_is_told_once_the_others_are_done(
    store: Store, other_store: Store
) -> None:
    gone, forgotten = await add_webhook(store), await add_webhook(store)
    delivery = await emit_one(store, gone)
    await store.delete_webhook(GROUP_ID, gone.id, now=NOW)
    Tap(store).die_at(5, is_done_first=False)  # before the poke
    await emit_one(store, forgotten)
    failing(other_store, "tasks", "find", ExecutionTimeout("too slow", 50))

    with pytest.raises(StoreUnavailable, match="ExecutionTimeout 50"):
        await other_store.sweep(now=NOW)

    assert (await detail(other_store, delivery)).delivery.progress.status is Status.DEAD_LETTER
    assert set(await lease(other_store)) == {forgotten.id}


async def test_a_lane_is_found_forgotten_among_more_than_are_looked_at_at_once(
    store: Store, other_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mongo_sweep, "_LANES_AT_ONCE", 3)
    monkeypatch.setattr(mongo_sweep, "_DUE_AT_ONCE", 2)
    webhooks = [await add_webhook(store) for _ in range(10)]
    disabled = await add_webhook(store)
    await emit_one(store, disabled)
    await edit_webhook(store, disabled, enabled=False)
    mongo = mongo_of(store)
    mongo.lanes = Standing(mongo.lanes, bulk_write=nothing)  # the pokes get lost
    forgotten = {webhooks[n].id for n in (0, 1, 9)}
    for webhook in webhooks:
        if webhook.id in forgotten:
            await emit_many(store, webhook, 3)

    assert await other_store.sweep(now=NOW) == 3
    assert set(await lease(other_store)) == forgotten
    assert await other_store.sweep(now=NOW) == 0


async def test_the_lane_of_a_webhook_that_was_deleted_while_its_owner_was_dead_counts_no_more(store: Store) -> None:
    webhook, *_ = await leased_with_one(store)
    await store.delete_webhook(GROUP_ID, webhook.id, now=NOW)

    await store.sweep(now=NOW + 25 * HOUR)

    (lane,) = (await documents(store))["lanes"]
    assert (lane["free"], lane["owner"]) == (1, "")
    assert await lease(store, EVE, now=NOW + 26 * HOUR) == {}


async def test_closing_does_not_wait_for_a_sweep_that_was_given_up(store: Store, other_store: Store) -> None:
    webhook = await add_webhook(store)
    mongo = mongo_of(store)
    events, mongo.events = mongo.events, Broken(mongo.events)
    delivery = await emit_one(store, webhook)
    mongo.events = events
    tap = Tap(store)

    async with tap.stopped_before("events.insert_many", store.sweep(now=NOW)) as sweeping:
        sweeping.cancel()
        async with asyncio.timeout(5):
            await store.close()

    assert tap.written == ["events.insert_many"]
    await other_store.sweep(now=NOW)
    assert ids((await read(other_store, webhook)).deliveries) == [delivery.id]


# --- what errors tell ----------------------------------------------------------------------------------------

QUOTING = {"url": "https://hooks.example/a-secret-path", "body": "a body that nobody else may read"}


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (refusal(365, "the server is too busy", QUOTING), "BulkWriteError 365: the server is too busy"),
        (refusal(11_000, f"E11000 dup key: {QUOTING}", QUOTING), "BulkWriteError 11000"),
        (OperationFailure("not you", 13, {"code": 13, "errmsg": "not you"}), "OperationFailure 13: not you"),
        (OperationFailure(f"full error: {QUOTING}", 13), "OperationFailure 13"),
        (refusal(365, "x" * 10_000, QUOTING), f"BulkWriteError 365: {'x' * 200}"),
        (InvalidOperation(f"{QUOTING}"), "InvalidOperation"),
    ],
)
async def test_an_error_of_the_server_is_told_without_what_was_written(
    store: Store, error: PyMongoError, told: str
) -> None:
    failing(store, "webhooks", "update_one", error)

    with pytest.raises(StoreUnavailable) as raised:
        await add_webhook(store)

    assert raised.value.detail == f"the MongoDB database did not do what was asked: {told}"


async def test_what_is_logged_of_a_change_that_was_not_passed_on_quotes_nothing(
    store: Store, logged: list[EventDict]
) -> None:
    failing(store, "events", "insert_many", refusal(365, "the server is too busy", QUOTING))

    await emit_one(store, await add_webhook(store))

    assert [(each["event"], each["reason"]) for each in logged] == [
        ("outbox.not_relayed", "BulkWriteError 365: the server is too busy")
    ]


async def test_that_a_server_cannot_be_reached_is_told_without_its_name(store: Store) -> None:
    failing(store, "tasks", "find_one", AutoReconnect("mongo-7.internal:27017: connection closed"))

    with pytest.raises(StoreUnavailable) as raised:
        await store.task(GROUP_ID, "tsk_1")

    assert raised.value.detail == "the MongoDB database cannot be reached (AutoReconnect)"


async def test_the_operator_is_told_why_a_server_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: Any) -> None:
        raise ServerSelectionTimeoutError("mongo-7:27017: connection refused (configured timeouts: many), Timeout: 5s")

    monkeypatch.setattr(mongodb, "check_schema", refuse)

    with pytest.raises(StoreUnavailable) as raised:
        await mongodb.MongoStore.open("mongodb://mongo-7/gatepost", box=SecretBox(SECRET_KEY))

    assert raised.value.detail == (
        "the MongoDB database cannot be reached (ServerSelectionTimeoutError): mongo-7:27017: connection refused"
    )


@pytest.mark.parametrize(
    "reason",
    [
        "\ud800",  # half a surrogate pair
        "x" * 17 * 1024 * 1024,  # more than a document holds
    ],
)
async def test_what_a_document_cannot_hold_is_no_error_of_the_server(store: Store, reason: str) -> None:
    change = make_task_change()

    with pytest.raises(ValueError, match="the database cannot hold this") as raised:
        await save(store, replace(change, history=replace(change.history, reason=reason)))

    assert len(str(raised.value)) < 200


# --- steps ---------------------------------------------------------------------------------------------------


def update(task: Task, number: int) -> TaskChange:
    change = tasks.update(task, {"difficulty": number % 10 + 1}, make_occasion())
    assert change is not None
    return change


def failing(store: Store, collection: str, method: str, *errors: PyMongoError) -> None:
    """Let a collection answer one method with these errors, one after the other, and then as it is."""
    mongo = mongo_of(store)
    setattr(mongo, collection, Failing(getattr(mongo, collection), method, list(errors)))
