"""What a MongoDB server or a process that fails half-way does to others: an error by name, nothing lost, nothing told."""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pymongo.errors import BulkWriteError, PyMongoError
from tests.builders import GROUP_ID, accepted, make_group
from tests.contract.backends import MongoBackend, Store
from tests.contract.steps import detail, leased_with_one, record
from tests.integration.taps import Failing

from gatepost.domain.deliveries import Status
from gatepost.domain.errors import StoreUnavailable


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


# --- steps ---------------------------------------------------------------------------------------------------


def failing(store: Store, collection: str, method: str, *errors: PyMongoError) -> None:
    """Let a collection answer one method with these errors, one after the other, and then as it is."""
    mongo: Any = store._mongo  # type: ignore[attr-defined]
    setattr(mongo, collection, Failing(getattr(mongo, collection), method, list(errors)))


def refusal(code: int, errmsg: str = "it was refused", document: dict[str, Any] | None = None) -> BulkWriteError:
    """Return what the driver raises when a server refuses one write of several."""
    error = {"index": 0, "code": code, "errmsg": errmsg, "op": document or {}}
    return BulkWriteError({"writeErrors": [error], "writeConcernErrors": [], "nInserted": 0, "nMatched": 0})
