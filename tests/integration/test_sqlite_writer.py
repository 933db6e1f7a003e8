"""What the threads of the SQLite store promise: one commit for many, nothing half-written, nobody left waiting."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.builders import make_queued
from tests.fakes import FakeClock

from gatepost.adapters.storage import threads
from gatepost.adapters.storage.scripts import Emitted, Script, Unstorable, execute, execute_many, fetch
from gatepost.adapters.storage.threads import Threads
from gatepost.adapters.system import SystemClock
from gatepost.domain.deliveries import QueuedDelivery
from gatepost.domain.errors import StoreUnavailable
from gatepost.ports import Saved


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "test.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE notes (text TEXT UNIQUE)")
    return path


@pytest.fixture
def deaths() -> list[BaseException]:
    return []


@pytest.fixture
async def database(path: Path, deaths: list[BaseException]) -> AsyncIterator[Threads]:
    database = Threads(path, boot=SystemClock().boot, on_death=deaths.append)
    yield database
    await database.close()


def note(text: object) -> Script[object]:
    yield execute("INSERT INTO notes (text) VALUES (?)", (text,))
    return text


def held(gate: threading.Event) -> Script[None]:
    """Keep the writer inside a transaction until the gate opens."""
    yield execute("INSERT INTO notes (text) VALUES ('held')")
    assert gate.wait(10)


def all_notes() -> Script[list[str]]:
    rows = yield fetch("SELECT text FROM notes ORDER BY text")
    return [text for (text,) in rows]


class Hold:
    """Keeps the writer busy, so that what is asked for meanwhile becomes one batch."""

    def __init__(self, database: Threads) -> None:
        self._database = database
        self._gate = threading.Event()

    async def __aenter__(self) -> asyncio.Future[None]:
        return self._database.write(held(self._gate))

    async def __aexit__(self, *_: object) -> None:
        self._gate.set()


# --- group commit --------------------------------------------------------------------------------------------


async def test_waiting_writes_share_one_commit_and_are_answered_after_it(database: Threads, path: Path) -> None:
    seen: list[object] = []
    async with Hold(database) as first:
        others = [database.write(note(name)) for name in "abc"]
        assert committed(path) == []
    for future in (first, *others):
        future.add_done_callback(lambda _: seen.append(committed(path)))

    await asyncio.gather(first, *others)

    assert seen == [["a", "b", "c", "held"]] * 4


async def test_a_write_that_fails_takes_nothing_of_its_neighbours_with_it(database: Threads, path: Path) -> None:
    def half() -> Script[None]:
        yield execute("INSERT INTO notes (text) VALUES ('half')")
        raise KeyError("a bug")

    async with Hold(database):
        before, broken, twice, after = map(database.write, (note("before"), half(), note("before"), note("after")))
    results = await asyncio.gather(before, broken, twice, after, return_exceptions=True)

    assert [type(result) for result in results] == [str, KeyError, Unstorable, str]
    assert committed(path) == ["after", "before", "held"]


async def test_a_commit_is_held_back_no_longer_than_its_time(path: Path, clock: FakeClock) -> None:
    database = Threads(path, boot=clock.boot, on_death=print)

    def slow(name: str) -> Script[int]:
        clock.advance(1.0)
        yield execute("INSERT INTO notes (text) VALUES (?)", (name,))
        return len(committed(path))

    async with Hold(database):
        writes = [database.write(slow(name)) for name in "abc"]

    assert await asyncio.gather(*writes) == [0, 2, 3]  # `held` and `a` went together, each of the others alone
    await database.close()


async def test_closing_finishes_what_was_asked_for_and_takes_no_more(database: Threads, path: Path) -> None:
    writes = [database.write(note(f"{n:03}")) for n in range(200)]

    await database.close()

    assert len(await asyncio.gather(*writes)) == 200
    assert len(committed(path)) == 200
    with pytest.raises(StoreUnavailable, match="closed"):
        await database.write(note("late"))


async def test_whoever_stopped_waiting_disturbs_nobody(database: Threads, path: Path) -> None:
    async with Hold(database):
        given_up, waited_for = database.write(note("given up")), database.write(note("waited for"))
        given_up.cancel()

    assert await waited_for == "waited for"
    assert committed(path) == ["given up", "held", "waited for"]


# --- nothing half-written ------------------------------------------------------------------------------------


async def test_a_transaction_lost_under_its_savepoints_fails_all_of_its_writes(database: Threads, path: Path) -> None:
    def lose() -> Script[None]:
        yield execute("ROLLBACK")
        yield execute("INSERT INTO nowhere VALUES (1)")

    async with Hold(database) as first:
        writes = [database.write(note("a")), database.write(lose()), database.write(note("b"))]
    results = await asyncio.gather(first, *writes, return_exceptions=True)

    assert [type(result) for result in results] == [StoreUnavailable] * 4
    assert committed(path) == []


async def test_a_full_disk_refuses_writes_and_heals(database: Threads, path: Path) -> None:
    def limit(pages: int) -> Script[None]:
        yield fetch(f"PRAGMA max_page_count = {pages}")

    await database.write(limit(4))

    with pytest.raises(StoreUnavailable, match="full"):
        await database.write(note("x" * 100_000))
    assert committed(path) == []

    await database.write(limit(1_000))
    await database.write(note("there is space again"))
    assert committed(path) == ["there is space again"]


async def test_a_lock_held_too_long_fails_everybody_who_waited_for_it(
    monkeypatch: pytest.MonkeyPatch, path: Path
) -> None:
    monkeypatch.setattr(threads, "BUSY_TIMEOUT_SECONDS", 0.05)
    database = Threads(path, boot=SystemClock().boot, on_death=print)

    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        results = await asyncio.gather(*(database.write(note(name)) for name in "abc"), return_exceptions=True)
        other.execute("ROLLBACK")

    assert [type(result) for result in results] == [StoreUnavailable] * 3
    assert await database.write(note("free")) == "free"
    await database.close()


@pytest.mark.parametrize("text", ["\ud800", 2**70, object()])
async def test_what_the_database_cannot_hold_is_no_error_of_its_driver(database: Threads, text: object) -> None:
    with pytest.raises(Unstorable):
        await database.write(note(text))


async def test_no_error_of_the_driver_gets_past_a_read(database: Threads) -> None:
    def nowhere() -> Script[None]:
        yield fetch("SELECT * FROM nowhere")

    with pytest.raises(StoreUnavailable, match="no such table"):
        await database.read(nowhere())


async def test_a_reader_cannot_write(database: Threads) -> None:
    with pytest.raises(StoreUnavailable, match="readonly"):
        await database.read(note("a"))


async def test_a_read_begins_after_the_answer_to_the_write_before_it(database: Threads) -> None:
    for n in range(50):
        await database.write(note(f"{n:02}"))
        assert len(await database.read(all_notes())) == n + 1


async def test_the_statements_of_a_read_see_one_moment(database: Threads) -> None:
    first_read, written = threading.Event(), threading.Event()

    def twice() -> Script[tuple[int, int]]:
        before = yield fetch("SELECT text FROM notes")
        first_read.set()
        assert written.wait(10)
        after = yield fetch("SELECT text FROM notes")
        return len(before), len(after)

    reading = database.read(twice())
    await asyncio.to_thread(first_read.wait, 10)
    await database.write(note("meanwhile"))
    written.set()

    assert await reading == (0, 0)


@pytest.mark.parametrize("count", [0, 1, 2, 8, 9, 255, 256, 257, 1000])
async def test_a_statement_over_rows_reaches_each_of_them_once(database: Threads, count: int) -> None:
    def many() -> Script[None]:
        yield execute_many("INSERT INTO notes (text) VALUES {rows}", [(f"{n:04}",) for n in range(count)], "text")

    await database.write(many())

    assert await database.read(all_notes()) == [f"{n:04}" for n in range(count)]


# --- a thread that dies --------------------------------------------------------------------------------------


async def test_a_bug_in_the_writer_is_told_to_everybody(database: Threads, deaths: list[BaseException]) -> None:
    class Bug(BaseException):
        pass

    def die() -> Script[None]:
        yield execute("INSERT INTO notes (text) VALUES ('last words')")
        raise Bug

    async with Hold(database) as first:
        writes = [database.write(note("a")), database.write(die()), database.write(note("b"))]
    results = await asyncio.gather(first, *writes, return_exceptions=True)

    assert [type(result) for result in results] == [StoreUnavailable] * 4
    assert [type(death) for death in deaths] == [Bug]
    with pytest.raises(StoreUnavailable, match="died"):
        await database.write(note("later"))
    with pytest.raises(StoreUnavailable, match="died"):
        await database.read(all_notes())


# --- handing over --------------------------------------------------------------------------------------------


async def test_deliveries_are_handed_over_before_any_write_of_their_batch_is_answered(database: Threads) -> None:
    story: list[object] = []
    queued = [make_queued(), make_queued()]
    database.on_queued = story.append

    def emit(each: QueuedDelivery) -> Script[Emitted]:
        yield execute("INSERT INTO notes (text) VALUES (?)", (each.id,))
        return Emitted(Saved.DONE, [each])

    async with Hold(database) as first:
        writes = [database.write(emit(each)) for each in queued]
        for future in (first, *writes):
            future.add_done_callback(lambda _: story.append("answered"))
    await asyncio.gather(first, *writes)

    assert story == [queued, "answered", "answered", "answered"]


async def test_a_failing_hand_over_leaves_nobody_waiting(database: Threads) -> None:
    def refuse(_: Sequence[QueuedDelivery]) -> None:
        raise KeyError("a bug of the engine")

    def emit() -> Script[Emitted]:
        yield execute("INSERT INTO notes (text) VALUES ('emitted')")
        return Emitted(Saved.DONE, [make_queued()])

    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    database.on_queued = refuse

    assert (await database.write(emit())).saved is Saved.DONE
    assert [type(context["exception"]) for context in told] == [KeyError]


def committed(path: Path) -> list[str]:
    """Look from outside: what another process would see."""
    with closing(sqlite3.connect(path)) as connection:
        return [text for (text,) in connection.execute("SELECT text FROM notes ORDER BY text")]
