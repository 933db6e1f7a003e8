"""PostgreSQL's connections: some for what people ask, some for the engine, and how scripts run on them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from typing import Any, TypeVar

import asyncpg

from gatepost.adapters.storage.handing_over import HandOver
from gatepost.adapters.storage.postgres_dialect import in_postgres
from gatepost.adapters.storage.scripts import Emitted, Kind, Script, Statement, Unstorable
from gatepost.domain.errors import StoreUnavailable

T = TypeVar("T")
Connection = Any  # asyncpg's classes carry no types of their own
Pool = Any

FOR_PEOPLE = 10  # connections at most, of one process
FOR_THE_ENGINE = 6  # it records, leases, renews, reads, confirms and releases at once
CONNECT_SECONDS = 5.0
QUEUE_SECONDS = 15.0  # for a connection that others use
COMMAND_SECONDS = 15.0  # a server that is gone without a word is an error, not a wait

_SETTINGS = {
    "application_name": "gatepost",
    "default_transaction_isolation": "read committed",
    # Every statement looks rows up one by one in an index made for it. Of a table that has just filled the planner
    # knows nothing, and would rather walk all of it until statistics are made. What is ruled out looks dear enough to
    # be compiled, which costs more than any of our statements.
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
    # A process that is stopped inside a transaction must not keep lanes locked: others' pokes and renewals wait for
    # them. Whoever waits does so for longer, and comes through when that transaction is ended.
    "idle_in_transaction_session_timeout": "3s",
    "lock_timeout": "5s",
    # So that the server notices a machine that is gone, and lets go of what it had locked.
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}
_ONE_SNAPSHOT = {"isolation": "repeatable_read", "readonly": True}
# An acknowledged commit is on disk, whatever the server's default; a stricter one is left alone.
_DURABLE = "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"


async def connect(url: str, *, command_seconds: float | None = COMMAND_SECONDS, **settings: str) -> Connection:
    """Return a connection of its own; raises what the driver raises."""
    return await asyncpg.connect(
        url, timeout=CONNECT_SECONDS, command_timeout=command_seconds, server_settings={**_SETTINGS, **settings}
    )


async def open_pool(url: str, *, most: int, durable: bool = True) -> Pool:
    """Return a pool that connects when it is asked to: one with a floor would try, and complain, on its own."""

    async def set_up(connection: Connection) -> None:
        await connection.execute(_DURABLE if durable else "SET synchronous_commit = off")

    async def keep_as_it_is(_: Connection) -> None:
        """Ask nothing of a connection given back: scripts leave nothing behind, and a reset is a round trip."""

    return await asyncpg.create_pool(
        url,
        min_size=0,
        max_size=most,
        init=set_up,
        reset=keep_as_it_is,
        timeout=CONNECT_SECONDS,
        command_timeout=COMMAND_SECONDS,
        server_settings=_SETTINGS,
    )


class Connections:
    """Runs scripts on a PostgreSQL database.

    Shape: `poke` pokes lanes. `on_poked` is called with the webhooks whose lanes took nothing of what was handed over,
           once they are poked, as it is only then that their lanes can be leased.
    """

    def __init__(self, people: Pool, engine: Pool, poke: Callable[[Mapping[str, int]], Awaitable[None]]) -> None:
        self.on_poked: Callable[[Sequence[str]], None] = _ignore
        self.hand_over = HandOver()
        self._people = people
        self._engine = engine
        self._poke = poke

    async def read(self, script: Script[T]) -> T:
        async with lent(self._people) as connection, connection.transaction(**_ONE_SNAPSHOT):
            return await run(connection, script, {})

    async def read_lanes(self, script: Script[T]) -> T:
        async with lent(self._engine) as connection:
            return await run(connection, script, {})

    async def write(self, script: Script[T]) -> T:
        return await self._write(self._people, script)

    async def write_lanes(self, script: Script[T]) -> T:
        return await self._write(self._engine, script)

    async def _write(self, pool: Pool, script: Script[T]) -> T:
        pokes: dict[str, int] = {}
        with ExitStack() as until_handed_over:
            async with lent(pool) as connection, connection.transaction():
                result = await run(connection, script, pokes)
                queued = result.queued if isinstance(result, Emitted) else ()
                hand_over = until_handed_over.enter_context(self.hand_over.emission(queued))
            refused = hand_over()
        if pokes:
            await self._poke(pokes)
        if refused:
            self.on_poked(sorted(refused))
        return result


@asynccontextmanager
async def lent(pool: Pool) -> AsyncIterator[Connection]:
    """Borrow a connection.

    Raises: StoreUnavailable, Unstorable; never what is the driver's own.
    """
    try:
        async with pool.acquire(timeout=QUEUE_SECONDS) as connection:
            try:
                yield connection
            except (asyncio.CancelledError, OSError, asyncpg.InterfaceError, asyncpg.InternalClientError):
                connection.terminate()  # what it is at is not known
                raise
            except asyncpg.ReadOnlySQLTransactionError:
                await pool.expire_connections()  # this server was the primary, and is no more
                raise
    except Exception as error:
        raise at_border(error) from error


async def run(connection: Connection, script: Script[T], pokes: dict[str, int]) -> T:
    """Run a script to its end, and gather what it wants poked."""
    answer: object = None
    while True:
        try:
            statement = script.send(answer)
        except StopIteration as end:
            result: T = end.value
            return result
        if statement.kind is Kind.POKE:
            pokes.update(statement.params)
            answer = None
        else:
            answer = await _perform(connection, statement)


async def _perform(connection: Connection, statement: Statement) -> object:
    kind, sql, params, types = statement
    text = in_postgres(sql, types)
    if kind is Kind.FETCH:
        return await connection.fetch(text, *params)
    if kind is Kind.EXECUTE:
        return _changed(await connection.execute(text, *params))
    columns = list(zip(*params, strict=True))
    if kind is Kind.FETCH_MANY:
        return await connection.fetch(text, *columns) if columns else []
    return _changed(await connection.execute(text, *columns)) if columns else 0


def _changed(status: str) -> int:
    """Return the number in what the server says, such as UPDATE 3."""
    return int(status.rpartition(" ")[2])


def at_border(error: Exception) -> Exception:
    """Return what the core may see of an error: never a driver's own."""
    match error:
        case (
            asyncpg.DataError()
            | asyncpg.IntegrityConstraintViolationError()
            | asyncpg.ProgramLimitExceededError()
            | UnicodeEncodeError()
            | OverflowError()
        ):
            return Unstorable(f"the database cannot hold this: {said_by(error)}")
        case asyncpg.PostgresError() | asyncpg.InterfaceError() | asyncpg.InternalClientError() | OSError():
            return StoreUnavailable(f"the database did not take it: {said_by(error)}")
        case _:
            return error


def said_by(error: Exception) -> str:
    """Return an error's first sentence: the details after it may repeat rows."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _ignore(_: Sequence[str]) -> None: ...
