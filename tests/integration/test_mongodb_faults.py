"""What a MongoDB server or process that fails half-way does to others: an error by name, nothing lost, nothing told."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from pymongo.errors import AutoReconnect, BulkWriteError, InvalidOperation, OperationFailure, PyMongoError
from structlog.testing import capture_logs
from structlog.typing import EventDict
from tests.builders import GROUP_ID, accepted, make_task_change
from tests.contract.backends import MongoBackend, Store
from tests.contract.steps import (
    ADA,
    EVE,
    LEASE,
    add_webhook,
    detail,
    emit_one,
    lease,
    leased_with_one,
    record,
    save,
)
from tests.fakes import NOW
from tests.integration.mongodb_rigs import documents
from tests.integration.taps import Failing, Tap

from gatepost.domain.deliveries import Status
from gatepost.domain.errors import StoreUnavailable


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


def failing(store: Store, collection: str, method: str, *errors: PyMongoError) -> None:
    """Let a collection answer one method with these errors, one after the other, and then as it is."""
    mongo: Any = store._mongo  # type: ignore[attr-defined]
    setattr(mongo, collection, Failing(getattr(mongo, collection), method, list(errors)))
