"""Brings a PostgreSQL database to this version's schema, and sees that it is at it."""

from collections.abc import Sequence

import asyncpg

from gatepost.adapters.secretbox import SecretBox
from gatepost.adapters.storage.key_check import check_key, sealed_key_check
from gatepost.adapters.storage.migrating import Applied, Migration, missing, shipped
from gatepost.adapters.storage.postgres_connections import Connection
from gatepost.domain.errors import StoreUnavailable

_ONE_AT_A_TIME = "SELECT pg_advisory_xact_lock(hashtext('gatepost migrate'))"
_MIGRATIONS = """
CREATE TABLE IF NOT EXISTS migrations (
    number BIGINT PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL, applied_at TIMESTAMPTZ NOT NULL DEFAULT now()
)
"""
_APPLIED = "SELECT number, name, checksum FROM migrations ORDER BY number"
_NOTE = "INSERT INTO migrations (number, name, checksum) VALUES ($1, $2, $3)"
_KEY = "SELECT sealed FROM key_check"
_ADD_KEY = "INSERT INTO key_check (id, sealed) VALUES (1, $1) ON CONFLICT DO NOTHING"

_MIGRATE = "run `gatepost migrate` with this version and the same GATEPOST_STORE and GATEPOST_SECRET_KEY"


async def migrate(connection: Connection, box: SecretBox, known: Sequence[Migration] | None = None) -> None:
    """Run what is missing, all of it or nothing, and seal the database with this key if it is new.

    Raises: StoreUnavailable, when it is newer than this version or sealed with another key.
    """
    known = shipped("postgres") if known is None else known
    async with connection.transaction():
        await connection.execute(_ONE_AT_A_TIME)
        await connection.execute(_MIGRATIONS)
        for migration in missing(await _applied(connection), known):
            await connection.execute(migration.sql)
            await connection.execute(_NOTE, migration.number, migration.name, migration.checksum)
        await connection.execute(_ADD_KEY, sealed_key_check(box))
        await _check_key(connection, box)


async def check(connection: Connection, box: SecretBox) -> None:
    """Raises: StoreUnavailable, when the database is not of this version or was made with another key."""
    try:
        applied = await _applied(connection)
    except asyncpg.UndefinedTableError:
        raise StoreUnavailable(f"the database has no tables of Gatepost: {_MIGRATE}") from None
    if missing(applied, shipped("postgres")):
        raise StoreUnavailable(f"the database is of an older version: {_MIGRATE}")
    await _check_key(connection, box)


async def _applied(connection: Connection) -> list[Applied]:
    return [Applied(*row) for row in await connection.fetch(_APPLIED)]


async def _check_key(connection: Connection, box: SecretBox) -> None:
    check_key(await connection.fetchval(_KEY), box)
