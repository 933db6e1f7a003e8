"""What the tests of the PostgreSQL store share: a database each, and a way to hold a row while others wait for it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
from tests.contract.backends import Postgres18Backend, data_on


@asynccontextmanager
async def postgres_database(folder: Path) -> AsyncIterator[Postgres18Backend]:
    """Give an empty database of this version's schema, with the group that the builders use."""
    async with data_on(Postgres18Backend.name, folder) as backend:
        assert isinstance(backend, Postgres18Backend)
        yield backend


@asynccontextmanager
async def changing(backend: Postgres18Backend, sql: str, *params: object) -> AsyncIterator[None]:
    """Run a statement as others would, and commit it only at the end: until then whoever wants its rows waits."""
    async with backend.connected() as connection, connection.transaction():
        await connection.execute(sql, *params)
        yield


async def until_waiting(backend: Postgres18Backend, count: int = 1) -> None:
    """Wait until so many of the store's connections wait for a lock."""
    sql = """
    SELECT count(*) FROM pg_stat_activity
    WHERE application_name = 'gatepost' AND wait_event_type = 'Lock' AND state = 'active'
    """
    async with backend.connected() as connection, asyncio.timeout(10):
        while await connection.fetchval(sql) < count:  # noqa: ASYNC110  # the database tells nobody
            await asyncio.sleep(0.005)


async def ask(backend: Postgres18Backend, sql: str, *params: object) -> Sequence[Any]:
    async with backend.connected() as connection:
        rows: Sequence[Any] = await connection.fetch(sql, *params)
        return rows


async def end_connections(backend: Postgres18Backend, query: str = "%") -> int:
    """End the store's connections, as a restart of the server does; only those whose last statement was like this."""
    sql = """
    SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE application_name = 'gatepost' AND query LIKE $1 AND pid <> pg_backend_pid()
    """
    async with backend.connected() as connection:
        ended: int = await connection.fetchval(sql, query)
        return ended


class SlowAnswers:
    """Commits that are visible to all before their own client hears of them, as on a busy server."""

    def __init__(self, monkeypatch: Any) -> None:
        self.committed = asyncio.Event()
        self.answered = asyncio.Event()
        real = asyncpg.transaction.Transaction.__aexit__

        async def slow(transaction: Any, *error: object) -> None:
            await real(transaction, *error)
            if not transaction._readonly and not self.committed.is_set():
                self.committed.set()
                await self.answered.wait()

        monkeypatch.setattr(asyncpg.transaction.Transaction, "__aexit__", slow)
