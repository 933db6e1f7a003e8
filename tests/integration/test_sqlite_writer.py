"""What only the SQLite adapter can promise: one commit for many, nothing half-written."""

import asyncio
import sqlite3
import stat
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog.testing
from tests.builders import (
    GROUP_ID,
    make_delivery,
    make_group,
    make_queued,
    make_request,
    make_session,
    make_task_change,
    make_user,
    make_webhook,
    new_id,
)
from tests.contract.steps import taking
from tests.fakes import NOW, FakeClock

from gatepost.adapters.secretbox import SecretBox
from gatepost.adapters.storage import (
    migrating,
    sql_people,
    sql_requests,
    sqlite_schema,
    threads,
)
from gatepost.adapters.storage.scripts import Emitted, Script, Unstorable, execute, execute_many, fetch
from gatepost.adapters.storage.sqlite import SqliteStore
from gatepost.adapters.storage.threads import Threads
from gatepost.adapters.system import SystemClock
from gatepost.domain.deliveries import QueuedDelivery
from gatepost.domain.errors import StoreUnavailable
from gatepost.domain.people import LIFETIME
from gatepost.ports import Saved

KEY = bytes(range(32))


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


async def test_a_change_written_again_is_not_handed_over_again(tmp_path: Path) -> None:
    handed: list[QueuedDelivery] = []
    store = await opened(tmp_path / "gatepost.db")
    store.on_queued = taking(handed)
    webhook, change = make_webhook(), make_task_change()
    await store.add_group(make_group(id=GROUP_ID))
    await store.add_webhook(GROUP_ID, webhook, quota=1)
    delivery = make_delivery(change.event, webhook)

    for _ in range(2):
        assert await store.save_change(GROUP_ID, change, [delivery], webhooks_version=1) is Saved.DONE

    assert [each.id for each in handed] == [delivery.id]
    await store.close()


# --- forgetting ----------------------------------------------------------------------------------------------


async def test_sessions_that_have_run_out_are_removed_some_at_a_time_by_those_who_sign_in(tmp_path: Path) -> None:
    store = await opened(tmp_path / "gatepost.db")
    user, long_ago = make_user(), NOW - LIFETIME
    for _ in range(sql_people.FORGOTTEN_AT_ONCE + 1):
        await store.add_session(make_session(user, created_at=long_ago, last_used_at=long_ago))

    left = []
    for _ in range(2):
        await store.add_session(make_session(user))
        left.append(len(await store.sessions(user.id)))

    assert left == [2, 2]
    await store.close()


async def test_requests_that_are_forgotten_are_removed_some_at_a_time_by_those_that_come(tmp_path: Path) -> None:
    store = await opened(tmp_path / "gatepost.db")
    for _ in range(sql_requests.FORGOTTEN_AT_ONCE + 1):
        await store.remember_request(make_request(), kept_for=timedelta(days=1))

    left = []
    for _ in range(2):
        await store.remember_request(make_request(at=NOW + timedelta(days=2)), kept_for=timedelta(days=1))
        with closing(sqlite3.connect(tmp_path / "gatepost.db")) as connection:
            left += connection.execute("SELECT count(*) FROM requests").fetchone()

    assert left == [2, 2]
    await store.close()


# --- opening -------------------------------------------------------------------------------------------------


async def test_a_new_database_is_for_its_owner_only(tmp_path: Path) -> None:
    store = await opened(tmp_path / "gatepost.db")

    assert {stat.S_IMODE(file.stat().st_mode) for file in files_in(tmp_path)} == {0o600}
    await store.close()


async def test_closing_folds_the_log_away(tmp_path: Path) -> None:
    store = await opened(tmp_path / "gatepost.db")
    await store.add_group(make_group())

    await store.close()

    assert [file.name for file in files_in(tmp_path)] == ["gatepost.db"]


@pytest.mark.parametrize(
    "content", [b"this is not a database, but a letter" * 100, b"SQLite format 3\x00" + bytes(8000)]
)
async def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "gatepost.db"
    path.write_bytes(content)

    with pytest.raises(StoreUnavailable, match=r"gatepost\.db cannot be used as a database"):
        await opened(path)
    assert path.read_bytes() == content


async def test_a_damaged_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "gatepost.db"
    await (await opened(path)).close()
    raw = bytearray(path.read_bytes())
    raw[100:4096] = b"\xff" * 3996
    path.write_bytes(raw)

    with pytest.raises(StoreUnavailable, match=r"gatepost\.db cannot be used as a database"):
        await opened(path)


async def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="nowhere"):
        await opened(tmp_path / "nowhere" / "gatepost.db")


async def test_another_secret_key_is_refused_at_once(tmp_path: Path) -> None:
    await (await opened(tmp_path / "gatepost.db")).close()

    with pytest.raises(StoreUnavailable, match="another secret key"):
        await SqliteStore.open(tmp_path / "gatepost.db", box=SecretBox(bytes(32)))

    await (await opened(tmp_path / "gatepost.db")).close()


@pytest.mark.parametrize("column", ["schedule", "health", "url"])
async def test_a_webhook_whose_row_makes_no_sense_is_damaged_too(tmp_path: Path, column: str) -> None:
    store = await opened(tmp_path / "gatepost.db")
    damaged = make_webhook()
    await store.add_group(make_group(id=GROUP_ID))
    await store.add_webhook(GROUP_ID, damaged, quota=2)
    with closing(sqlite3.connect(tmp_path / "gatepost.db")) as connection, connection:
        connection.execute(f"UPDATE webhooks SET {column} = 'what is this' WHERE id = ?", (damaged.id,))

    served = await store.webhooks_to_serve([damaged.id])

    assert served == {damaged.id: None}
    await store.close()


async def test_a_webhook_damaged_at_rest_is_told_and_its_neighbours_are_served(tmp_path: Path) -> None:
    store = await opened(tmp_path / "gatepost.db")
    damaged, healthy = make_webhook(), make_webhook()
    await store.add_group(make_group(id=GROUP_ID))
    for webhook in (damaged, healthy):
        await store.add_webhook(GROUP_ID, webhook, quota=2)
    with closing(sqlite3.connect(tmp_path / "gatepost.db")) as connection, connection:
        connection.execute(
            "UPDATE webhooks SET secrets = (SELECT secrets FROM webhooks WHERE id = ?) WHERE id = ?",
            (healthy.id, damaged.id),
        )

    with structlog.testing.capture_logs() as logs:
        served = await store.webhooks_to_serve([damaged.id, healthy.id])

    assert served == {damaged.id: None, healthy.id: healthy}
    assert [(line["event"], line["webhook_id"]) for line in logs] == [("webhook.damaged", damaged.id)]
    with pytest.raises(StoreUnavailable, match="moved here from another place"):
        await store.webhook(GROUP_ID, damaged.id)
    await store.close()


# --- migrations ----------------------------------------------------------------------------------------------

ONE = migrating.Migration(1, "0001_one.sql", "CREATE TABLE one (n INTEGER); -- ; one\nINSERT INTO one VALUES (1);\n")
TWO = migrating.Migration(2, "0002_two.sql", "INSERT INTO one VALUES (2);\nCREATE TABLE two (n INTEGER);\n")


@pytest.fixture
def empty(tmp_path: Path) -> sqlite3.Connection:
    return sqlite3.connect(tmp_path / "empty.db", isolation_level=None)


def test_each_migration_runs_once_and_in_order(empty: sqlite3.Connection) -> None:
    for known in ([ONE], [ONE, TWO], [ONE, TWO]):
        sqlite_schema.migrate(empty, known)

    assert empty.execute("SELECT n FROM one").fetchall() == [(1,), (2,)]
    assert empty.execute("SELECT number, name FROM migrations").fetchall() == [(1, ONE.name), (2, TWO.name)]
    empty.close()


def test_a_migration_that_fails_leaves_nothing_behind(empty: sqlite3.Connection) -> None:
    broken = TWO._replace(sql=TWO.sql + "INSERT INTO nowhere VALUES (1);\n")

    with pytest.raises(sqlite3.OperationalError, match="nowhere"):
        sqlite_schema.migrate(empty, [ONE, broken])

    assert empty.execute("SELECT n FROM one").fetchall() == [(1,)]
    sqlite_schema.migrate(empty, [ONE, TWO])
    assert empty.execute("SELECT n FROM one").fetchall() == [(1,), (2,)]
    empty.close()


def test_an_edited_migration_is_refused(empty: sqlite3.Connection) -> None:
    sqlite_schema.migrate(empty, [ONE])

    with pytest.raises(StoreUnavailable, match=r"0001_one\.sql is not the one that made this database"):
        sqlite_schema.migrate(empty, [ONE._replace(sql=ONE.sql + "-- an afterthought\n")])
    empty.close()


def test_a_database_of_a_newer_version_is_refused(empty: sqlite3.Connection) -> None:
    sqlite_schema.migrate(empty, [ONE, TWO])

    with pytest.raises(StoreUnavailable, match=r"newer than this Gatepost: it has migration 0002_two\.sql"):
        sqlite_schema.migrate(empty, [ONE])
    empty.close()


async def test_processes_that_open_a_new_database_at_once_agree(tmp_path: Path) -> None:
    stores = await asyncio.gather(*(asyncio.to_thread(asyncio.run, open_and_close(tmp_path / "db")) for _ in range(6)))

    assert stores == [None] * 6


def test_migrations_are_numbered_without_gaps() -> None:
    assert [migration.number for migration in migrating.shipped("sqlite")] == [
        *range(1, len(migrating.shipped("sqlite")) + 1)
    ]


def committed(path: Path) -> list[str]:
    """Look from outside: what another process would see."""
    with closing(sqlite3.connect(path)) as connection:
        return [text for (text,) in connection.execute("SELECT text FROM notes ORDER BY text")]


def files_in(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


async def opened(path: Path) -> SqliteStore:
    return await SqliteStore.open(path, box=SecretBox(KEY))


async def open_and_close(path: Path) -> None:
    store = await opened(path)
    await store.add_group(make_group(name=new_id("name"), created_at=NOW))
    await store.close()
