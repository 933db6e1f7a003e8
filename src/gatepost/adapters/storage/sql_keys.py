"""API keys in SQL."""

from collections.abc import Mapping
from datetime import datetime

from gatepost.adapters.storage.paging import AFTER_ALL, page_of
from gatepost.adapters.storage.rows import Row, from_ms, from_ms_or_none, to_ms, to_ms_or_none
from gatepost.adapters.storage.scripts import Database, Script, execute, execute_many, fetch
from gatepost.domain.groups import ApiKey, Role
from gatepost.ports import Page, Saved

_COLUMNS = "id, group_id, role, secret_hash, created_at, name, last_used_at, revoked_at"
_ADD = f"INSERT INTO api_keys ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
KEY = f"SELECT {_COLUMNS} FROM api_keys WHERE id = ?"
KEYS = f"""
SELECT {_COLUMNS} FROM api_keys WHERE group_id = ? AND revoked_at IS NULL AND id < ? ORDER BY id DESC LIMIT ?
"""
REVOKE = "UPDATE api_keys SET revoked_at = ? WHERE group_id = ? AND id = ? AND revoked_at IS NULL"
# Raised, never lowered: two processes report in any order.
TOUCH_KEYS = """
WITH used (id, at) AS (VALUES {rows})
UPDATE api_keys SET last_used_at = used.at FROM used
WHERE api_keys.id = used.id AND coalesce(last_used_at, 0) < used.at
"""


class SqlKeys:
    """Implements `ports.KeyStore`."""

    _database: Database

    async def add_key(self, group_id: str, key: ApiKey) -> None:
        await self._database.write(_add(group_id, key))

    async def key(self, key_id: str) -> ApiKey | None:
        return await self._database.read(_key(key_id))

    async def keys(self, group_id: str, *, limit: int, before: str | None) -> Page[ApiKey]:
        return await self._database.read(_keys(group_id, limit, before))

    async def revoke_key(self, group_id: str, key_id: str, *, now: datetime) -> Saved:
        return await self._database.write(_revoke(group_id, key_id, to_ms(now)))

    async def touch_keys(self, used_at: Mapping[str, datetime]) -> None:
        if used_at:
            await self._database.write(_touch(used_at))


def _add(group_id: str, key: ApiKey) -> Script[None]:
    yield execute(_ADD, _row(group_id, key))


def _key(key_id: str) -> Script[ApiKey | None]:
    rows = yield fetch(KEY, (key_id,))
    return _key_from(rows[0]) if rows else None


def _keys(group_id: str, limit: int, before: str | None) -> Script[Page[ApiKey]]:
    rows = yield fetch(KEYS, (group_id, before or AFTER_ALL, limit + 1))
    return page_of([_key_from(row) for row in rows], limit)


def _revoke(group_id: str, key_id: str, now: int) -> Script[Saved]:
    revoked = yield execute(REVOKE, (now, group_id, key_id))
    return Saved.DONE if revoked else Saved.STALE


def _touch(used_at: Mapping[str, datetime]) -> Script[None]:
    rows = [(key_id, to_ms(moment)) for key_id, moment in sorted(used_at.items())]
    yield execute_many(TOUCH_KEYS, rows, "text bigint")


# --- rows ----------------------------------------------------------------------------------------------------


def _row(group_id: str, key: ApiKey) -> Row:
    return (
        key.id,
        group_id,
        key.role.value,
        key.secret_hash,
        to_ms(key.created_at),
        key.name,
        to_ms_or_none(key.last_used_at),
        to_ms_or_none(key.revoked_at),
    )


def _key_from(row: Row) -> ApiKey:
    key_id, group_id, role, secret_hash, created_at, name, last_used_at, revoked_at = row
    return ApiKey(
        id=key_id,
        group_id=group_id,
        role=Role(role),
        secret_hash=secret_hash,
        created_at=from_ms(created_at),
        name=name,
        last_used_at=from_ms_or_none(last_used_at),
        revoked_at=from_ms_or_none(revoked_at),
    )
