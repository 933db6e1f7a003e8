"""Groups and API keys in SQL."""

from collections.abc import Mapping
from datetime import datetime

from gatepost.adapters.storage.rows import from_ms, from_ms_or_none, to_ms, to_ms_or_none
from gatepost.adapters.storage.scripts import Database, Script, execute, execute_many, fetch
from gatepost.domain.groups import ApiKey, Group, Role
from gatepost.ports import Saved

_ADD_GROUP = "INSERT INTO groups (id, name, created_at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
_GROUP_NAMED = "SELECT id, name, created_at FROM groups WHERE name = ?"

_KEY_COLUMNS = "id, group_id, role, secret_hash, created_at, last_used_at, revoked_at"
_ADD_KEY = f"INSERT INTO api_keys ({_KEY_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)"
_KEY = f"SELECT {_KEY_COLUMNS} FROM api_keys WHERE id = ?"
# Raised, never lowered: two processes report in any order.
_TOUCH_KEYS = """
WITH used (id, at) AS (VALUES {rows})
UPDATE api_keys SET last_used_at = used.at FROM used
WHERE api_keys.id = used.id AND coalesce(last_used_at, 0) < used.at
"""


class SqlAccounts:
    """Implements `ports.AccountStore`."""

    _database: Database

    async def add_group(self, group: Group) -> Saved:
        return await self._database.write(_add_group(group))

    async def group_named(self, name: str) -> Group | None:
        return await self._database.read(_group_named(name))

    async def add_key(self, group_id: str, key: ApiKey) -> None:
        await self._database.write(_add_key(group_id, key))

    async def key(self, key_id: str) -> ApiKey | None:
        return await self._database.read(_key(key_id))

    async def touch_keys(self, used_at: Mapping[str, datetime]) -> None:
        if used_at:
            await self._database.write(_touch_keys(used_at))


def _add_group(group: Group) -> Script[Saved]:
    added = yield execute(_ADD_GROUP, (group.id, group.name, to_ms(group.created_at)))
    return Saved.DONE if added else Saved.EXISTS


def _group_named(name: str) -> Script[Group | None]:
    rows = yield fetch(_GROUP_NAMED, (name,))
    return next((Group(group_id, name, from_ms(at)) for group_id, name, at in rows), None)


def _add_key(group_id: str, key: ApiKey) -> Script[None]:
    yield execute(
        _ADD_KEY,
        (
            key.id,
            group_id,
            key.role.value,
            key.secret_hash,
            to_ms(key.created_at),
            to_ms_or_none(key.last_used_at),
            to_ms_or_none(key.revoked_at),
        ),
    )


def _key(key_id: str) -> Script[ApiKey | None]:
    rows = yield fetch(_KEY, (key_id,))
    for found, group_id, role, secret_hash, created_at, last_used_at, revoked_at in rows:
        return ApiKey(
            found,
            group_id,
            Role(role),
            secret_hash,
            from_ms(created_at),
            from_ms_or_none(last_used_at),
            from_ms_or_none(revoked_at),
        )
    return None


def _touch_keys(used_at: Mapping[str, datetime]) -> Script[None]:
    yield execute_many(
        _TOUCH_KEYS, [(key_id, to_ms(moment)) for key_id, moment in sorted(used_at.items())], "text bigint"
    )
