"""Pokes on PostgreSQL: written after the commits they belong to, and heard by the processes they concern.

All of it is hints. What is lost here, the engine's polling and the sweep find.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress

import asyncpg
import structlog

from gatepost.adapters.storage.postgres_connections import Connection, Connections, Pool, connect, lent
from gatepost.adapters.storage.scripts import Unstorable
from gatepost.domain.errors import StoreUnavailable

CHANNEL = "gatepost_poked"
LANES_AT_ONCE = 80  # in one statement: a notification holds 8,000 bytes
RETRY_SECONDS = 1.0  # as often as the engine looks by itself: hints need not be back sooner
CHECK_SECONDS = 30.0  # a listener that hears nothing costs a second of delay, and no more
NOBODY = "-"

# Rows are locked in the order of their ids, so that two who poke the same lanes cannot wait for each other. The
# notification names the owner of each lane: nobody else need look, and anybody may when there is none.
_POKE = """
WITH asked (webhook_id, at, times) AS (SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[])),
     locked AS (SELECT webhook_id FROM lanes WHERE webhook_id = ANY ($1) ORDER BY webhook_id FOR NO KEY UPDATE),
     poked AS (
         UPDATE lanes SET pokes = pokes + asked.times, due_at = least(due_at, asked.at)
         FROM locked JOIN asked USING (webhook_id) WHERE lanes.webhook_id = locked.webhook_id
         RETURNING coalesce(nullif(owner, ''), '-') || ' ' || lanes.webhook_id AS told)
"""
POKE = f"""{_POKE}
SELECT pg_notify('{CHANNEL}', $4 || ' ' || string_agg(told, ' ')) FROM poked HAVING count(*) > 0
"""
# When the server has no room for notifications, as somebody has listened for hours and taken none.
POKE_UNHEARD = f"{_POKE} SELECT count(*) FROM poked WHERE $4 <> ''"

log = structlog.get_logger()


class Pokes:
    """Gathers pokes while a statement of them is on its way, and sends them with the next."""

    def __init__(self, pool: Pool, sender: str) -> None:
        self._pool = pool
        self._sender = sender
        self._waiting: dict[str, tuple[int, int]] = {}  # by webhook: from when on it is due, and how often it was poked
        self._writing: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None
        self._retry: asyncio.TimerHandle | None = None

    async def poke(self, moments: Mapping[str, int]) -> None:
        """Make lanes due at the given moments, unless they are earlier; return once that was tried."""
        for webhook_id, at in moments.items():
            self._add(webhook_id, at, 1)
        await asyncio.shield(self._soon())

    async def close(self) -> None:
        """Finish what was asked for."""
        if self._retry:
            self._retry.cancel()
        if self._waiting:
            await self._soon()

    def _add(self, webhook_id: str, at: int, times: int) -> None:
        earlier, before = self._waiting.get(webhook_id, (at, 0))
        self._waiting[webhook_id] = (min(earlier, at), before + times)

    def _soon(self) -> "asyncio.Task[None]":
        if self._next is None:
            self._next = asyncio.create_task(self._write_after(self._writing), name="pokes")
        return self._next

    async def _write_after(self, previous: "asyncio.Task[None] | None") -> None:
        if previous is not None:
            await asyncio.wait([previous])
        self._writing, self._next = self._next, None
        waiting, self._waiting = self._waiting, {}
        lanes = sorted((webhook_id, at, times) for webhook_id, (at, times) in waiting.items())
        while lanes:
            try:
                await self._write(lanes[:LANES_AT_ONCE])
            except StoreUnavailable as error:
                log.warning("store.failed", step="poke", reason=error.detail)
                self._try_again(lanes)
                return
            lanes = lanes[LANES_AT_ONCE:]

    async def _write(self, lanes: Sequence[tuple[str, int, int]]) -> None:
        columns = list(zip(*lanes, strict=True))
        try:
            async with lent(self._pool) as connection:
                await connection.execute(POKE, *columns, self._sender)
        except Unstorable as error:
            log.warning("store.failed", step="notify", reason=str(error))
            async with lent(self._pool) as connection:
                await connection.execute(POKE_UNHEARD, *columns, self._sender)

    def _try_again(self, lanes: Sequence[tuple[str, int, int]]) -> None:
        for lane in lanes:
            self._add(*lane)
        if self._retry is None or self._retry.when() <= asyncio.get_running_loop().time():
            self._retry = asyncio.get_running_loop().call_later(RETRY_SECONDS, self._soon)


class Hearing:
    """Listens for the pokes of other processes, for as long as it takes to connect again and again.

    Shape: `on_poked` of the connections is called with the webhooks to look at; with none, after a time of hearing
           nothing, at all.
    """

    def __init__(self, url: str, sender: str, owners: Collection[str], connections: Connections) -> None:
        self._url = url
        self._sender = sender
        self._owners = owners
        self._connections = connections

    async def run(self) -> None:
        while True:
            try:
                await self._listen()
            except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
                log.warning("store.failed", step="listen", reason=type(error).__name__)
            await asyncio.sleep(RETRY_SECONDS)

    async def _listen(self) -> None:
        connection = await connect(self._url)
        ended = asyncio.Event()
        connection.add_termination_listener(lambda _: ended.set())
        try:
            await connection.add_listener(CHANNEL, self._hear)
            self._connections.on_poked([])
            while not ended.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(CHECK_SECONDS):
                        await ended.wait()
                await connection.execute("SELECT 1")  # a server that is gone without a word is noticed here
        finally:
            connection.terminate()

    def _hear(self, _connection: Connection, _pid: int, _channel: str, told: str) -> None:
        sender, *pairs = told.split(" ")
        if sender == self._sender:
            return  # our own engine was told when it was committed
        concerned = {NOBODY, *self._owners}
        poked = [webhook_id for owner, webhook_id in zip(pairs[::2], pairs[1::2], strict=True) if owner in concerned]
        if poked:
            self._connections.on_poked(poked)
