"""Schema changes: numbered files, each run once in one transaction, forward only."""

import sqlite3
from collections.abc import Iterator
from hashlib import sha256
from importlib.resources import files
from typing import NamedTuple

from gatepost.domain.errors import StoreUnavailable


class Migration(NamedTuple):
    number: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return sha256(self.sql.encode()).hexdigest()


def migrate(connection: sqlite3.Connection, migrations: list[Migration] | None = None) -> None:
    """Bring a database to this version's schema.

    Raises: StoreUnavailable, when it is newer than that, or was made by a migration that has been edited since.
    """
    known = shipped() if migrations is None else migrations
    connection.execute(
        "CREATE TABLE IF NOT EXISTS migrations"
        " (number INTEGER PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL, applied_at TEXT NOT NULL)"
    )
    for migration in known:
        connection.execute("BEGIN IMMEDIATE")
        try:
            # Looked up under the write lock: two processes that start at once run each file once.
            if migration.number not in _checked(connection, known):
                _apply(connection, migration)
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")


def shipped() -> list[Migration]:
    """Return the migrations of this version, in order."""
    folder = files("gatepost.adapters.storage") / "migrations"
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return [Migration(int(name[:4]), name, (folder / name).read_text("utf-8")) for name in names]


def _checked(connection: sqlite3.Connection, known: list[Migration]) -> set[int]:
    checksums = {migration.number: migration.checksum for migration in known}
    rows = connection.execute("SELECT number, name, checksum FROM migrations ORDER BY number").fetchall()
    for number, name, checksum in rows:
        if number not in checksums:
            raise StoreUnavailable(
                f"the database is newer than this Gatepost: it has migration {name}, which this version does not know;"
                " upgrade Gatepost, or restore the backup made before the upgrade"
            )
        if checksum != checksums[number]:
            raise StoreUnavailable(
                f"migration {name} is not the one that made this database: the file was edited after it ran"
            )
    return {number for number, _, _ in rows}


def _apply(connection: sqlite3.Connection, migration: Migration) -> None:
    for statement in _statements(migration.sql):
        connection.execute(statement)
    connection.execute(
        "INSERT INTO migrations (number, name, checksum, applied_at) VALUES (?, ?, ?, datetime('now'))",
        (migration.number, migration.name, migration.checksum),
    )


def _statements(sql: str) -> Iterator[str]:
    """Yield the statements one by one; `executescript` would commit before the first."""
    statement = ""
    for line in sql.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    if statement.strip():
        yield statement
