"""The store on a PostgreSQL database: opened, put together, and closed."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from typing import Any

import asyncpg

from gatepost.adapters.secretbox import SecretBox
from gatepost.adapters.storage import postgres_schema
from gatepost.adapters.storage.postgres_connections import (
    FOR_PEOPLE,
    FOR_THE_ENGINE,
    Connection,
    Connections,
    Pool,
    connect,
    open_pool,
    said_by,
)
from gatepost.adapters.storage.postgres_lanes import PostgresLanes, rows_of
from gatepost.adapters.storage.postgres_pokes import Hearing, Pokes
from gatepost.adapters.storage.rows import from_ms
from gatepost.adapters.storage.sql_attempts import SqlAttempts
from gatepost.adapters.storage.sql_deliveries import SqlDeliveries
from gatepost.adapters.storage.sql_events import SqlEvents
from gatepost.adapters.storage.sql_groups import SqlGroups
from gatepost.adapters.storage.sql_keys import SqlKeys
from gatepost.adapters.storage.sql_owners import SqlOwners
from gatepost.adapters.storage.sql_people import SqlPeople
from gatepost.adapters.storage.sql_replays import SqlReplays
from gatepost.adapters.storage.sql_requests import SqlRequests
from gatepost.adapters.storage.sql_retention import SqlRetention
from gatepost.adapters.storage.sql_stats import SqlStats
from gatepost.adapters.storage.sql_swaps import SqlSwaps
from gatepost.adapters.storage.sql_tasks import SqlTasks
from gatepost.adapters.storage.sql_webhooks import SqlWebhooks
from gatepost.adapters.system import SystemChance
from gatepost.domain.deliveries import QueuedDelivery
from gatepost.domain.errors import StoreUnavailable
from gatepost.ports import LaneOutcomes, Leased

CLOSE_SECONDS = 5.0

_TIME = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint"


class PostgresStore(
    SqlGroups,
    SqlKeys,
    SqlPeople,
    SqlRequests,
    SqlTasks,
    SqlSwaps,
    SqlEvents,
    SqlWebhooks,
    SqlDeliveries,
    SqlReplays,
    PostgresLanes,
    SqlAttempts,
    SqlOwners,
    SqlStats,
    SqlRetention,
):
    """Implements every store of `ports`.

    Shape: `on_queued` as `HandOver` has it, `on_poked` as `Connections`; it also tells of others' commits.
    """

    def __init__(
        self, url: str, pools: Sequence[Pool], box: SecretBox, *, on_death: Callable[[BaseException], None]
    ) -> None:
        people, engine, for_pokes = self._pools = pools
        self._url = url
        self._box = box
        self._on_death = on_death
        self._name = SystemChance().new_id("sto")
        self._pokes = Pokes(for_pokes, self._name)
        self._connections = self._database = Connections(people, engine, self._pokes.poke)
        self._owners: set[str] = set()
        self._hearing: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        box: SecretBox,
        on_death: Callable[[BaseException], None] = lambda _: None,
    ) -> "PostgresStore":
        """Open a database that `migrate` has made ready.

        Shape:  `on_death` is called on the loop when a task of the store has ended of a bug.
        Raises: StoreUnavailable, with a sentence for the operator.
        """
        async with _connected(url) as connection:
            await postgres_schema.check(connection, box)
            pools = [
                await open_pool(url, most=FOR_PEOPLE),
                await open_pool(url, most=FOR_THE_ENGINE),
                await open_pool(url, most=1, durable=False),
            ]
        return cls(url, pools, box, on_death=on_death)

    @classmethod
    async def migrate(cls, url: str, *, box: SecretBox) -> None:
        """Bring a database to this version's schema.

        Raises: StoreUnavailable, with a sentence for the operator.
        """
        # An index on a large table takes its time, and so does another process that migrates.
        async with _connected(url, command_seconds=None, lock_timeout="0") as connection:
            await postgres_schema.migrate(connection, box)

    async def close(self) -> None:
        """Finish what was asked for and let go of the server."""
        if self._hearing is not None:
            self._hearing.cancel()
            await asyncio.wait([self._hearing])
        await self._pokes.close()
        for pool in self._pools:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await pool.close()
            pool.terminate()

    @property
    def on_queued(self) -> Callable[[Sequence[QueuedDelivery]], set[str]]:
        return self._connections.hand_over.on_queued

    @on_queued.setter
    def on_queued(self, callback: Callable[[Sequence[QueuedDelivery]], set[str]]) -> None:
        self._connections.hand_over.on_queued = callback

    @property
    def on_poked(self) -> Callable[[Sequence[str]], None]:
        return self._connections.on_poked

    @on_poked.setter
    def on_poked(self, callback: Callable[[Sequence[str]], None]) -> None:
        self._connections.on_poked = callback

    async def server_time(self) -> datetime:
        [(moment,)] = await self._database.read_lanes(rows_of(_TIME))
        return from_ms(moment)

    # --- the engine's view -----------------------------------------------------------------------------------

    async def join(self, owner: str, *, now: datetime) -> None:
        await super().join(owner, now=now)
        self._owners.add(owner)
        if self._hearing is None:
            hearing = Hearing(self._url, self._name, self._owners, self._connections)
            self._hearing = asyncio.create_task(hearing.run(), name="hearing")
            self._hearing.add_done_callback(self._tell_death)

    async def leave(self, owner: str) -> None:
        self._owners.discard(owner)
        await super().leave(owner)

    async def lease_lanes(self, owner: str, *, limit: int, now: datetime, lease: timedelta) -> Leased:
        leased = await super().lease_lanes(owner, limit=limit, now=now, lease=lease)
        self._connections.hand_over.leased({lane.webhook_id for lane in leased.lanes})
        return leased

    async def record_attempts(self, batch: Sequence[LaneOutcomes]) -> set[str]:
        self._connections.hand_over.recorded({each.delivery.id for outcomes in batch for each in outcomes.settled})
        return await super().record_attempts(batch)

    def _tell_death(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (bug := task.exception()):
            self._on_death(bug)


@asynccontextmanager
async def _connected(url: str, **options: Any) -> AsyncIterator[Connection]:
    """Give a connection of its own; raise for the operator what the driver raises."""
    try:
        connection = await connect(url, **options)
        try:
            yield connection
        finally:
            await connection.close(timeout=CLOSE_SECONDS)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        raise StoreUnavailable(f"the PostgreSQL database cannot be used: {said_by(error)}") from error
