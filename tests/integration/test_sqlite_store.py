"""What only the SQLite store does: one file, made, checked and migrated as it is opened, and kept small."""

import asyncio
import sqlite3
import stat
import threading
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
import structlog.testing
from tests.builders import (
    GROUP_ID,
    make_delivery,
    make_group,
    make_request,
    make_session,
    make_task_change,
    make_user,
    make_webhook,
    new_id,
)
from tests.contract.steps import taking
from tests.fakes import NOW

from gatepost.adapters.secretbox import SecretBox
from gatepost.adapters.storage import migrating, sqlite, sqlite_schema, threads
from gatepost.adapters.storage.scripts import FORGOTTEN_AT_ONCE
from gatepost.adapters.storage.sqlite import SqliteStore
from gatepost.domain.deliveries import QueuedDelivery
from gatepost.domain.errors import StoreUnavailable
from gatepost.domain.people import LIFETIME
from gatepost.ports import Saved

KEY = bytes(range(32))


# --- forgetting ----------------------------------------------------------------------------------------------


async def test_sessions_that_have_run_out_are_removed_some_at_a_time_by_those_who_sign_in(tmp_path: Path) -> None:
    store = await opened(tmp_path / "gatepost.db")
    user, long_ago = make_user(), NOW - LIFETIME
    for _ in range(FORGOTTEN_AT_ONCE + 1):
        await store.add_session(make_session(user, created_at=long_ago, last_used_at=long_ago))

    left = []
    for _ in range(2):
        await store.add_session(make_session(user))
        left.append(len(await store.sessions(user.id)))

    assert left == [2, 2]
    await store.close()


async def test_requests_that_are_forgotten_are_removed_some_at_a_time_by_those_that_come(tmp_path: Path) -> None:
    store = await opened(tmp_path / "gatepost.db")
    for _ in range(FORGOTTEN_AT_ONCE + 1):
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


async def test_the_connection_that_writes_is_the_last_to_close(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Watched(SimpleQueue[Any]):
        def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
            if item is None:
                running.append([thread.name for thread in set(threading.enumerate()) - before])
            super().put(item)

    running: list[list[str]] = []  # whenever a thread is told to stop
    before = set(threading.enumerate())
    monkeypatch.setattr(threads, "SimpleQueue", Watched)
    store = await opened(tmp_path / "gatepost.db")

    await store.close()

    assert [name for name in running[-1] if name.startswith("sqlite-")] == ["sqlite-writer"]


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


@pytest.mark.parametrize("column", ["schedule", "disabled_reason", "url"])
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


async def test_whoever_is_just_making_the_file_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "gatepost.db"
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    told: list[str] = []

    def let_go_once_refused(sql: str) -> None:
        if any("journal_mode" in earlier for earlier in told) and other.in_transaction:
            other.execute("COMMIT")
        told.append(sql)

    def watched(path: Path) -> sqlite3.Connection:
        connection = threads.connect(path)
        connection.set_trace_callback(let_go_once_refused)
        return connection

    monkeypatch.setattr(sqlite, "connect", watched)

    sqlite.prepare(path, SecretBox(KEY))

    assert other.execute("PRAGMA journal_mode").fetchall() == [("wal",)]
    other.close()


async def test_processes_that_open_a_new_database_at_once_agree(tmp_path: Path) -> None:
    stores = await asyncio.gather(*(asyncio.to_thread(asyncio.run, open_and_close(tmp_path / "db")) for _ in range(6)))

    assert stores == [None] * 6


def test_migrations_are_numbered_without_gaps() -> None:
    assert [migration.number for migration in migrating.shipped("sqlite")] == [
        *range(1, len(migrating.shipped("sqlite")) + 1)
    ]


# --- handing over --------------------------------------------------------------------------------------------


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


def files_in(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


async def opened(path: Path) -> SqliteStore:
    return await SqliteStore.open(path, box=SecretBox(KEY))


async def open_and_close(path: Path) -> None:
    store = await opened(path)
    await store.add_group(make_group(name=new_id("name"), created_at=NOW))
    await store.close()
