"""The sweep in MongoDB: what somebody left half-way is finished, and hints are made from the truth again."""

from collections.abc import Mapping
from typing import Any

import structlog
from pymongo.errors import OperationFailure

from gatepost.adapters.storage.mongo_documents import CLOSED, OPEN
from gatepost.adapters.storage.mongo_driver import Document, Mongo, fetch, parts_of, said_by
from gatepost.adapters.storage.mongo_outbox import OUTBOX_FIELDS, poke, relay
from gatepost.adapters.storage.mongo_webhook_documents import BURIED, DELETED
from gatepost.adapters.storage.mongo_webhooks import tell
from gatepost.adapters.storage.rows import NEVER_MS
from gatepost.domain.deliveries import DeadReason, Status

log = structlog.get_logger()

_AT_ONCE = 100
_MOST_ROUNDS = 100
_BURIED_AT_ONCE = 500
# Somebody may have matched an event before the webhook was deleted, and be slow to write it: it is looked at again for
# a day.
_BURIED_FOR_GOOD_AFTER_MS = 24 * 60 * 60 * 1000


async def sweep(mongo: Mongo, now: int) -> int:
    """Finish what was left, bury what the deleted are owed, poke what was forgotten; return how many were poked."""
    await _relay_what_waits(mongo)
    await _tell_what_was_written(mongo, now)
    await _bury_what_is_owed_to_the_deleted(mongo, now)
    forgotten = await _forgotten(mongo, now)
    await poke(mongo, dict.fromkeys(forgotten, now))
    return len(forgotten)


async def _relay_what_waits(mongo: Mongo) -> None:
    """Pass on what somebody left in an outbox. Whoever is just passing it on is not disturbed by us."""
    for _ in range(_MOST_ROUNDS):  # others go on emitting: what is under way at this moment is never all of it
        asked = mongo.tasks.find({"pending_events": {"$gt": 0}}, OUTBOX_FIELDS).sort("pending_events", 1)
        waiting = await fetch(asked.limit(_AT_ONCE))
        for task in waiting:
            try:
                await relay(mongo, task)
            except OperationFailure as error:  # the server is there, and refuses this one: the others are tried
                log.warning("outbox.not_relayed", task_id=task["id"], group_id=task["group_id"], reason=said_by(error))
        if len(waiting) < _AT_ONCE:
            return


async def _tell_what_was_written(mongo: Mongo, now: int) -> None:
    fields = {"id": 1, "group_id": 1, "enabled": 1, "deleted": 1, "rev": 1}
    for webhook in await fetch(mongo.webhooks.find({"told": 0}, fields).limit(_AT_ONCE)):
        await tell(mongo, webhook, now=now)


# --- burying -------------------------------------------------------------------------------------------------


async def _bury_what_is_owed_to_the_deleted(mongo: Mongo, now: int) -> None:
    last = ""
    while True:
        asked = mongo.webhooks.find({"deleted": DELETED, "id": {"$gt": last}}, {"id": 1, "deleted_at": 1})
        deleted = await fetch(asked.sort("id", 1).limit(_AT_ONCE))
        for webhook in deleted:
            last = webhook["id"]
            if not await _is_held(mongo, last, now):
                await _bury(mongo, webhook, now)
        if len(deleted) < _AT_ONCE:
            return


async def _is_held(mongo: Mongo, webhook_id: str, now: int) -> bool:
    # What is in flight may yet be answered, and is then recorded as it ended. Nobody can lease the lane anew: it is
    # held for ever.
    lane = await mongo.lanes.find_one({"_id": webhook_id}, {"free": 1, "lease_until": 1})
    return lane is not None and not lane["free"] and lane["lease_until"] >= now


async def _bury(mongo: Mongo, webhook: Mapping[str, Any], now: int) -> None:
    owed: Document = {"webhook_id": webhook["id"], "open": OPEN}
    dead = {
        "status": Status.DEAD_LETTER.value,
        "dead_reason": DeadReason.WEBHOOK_DELETED.value,
        "next_attempt_at": NEVER_MS,
        "finished_at": now,
        "open": CLOSED,
    }
    while found := await fetch(mongo.deliveries.find(owed, {"_id": 1}).limit(_BURIED_AT_ONCE)):
        # Asked again whether it is still open, as its last attempt may have been recorded meanwhile.
        await mongo.deliveries.update_many({"_id": {"$in": [each["_id"] for each in found]}, **owed}, {"$set": dead})
    if webhook["deleted_at"] < now - _BURIED_FOR_GOOD_AFTER_MS:
        await mongo.webhooks.update_one({"_id": webhook["id"], "deleted": DELETED}, {"$set": {"deleted": BURIED}})


# --- hints ---------------------------------------------------------------------------------------------------


async def _forgotten(mongo: Mongo, now: int) -> list[str]:
    """Return lanes that hint at later, although something of theirs is due. A leased lane is due as long as it is."""
    due = await mongo.deliveries.distinct("webhook_id", {"open": OPEN, "next_attempt_at": {"$lte": now}})
    forgotten: list[str] = []
    for part in parts_of(due):
        asked = {"_id": {"$in": part}, "free": 1, "due_at": {"$gt": now}, "hold_until": {"$lte": now}}
        forgotten += [lane["_id"] for lane in await fetch(mongo.lanes.find(asked, {"_id": 1}))]
    return forgotten
