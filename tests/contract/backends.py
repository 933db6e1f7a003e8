"""The backends that the contract runs on, each with what only it can know: how to be made, reopened and looked into."""

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

from tests import postgres_servers, standin
from tests.builders import GROUP_ID, make_group
from tests.tools import missing

from gatepost import stores

SECRET_KEY = bytes(range(32))
NEVER_MS = 253_402_300_799_999  # the end of the year 9999


Store = stores.Store  # one handle on a store, as one process has it


class Backend(ABC):
    """The data of one test, named by its folder. Every `open` gives one more handle on it, as a process has."""

    name: ClassVar[str]
    sees_death: ClassVar[bool]  # an owner that was killed is known to be dead before its leases end

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.deaths: list[BaseException] = []  # of threads that stores run
        self._handles: list[Store] = []

    @classmethod
    def missing(cls) -> str | None:
        """Say what is missing to run on this backend; None when it can run."""
        return None

    @property
    @abstractmethod
    def url(self) -> str:
        """Return the store's URL, as the settings take it."""

    async def make(self) -> None:  # noqa: B027  # most have nothing to make
        """Make what has to be there before a store can be migrated."""

    async def open(self) -> Store:
        store = await self._open()
        self._handles.append(store)
        return store

    async def reopen(self) -> Store:
        """Close every handle, as if each process had stopped, and open a new one."""
        await self.close()
        return await self.open()

    async def close(self) -> None:
        while self._handles:
            await self._handles.pop().close()
        assert self.deaths == []

    @abstractmethod
    async def _open(self) -> Store: ...

    @abstractmethod
    def bytes_at_rest(self) -> bytes | None:
        """Return every byte an embedded backend has written; None when they lie with a server."""

    @abstractmethod
    async def lose_hint(self, webhook_id: str) -> None:
        """Make a lane due never, as a crash between a commit and its poke leaves it."""

    @abstractmethod
    async def lose_event(self, group_id: str, event_id: str) -> None:
        """Forget an event, as when it has been kept for long enough."""


class SqliteBackend(Backend):
    name = "sqlite"
    sees_death = True

    async def _open(self) -> Store:
        from gatepost.adapters.secretbox import SecretBox
        from gatepost.adapters.storage.sqlite import SqliteStore

        return await SqliteStore.open(self._path, box=SecretBox(SECRET_KEY), on_death=self.deaths.append)

    @property
    def url(self) -> str:
        return f"sqlite:///{self._path}"

    @property
    def _path(self) -> Path:
        return self.folder / "gatepost.db"

    def bytes_at_rest(self) -> bytes:
        return b"".join(path.read_bytes() for path in sorted(self.folder.rglob("*")) if path.is_file())

    async def lose_hint(self, webhook_id: str) -> None:
        with closing(sqlite3.connect(self._path, timeout=10)) as connection, connection:
            connection.execute("UPDATE lanes SET due_at = ? WHERE webhook_id = ?", (NEVER_MS, webhook_id))

    async def lose_event(self, group_id: str, event_id: str) -> None:
        with closing(sqlite3.connect(self._path, timeout=10)) as connection, connection:
            connection.execute("DELETE FROM events WHERE group_id = ? AND id = ?", (group_id, event_id))


class PostgresBackend(Backend):
    """A schema of its own in the test server's database."""

    version: ClassVar[int]
    sees_death = False

    @classmethod
    def missing(cls) -> str | None:
        return postgres_servers.missing(cls.version)

    async def _open(self) -> Store:
        from gatepost.adapters.secretbox import SecretBox
        from gatepost.adapters.storage.postgres import PostgresStore

        box = SecretBox(SECRET_KEY)
        await self.make()
        await PostgresStore.migrate(self.url, box=box)
        return await PostgresStore.open(self.url, box=box, on_death=self.deaths.append)

    async def make(self) -> None:
        async with self.connected() as connection:
            await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {self._schema}")

    @property
    def url(self) -> str:
        return f"{postgres_servers.url(self.version)}&search_path={self._schema}"

    @property
    def _schema(self) -> str:
        return f"test_{sha256(str(self.folder).encode()).hexdigest()[:16]}"

    def bytes_at_rest(self) -> None:
        return None

    async def lose_hint(self, webhook_id: str) -> None:
        async with self.connected() as connection:
            await connection.execute(f"UPDATE lanes SET due_at = {NEVER_MS} WHERE webhook_id = $1", webhook_id)

    async def lose_event(self, group_id: str, event_id: str) -> None:
        async with self.connected() as connection:
            await connection.execute("DELETE FROM events WHERE group_id = $1 AND id = $2", group_id, event_id)

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Any]:
        """Give a connection past the store, as another program has."""
        import asyncpg

        connection = await asyncpg.connect(self.url)
        try:
            yield connection
        finally:
            await connection.close()


class Postgres15Backend(PostgresBackend):
    name = "postgres-15"
    version = 15


class Postgres18Backend(PostgresBackend):
    name = "postgres-18"
    version = 18


class MongoBackend(Backend):
    """A database of its own on the test server."""

    name = "mongodb"
    sees_death = False

    @staticmethod
    def missing() -> str | None:
        return standin.missing()

    async def _open(self) -> Store:
        from gatepost.adapters.secretbox import SecretBox
        from gatepost.adapters.storage.mongodb import MongoStore

        box = SecretBox(SECRET_KEY)
        if not self._handles:
            await MongoStore.migrate(self.url, box=box)
        return await MongoStore.open(self.url, box=box, on_death=self.deaths.append)

    @property
    def url(self) -> str:
        return standin.url(f"test_{sha256(str(self.folder).encode()).hexdigest()[:16]}")

    def bytes_at_rest(self) -> None:
        return None

    async def lose_hint(self, webhook_id: str) -> None:
        from pymongo import AsyncMongoClient

        async with AsyncMongoClient(self.url) as client:
            lanes = client.get_default_database()["lanes"]
            await lanes.update_one({"_id": webhook_id}, {"$set": {"due_at": NEVER_MS}})

    async def lose_event(self, group_id: str, event_id: str) -> None:
        from pymongo import AsyncMongoClient

        async with AsyncMongoClient(self.url) as client:
            events = client.get_default_database()["events"]
            await events.delete_one({"group_id": group_id, "id": {"$eq": event_id}})


BACKENDS: dict[str, type[Backend]] = {
    backend.name: backend for backend in (SqliteBackend, Postgres15Backend, Postgres18Backend, MongoBackend)
}


@asynccontextmanager
async def data_on(name: str, folder: Path) -> AsyncIterator[Backend]:
    """Give the data of one test, empty but for the group that the builders use; skip or fail where it cannot be had."""
    if reason := BACKENDS[name].missing():
        missing(reason)
    backend = BACKENDS[name](folder)
    try:
        first = await backend.open()
        await first.add_group(make_group(id=GROUP_ID, name="the group of the builders"))
        yield backend
    finally:
        await backend.close()
