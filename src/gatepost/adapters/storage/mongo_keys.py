"""API keys in MongoDB."""

from collections.abc import Mapping
from datetime import datetime

from gatepost.adapters.storage.mongo_driver import Document, Mongo, fetch, insert_new, raise_each
from gatepost.adapters.storage.paging import AFTER_ALL, page_of
from gatepost.adapters.storage.rows import from_ms, to_ms
from gatepost.domain.groups import ApiKey, Role
from gatepost.ports import Page, Saved


class MongoKeys:
    """Implements `ports.KeyStore`."""

    _mongo: Mongo

    async def add_key(self, group_id: str, key: ApiKey) -> None:
        await self._mongo.write(insert_new(self._mongo.api_keys, [_document(group_id, key)]))

    async def key(self, key_id: str) -> ApiKey | None:
        return await self._mongo.read(_key(self._mongo, key_id))

    async def keys(self, group_id: str, *, limit: int, before: str | None) -> Page[ApiKey]:
        return await self._mongo.read(_keys(self._mongo, group_id, limit, before))

    async def revoke_key(self, group_id: str, key_id: str, *, now: datetime) -> Saved:
        return await self._mongo.write(_revoke(self._mongo, group_id, key_id, to_ms(now)))

    async def touch_keys(self, used_at: Mapping[str, datetime]) -> None:
        if used_at:
            await self._mongo.write(raise_each(self._mongo.api_keys, "last_used_at", used_at))


async def _key(mongo: Mongo, key_id: str) -> ApiKey | None:
    found = await mongo.api_keys.find_one({"_id": key_id})
    return _key_from(found) if found else None


async def _keys(mongo: Mongo, group_id: str, limit: int, before: str | None) -> Page[ApiKey]:
    asked = {"group_id": group_id, "revoked_at": 0, "id": {"$lt": before or AFTER_ALL}}
    found = await fetch(mongo.api_keys.find(asked).sort("id", -1).limit(limit + 1))
    return page_of([_key_from(each) for each in found], limit)


async def _revoke(mongo: Mongo, group_id: str, key_id: str, now: int) -> Saved:
    asked = {"_id": key_id, "group_id": group_id, "revoked_at": 0}
    revoked = await mongo.api_keys.update_one(asked, {"$set": {"revoked_at": now}})
    return Saved.DONE if revoked.matched_count else Saved.STALE


# --- documents -----------------------------------------------------------------------------------------------


def _document(group_id: str, key: ApiKey) -> Document:
    return {
        "_id": key.id,
        "id": key.id,
        "group_id": group_id,
        "role": key.role.value,
        "secret_hash": key.secret_hash,
        "created_at": to_ms(key.created_at),
        "name": key.name,
        "last_used_at": to_ms(key.last_used_at) if key.last_used_at else 0,
        "revoked_at": to_ms(key.revoked_at) if key.revoked_at else 0,
    }


def _key_from(document: Document) -> ApiKey:
    return ApiKey(
        id=document["_id"],
        group_id=document["group_id"],
        role=Role(document["role"]),
        secret_hash=bytes(document["secret_hash"]),
        created_at=from_ms(document["created_at"]),
        name=document["name"],
        last_used_at=from_ms(document["last_used_at"]) if document["last_used_at"] else None,
        revoked_at=from_ms(document["revoked_at"]) if document["revoked_at"] else None,
    )
