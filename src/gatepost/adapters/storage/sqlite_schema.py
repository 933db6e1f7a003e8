"""Brings a SQLite file to this version's schema."""

import sqlite3
from collections.abc import Iterator

from gatepost.adapters.storage.migrating import Applied, Migration, missing, shipped


def migrate(connection: sqlite3.Connection, migrations: list[Migration] | None = None) -> None:
    """Run what is missing; whatever `migrating.missing` raises."""
    known = shipped("sqlite") if migrations is None else migrations
    connection.execute(
        "CREATE TABLE IF NOT EXISTS migrations"
        " (number INTEGER PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL, applied_at TEXT NOT NULL)"
    )
    for migration in known:
        connection.execute("BEGIN IMMEDIATE")
        try:
            # Looked up under the write lock: two processes that start at once run each file once.
            if migration in missing(_applied(connection), known):
                _apply(connection, migration)
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")


def _applied(connection: sqlite3.Connection) -> list[Applied]:
    rows = connection.execute("SELECT number, name, checksum FROM migrations ORDER BY number").fetchall()
    return [Applied(*row) for row in rows]


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
