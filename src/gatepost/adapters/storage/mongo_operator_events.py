"""Operator events in MongoDB: what an attempt has brought about for others than its delivery.

They are written before the attempt is, as no write of one document can be made to depend on another: whoever dies in
between leaves an attempt that is recorded again, or made again, and never news that nobody hears. Written again, with
the same ids, they are there already.

An event's own document is its commit, as with those that are published, and its deliveries wait in its own outbox.
"""

from collections.abc import Iterable, Sequence

from gatepost.adapters.storage.mongo_driver import Document, Mongo, insert_new
from gatepost.adapters.storage.mongo_outbox import emitting_document, relayed
from gatepost.adapters.storage.mongo_subscriptions import subscriptions_of
from gatepost.domain.deliveries import QueuedDelivery, queued
from gatepost.domain.events import Event
from gatepost.domain.operator_events import owed_to

AboutWebhook = tuple[Event, str]  # an event, and the id of the webhook that it tells of


async def emit_operator_events(mongo: Mongo, told: Iterable[AboutWebhook]) -> None:
    """Emit events that are not there yet to who wants them now."""
    by_group: dict[str, list[AboutWebhook]] = {}
    for event, webhook_id in told:
        by_group.setdefault(event.group_id, []).append((event, webhook_id))
    for group_id, its_events in by_group.items():
        await _emit(mongo, group_id, its_events)


async def _emit(mongo: Mongo, group_id: str, told: Iterable[AboutWebhook]) -> None:
    subscriptions = await subscriptions_of(mongo, group_id)
    unwanted: list[Document] = []  # by most groups, most of the time
    for event, webhook_id in told:
        deliveries = owed_to(subscriptions.items, event, about=webhook_id)
        document = emitting_document(event, deliveries, webhooks_version=subscriptions.version)
        if deliveries:
            await _emit_wanted(mongo, document, [queued(each, body=event.body, hop=event.hop) for each in deliveries])
        else:
            unwanted.append(document)
    await insert_new(mongo.events, unwanted)


async def _emit_wanted(mongo: Mongo, document: Document, emitted: Sequence[QueuedDelivery]) -> None:
    with mongo.hand_over.emission(emitted) as hand_over:
        if await insert_new(mongo.events, [document]) and await relayed(mongo, mongo.events, document):
            hand_over()
