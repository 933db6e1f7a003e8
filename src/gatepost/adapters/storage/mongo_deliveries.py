"""Deliveries in MongoDB as people look at them; replays and test sends."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import structlog
from pymongo.errors import PyMongoError

from gatepost.adapters.storage.mongo_documents import (
    DELIVERY_FIELDS,
    EVENT_FIELDS,
    OPEN,
    attempts_from_document,
    dead_fields,
    delivery_document,
    delivery_from_document,
    event_document,
    event_from_document,
    key_of,
    same,
)
from gatepost.adapters.storage.mongo_driver import Document, Mongo, fetch, insert_new, said_by
from gatepost.adapters.storage.mongo_outbox import NOTHING_WAITS, poke
from gatepost.adapters.storage.mongo_retention import hold_events
from gatepost.adapters.storage.paging import page_of
from gatepost.adapters.storage.rows import to_ms
from gatepost.domain.deliveries import Attempt, DeadReason, Delivery, queued
from gatepost.domain.events import Event
from gatepost.ports import DeliveryDetail, DeliveryQuery, Page, Saved

log = structlog.get_logger()

_DISCARDED_AT_ONCE = 500


class MongoDeliveries:
    """Implements `ports.DeliveryLog`."""

    _mongo: Mongo

    async def deliveries(
        self, group_id: str, query: DeliveryQuery, *, limit: int, before: str | None
    ) -> Page[Delivery]:
        return await self._mongo.read(_deliveries(self._mongo, _asked(group_id, query, before), limit))

    async def delivery(self, group_id: str, webhook_id: str, delivery_id: str) -> DeliveryDetail | None:
        return await self._mongo.read(_delivery(self._mongo, group_id, webhook_id, delivery_id))

    async def add_replay(self, group_id: str, delivery: Delivery) -> Saved:
        return await self._mongo.write(_add_replay(self._mongo, group_id, delivery))

    async def add_test(self, group_id: str, event: Event, delivery: Delivery, attempt: Attempt) -> None:  # noqa: ARG002  # the event names its group
        document = delivery_document(delivery, attempt) | {"made_by": "test"}
        await self._mongo.write(_add_test(self._mongo, event, document))

    async def discard_backlog(self, group_id: str, webhook_id: str, *, now: datetime) -> int:
        return await self._mongo.write(_discard_backlog(self._mongo, group_id, webhook_id, to_ms(now)))


def _asked(group_id: str, query: DeliveryQuery, before: str | None) -> Document:
    """Return the filter of a list. What no index has is looked at along the way, on the server, newest first."""
    equal = {
        "webhook_id": query.webhook_id,
        "status": query.status and query.status.value,
        "event": query.event and same(query.event),
        "task_ids": query.task_id,  # one of several: spelled `$eq`, the stand-in would compare the whole list
    }
    asked: Document = {"group_id": group_id, **{field: value for field, value in equal.items() if value is not None}}
    created: dict[str, Any] = {}
    if query.created_from is not None:
        created["$gte"] = to_ms(query.created_from)
    if query.created_to is not None:
        created["$lt"] = to_ms(query.created_to)
    if created:
        asked["created_at"] = created
    if before is not None:
        asked["id"] = {"$lt": before}
    return asked


async def _deliveries(mongo: Mongo, asked: Mapping[str, Any], limit: int) -> Page[Delivery]:
    found = await fetch(mongo.deliveries.find(asked, DELIVERY_FIELDS).sort("id", -1).limit(limit + 1))
    return page_of([delivery_from_document(each) for each in found], limit)


async def _delivery(mongo: Mongo, group_id: str, webhook_id: str, delivery_id: str) -> DeliveryDetail | None:
    asked = {"_id": delivery_id, "webhook_id": webhook_id, "id": delivery_id, "group_id": group_id}
    found = await mongo.deliveries.find_one(asked)
    if found is None:
        return None
    event = await mongo.events.find_one(key_of(group_id, found["event_id"]), EVENT_FIELDS)
    return DeliveryDetail(
        delivery_from_document(found),
        None if event is None else event_from_document(event),
        attempts_from_document(found),
    )


async def _add_replay(mongo: Mongo, group_id: str, delivery: Delivery) -> Saved:
    event = await mongo.events.find_one(key_of(group_id, delivery.event_id), {"body": 1, "hop": 1})
    if event is None:
        return await _without_event(mongo, group_id, delivery)
    document = delivery_document(delivery)
    with mongo.hand_over.emission([queued(delivery, body=event["body"], hop=event["hop"])]) as hand_over:
        # This is the commit, if its event stays. Made before, it may have been sent since.
        is_new = await insert_new(mongo.deliveries, [document])
        if not await hold_events(mongo, group_id, [document]):
            return await _without_event(mongo, group_id, delivery)
        if not is_new:
            return Saved.DONE
        try:
            await poke(mongo, {delivery.webhook_id: document["next_attempt_at"]})
        except PyMongoError as error:
            log.warning("lane.not_poked", webhook_id=delivery.webhook_id, reason=said_by(error))  # the sweep will
        else:
            hand_over()
    return Saved.DONE


async def _without_event(mongo: Mongo, group_id: str, delivery: Delivery) -> Saved:
    """Say what a replay is whose event is gone: finished before that, or else never to be sent, and withdrawn."""
    key = {"_id": delivery.id, "webhook_id": delivery.webhook_id, "id": delivery.id, "group_id": group_id}
    await mongo.deliveries.delete_one(key | {"open": OPEN})
    is_finished = await mongo.deliveries.find_one(key, {"_id": 1}) is not None
    return Saved.DONE if is_finished else Saved.STALE


async def _discard_backlog(mongo: Mongo, group_id: str, webhook_id: str, now: int) -> int:
    # First, so that no owner goes on for long with what it has read; and last, as it may have read more since. What
    # comes in meanwhile is left, or it might go on for ever.
    if not await _raise_config_version(mongo, group_id, webhook_id):
        return 0
    discarded = 0
    owed: Document = {"webhook_id": webhook_id, "open": OPEN}
    dead = dead_fields(DeadReason.DISCARDED, now=now)
    while True:
        found = mongo.deliveries.find({**owed, "created_at": {"$lte": now}}, {"_id": 1}).sort("id", 1)
        part = [each["_id"] for each in await fetch(found.limit(_DISCARDED_AT_ONCE))]
        if not part:
            break
        # Asked again whether it is still open, as its last attempt may have been recorded meanwhile.
        discarded += (await mongo.deliveries.update_many({"_id": {"$in": part}, **owed}, {"$set": dead})).matched_count
    if discarded:
        await _raise_config_version(mongo, group_id, webhook_id)
    return discarded


async def _raise_config_version(mongo: Mongo, group_id: str, webhook_id: str) -> bool:
    live = {"_id": webhook_id, "group_id": group_id, "deleted": 0}
    return (await mongo.webhooks.update_one(live, {"$inc": {"config_version": 1}})).matched_count == 1


async def _add_test(mongo: Mongo, event: Event, delivery: Document) -> None:
    await insert_new(mongo.events, [event_document(event, webhooks_version=0) | NOTHING_WAITS])
    await insert_new(mongo.deliveries, [delivery])
