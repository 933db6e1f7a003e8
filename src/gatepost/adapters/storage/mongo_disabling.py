"""The end of a webhook, for what its receiver did, in MongoDB: an edit that nobody asked for.

It is told like any other edit, and the event of it with the rest: the event waits in the webhook's own document, under
`news`, so that whoever finishes what somebody left half-way tells of it, too.
"""

from pymongo import ReturnDocument

from gatepost.adapters.storage.mongo_documents import event_document
from gatepost.adapters.storage.mongo_driver import Document, Mongo
from gatepost.adapters.storage.mongo_webhooks import TOLD_FIELDS, tell
from gatepost.adapters.storage.rows import to_ms
from gatepost.domain.errors import StoreUnavailable
from gatepost.domain.operator_events import Disabling
from gatepost.ports import Settled

_MOST_TRIES = 100


async def disable(mongo: Mongo, settled: Settled) -> None:
    """Disable the webhook of an attempt, if that is the end of it, unless it was enabled after the attempt began."""
    disabling, webhook_id = settled.disabling, settled.delivery.webhook_id
    if disabling is None:
        return
    for _ in range(_MOST_TRIES):
        fields = TOLD_FIELDS | {"config_version": 1}
        found = await mongo.webhooks.find_one({"_id": webhook_id, "deleted": 0}, fields)
        if found is None:
            return
        if not found["told"]:  # somebody was to do that: perhaps we, before an answer got lost
            await tell(mongo, found, now=to_ms(disabling.event.created_at))
        if not found["enabled"] or found["enabled_at"] > to_ms(settled.attempt.started_at):
            return
        if await _disabled(mongo, found, disabling):
            return
    raise StoreUnavailable("too many write the webhook at this moment; try again")


async def _disabled(mongo: Mongo, found: Document, disabling: Disabling) -> bool:
    """Disable a webhook and say so, unless it was edited since it was read."""
    event, version = disabling.event, found["config_version"]
    ended = {
        "enabled": 0,
        "disabled_reason": disabling.reason.value,
        "config_version": version + 1,
        "rev": version + 1,
        "asks_since": version + 1,
        "updated_at": to_ms(event.created_at),
        "told": 0,
        f"news.{event.id}": event_document(event, webhooks_version=0),
    }
    webhook = await mongo.webhooks.find_one_and_update(
        {"_id": found["_id"], "deleted": 0, "config_version": version},
        {"$set": ended},
        projection=TOLD_FIELDS,
        return_document=ReturnDocument.AFTER,
    )
    if webhook is None:
        return False
    await tell(mongo, webhook, now=to_ms(event.created_at))
    return True
