"""SQLite's threads: one that writes, with group commit, and a few that read."""

import asyncio
import json
import sqlite3
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from functools import lru_cache
from itertools import chain
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Generic, NamedTuple, TypeVar, cast

from gatepost.adapters.storage.scripts import Emitted, Kind, Script, Unstorable
from gatepost.adapters.storage.sqlite_lanes import POKE
from gatepost.domain.deliveries import QueuedDelivery
from gatepost.domain.errors import StoreUnavailable

T = TypeVar("T")

sqlite3.register_adapter(list, json.dumps)  # a list in one parameter, for `scripts.IN_LIST`

BUSY_TIMEOUT_SECONDS = 5.0
# How long a thread waits for Python's lock before the event loop is made to give it up. A busy loop lets go of it for
# moments that are too short to be caught, and each starts the wait anew: with Python's 5 ms, a batch of outcomes was
# seen to take up to 29 s; with this, 0.1 s. It holds for the whole process, and costs nothing while nobody waits.
SWITCH_SECONDS = 0.0002
READERS = 2
# One commit holds everybody's answer back, and the write lock: no more is put into it after this long.
COMMIT_AFTER_SECONDS = 0.008
# The log is copied into the database by a thread of its own, beside the writing. The writer copies only what has been
# added meanwhile, when the log has become this long, and starts it anew.
CHECKPOINT_EVERY_SECONDS = 1.0
CHECKPOINT_WORTH_COMMITS = 100  # fewer are left to the writer: two flushes each second wear a disk for nothing
LONGEST_LOG_PAGES = 8000  # 32 MiB
FEW_ROWS = 8
MOST_ROWS = 256  # in one statement; SQLite takes 32,766 parameters


class Job(NamedTuple, Generic[T]):
    """A script, and the future of whoever waits for its result."""

    script: Script[T]
    future: asyncio.Future[T]


class Told(NamedTuple):
    """How a job ended."""

    future: asyncio.Future[Any]
    result: object
    error: BaseException | None


class Threads:
    """Runs scripts on one SQLite file.

    Shape: `on_queued` is called on the loop's thread with the deliveries that a batch has committed, before any write
           of that batch is answered. So what a later write says about one of them can never be heard first.
    """

    def __init__(self, path: Path, *, boot: Callable[[], float], on_death: Callable[[BaseException], None]) -> None:
        self.on_queued: Callable[[Sequence[QueuedDelivery]], set[str]] = _take_none
        sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_SECONDS))
        self._loop = asyncio.get_running_loop()
        self._boot = boot
        self._on_death = on_death
        self._closed: str | None = None
        self._writes: SimpleQueue[Job[Any] | None] = SimpleQueue()
        self._reads: SimpleQueue[Job[Any] | None] = SimpleQueue()
        self._lane_reads: SimpleQueue[Job[Any] | None] = SimpleQueue()
        self._batch: list[Job[Any]] = []  # what the writer is at
        self._commits = 0
        self._stopping = threading.Event()
        self._threads = [
            self._started("sqlite-writer", self._keep_writing, path),
            self._started("sqlite-checkpointer", self._keep_checkpointing, path),
            *(self._started(f"sqlite-reader-{n}", self._keep_reading, path, self._reads) for n in range(READERS)),
            # A list over a long log takes its time; the engine's configuration is stale after two seconds.
            self._started("sqlite-lane-reader", self._keep_reading, path, self._lane_reads),
        ]

    def read(self, script: Script[T]) -> asyncio.Future[T]:
        return self._ask(self._reads, script)

    def read_lanes(self, script: Script[T]) -> asyncio.Future[T]:
        return self._ask(self._lane_reads, script)

    def write(self, script: Script[T]) -> asyncio.Future[T]:
        return self._ask(self._writes, script)

    write_lanes = write  # there is one writer, and its commits are shared

    async def close(self) -> None:
        """Finish what was asked for, and stop."""
        if self._closed is None:
            self._closed = "the store is closed"
            self._stop_reading()
        writer, *others = self._threads
        for thread in others:
            await asyncio.to_thread(thread.join)
        # Last and alone: closing the last connection folds the log away, unless two close at once.
        self._stop_writing()
        await asyncio.to_thread(writer.join)

    def _ask(self, queue: "SimpleQueue[Job[Any] | None]", script: Script[T]) -> asyncio.Future[T]:
        if self._closed is not None:
            raise StoreUnavailable(self._closed)
        future: asyncio.Future[T] = self._loop.create_future()
        queue.put(Job(script, future))
        return future

    def _stop_reading(self) -> None:
        self._stopping.set()
        for queue in (self._lane_reads, *[self._reads] * READERS):
            queue.put(None)

    def _stop_writing(self) -> None:
        self._writes.put(None)

    def _started(self, name: str, keep: Callable[..., None], *arguments: object) -> threading.Thread:
        def work() -> None:
            try:
                keep(*arguments)
            except BaseException as error:  # noqa: BLE001  # a bug of ours: everybody must know
                self._call_loop(self._die, error)

        thread = threading.Thread(target=work, name=name, daemon=True)
        thread.start()
        return thread

    # --- reading ---------------------------------------------------------------------------------------------

    def _keep_reading(self, path: Path, jobs: "SimpleQueue[Job[Any] | None]") -> None:
        with closing(connect(path)) as connection:
            connection.execute("PRAGMA query_only = ON")
            while (job := jobs.get()) is not None:
                self._tell([self._read_one(connection, job)])

    def _read_one(self, connection: sqlite3.Connection, job: Job[T]) -> Told:
        try:
            connection.execute("BEGIN")  # several statements of a script see one snapshot
            result = run(connection, job.script)
        except Exception as error:  # noqa: BLE001  # whoever asked gets it, the reader lives on
            return Told(job.future, None, at_border(error))
        else:
            return Told(job.future, result, None)
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")  # works after an error as well, and there is nothing to keep

    # --- writing ---------------------------------------------------------------------------------------------

    def _keep_writing(self, path: Path) -> None:
        with closing(connect(path)) as connection:
            while (first := self._writes.get()) is not None:
                self._tell(self._write_batch(connection, first))

    def _write_batch(self, connection: sqlite3.Connection, first: Job[Any]) -> list[Told]:
        """Put waiting writes into one transaction, each in a savepoint of its own, and commit them all."""
        jobs = self._batch = [first]
        told: list[Told] = []
        try:
            connection.execute("BEGIN IMMEDIATE")
            commit_at = self._boot() + COMMIT_AFTER_SECONDS
            told.append(write_one(connection, first))
            while self._boot() < commit_at and (job := self._next_write()) is not None:
                jobs.append(job)
                told.append(write_one(connection, job))
            connection.execute("COMMIT")
            self._commits += 1
        except sqlite3.Error as error:
            return self._failed(connection, error)
        return told

    def _keep_checkpointing(self, path: Path) -> None:
        copied = 0
        with closing(connect(path)) as connection:
            while not self._stopping.wait(CHECKPOINT_EVERY_SECONDS):
                if self._commits - copied >= CHECKPOINT_WORTH_COMMITS:
                    copied = self._commits
                    with suppress(sqlite3.OperationalError):  # a full disk, say: the log grows until there is space
                        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def _next_write(self) -> Job[Any] | None:
        try:
            job = self._writes.get_nowait()
        except Empty:
            return None
        if job is None:  # the end: left where the outer loop finds it
            self._writes.put(None)
        return job

    def _failed(self, connection: sqlite3.Connection, error: sqlite3.Error) -> list[Told]:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        # Whoever queued while we waited for a lock has waited long enough, too.
        while (job := self._next_write()) is not None:
            self._batch.append(job)
        return [Told(job.future, None, at_border(error)) for job in self._batch]

    # --- answering -------------------------------------------------------------------------------------------

    def _tell(self, told: list[Told]) -> None:
        self._call_loop(self._resolve, told)

    def _call_loop(self, callback: Callable[..., None], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:
            if not self._loop.is_closed():  # a closed loop has nobody left to tell
                raise

    def _resolve(self, batch: list[Told]) -> None:
        try:
            queued = [each for told in batch if isinstance(told.result, Emitted) for each in told.result.queued]
            if queued:
                self.on_queued(queued)
        finally:
            for future, result, error in batch:
                if future.done():  # the caller was cancelled
                    continue
                if error is None:
                    future.set_result(result)
                else:
                    future.set_exception(error)

    def _die(self, error: BaseException) -> None:
        if self._closed is None:
            self._closed = f"a thread of the store died: {error!r}"
        waiting = [*self._batch, *_drained(self._writes), *_drained(self._reads), *_drained(self._lane_reads)]
        self._stop_reading()
        self._stop_writing()
        self._resolve([Told(job.future, None, StoreUnavailable(self._closed)) for job in waiting])
        self._on_death(error)


def _drained(queue: "SimpleQueue[Job[Any] | None]") -> list[Job[Any]]:
    jobs: list[Job[Any]] = []
    while True:
        try:
            job = queue.get_nowait()
        except Empty:
            return jobs
        if job is not None:
            jobs.append(job)


def connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None, cached_statements=256, check_same_thread=False
    )
    try:
        _configure(connection)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _configure(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA synchronous = FULL")  # an acknowledged commit survives a power cut
    connection.execute("PRAGMA cache_size = -32768")  # KiB
    connection.execute("PRAGMA mmap_size = 268435456")
    connection.execute(f"PRAGMA wal_autocheckpoint = {LONGEST_LOG_PAGES}")
    connection.execute("PRAGMA temp_store = MEMORY")


def write_one(connection: sqlite3.Connection, job: Job[Any]) -> Told:
    """Run one write inside its savepoint; raise only what ends the whole transaction."""
    connection.execute("SAVEPOINT one")
    try:
        result = run(connection, job.script)
    except Exception as error:  # it fails this write, not its neighbours
        if not connection.in_transaction:  # a full disk rolls everything back under the savepoints
            raise _lost_transaction(error) from error
        connection.execute("ROLLBACK TO one")
        connection.execute("RELEASE one")
        return Told(job.future, None, at_border(error))
    connection.execute("RELEASE one")
    return Told(job.future, result, None)


def run(connection: sqlite3.Connection, script: Script[T]) -> T:
    """Run a script to its end."""
    answer: object = None
    try:
        while True:
            kind, sql, params, _ = script.send(answer)
            if kind is Kind.FETCH:
                answer = connection.execute(sql, params).fetchall()
            elif kind is Kind.EXECUTE:
                answer = connection.execute(sql, params).rowcount
            else:
                answer = _answer_to(connection, kind, sql, params)
    except StopIteration as end:
        return cast("T", end.value)


def _answer_to(connection: sqlite3.Connection, kind: Kind, sql: str, params: Any) -> object:
    if kind is Kind.POKE:
        run_pokes(connection, params)
        return None
    before = connection.total_changes
    returned = run_over_rows(connection, sql, params)
    return returned if kind is Kind.FETCH_MANY else connection.total_changes - before


def run_over_rows(connection: sqlite3.Connection, sql: str, rows: Sequence[Sequence[Any]]) -> list[Any]:
    """Run a statement over rows: a few in one go, many in powers of two, so that few variants need be kept prepared."""
    returned: list[Any] = []
    start = 0
    while left := len(rows) - start:
        count = left if left <= FEW_ROWS else min(1 << left.bit_length() - 1, MOST_ROWS)
        part = rows[start : start + count]
        returned += connection.execute(over_rows(sql, count, len(part[0])), list(chain.from_iterable(part)))
        start += count
    return returned


def run_pokes(connection: sqlite3.Connection, moments: Mapping[str, int]) -> None:
    for at in sorted(set(moments.values())):
        poked = sorted(webhook_id for webhook_id, moment in moments.items() if moment == at)
        connection.execute(POKE, (at, at, poked))


@lru_cache
def over_rows(sql: str, rows: int, columns: int) -> str:
    row = f"({', '.join('?' * columns)})"
    return sql.replace("{rows}", ", ".join([row] * rows))


def at_border(error: Exception) -> Exception:
    """Return what the core may see of an error: never a driver's own."""
    match error:
        case (
            sqlite3.DataError()
            | sqlite3.IntegrityError()
            | sqlite3.InterfaceError()
            | sqlite3.ProgrammingError()
            | UnicodeEncodeError()
            | OverflowError()
        ):
            border: Exception = Unstorable(f"the database cannot hold this: {error}")
        case sqlite3.Error():
            border = StoreUnavailable(f"the database did not take it: {error}")
        case _:
            return error
    border.__cause__ = error
    return border


def _lost_transaction(error: Exception) -> sqlite3.OperationalError:
    return sqlite3.OperationalError(f"the transaction was rolled back: {error}")


def _take_none(queued: Sequence[QueuedDelivery]) -> set[str]:
    return {delivery.webhook_id for delivery in queued}
