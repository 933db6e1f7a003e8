"""Retention in MongoDB: what is old is looked for a few thousand documents at a time, and let go of by its ids.

Nothing is counted, nothing expires by itself, and no index is there for this alone. Deliveries are walked by `_id`,
which is their id and so in the order of time; events group by group in the order of time; buckets by their time.

What holds an event is a delivery of it, in another document; so the event's own says who may let go of it:

    retention: mark it with a stamp of one's own · look for deliveries of it · delete it, if it bears that stamp still
    a replay:  insert the delivery               · take any stamp off it     · if it is not there, withdraw the delivery

An event that was deleted bore its stamp from before the look on. So no replay has taken it off in between, and one that
had taken it off before was seen. A replay whose process dies between its two steps was not answered; should just that
moment be the retention's, too, its delivery is left without an event, until whoever reads its lane withdraws it.
"""

from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from bson import ObjectId
from pymongo import UpdateOne

from gatepost.adapters.storage.mongo_documents import OPEN, deliveries_key, event_order, same
from gatepost.adapters.storage.mongo_driver import Document, Mongo, fetch, insert_new
from gatepost.adapters.storage.mongo_probes import probes_of
from gatepost.adapters.storage.rows import to_ms
from gatepost.domain.deliveries import Status
from gatepost.domain.retention import Kept, first_id
from gatepost.ports import PurgeStep

_PURGED_AT_ONCE = 500
_LOOKED_AT_AT_ONCE = 2_000
_GROUPS_AT_ONCE = 100  # looked at in one step: most of them have nothing that is old
_FOUND_AT_ONCE = 500

_JOB = {"_id": "retention"}  # of `meta`
_STATUS = {Kept.DELIVERIES: Status.DELIVERED, Kept.DEAD_LETTERS: Status.DEAD_LETTER}
_LOOKED_AT = dict.fromkeys(("webhook_id", "status", "finished_at", "bare", "attempt_count", "open"), 1)


class MongoRetention:
    """Implements `ports.RetentionStore`."""

    _mongo: Mongo

    async def lease_retention(self, owner: str, *, now: datetime, lease: timedelta, every: timedelta) -> bool:
        return await self._mongo.write(_lease(self._mongo, owner, now, lease, every))

    async def end_retention(self, owner: str, *, done_at: datetime | None) -> None:
        await self._mongo.write(_end(self._mongo, owner, done_at))

    async def purge(self, kept: Kept, *, before: datetime, after: str) -> PurgeStep:
        return await self._mongo.write(_PURGES[kept](self._mongo, kept, before, after))


# --- the job -------------------------------------------------------------------------------------------------


async def _lease(mongo: Mongo, owner: str, now: datetime, lease: timedelta, every: timedelta) -> bool:
    await insert_new(mongo.meta, [{**_JOB, "owner": "", "lease_until": 0, "done_at": 0}])
    found = await mongo.meta.find_one(_JOB)
    assert found is not None
    at = to_ms(now)
    is_held = found["owner"] not in ("", owner) and at <= found["lease_until"] <= to_ms(now + 2 * lease)
    if is_held or to_ms(now - every) < found["done_at"] <= at:
        return False
    # Of two who found it free one still finds it so.
    taken = await mongo.meta.update_one(found, {"$set": {"owner": owner, "lease_until": to_ms(now + lease)}})
    return taken.matched_count == 1


async def _end(mongo: Mongo, owner: str, done_at: datetime | None) -> None:
    ended: Document = {"owner": "", "lease_until": 0}
    if done_at is not None:
        ended["done_at"] = to_ms(done_at)
    await mongo.meta.update_one({**_JOB, "owner": owner}, {"$set": ended})


# --- deliveries ----------------------------------------------------------------------------------------------


async def _purge_bodies(mongo: Mongo, _kept: Kept, before: datetime, after: str) -> PurgeStep:
    """Take heads and bodies out of what is finished, each once."""
    wanted, go_on_after = await _finished(mongo, before, after, lambda each: not each["bare"])
    if not wanted:
        return PurgeStep(0, go_on_after)
    probes = await probes_of(mongo, _webhooks_of(wanted))
    bared = await mongo.deliveries.bulk_write([_baring(each, probes[each["_id"]]) for each in wanted], ordered=False)
    return PurgeStep(bared.matched_count, go_on_after)


def _baring(delivery: Mapping[str, Any], probes: Iterable[str]) -> UpdateOne:
    """Return what takes heads and bodies out of a delivery; what is not there is not made by unsetting it."""
    numbers = range(1, delivery["attempt_count"] + 1)
    places = [*(f"attempts.{number}" for number in numbers), *(f"probes.{probe}" for probe in probes)]
    change: Document = {"$set": {"bare": 1}}
    if places:
        change["$unset"] = {f"{place}.{part}": "" for place in places for part in ("headers", "body")}
    key = {"_id": delivery["_id"], "webhook_id": delivery["webhook_id"], "id": delivery["_id"]}
    return UpdateOne({**key, "bare": 0}, change)


async def _purge_deliveries(mongo: Mongo, kept: Kept, before: datetime, after: str) -> PurgeStep:
    status = _STATUS[kept].value
    wanted, go_on_after = await _finished(mongo, before, after, lambda each: each["status"] == status)
    if not wanted:
        return PurgeStep(0, go_on_after)
    # What was discarded may have been delivered after all by what was in flight.
    still = {"status": status, "finished_at": {"$lt": to_ms(before)}}
    deleted = await mongo.deliveries.delete_many(_key(wanted) | still)
    return PurgeStep(deleted.deleted_count, go_on_after)


def _key(deliveries: Iterable[Mapping[str, Any]]) -> Document:
    return deliveries_key(_webhooks_of(deliveries))


def _webhooks_of(deliveries: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    return {each["_id"]: each["webhook_id"] for each in deliveries}


async def _finished(
    mongo: Mongo, before: datetime, after: str, is_wanted: Callable[[Document], bool]
) -> tuple[list[Document], str | None]:
    """Return some deliveries that were finished before a moment, and after which one to go on; None at the end.

    They were made before that moment, too, so that the newer ones are not even looked at.
    """
    asked = {"_id": {"$gt": after, "$lt": first_id("dlv", before)}}
    found = await fetch(mongo.deliveries.find(asked, _LOOKED_AT).sort("_id", 1).limit(_LOOKED_AT_AT_ONCE))
    old = [each for each in found if each["open"] != OPEN and each["finished_at"] < to_ms(before)]
    wanted = [each for each in old if is_wanted(each)]
    if len(wanted) > _PURGED_AT_ONCE:
        wanted = wanted[:_PURGED_AT_ONCE]
        return wanted, wanted[-1]["_id"]
    return wanted, found[-1]["_id"] if len(found) == _LOOKED_AT_AT_ONCE else None


# --- events --------------------------------------------------------------------------------------------------


async def _purge_events(mongo: Mongo, _kept: Kept, before: datetime, after: str) -> PurgeStep:
    """Let go of old events without deliveries, group by group. `after` names a group, and its last event looked at."""
    group_id, order = after.split(" ", 1) if after else ("", "")
    for _ in range(_GROUPS_AT_ONCE):
        if not order:
            following = await _next_group(mongo, group_id)
            if following is None:
                return PurgeStep(0, None)
            group_id = following
        asked = {"group_id": group_id, "order": {"$gt": order, "$lt": event_order(to_ms(before), "")}}
        fields = {"id": 1, "order": 1, "pending_events": 1}
        found = await fetch(mongo.events.find(asked, fields).sort("order", 1).limit(_PURGED_AT_ONCE))
        order = found[-1]["order"] if len(found) == _PURGED_AT_ONCE else ""
        if found:
            purged = await _let_go_of(mongo, group_id, [each["id"] for each in found if not each["pending_events"]])
            return PurgeStep(purged, f"{group_id} {order}")
    return PurgeStep(0, f"{group_id} ")


async def _next_group(mongo: Mongo, group_id: str) -> str | None:
    found = await fetch(mongo.groups.find({"_id": {"$gt": group_id}}, {"_id": 1}).sort("_id", 1).limit(1))
    return str(found[0]["_id"]) if found else None


async def _let_go_of(mongo: Mongo, group_id: str, event_ids: Sequence[str]) -> int:
    free = set(event_ids) - await _with_deliveries(mongo, group_id, event_ids)
    if not free:
        return 0
    stamp = str(ObjectId())
    await mongo.events.update_many(_key_of_events(group_id, free) | {"pending_events": 0}, {"$set": {"going": stamp}})
    gone = free - await _with_deliveries(mongo, group_id, free)
    deleted = await mongo.events.delete_many(_key_of_events(group_id, gone) | {"going": same(stamp)})
    return deleted.deleted_count


def _key_of_events(group_id: str, event_ids: Iterable[str]) -> Document:
    return {"_id": {"$in": [f"{group_id}/{each}" for each in sorted(event_ids)]}, "group_id": group_id}


async def _with_deliveries(mongo: Mongo, group_id: str, event_ids: Iterable[str]) -> set[str]:
    """Return those of a few events that have deliveries: a few of each most of the time, of one perhaps thousands."""
    rest = set(event_ids)
    held: set[str] = set()
    while rest:
        asked = {"group_id": group_id, "event_id": {"$in": sorted(rest)}}
        found = await fetch(mongo.deliveries.find(asked, {"event_id": 1}).limit(_FOUND_AT_ONCE))
        held |= {each["event_id"] for each in found}
        rest -= held
        if len(found) < _FOUND_AT_ONCE:
            break
    return held


async def hold_events(mongo: Mongo, group_id: str, deliveries: Sequence[Mapping[str, Any]]) -> bool:
    """Keep the events of deliveries, and say whether all are there; withdraw what is unfinished of the others."""
    events = {each["event_id"] for each in deliveries}
    key = _key_of_events(group_id, events)
    if (await mongo.events.update_many(key, {"$set": {"going": ""}})).matched_count == len(events):
        return True
    there = {each["_id"] for each in await fetch(mongo.events.find(key, {"_id": 1}))}
    eventless = [each for each in deliveries if f"{group_id}/{each['event_id']}" not in there]
    await mongo.deliveries.delete_many(_key(eventless) | {"open": OPEN})
    return False


# --- bulk replays --------------------------------------------------------------------------------------------


async def _purge_replays(mongo: Mongo, _kept: Kept, before: datetime, after: str) -> PurgeStep:
    """Let go of jobs that have ended, unless something of theirs still waits to be passed on."""
    asked = {"_id": {"$gt": after, "$lt": first_id("rpl", before)}}
    fields = {"finished_at": 1, "active": 1}
    found = await fetch(mongo.replay_jobs.find(asked, fields).sort("_id", 1).limit(_PURGED_AT_ONCE))
    ended = [each for each in found if not each["active"] and each["finished_at"] < to_ms(before)]
    purged = (await mongo.replay_jobs.delete_many(_ids(ended))).deleted_count if ended else 0
    return PurgeStep(purged, found[-1]["_id"] if len(found) == _PURGED_AT_ONCE else None)


# --- stats ---------------------------------------------------------------------------------------------------


async def _purge_stats(mongo: Mongo, _kept: Kept, before: datetime, _after: str) -> PurgeStep:
    old = {"bucket_at": {"$lt": to_ms(before)}}
    found = await fetch(mongo.stats.find(old, {"bucket_at": 1}).sort("bucket_at", 1).limit(_PURGED_AT_ONCE))
    if not found:
        return PurgeStep(0, None)
    deleted = await mongo.stats.delete_many(_ids(found))
    return PurgeStep(deleted.deleted_count, found[-1]["_id"] if len(found) == _PURGED_AT_ONCE else None)


def _ids(documents: Iterable[Mapping[str, Any]]) -> Document:
    return {"_id": {"$in": [each["_id"] for each in documents]}}


_Purge = Callable[[Mongo, Kept, datetime, str], Coroutine[Any, Any, PurgeStep]]
_PURGES: Mapping[Kept, _Purge] = {
    Kept.BODIES: _purge_bodies,
    Kept.DELIVERIES: _purge_deliveries,
    Kept.DEAD_LETTERS: _purge_deliveries,
    Kept.EVENTS: _purge_events,
    Kept.REPLAYS: _purge_replays,
    Kept.STATS: _purge_stats,
}
