"""The store on a PostgreSQL database: the shared SQL, and the few statements that are better said in its own way."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta

import asyncpg

from gatepost.adapters.secretbox import SecretBox
from gatepost.adapters.storage import postgres_schema
from gatepost.adapters.storage.postgres_connections import (
    FOR_PEOPLE,
    FOR_THE_ENGINE,
    Connection,
    Connections,
    connect,
    open_pool,
    said_by,
)
from gatepost.adapters.storage.postgres_pokes import Hearing, Pokes
from gatepost.adapters.storage.rows import NEVER_MS, Row, from_ms, from_ms_or_none, queued_from, to_ms
from gatepost.adapters.storage.scripts import Script, fetch
from gatepost.adapters.storage.sql_accounts import SqlAccounts
from gatepost.adapters.storage.sql_attempts import SqlAttempts
from gatepost.adapters.storage.sql_deliveries import SqlDeliveries
from gatepost.adapters.storage.sql_lanes import SqlLanes
from gatepost.adapters.storage.sql_owners import SqlOwners
from gatepost.adapters.storage.sql_tasks import SqlTasks
from gatepost.adapters.storage.sql_webhooks import SqlWebhooks
from gatepost.adapters.system import SystemChance
from gatepost.domain.deliveries import QueuedDelivery
from gatepost.domain.errors import StoreUnavailable
from gatepost.ports import Clock, LaneOutcomes, LaneRead, Leased, Release

CLOSE_SECONDS = 5.0

# All lanes at once, each with one row more than was asked for, to know when that is due. `LIMIT 1` has events looked up
# one by one, too: a planner that believes in few of them would walk them all.
READ_LANES = """
SELECT lanes.webhook_id, lanes.token, lanes.pokes, asked.most, later.next_attempt_at, due.next_attempt_at,
       due.id, due.group_id, due.webhook_id, due.event_id, due.event, events.body, events.hop, due.attempt_count,
       due.created_at
FROM unnest(?::text[], ?::bigint[]) AS asked (webhook_id, most)
JOIN lanes ON lanes.webhook_id = asked.webhook_id
LEFT JOIN LATERAL (
    SELECT next_attempt_at, id, group_id, webhook_id, event_id, event, attempt_count, created_at FROM deliveries
    WHERE webhook_id = lanes.webhook_id AND finished_at IS NULL AND next_attempt_at <= ?
    ORDER BY next_attempt_at, id LIMIT asked.most + 1
) AS due ON true
LEFT JOIN LATERAL (
    SELECT body, hop FROM events WHERE group_id = due.group_id AND id = due.event_id LIMIT 1
) AS events ON true
LEFT JOIN LATERAL (
    SELECT next_attempt_at FROM deliveries
    WHERE webhook_id = lanes.webhook_id AND finished_at IS NULL AND next_attempt_at > ?
    ORDER BY next_attempt_at LIMIT 1
) AS later ON true
ORDER BY lanes.webhook_id, due.next_attempt_at, due.id
"""
# As `sql_lanes.RELEASE` and `HAND_BACK`, for many lanes at once, locked in the order of their ids. Deliveries are seen
# as of the statement's start, lanes as of their lock: a poke in between fails the comparison, one after it makes the
# lane due again.
RELEASE_LANES = f"""
WITH locked AS (
    SELECT lanes.webhook_id, asked.pokes IS NULL AS as_due FROM lanes
    JOIN unnest(?::text[], ?::bigint[], ?::bigint[]) AS asked (webhook_id, token, pokes)
        ON lanes.webhook_id = asked.webhook_id
    WHERE lanes.token = asked.token AND (asked.pokes IS NULL OR lanes.pokes = asked.pokes)
    ORDER BY lanes.webhook_id FOR NO KEY UPDATE OF lanes
)
UPDATE lanes SET owner = '', lease_until = 0, due_at = CASE WHEN locked.as_due THEN due_at ELSE coalesce(
    (SELECT next_attempt_at FROM deliveries WHERE webhook_id = lanes.webhook_id AND finished_at IS NULL
     ORDER BY next_attempt_at LIMIT 1), {NEVER_MS}) END
FROM locked WHERE lanes.webhook_id = locked.webhook_id RETURNING lanes.webhook_id
"""
_TIME = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint"


class PostgresStore(SqlAccounts, SqlTasks, SqlWebhooks, SqlDeliveries, SqlLanes, SqlAttempts, SqlOwners):
    """Implements every store of `ports`.

    Shape: `on_queued` as `HandOver` has it, `on_poked` as `Connections`; it also tells of others' commits.
    """

    def __init__(
        self, url: str, pools: Sequence[Connection], box: SecretBox, *, on_death: Callable[[BaseException], None]
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
        clock: Clock | None = None,  # noqa: ARG003  # the database's own is asked for
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
        async with _connected(url) as connection:
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
        [(moment,)] = await self._database.read_lanes(_rows(_TIME))
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

    async def read_lanes(self, limits: Mapping[str, int], *, now: datetime) -> Mapping[str, LaneRead]:
        return await self._database.read_lanes(_read_lanes(limits, to_ms(now)))

    async def release_lanes(self, releases: Sequence[Release]) -> set[str]:
        if not releases:
            return set()
        asked = sorted({each.webhook_id: each for each in releases}.values(), key=lambda each: each.webhook_id)
        columns = zip(*((each.webhook_id, each.token, each.pokes) for each in asked), strict=True)
        rows = await self._database.write_lanes(_rows(RELEASE_LANES, *columns))
        return {webhook_id for (webhook_id,) in rows}

    async def record_attempts(self, batch: Sequence[LaneOutcomes]) -> set[str]:
        self._connections.hand_over.recorded({each.delivery.id for outcomes in batch for each in outcomes.settled})
        return await super().record_attempts(batch)

    def _tell_death(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (bug := task.exception()):
            self._on_death(bug)


def _rows(sql: str, *params: object) -> Script[Sequence[Row]]:
    rows: Sequence[Row] = yield fetch(sql, params)
    return rows


def _read_lanes(limits: Mapping[str, int], now: int) -> Script[Mapping[str, LaneRead]]:
    rows = yield fetch(READ_LANES, (list(limits), list(limits.values()), now, now))
    lanes: dict[str, list[Row]] = {}
    for row in rows:
        lanes.setdefault(row[0], []).append(row)
    return {webhook_id: _lane_read(its_rows) for webhook_id, its_rows in lanes.items()}


def _lane_read(rows: Sequence[Row]) -> LaneRead:
    _, token, pokes, most, later, *_ = rows[0]
    due = [row for row in rows if row[5] is not None]
    next_due_at = due[most][5] if len(due) > most else later
    return LaneRead(token, pokes, [queued_from(row[6:]) for row in due[:most]], from_ms_or_none(next_due_at))


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[Connection]:
    """Give a connection of its own; raise for the operator what the driver raises."""
    try:
        connection = await connect(url)
        try:
            yield connection
        finally:
            await connection.close(timeout=CLOSE_SECONDS)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        raise StoreUnavailable(f"the PostgreSQL database cannot be used: {said_by(error)}") from error
