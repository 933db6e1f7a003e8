"""The stores of `fleet.py`: servers of its own, and what lies in them afterwards, read past Gatepost."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from tests.postgres_servers import PostgresServer, binaries
from tests.standin import StandIn


@dataclass(frozen=True, slots=True)
class StoredAttempt:
    """Units: `started` in seconds of the wall clock."""

    started: float
    status: int | None


@dataclass(frozen=True, slots=True)
class Stored:
    """A delivery as the store has it, with its attempts by number; `rows` counts what is kept of them."""

    id: str
    webhook_id: str
    task_id: str
    status: str
    attempt_count: int
    rows: int
    attempts: Mapping[int, StoredAttempt]

    @property
    def is_consistent(self) -> bool:
        """Say whether there is one attempt for each number that was counted, and no other."""
        return self.rows == self.attempt_count == len(self.attempts) and sorted(self.attempts) == list(
            range(1, self.attempt_count + 1)
        )


class StoreServer(Protocol):
    """Where the data of one run lies."""

    url: str

    def restart(self) -> None:
        """End it without a goodbye, and start it again."""

    def remove(self) -> None: ...

    async def unfinished(self) -> int: ...

    async def deliveries(self) -> list[Stored]: ...


def store_named(name: str) -> StoreServer:
    """Return a server of its own for `postgres` or `mongodb`, else the one at that URL."""
    if name == "postgres":
        return OwnPostgres()
    if name == "mongodb":
        return OwnMongo()
    return Mongo(name) if name.startswith("mongodb") else Postgres(name)


# --- PostgreSQL --------------------------------------------------------------------------------------------------

_DELIVERIES = """
SELECT d.id, d.webhook_id, d.task_ids, d.status, d.attempt_count,
       array_remove(array_agg(a.number), NULL), array_agg(a.started_at), array_agg(a.status_code)
FROM deliveries d LEFT JOIN attempts a ON a.delivery_id = d.id GROUP BY d.id
"""


class Postgres:
    """A database that somebody else looks after: it must be empty, and is not restarted."""

    def __init__(self, url: str) -> None:
        self.url = url

    def restart(self) -> None:
        sys.exit("Only a server of its own can be restarted: --store postgres, or --restarts 0.")

    def remove(self) -> None:
        pass

    async def unfinished(self) -> int:
        [(count,)] = await self._rows("SELECT count(*) FROM deliveries WHERE finished_at IS NULL")
        return int(count)

    async def deliveries(self) -> list[Stored]:
        found = []
        for id_, webhook_id, task_ids, status, count, *attempts in await self._rows(_DELIVERIES):
            by_number = {
                number: StoredAttempt(started / 1000, code) for number, started, code in zip(*attempts, strict=False)
            }
            found.append(Stored(id_, webhook_id, task_ids, status, count, len(attempts[0]), by_number))
        return found

    async def _rows(self, sql: str) -> list[Any]:
        import asyncpg

        connection = await asyncpg.connect(self.url, timeout=10)
        try:
            return list(await connection.fetch(sql, timeout=60))
        finally:
            await connection.close()


class OwnPostgres(Postgres):
    """A server of its own, as durable as it comes."""

    def __init__(self) -> None:
        folder = binaries(18) or binaries(15)
        if folder is None:
            sys.exit("There is no PostgreSQL 18 or 15 on this machine.")
        self._server = PostgresServer(folder)
        super().__init__(self._server.url)

    def restart(self) -> None:
        self._server.stop()
        self._server.start()

    def remove(self) -> None:
        self._server.remove()


# --- MongoDB -----------------------------------------------------------------------------------------------------


class Mongo:
    """As `Postgres`, on MongoDB."""

    def __init__(self, url: str) -> None:
        from pymongo import MongoClient

        self.url = url
        self._client: Any = MongoClient(url)
        self._database = self._client.get_default_database()

    def restart(self) -> None:
        sys.exit("MongoDB is not restarted here: --restarts 0.")

    def remove(self) -> None:
        self._client.close()

    async def unfinished(self) -> int:
        waiting = self._database["deliveries"].count_documents({"open": 1})
        return int(waiting) + int(self._database["tasks"].count_documents({"pending_events": {"$gt": 0}}))

    async def deliveries(self) -> list[Stored]:
        return [_stored_document(each) for each in self._database["deliveries"].find({})]


def _stored_document(document: Mapping[str, Any]) -> Stored:
    attempts = document["attempts"].values()
    return Stored(
        id=document["_id"],
        webhook_id=document["webhook_id"],
        task_id=document["task_ids"][0],
        status=document["status"],
        attempt_count=document["attempt_count"],
        rows=len(attempts),
        attempts={each["number"]: StoredAttempt(each["started_at"] / 1000, each["status_code"]) for each in attempts},
    )


class OwnMongo(Mongo):
    """The stand-in that speaks MongoDB's protocol."""

    def __init__(self) -> None:
        self._server = StandIn()
        super().__init__(f"{self._server.url}/gatepost")

    def remove(self) -> None:
        super().remove()
        self._server.remove()
