"""Who is alive, in MongoDB, and what part of the lanes each owner may have."""

import socket
from collections.abc import Mapping
from datetime import datetime, timedelta

from pymongo import UpdateOne

from gatepost.adapters.storage.mongo_driver import Mongo, fetch, parts_of
from gatepost.adapters.storage.rows import NEVER_MS, to_ms
from gatepost.adapters.storage.shares import FORGOTTEN_AFTER, proven_after_ms, room_in_share, surplus
from gatepost.ports import Renewal

_MOST_OWNERS = 1_000
_MOST_COUNTED = 20_000  # more lanes than that are shared out as if there were so many


class MongoOwners:
    """Implements what `ports.LaneStore` asks about owners."""

    _mongo: Mongo

    async def join(self, owner: str, *, now: datetime) -> None:
        self._mongo.left.discard(owner)
        await self._mongo.write_lanes(_join(self._mongo, owner, now))

    async def retire(self, owner: str) -> None:
        await self._mongo.write_lanes(_retire(self._mongo, owner))

    async def leave(self, owner: str) -> None:
        # Writes go on though the engine gave them up, and a lease among them would take lanes that nobody serves.
        self._mongo.left.add(owner)
        await self._mongo.lane_writes_ended()
        await self._mongo.write_lanes(_leave(self._mongo, owner))

    async def renew_lanes(self, owner: str, tokens: Mapping[str, int], *, now: datetime, lease: timedelta) -> Renewal:
        return await self._mongo.write_lanes(_renew(self._mongo, owner, tokens, now, lease))


async def room_for(mongo: Mongo, owner: str, *, now: datetime, lease: timedelta) -> int | None:
    """Return how many more lanes an owner may have, less than none if it has too many; None while it is alone."""
    at = to_ms(now)
    # Seen in the future is not alive either: the server's clock was set back.
    asked = {"seen_at": {"$gt": to_ms(now - lease), "$lte": to_ms(now + lease)}}
    seen = await fetch(mongo.workers.find(asked).sort("seen_at", -1).limit(_MOST_OWNERS))
    stayed = [each for each in seen if each["seen_at"] - each["started_at"] >= proven_after_ms(lease)]
    others = sum(each["_id"] != owner for each in stayed)
    if not others:
        return None
    due = await _counted(mongo, {"free": 1, "due_at": {"$lte": at}, "hold_until": {"$lte": at}})
    leased = await _counted(mongo, {"free": 0})
    own = await _counted(mongo, {"owner": owner, "free": 0})
    return room_in_share(due=due, leased=leased, own=own, others=others)


async def _counted(mongo: Mongo, asked: dict[str, object]) -> int:
    counted: int = await mongo.lanes.count_documents(asked, limit=_MOST_COUNTED)
    return counted


async def _join(mongo: Mongo, owner: str, now: datetime) -> None:
    await mongo.workers.delete_many({"seen_at": {"$lt": to_ms(now - FORGOTTEN_AFTER)}})
    await _seen(mongo, owner, to_ms(now))


async def _retire(mongo: Mongo, owner: str) -> None:
    # As if it had only just joined, for good.
    await mongo.workers.update_one({"_id": owner}, {"$set": {"started_at": NEVER_MS}})


async def _leave(mongo: Mongo, owner: str) -> None:
    await mongo.lanes.update_many({"owner": owner, "free": 0}, {"$set": {"owner": "", "free": 1, "lease_until": 0}})
    await mongo.workers.delete_one({"_id": owner})


async def _renew(mongo: Mongo, owner: str, tokens: Mapping[str, int], now: datetime, lease: timedelta) -> Renewal:
    if owner in mongo.left:
        return Renewal(set(tokens), 0)
    await _seen(mongo, owner, to_ms(now))
    lost: set[str] = set()
    for part in parts_of(tokens):
        lost |= await _extended(mongo, owner, {each: tokens[each] for each in part}, now, lease)
    room = await room_for(mongo, owner, now=now, lease=lease)
    return Renewal(lost, surplus(room))


async def _extended(mongo: Mongo, owner: str, tokens: Mapping[str, int], now: datetime, lease: timedelta) -> set[str]:
    """Extend leases, each by a comparison of its own; return the lanes that were lost.

    Only ever extended: a renewal that was given up may still reach the server, after the next one.
    """
    until = to_ms(now + lease)
    await _shorten_absurd(mongo, owner, tokens, now, lease)
    extend = {"$max": {"lease_until": until}}
    done = await mongo.lanes.bulk_write(
        [UpdateOne({"_id": each, "token": token, "owner": owner}, extend) for each, token in tokens.items()],
        ordered=False,
    )
    if done.matched_count == len(tokens):
        return set()
    # Some are lost. A token is used once: whoever still has it with this owner was extended.
    lanes = await fetch(mongo.lanes.find({"_id": {"$in": list(tokens)}, "owner": owner}, {"token": 1}))
    return set(tokens) - {lane["_id"] for lane in lanes if lane["token"] == tokens[lane["_id"]]}


async def _shorten_absurd(mongo: Mongo, owner: str, tokens: Mapping[str, int], now: datetime, lease: timedelta) -> None:
    """End leases in time that are absurdly far ahead: a clock stepped back. Each only if it still ends as was found."""
    ahead = {"_id": {"$in": list(tokens)}, "owner": owner, "lease_until": {"$gt": to_ms(now + 2 * lease)}}
    absurd = await fetch(mongo.lanes.find(ahead, {"lease_until": 1}))
    if absurd:
        shorten = {"$set": {"lease_until": to_ms(now + lease)}}
        await mongo.lanes.bulk_write([UpdateOne({**each, "owner": owner}, shorten) for each in absurd], ordered=False)


async def _seen(mongo: Mongo, owner: str, now: int) -> None:
    await mongo.workers.update_one(
        {"_id": owner},
        {"$set": {"seen_at": now}, "$setOnInsert": {"host": socket.gethostname(), "started_at": now}},
        upsert=True,
    )
