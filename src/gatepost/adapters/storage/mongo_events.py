"""Events in MongoDB: published, listed, and whom they were routed to.

A published event is the document that emits it: to insert it is the commit, and its deliveries wait in its outbox.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from gatepost.adapters.storage.mongo_documents import (
    EVENT_FIELDS,
    event_from_document,
    event_order,
    key_of,
    same,
)
from gatepost.adapters.storage.mongo_driver import Document, Mongo, fetch, insert_new, parts_of
from gatepost.adapters.storage.mongo_outbox import emitting_document, relayed
from gatepost.adapters.storage.mongo_subscriptions import MOST_SUBSCRIPTIONS, webhooks_version_of
from gatepost.adapters.storage.mongo_webhook_documents import subscription_from_revision
from gatepost.adapters.storage.paging import page_of_events, parse_event_cursor
from gatepost.domain.deliveries import Delivery, queued
from gatepost.domain.events import Event
from gatepost.ports import EventQuery, Page, RoutedWebhook, Routing, Saved

_REVISIONS_AT_ONCE = 1_000
_DELIVERIES_AT_ONCE = 1_000


class MongoEvents:
    """Implements `ports.EventStore`."""

    _mongo: Mongo

    async def publish(
        self, group_id: str, event: Event, deliveries: Sequence[Delivery], *, webhooks_version: int
    ) -> Saved:
        return await self._mongo.write(_publish(self._mongo, group_id, event, deliveries, webhooks_version))

    async def events(self, group_id: str, query: EventQuery, *, limit: int, before: str | None) -> Page[Event]:
        return await self._mongo.read(_events(self._mongo, _asked(group_id, query, before), limit))

    async def routing(self, group_id: str, event_id: str) -> Routing | None:
        return await self._mongo.read(_routing(self._mongo, group_id, event_id))


async def _publish(
    mongo: Mongo, group_id: str, event: Event, deliveries: Sequence[Delivery], webhooks_version: int
) -> Saved:
    emitted = [queued(each, body=event.body, hop=event.hop) for each in deliveries]
    with mongo.hand_over.emission(emitted) as hand_over:
        if await webhooks_version_of(mongo, group_id) != webhooks_version:
            is_there = await mongo.events.find_one(key_of(group_id, event.id), {"_id": 1}) is not None
            return Saved.EXISTS if is_there else Saved.WEBHOOKS_MOVED
        document = emitting_document(event, deliveries, webhooks_version=webhooks_version)
        if not await insert_new(mongo.events, [document]):
            return Saved.EXISTS
        if await relayed(mongo, mongo.events, document):
            hand_over()
    return Saved.DONE


# --- listing -------------------------------------------------------------------------------------------------


def _asked(group_id: str, query: EventQuery, before: str | None) -> Document:
    """Raises: InvalidInput, when `before` is no cursor of ours."""
    asked: Document = {"group_id": group_id}
    if query.task_id is not None:
        asked["task_ids"] = query.task_id  # one of several, as with deliveries
    if query.event is not None:
        asked["event"] = same(query.event)
    if before is not None:
        asked["order"] = {"$lt": event_order(*parse_event_cursor(before))}
    return asked


async def _events(mongo: Mongo, asked: Mapping[str, Any], limit: int) -> Page[Event]:
    found = await fetch(mongo.events.find(asked, EVENT_FIELDS).sort("order", -1).limit(limit + 1))
    return page_of_events([event_from_document(each) for each in found], limit)


# --- routing -------------------------------------------------------------------------------------------------


async def _routing(mongo: Mongo, group_id: str, event_id: str) -> Routing | None:
    event = await mongo.events.find_one(key_of(group_id, event_id), EVENT_FIELDS)
    if event is None:
        return None
    revisions = await _revisions(mongo, group_id, event["webhooks_version"])
    deliveries = await _first_deliveries(mongo, group_id, event_id)
    routed = []
    for webhook in await _webhooks(mongo, group_id, revisions):
        subscription = subscription_from_revision(webhook, revisions.get(webhook["id"]))
        if subscription is not None or not webhook["deleted"]:
            delivery_id = deliveries.get(webhook["id"])
            routed.append(RoutedWebhook(webhook["id"], webhook["name"], subscription, delivery_id))
    return Routing(event_from_document(event), routed)


async def _revisions(mongo: Mongo, group_id: str, version: int) -> dict[str, Document]:
    """Return the revision of each webhook that an event of that version found.

    Of one webhook that is the one with the highest `rev`: who told of an edit later was perhaps only slower.
    """
    newest: dict[str, Document] = {}
    asked = {"group_id": group_id, "from_version": {"$lte": version}}
    async with mongo.webhook_revisions.find(asked).sort("from_version", 1).batch_size(_REVISIONS_AT_ONCE) as cursor:
        while found := await cursor.to_list(_REVISIONS_AT_ONCE):
            for revision in found:
                known = newest.setdefault(revision["webhook_id"], revision)
                if revision["rev"] > known["rev"]:
                    newest[revision["webhook_id"]] = revision
    return newest


async def _first_deliveries(mongo: Mongo, group_id: str, event_id: str) -> dict[str, str]:
    first: dict[str, str] = {}
    fields = {"id": 1, "webhook_id": 1, "replay_of": 1}
    asked = mongo.deliveries.find({"group_id": group_id, "event_id": same(event_id)}, fields)
    async with asked.sort("id", 1).batch_size(_DELIVERIES_AT_ONCE) as cursor:
        while found := await cursor.to_list(_DELIVERIES_AT_ONCE):
            for each in found:
                if each["replay_of"] is None:
                    first.setdefault(each["webhook_id"], each["id"])
    return first


async def _webhooks(mongo: Mongo, group_id: str, revisions: Mapping[str, Document]) -> list[Document]:
    """Return the webhooks that a group has, and those that it had then, newest first."""
    fields = {"id": 1, "name": 1, "max_attempts": 1, "deleted": 1}
    live = mongo.webhooks.find({"group_id": group_id, "deleted": 0}, fields).sort("id", 1)
    webhooks = {each["id"]: each for each in await fetch(live.limit(MOST_SUBSCRIPTIONS))}
    for part in parts_of(revisions.keys() - webhooks.keys()):
        webhooks |= {each["id"]: each for each in await fetch(mongo.webhooks.find({"_id": {"$in": part}}, fields))}
    return [webhooks[webhook_id] for webhook_id in sorted(webhooks, reverse=True)]
