"""How many webhooks a group has, in MongoDB: their ids stand in the group's document, which one write changes.

`live.<webhook id>` is the moment at which the place was taken: before the webhook is written, so that two who add the
last one cannot both have it. Whoever dies between the two leaves a place without a webhook; when the quota is used up,
places like that are given back after a minute.
"""

from typing import Any

from gatepost.adapters.storage.mongo_driver import Mongo, fetch, parts_of
from gatepost.adapters.storage.mongo_groups import group_changed
from gatepost.domain.errors import StoreUnavailable

_ABANDONED_AFTER_MS = 60_000
_MOST_TRIES = 100


async def reserved(mongo: Mongo, group_id: str, webhook_id: str, quota: int, *, now: int) -> bool:
    """Take a place for a webhook, or find that it has one; say whether the quota allowed it."""
    for _ in range(_MOST_TRIES):
        group = await mongo.groups.find_one({"_id": group_id}, {"rev": 1, "live": 1})
        if group is None:
            return False
        live: dict[str, int] = group["live"]
        if webhook_id in live:
            return True
        if len(live) < quota:
            change: dict[str, Any] = {"$set": {f"live.{webhook_id}": now}}
        elif abandoned := await _abandoned(mongo, live, now):
            change = {"$unset": {f"live.{each}": "" for each in abandoned}}
        else:
            return False
        counted = await group_changed(mongo, group_id, group["rev"], change)
        if counted and len(live) < quota:
            return True
    raise StoreUnavailable("too many write the group's webhooks at this moment; try again")


async def _abandoned(mongo: Mongo, live: dict[str, int], now: int) -> list[str]:
    old = [webhook_id for webhook_id, at in live.items() if at < now - _ABANDONED_AFTER_MS]
    for part in parts_of(list(old)):
        found = await fetch(mongo.webhooks.find({"_id": {"$in": part}, "deleted": 0}, {"_id": 1}))
        for webhook in found:
            old.remove(webhook["_id"])
    return old
