"""What stands between a MongoDB store and its server in tests: to stop it just before a write, or to end it there."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from pymongo.errors import AutoReconnect, PyMongoError
from tests.contract.backends import Store

from gatepost.adapters.storage.mongo_schema import INDEXES

COLLECTIONS = (*INDEXES, "groups", "group_names", "open_swaps", "running_replays", "meta")
WRITES = {
    "insert_one",
    "insert_many",
    "update_one",
    "update_many",
    "bulk_write",
    "find_one_and_update",
    "delete_one",
    "delete_many",
}


class Tap:
    """Stands between a store and its server: notes every write as ``collection.method``, and can stop it there."""

    def __init__(self, store: Store) -> None:
        self.written: list[str] = []
        self._dies_at: int | None = None
        self._is_done_first = False
        self._stops_before: str | None = None
        self._reached = asyncio.Event()
        self._goes_on = asyncio.Event()
        mongo: Any = store._mongo
        for name in COLLECTIONS:
            setattr(mongo, name, Tapped(getattr(mongo, name), name, self))

    def die_at(self, number: int, *, is_done_first: bool) -> None:
        """Let the process die at its n-th write from now on: before it is made, or before its answer is heard."""
        self._dies_at, self._is_done_first = len(self.written) + number, is_done_first

    @asynccontextmanager
    async def stopped_before(self, write: str, doing: Awaitable[Any]) -> AsyncIterator["asyncio.Task[Any]"]:
        """Start something and give it as it stands before a write; it goes on, and ends, at the end of the block."""
        self._stops_before = write
        task = asyncio.ensure_future(doing)
        try:
            async with asyncio.timeout(20):
                await self._reached.wait()
            yield task
        finally:
            self._goes_on.set()
            await asyncio.wait([task])

    async def write(self, name: str, writing: Callable[[], Awaitable[Any]]) -> Any:
        self.written.append(name)
        if name == self._stops_before:
            self._stops_before = None
            self._reached.set()
            await self._goes_on.wait()
        if self._dies_at is not None and len(self.written) >= self._dies_at:
            if len(self.written) == self._dies_at and self._is_done_first:
                await writing()
            raise AutoReconnect("the process is dead")
        return await writing()


class Tapped:
    """A collection behind a tap."""

    def __init__(self, collection: Any, name: str, tap: Tap) -> None:
        self._collection, self._name, self._tap = collection, name, tap

    def __getattr__(self, method: str) -> Any:
        real = getattr(self._collection, method)
        if method not in WRITES:
            return real
        return lambda *args, **options: self._tap.write(f"{self._name}.{method}", lambda: real(*args, **options))


class Asking:
    """A collection that notes what it is asked for: the method, and the filter."""

    def __init__(self, collection: Any, asked: list[tuple[str, dict[str, Any]]]) -> None:
        self._collection = collection
        self._asked = asked

    def __getattr__(self, method: str) -> Any:
        real = getattr(self._collection, method)

        def noting(*args: Any, **options: Any) -> Any:
            filters = [each._filter for each in args[0]] if method == "bulk_write" else [args[method == "distinct"]]
            if not method.startswith(("insert", "create")):
                self._asked.extend((method, each) for each in filters)
            return real(*args, **options)

        return noting


class Counting:
    """A collection that notes each request it makes: one for each call, with all that it brings."""

    def __init__(self, collection: Any, requests: list[str]) -> None:
        self._collection = collection
        self._requests = requests

    def __getattr__(self, method: str) -> Any:
        self._requests.append(f"{self._collection.name}.{method}")
        return getattr(self._collection, method)


class Broken:
    """A collection that takes no document."""

    def __init__(self, collection: Any) -> None:
        self._collection = collection

    def __getattr__(self, method: str) -> Any:
        return getattr(self._collection, method)

    async def insert_many(self, *_: Any, **__: Any) -> None:
        raise AutoReconnect("nothing can be written")


class Standing:
    """A collection with methods that stand in for its own."""

    def __init__(self, collection: Any, **methods: Callable[..., Any]) -> None:
        self._collection = collection
        self._methods = methods

    def __getattr__(self, method: str) -> Any:
        return self._methods.get(method) or getattr(self._collection, method)


class Failing:
    """A collection that answers one method with errors, one after the other, and then as it is."""

    def __init__(self, collection: Any, method: str, errors: list[PyMongoError]) -> None:
        self._collection = collection
        self._method = method
        self._errors = errors

    def __getattr__(self, method: str) -> Any:
        if method == self._method and self._errors:
            return self._fail
        return getattr(self._collection, method)

    def _fail(self, *_: Any, **__: Any) -> Any:
        raise self._errors.pop(0)
