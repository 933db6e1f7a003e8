"""Operator events in MongoDB: what an attempt has brought about for others than its delivery.

They are written before the attempt is, as no write of one document can be made to depend on another: whoever dies in
between leaves an attempt that is recorded again, or made again, and never news that nobody hears. Written again, with
the same ids, they are there already.

An event's own document is its commit, as with those that are published, and its deliveries wait in its own outbox.
"""

from collections.abc import Sequence

from gatepost.adapters.storage.mongo_driver import Document, Mongo, insert_new, several
from gatepost.adapters.storage.mongo_outbox import emitting_document, log_not_relayed, relay_new_events
from gatepost.adapters.storage.mongo_subscriptions import subscriptions_of
from gatepost.domain.deliveries import queued
from gatepost.domain.events import Event
from gatepost.domain.operator_events import owed_to

AboutWebhook = tuple[Event, str]  # an event, and the id of the webhook that it tells of


async def emit_operator_events(mongo: Mongo, told: Sequence[AboutWebhook]) -> None:
    """Emit events that are not there yet to who wants them now: however many there are, it is asked as often."""
    if not told:
        return
    groups = sorted({event.group_id for event, _ in told})
    subscriptions = dict(zip(groups, await several(lambda each: subscriptions_of(mongo, each), groups), strict=True))
    documents, emitted = [], []
    for event, webhook_id in told:
        asked = subscriptions[event.group_id]
        deliveries = owed_to(asked.items, event, about=webhook_id)
        documents.append(emitting_document(event, deliveries, webhooks_version=asked.version))
        emitted += [queued(each, body=event.body, hop=event.hop) for each in deliveries]
    with mongo.hand_over.emission(emitted) as hand_over:
        new = await insert_new(mongo.events, documents)
        if await _relayed(mongo, new) and len(new) == len(documents):
            hand_over()  # else some may have been sent: pokes tell of the others


async def _relayed(mongo: Mongo, events: Sequence[Document]) -> bool:
    try:
        await relay_new_events(mongo, events)
    except Exception as error:  # noqa: BLE001  # nothing may unsay what is committed
        for event in events:
            if event["pending_events"]:
                log_not_relayed(mongo.events, event, error)
        return False
    return True
