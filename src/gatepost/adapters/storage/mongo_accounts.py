"""Groups and API keys in MongoDB."""

from collections.abc import Mapping
from datetime import datetime

from pymongo import UpdateOne

from gatepost.adapters.storage.mongo_driver import Document, Mongo, insert_new
from gatepost.adapters.storage.rows import from_ms, to_ms
from gatepost.domain.groups import ApiKey, Group, Role
from gatepost.ports import Saved


class MongoAccounts:
    """Implements `ports.AccountStore`."""

    _mongo: Mongo

    async def add_group(self, group: Group) -> Saved:
        return await self._mongo.write(_add_group(self._mongo, group))

    async def group_named(self, name: str) -> Group | None:
        return await self._mongo.read(_group_named(self._mongo, name))

    async def add_key(self, group_id: str, key: ApiKey) -> None:
        await self._mongo.write(insert_new(self._mongo.api_keys, [_key_document(group_id, key)]))

    async def key(self, key_id: str) -> ApiKey | None:
        return await self._mongo.read(_key(self._mongo, key_id))

    async def touch_keys(self, used_at: Mapping[str, datetime]) -> None:
        if used_at:
            await self._mongo.write(_touch_keys(self._mongo, used_at))


async def _add_group(mongo: Mongo, group: Group) -> Saved:
    # The name is the `_id`, as nothing else can be unique. That document is the group: what else there is to know about
    # it is made with its first webhook.
    await insert_new(
        mongo.group_names, [{"_id": group.name, "group_id": group.id, "created_at": to_ms(group.created_at)}]
    )
    stored = await _group_named(mongo, group.name)
    return Saved.DONE if stored is not None and stored.id == group.id else Saved.EXISTS


async def _group_named(mongo: Mongo, name: str) -> Group | None:
    found = await mongo.group_names.find_one({"_id": name})
    return Group(found["group_id"], name, from_ms(found["created_at"])) if found else None


def _key_document(group_id: str, key: ApiKey) -> Document:
    return {
        "_id": key.id,
        "group_id": group_id,
        "role": key.role.value,
        "secret_hash": key.secret_hash,
        "created_at": to_ms(key.created_at),
        "last_used_at": to_ms(key.last_used_at) if key.last_used_at else 0,
        "revoked_at": to_ms(key.revoked_at) if key.revoked_at else 0,
    }


async def _key(mongo: Mongo, key_id: str) -> ApiKey | None:
    found = await mongo.api_keys.find_one({"_id": key_id})
    if found is None:
        return None
    return ApiKey(
        id=found["_id"],
        group_id=found["group_id"],
        role=Role(found["role"]),
        secret_hash=bytes(found["secret_hash"]),
        created_at=from_ms(found["created_at"]),
        last_used_at=from_ms(found["last_used_at"]) if found["last_used_at"] else None,
        revoked_at=from_ms(found["revoked_at"]) if found["revoked_at"] else None,
    )


async def _touch_keys(mongo: Mongo, used_at: Mapping[str, datetime]) -> None:
    # Raised, never lowered: two processes report in any order.
    await mongo.api_keys.bulk_write(
        [UpdateOne({"_id": key_id}, {"$max": {"last_used_at": to_ms(moment)}}) for key_id, moment in used_at.items()],
        ordered=False,
    )
