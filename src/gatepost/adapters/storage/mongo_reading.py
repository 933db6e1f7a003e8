"""What the owner of a lane reads of it in MongoDB: what is due, what may go in order, or what to probe with.

In order: a delivery waits for those of its webhook that are unfinished and have a lower version of one of its tasks.
`places` holds the versions of its tasks as texts that sort, which an index finds; a replay has none, and neither waits
nor is waited for.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gatepost.adapters.storage.mongo_documents import DELIVERY_FIELDS, OPEN, delivery_from_document
from gatepost.adapters.storage.mongo_driver import Document, Mongo, fetch, parts_of, several
from gatepost.adapters.storage.rows import from_ms
from gatepost.domain.deliveries import QueuedDelivery, queued
from gatepost.ports import LaneAsk, LaneRead, Reading

_DUE_FIRST = [("next_attempt_at", 1), ("id", 1)]
_READ_FIELDS = DELIVERY_FIELDS | {"places": 1}
_LOOKED_THROUGH_AT_ONCE = 200


async def read_lanes(mongo: Mongo, asked: Mapping[str, LaneAsk], now: int) -> dict[str, LaneRead]:
    # The counters first: a poke after that is for what a read may have missed.
    lanes = [
        lane
        for part in parts_of(asked)
        for lane in await fetch(mongo.lanes.find({"_id": {"$in": part}}, {"token": 1, "pokes": 1}))
    ]
    found = await several(lambda lane: _found(mongo, lane["_id"], asked[lane["_id"]], now), lanes)
    events = await _events(mongo, [each for queue in found for each in queue.deliveries])
    return {
        lane["_id"]: LaneRead(
            lane["token"],
            lane["pokes"],
            [_queued(each, events[_event_of(each)]) for each in queue.deliveries if _event_of(each) in events],
            None if queue.next_due is None else from_ms(queue.next_due),
        )
        for lane, queue in zip(lanes, found, strict=True)
    }


async def unfinished(mongo: Mongo, webhook_id: str, limit: int) -> list[Document]:
    """Return the unfinished deliveries of a lane, due or not: whoever comes after the due ones is the next."""
    asked = {"webhook_id": webhook_id, "open": OPEN}
    return await fetch(mongo.deliveries.find(asked, _READ_FIELDS).sort(_DUE_FIRST).limit(limit))


class _Found(NamedTuple):
    """What may be sent, and when the next one after that is due. In milliseconds."""

    deliveries: Sequence[Document]
    next_due: int | None


async def _found(mongo: Mongo, webhook_id: str, ask: LaneAsk, now: int) -> _Found:
    match ask.reading:
        case Reading.DUE:
            queue = await unfinished(mongo, webhook_id, ask.limit + 1)
            return _cut(queue, [each for each in queue if each["next_attempt_at"] <= now], ask.limit)
        case Reading.IN_ORDER:
            return await _in_order(mongo, webhook_id, ask.limit, now)
        case Reading.PROBE:
            return await _probe(mongo, webhook_id, now)


def _cut(queue: Sequence[Document], due: Sequence[Document], limit: int) -> _Found:
    deliveries = due[:limit]
    return _Found(deliveries, queue[len(deliveries)]["next_attempt_at"] if len(queue) > len(deliveries) else None)


# --- probing -------------------------------------------------------------------------------------------------


async def _probe(mongo: Mongo, webhook_id: str, now: int) -> _Found:
    """Return the oldest delivery that its receiver has not asked to wait with."""
    asked = {"webhook_id": webhook_id, "open": OPEN, "not_before": {"$lte": now}}
    oldest = await fetch(mongo.deliveries.find(asked, _READ_FIELDS).sort("id", 1).limit(1))
    if oldest:
        return _Found(oldest, None)
    waiting = await unfinished(mongo, webhook_id, 1)  # which are all to wait
    return _Found([], waiting[0]["next_attempt_at"] if waiting else None)


# --- in order ------------------------------------------------------------------------------------------------


async def _in_order(mongo: Mongo, webhook_id: str, limit: int, now: int) -> _Found:
    """Return what is due and waits for nothing. What waits is passed over, however much that is."""
    order = _Order(mongo, webhook_id)
    startable: list[Document] = []
    asked = {"webhook_id": webhook_id, "open": OPEN}
    looked_through = mongo.deliveries.find(asked, _READ_FIELDS).sort(_DUE_FIRST)
    async with looked_through.batch_size(_LOOKED_THROUGH_AT_ONCE) as cursor:
        while found := await cursor.to_list(_LOOKED_THROUGH_AT_ONCE):
            due = [each for each in found if each["next_attempt_at"] <= now]
            startable += await order.startable(due)
            if len(startable) > limit:
                return _cut(startable, startable, limit)
            if len(due) < len(found):
                return _Found(startable, found[len(due)]["next_attempt_at"])
    return _Found(startable, None)


class _Order:
    """The unfinished deliveries of a webhook in the order of the tasks they are about, as far as it was asked for."""

    def __init__(self, mongo: Mongo, webhook_id: str) -> None:
        self._mongo = mongo
        self._webhook_id = webhook_id
        self._first: dict[str, str] = {}  # the lowest place of each task among what is unfinished

    async def startable(self, deliveries: Sequence[Document]) -> list[Document]:
        """Return those that have no lower version of any of their tasks before them."""
        lowest: dict[str, str] = {}
        for place in [each for delivery in deliveries for each in delivery["places"]]:
            lowest[_task_of(place)] = min(place, lowest.get(_task_of(place), place))
        new = [place for task_id, place in lowest.items() if task_id not in self._first]
        for place, is_first in zip(new, await several(self._is_first, new), strict=True):
            self._first[_task_of(place)] = place if is_first else ""
        return [each for each in deliveries if all(place == self._first[_task_of(place)] for place in each["places"])]

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


def _event_of(delivery: Mapping[str, Any]) -> str:
    return f"{delivery['group_id']}/{delivery['event_id']}"
