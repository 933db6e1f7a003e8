"""What the owner of a lane reads of it in MongoDB: what is due, what may go in order, or what to probe with.

In order: a delivery waits for those of its webhook that are unfinished and have a lower version of one of its tasks.
`places` holds the versions of its tasks as texts that sort, which an index finds; a replay has none, and neither waits
nor is waited for.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import structlog

from gatepost.adapters.storage.looking import HEAD, Place, place_of, position_of
from gatepost.adapters.storage.mongo_documents import DELIVERY_FIELDS, OPEN, delivery_from_document
from gatepost.adapters.storage.mongo_driver import Document, Mongo, fetch, parts_of, several
from gatepost.adapters.storage.mongo_retention import hold_events
from gatepost.adapters.storage.rows import NEVER_MS, from_ms_or_none
from gatepost.domain.deliveries import QueuedDelivery, queued
from gatepost.ports import LaneAsk, LaneRead, Reading

log = structlog.get_logger()

_DUE_FIRST = [("next_attempt_at", 1), ("id", 1)]
_READ_FIELDS = DELIVERY_FIELDS | {"places": 1, "not_before": 1}


async def read_lanes(mongo: Mongo, asked: Mapping[str, LaneAsk], now: int) -> dict[str, LaneRead]:
    # The counters first: a poke after that is for what a read may have missed.
    lanes = [
        lane
        for part in parts_of(asked)
        for lane in await fetch(mongo.lanes.find({"_id": {"$in": part}}, {"token": 1, "pokes": 1}))
    ]
    found, events = await _found_with_events(mongo, lanes, asked, now)
    if eventless := [each for queue in found for each in queue.deliveries if _event_of(each) not in events]:
        await _withdraw(mongo, eventless)
        found, events = await _found_with_events(mongo, lanes, asked, now)
    return {
        lane["_id"]: LaneRead(
            lane["token"],
            lane["pokes"],
            [_queued(each, events[_event_of(each)]) for each in queue.deliveries if _event_of(each) in events],
            from_ms_or_none(queue.next_due),
            position_of(queue.looked_to),
        )
        for lane, queue in zip(lanes, found, strict=True)
    }


async def unfinished(mongo: Mongo, webhook_id: str, limit: int) -> list[Document]:
    """Return the unfinished deliveries of a lane, due or not: whoever comes after the due ones is the next."""
    asked = {"webhook_id": webhook_id, "open": OPEN}
    return await fetch(mongo.deliveries.find(asked, _READ_FIELDS).sort(_DUE_FIRST).limit(limit))


class _Found(NamedTuple):
    """What may be sent, when the next one after that is due, in milliseconds, and where to go on looking."""

    deliveries: Sequence[Document]
    next_due: int | None
    looked_to: Place | None = None


async def _found_with_events(
    mongo: Mongo, lanes: Sequence[Document], asked: Mapping[str, LaneAsk], now: int
) -> tuple[list[_Found], dict[str, Document]]:
    found = await several(lambda lane: _found(mongo, lane["_id"], asked[lane["_id"]], now), lanes)
    return found, await _events(mongo, [each for queue in found for each in queue.deliveries])


async def _found(mongo: Mongo, webhook_id: str, ask: LaneAsk, now: int) -> _Found:
    match ask.reading:
        case Reading.DUE:
            queue = await unfinished(mongo, webhook_id, ask.limit + 1)
            return _cut(queue, [each for each in queue if each["next_attempt_at"] <= now], ask.limit)
        case Reading.IN_ORDER | Reading.PROBE_IN_ORDER:
            return await _in_order(mongo, webhook_id, ask, now)
        case Reading.PROBE:
            return await _probe(mongo, webhook_id, ask.limit, now)


def _cut(queue: Sequence[Document], due: Sequence[Document], limit: int) -> _Found:
    deliveries = due[:limit]
    return _Found(deliveries, queue[len(deliveries)]["next_attempt_at"] if len(queue) > len(deliveries) else None)


# --- probing -------------------------------------------------------------------------------------------------


async def _probe(mongo: Mongo, webhook_id: str, limit: int, now: int) -> _Found:
    """Return deliveries that their receiver has not asked to wait with, the longest due first."""
    asked = {"webhook_id": webhook_id, "open": OPEN, "not_before": {"$lte": now}}
    found = await fetch(mongo.deliveries.find(asked, _READ_FIELDS).sort(_DUE_FIRST).limit(limit))
    return _Found(found, await _next_due(mongo, webhook_id, now))


# --- in order ------------------------------------------------------------------------------------------------


async def _in_order(mongo: Mongo, webhook_id: str, ask: LaneAsk, now: int) -> _Found:
    """Look at the head of the queue; where that ends before the queue, and room is left, look further on as well."""
    order = _Order(mongo, webhook_id, ask.look_at, now, now if ask.reading is Reading.IN_ORDER else NEVER_MS)
    at_head, head_ends = await _look(order, HEAD, ask.limit)
    next_due = await _next_due(mongo, webhook_id, now)
    if len(at_head) == ask.limit:
        return _Found(at_head, next_due, place_of(ask.onward_from) if ask.onward_from else None)
    if head_ends is None:
        return _Found(at_head, next_due)
    begin = max(head_ends, place_of(ask.onward_from))
    onward, end = await _look(order, begin, ask.limit - len(at_head))
    return _Found([*at_head, *onward], next_due, end)


async def _look(order: "_Order", begin: Place, most: int) -> tuple[list[Document], Place | None]:
    """Return so many that may start, and where the look ended, if before the end of the queue."""
    seen = await order.due(begin)
    startable = (await order.startable(seen))[:most]
    if len(startable) == most:
        return startable, _place(startable[-1])
    return startable, _place(seen[-1]) if len(seen) == order.look_at else None


def _place(document: Document) -> Place:
    return Place(document["next_attempt_at"], document["id"])


async def _next_due(mongo: Mongo, webhook_id: str, now: int) -> int | None:
    asked = {"webhook_id": webhook_id, "open": OPEN, "next_attempt_at": {"$gt": now}}
    found = await fetch(mongo.deliveries.find(asked, {"next_attempt_at": 1}).sort(_DUE_FIRST).limit(1))
    return found[0]["next_attempt_at"] if found else None


class _Order:
    """The unfinished deliveries of a webhook in the order of the tasks they are about, as far as it is asked for."""

    def __init__(self, mongo: Mongo, webhook_id: str, look_at: int, now: int, until: int) -> None:
        self.look_at = look_at  # deliveries at once
        self._mongo = mongo
        self._webhook_id = webhook_id
        self._now = now
        self._until = until  # what is due then

    async def due(self, begin: Place) -> list[Document]:
        """Return what is due after a place, as much as is looked through at once."""
        found: list[Document] = []
        if begin > HEAD and begin.due_ms <= self._until:
            same_time = {"next_attempt_at": begin.due_ms, "id": {"$gt": begin.delivery_id}}
            found = await self._found(same_time, self.look_at)
        if len(found) < self.look_at:
            later = {"next_attempt_at": {"$gt": begin.due_ms, "$lte": self._until}}
            found += await self._found(later, self.look_at - len(found))
        return found

    async def _found(self, asked: Document, limit: int) -> list[Document]:
        unfinished = {"webhook_id": self._webhook_id, "open": OPEN}
        found = self._mongo.deliveries.find(unfinished | asked, _READ_FIELDS).sort(_DUE_FIRST)
        return await fetch(found.limit(limit))

    async def startable(self, deliveries: Sequence[Document]) -> list[Document]:
        """Return those that have no lower version of any of their tasks before them."""
        lowest: dict[str, str] = {}
        for place in [each for delivery in deliveries for each in delivery["places"]]:
            lowest[_task_of(place)] = min(place, lowest.get(_task_of(place), place))
        places = list(lowest.values())
        are_first = await several(self._is_first, places)
        first = {place for place, is_first in zip(places, are_first, strict=True) if is_first}
        free = [each for each in deliveries if first.issuperset(each["places"])]
        return [each for each in free if each["not_before"] <= self._now]

    async def _is_first(self, place: str) -> bool:
        before = {"$gte": f"{_task_of(place)}/", "$lt": place}
        asked = {"webhook_id": self._webhook_id, "open": OPEN, "places": {"$elemMatch": before}}
        return not await fetch(self._mongo.deliveries.find(asked, {"_id": 1}).limit(1))


def _task_of(place: str) -> str:
    return place.rpartition("/")[0]


# --- events --------------------------------------------------------------------------------------------------


def _queued(document: Mapping[str, Any], event: Mapping[str, Any]) -> QueuedDelivery:
    return queued(delivery_from_document(document), body=event["body"], hop=event["hop"])


async def _events(mongo: Mongo, deliveries: Sequence[Mapping[str, Any]]) -> dict[str, Document]:
    """Return the events of deliveries, each once: that is where the bodies are."""
    found: dict[str, Document] = {}
    for part in parts_of({_event_of(each) for each in deliveries}):
        groups = sorted({event_id.partition("/")[0] for event_id in part})  # for the shard key
        asked = {"_id": {"$in": part}, "group_id": {"$in": groups}}
        found |= {each["_id"]: each for each in await fetch(mongo.events.find(asked, {"body": 1, "hop": 1}))}
    return found


async def _withdraw(mongo: Mongo, eventless: Sequence[Document]) -> None:
    """Take back replays whose process died before it saw that their events were gone: they would wait for ever."""
    by_group: dict[str, list[Document]] = {}
    for each in eventless:
        log.warning("replay.withdrawn", webhook_id=each["webhook_id"], delivery_id=each["id"])
        by_group.setdefault(each["group_id"], []).append(each)
    for group_id, deliveries in by_group.items():
        await hold_events(mongo, group_id, deliveries)


def _event_of(delivery: Mapping[str, Any]) -> str:
    return f"{delivery['group_id']}/{delivery['event_id']}"
