"""Lanes in MongoDB: the engine's view of the store. The rules are those of `docs/delivery-protocol.md`.

A lane is one document, so each of leasing, poking, renewing and releasing it is one write that compares what it rests
on. A write is judged by what it matched.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from pymongo import ReturnDocument
from pymongo.errors import PyMongoError

from gatepost.adapters.storage.mongo_driver import Document, Mongo, fetch, several
from gatepost.adapters.storage.mongo_owners import room_for
from gatepost.adapters.storage.mongo_reading import read_lanes, unfinished
from gatepost.adapters.storage.mongo_sweep import sweep
from gatepost.adapters.storage.mongo_webhook_documents import condition_from
from gatepost.adapters.storage.rows import NEVER_MS, from_ms, to_ms
from gatepost.ports import LaneAsk, LaneRead, Leased, LeasedLane, Release

_MOST_ROUNDS = 3


class MongoLanes:
    """Implements leasing, reading, releasing and the sweep of `ports.LaneStore`."""

    _mongo: Mongo

    async def lease_lanes(self, owner: str, *, limit: int, now: datetime, lease: timedelta) -> Leased:
        leased = await self._mongo.write_lanes(_lease_lanes(self._mongo, owner, limit, now, lease))
        self._mongo.hand_over.leased({lane.webhook_id for lane in leased.lanes})
        return leased

    async def read_lanes(self, asked: Mapping[str, LaneAsk], *, now: datetime) -> Mapping[str, LaneRead]:
        return await self._mongo.read_lanes(read_lanes(self._mongo, asked, to_ms(now)))

    async def release_lanes(self, releases: Sequence[Release]) -> set[str]:
        return await self._mongo.write_lanes(_release_lanes(self._mongo, releases))

    async def sweep(self, *, now: datetime) -> int:
        return await self._mongo.repeat_lanes(sweep(self._mongo, to_ms(now)))


# --- leasing -------------------------------------------------------------------------------------------------


class _Wish(NamedTuple):
    """What is asked of a lane by whoever leases it. Moments in milliseconds."""

    owner: str
    now: int
    until: int
    absurd: int  # a lease further ahead than this is none: a clock stepped back

    @property
    def ready(self) -> Document:
        # Two ranges, but the second filters the keys of an index that the first has found.
        return {"due_at": {"$lte": self.now}, "hold_until": {"$lte": self.now}}


async def _lease_lanes(mongo: Mongo, owner: str, limit: int, now: datetime, lease: timedelta) -> Leased:
    room = await room_for(mongo, owner, now=now, lease=lease)
    limit = limit if room is None else min(limit, room)
    wish = _Wish(owner, now=to_ms(now), until=to_ms(now + lease), absurd=to_ms(now + 2 * lease))
    taken: list[tuple[int, LeasedLane]] = []
    next_due_at = None
    try:
        await _take_several(mongo, wish, limit, taken)
        next_due_at = await _next_due_at(mongo, wish)
    except PyMongoError:
        if not taken:  # those are ours: untold, nobody would serve them until their leases end
            raise
    taken.sort(key=lambda each: each[0])
    return Leased([lane for _, lane in taken], next_due_at)


async def _take_several(mongo: Mongo, wish: _Wish, limit: int, taken: list[tuple[int, LeasedLane]]) -> None:
    """Lease up to so many lanes; each is added, with the moment it was due, as soon as it is ours."""

    async def take(found: Document) -> bool:
        lane = await _take(mongo, wish, found)
        if lane is not None:
            taken.append((found["due_at"], lane))
        return lane is not None

    for _ in range(_MOST_ROUNDS):  # those that others are quicker to take are made up for
        candidates = await _leasable(mongo, wish, limit - len(taken))
        if all(await several(take, candidates)):
            return


async def _leasable(mongo: Mongo, wish: _Wish, limit: int) -> list[Document]:
    """Return lanes that are due, not held and not leased; the longest due first."""
    if limit <= 0:  # which MongoDB would read as no limit
        return []
    halves = [
        mongo.lanes.find({"free": 1, **wish.ready}).sort("due_at", 1),
        mongo.lanes.find({"free": 0, "lease_until": {"$lt": wish.now}, **wish.ready}).sort("lease_until", 1),
        mongo.lanes.find({"free": 0, "lease_until": {"$gt": wish.absurd}, **wish.ready}).sort("lease_until", 1),
    ]
    found = [lane for half in halves for lane in await fetch(half.limit(limit))]
    found.sort(key=lambda lane: (lane["due_at"], lane["_id"]))
    return found[:limit]


async def _take(mongo: Mongo, wish: _Wish, found: Mapping[str, Any]) -> LeasedLane | None:
    """Lease a lane, if its lease is still the one that was found, and it is still due and not held.

    Token, owner and end of the lease are compared with what was found: so it has not been leased, released or renewed
    since, and whether its owner released it is still what was found, too.
    """
    if wish.owner in mongo.left:
        return None
    lane = await mongo.lanes.find_one_and_update(
        {"_id": found["_id"], **{field: found[field] for field in ("token", "free", "lease_until")}, **wish.ready},
        {
            "$set": {"owner": wish.owner, "free": 0, "lease_until": wish.until},
            "$inc": {"token": 1, "unclean": 0 if found["free"] else 1},
        },
        return_document=ReturnDocument.AFTER,
    )
    if lane is None:
        return None
    return LeasedLane(lane["_id"], lane["token"], lane["pokes"], lane["unclean"], lane["window"], condition_from(lane))


async def _next_due_at(mongo: Mongo, wish: _Wish) -> datetime | None:
    asked = {"free": 1, "due_at": {"$gt": wish.now}, "hold_until": {"$lte": wish.now}}
    found = await fetch(mongo.lanes.find(asked, {"due_at": 1}).sort("due_at", 1).limit(1))
    return from_ms(found[0]["due_at"]) if found and found[0]["due_at"] < NEVER_MS else None


# --- releasing -----------------------------------------------------------------------------------------------


async def _release_lanes(mongo: Mongo, releases: Sequence[Release]) -> set[str]:
    given_back = await several(lambda release: _release(mongo, release), releases)
    return {each.webhook_id for each, is_free in zip(releases, given_back, strict=True) if is_free}


async def _release(mongo: Mongo, release: Release) -> bool:
    """Give a lane back. Nothing but this raises `due_at`: for whoever has seen every poke.

    The earliest attempt is read first, in a query of its own. A delivery that comes after that is not lost: its poke
    comes after it, and either before the comparison, which then fails, or after it, and makes the lane due again. If
    whoever inserted it dies before the poke, the sweep pokes.
    """
    free: Document = {"owner": "", "free": 1, "lease_until": 0}
    held = {"_id": release.webhook_id, "token": release.token}
    if release.pokes is not None:
        next_up = await unfinished(mongo, release.webhook_id, 1)
        free["due_at"] = next_up[0]["next_attempt_at"] if next_up else NEVER_MS
        held["pokes"] = release.pokes
    return (await mongo.lanes.update_one(held, {"$set": free})).matched_count == 1
