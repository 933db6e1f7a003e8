"""What the tests of the MongoDB store share: a database each, and what lies in it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.contract.backends import MongoBackend, Store, data_on
from tests.integration.taps import COLLECTIONS


@asynccontextmanager
async def mongodb_database(folder: Path) -> AsyncIterator[MongoBackend]:
    """Give an empty database of this version's schema, with the group that the builders use."""
    async with data_on(MongoBackend.name, folder) as backend:
        assert isinstance(backend, MongoBackend)
        yield backend


async def documents(store: Store) -> dict[str, list[dict[str, Any]]]:
    database = mongo_of(store).database
    return {name: await database[name].find({}).to_list() for name in COLLECTIONS}


def mongo_of(store: Store) -> Any:
    """Return what a store speaks to its server through, to stand something in its way."""
    return store._mongo


async def nothing(*_: Any, **__: Any) -> None:
    """Do nothing, find nothing, and say that it went well."""
