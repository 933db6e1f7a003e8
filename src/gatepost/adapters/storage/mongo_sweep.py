"""The sweep in MongoDB: what somebody left half-way is finished, and hints are made from the truth again.

Each of its steps may be done twice, and broken off anywhere. What is wrong with one document, or with the shard that it
lies on, keeps nobody from the others.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import structlog
from pymongo.errors import ConnectionFailure, PyMongoError

from gatepost.adapters.storage.mongo_documents import OPEN, dead_fields
from gatepost.adapters.storage.mongo_driver import Collection, Document, Mongo, fetch, said_by
from gatepost.adapters.storage.mongo_locks import STATE_FIELDS, settle
from gatepost.adapters.storage.mongo_outbox import OUTBOX_FIELDS, log_not_relayed, poke, relay
from gatepost.adapters.storage.mongo_webhook_documents import BURIED, DELETED
from gatepost.adapters.storage.mongo_webhooks import TOLD_FIELDS, tell
from gatepost.adapters.storage.rows import NEVER_MS
from gatepost.domain.deliveries import DeadReason
from gatepost.domain.errors import StoreUnavailable
from gatepost.domain.health import NO_HOLD_IS_AS_LONG_AS

log = structlog.get_logger()

_OUTBOXES_AT_ONCE = 10  # more than 1 MiB may wait in each
_AT_ONCE = 100
_LANES_AT_ONCE = 500
_DUE_AT_ONCE = 500
_MOST_OF_ONE_SWEEP = 10_000  # what waits beyond that waits for the next
_MOST_LOST = 10  # connections, of one step: the server is gone, and nobody's turn is worth the wait
_BURIED_AT_ONCE = 500
# Somebody may have matched an event before the webhook was deleted, and be slow to write it: it is looked at again for
# a day.
_BURIED_FOR_GOOD_AFTER_MS = 24 * 60 * 60 * 1000


async def sweep(mongo: Mongo, now: int) -> int:
    """Finish what was left, bury what the deleted are owed, poke what was forgotten; return how many were poked.

    Raises: the first error of a step, once all of them have had their turn.
    """
    failed = []
    for step in (
        _relay_what_waits,
        _settle_what_is_locked,
        _tell_what_was_written,
        _bury_what_is_owed_to_the_deleted,
        _let_go_what_is_held_absurdly,
    ):
        try:
            await step(mongo, now)
        except PyMongoError as error:
            failed.append(error)
    poked = await _poke_what_was_forgotten(mongo, now)
    if failed:
        raise failed[0]
    return poked


async def _for_each(
    collection: Collection, documents: Sequence[Document], do: Callable[[Document], Awaitable[None]]
) -> None:
    """Do something with each document, and pass over those that it cannot be done for.

    Raises: ConnectionFailure, when it was lost again and again.
    """
    lost = 0
    for document in documents:
        try:
            await do(document)
        except (PyMongoError, StoreUnavailable) as error:
            lost += isinstance(error, ConnectionFailure)
            if lost == _MOST_LOST:
                raise
            if "outbox" in document:
                log_not_relayed(collection, document, error)
            else:
                group_id, reason = document["group_id"], said_by(error)
                log.warning("webhook.not_swept", webhook_id=document["id"], group_id=group_id, reason=reason)


async def _relay_what_waits(mongo: Mongo, _: int) -> None:
    """Pass on what somebody left in an outbox. Whoever is just passing it on is not disturbed by us.

    Tasks before swaps, as what is older waits there.
    """
    for collection in (mongo.tasks, mongo.swaps, mongo.events):
        await _relay_what_waits_in(mongo, collection)


async def _relay_what_waits_in(mongo: Mongo, collection: Collection) -> None:
    """Pass on what waits in the documents of a collection.

    Each document once: others go on emitting, and there are always some that wait for a moment. Those in which the most
    waits first, as nobody passes them on.
    """
    asked = collection.find({"pending_events": {"$gt": 0}}, {"_id": 1, "group_id": 1}).sort("pending_events", -1)
    found = await fetch(asked.limit(_MOST_OF_ONE_SWEEP))
    for start in range(0, len(found), _OUTBOXES_AT_ONCE):
        part = found[start : start + _OUTBOXES_AT_ONCE]
        groups = sorted({each["group_id"] for each in part})  # for the shard key
        again = {"_id": {"$in": [each["_id"] for each in part]}, "group_id": {"$in": groups}}
        documents = {each["_id"]: each for each in await fetch(collection.find(again, OUTBOX_FIELDS))}
        await _for_each(
            collection,
            [documents[each["_id"]] for each in part if each["_id"] in documents],
            lambda document: relay(mongo, collection, document),
        )


async def _settle_what_is_locked(mongo: Mongo, _: int) -> None:
    """Let go of tasks that swaps hold. Whoever is just approving one takes hold of them again."""
    asked = mongo.tasks.find({"lock": {"$gt": ""}}, STATE_FIELDS).sort("lock", 1)
    held = await fetch(asked.limit(_MOST_OF_ONE_SWEEP))
    await _for_each(mongo.tasks, held, lambda task: settle(mongo, task))


async def _tell_what_was_written(mongo: Mongo, now: int) -> None:
    untold = await fetch(mongo.webhooks.find({"told": 0}, TOLD_FIELDS).limit(_MOST_OF_ONE_SWEEP))
    await _for_each(mongo.webhooks, untold, lambda webhook: tell(mongo, webhook, now=now))


# --- burying -------------------------------------------------------------------------------------------------


async def _bury_what_is_owed_to_the_deleted(mongo: Mongo, now: int) -> None:
    last = ""
    while True:
        fields = {"id": 1, "group_id": 1, "deleted_at": 1}
        asked = mongo.webhooks.find({"deleted": DELETED, "id": {"$gt": last}}, fields)
        deleted = await fetch(asked.sort("id", 1).limit(_AT_ONCE))
        await _for_each(mongo.webhooks, deleted, lambda webhook: _bury_unless_held(mongo, webhook, now))
        if len(deleted) < _AT_ONCE:
            return
        last = deleted[-1]["id"]


async def _bury_unless_held(mongo: Mongo, webhook: Mapping[str, Any], now: int) -> None:
    if not await _is_held(mongo, webhook["id"], now):
        await _bury(mongo, webhook, now)


async def _is_held(mongo: Mongo, webhook_id: str, now: int) -> bool:
    # What is in flight may yet be answered, and is then recorded as it ended. Nobody can lease the lane anew: it is
    # held for ever.
    lane = await mongo.lanes.find_one({"_id": webhook_id}, {"free": 1, "lease_until": 1})
    return lane is not None and not lane["free"] and lane["lease_until"] >= now


async def _bury(mongo: Mongo, webhook: Mapping[str, Any], now: int) -> None:
    owed: Document = {"webhook_id": webhook["id"], "open": OPEN}
    dead = dead_fields(DeadReason.WEBHOOK_DELETED, now=now)
    while found := await fetch(mongo.deliveries.find(owed, {"_id": 1}).limit(_BURIED_AT_ONCE)):
        # Asked again whether it is still open, as its last attempt may have been recorded meanwhile.
        await mongo.deliveries.update_many({"_id": {"$in": [each["_id"] for each in found]}, **owed}, {"$set": dead})
    if webhook["deleted_at"] < now - _BURIED_FOR_GOOD_AFTER_MS:
        # Its owner died with it: nobody can lease it anew, and as a leased one it would count in shares for ever.
        lapsed = {"_id": webhook["id"], "free": 0, "lease_until": {"$lt": now}}
        await mongo.lanes.update_one(lapsed, {"$set": {"owner": "", "free": 1, "lease_until": 0}})
        await mongo.webhooks.update_one({"_id": webhook["id"], "deleted": DELETED}, {"$set": {"deleted": BURIED}})


# --- hints ---------------------------------------------------------------------------------------------------


async def _let_go_what_is_held_absurdly(mongo: Mongo, now: int) -> None:
    """Let go of lanes that are held further ahead than any hold reaches, but not for ever."""
    absurd = now + NO_HOLD_IS_AS_LONG_AS // timedelta(milliseconds=1)
    held = {"free": 1, "due_at": {"$lte": now}, "hold_until": {"$gt": absurd, "$lt": NEVER_MS}}
    await mongo.lanes.update_many(held, {"$set": {"hold_until": 0}})


async def _poke_what_was_forgotten(mongo: Mongo, now: int) -> int:
    """Poke lanes that hint at later, although something of theirs is due. A leased lane is due as long as it is.

    Not by what is due: that is all that a webhook which is disabled, or down, has gathered.
    """
    poked = 0
    asked = {"free": 1, "due_at": {"$gt": now}, "hold_until": {"$lte": now}}
    async with mongo.lanes.find(asked, {"_id": 1}).sort("due_at", 1).batch_size(_LANES_AT_ONCE) as cursor:
        while lanes := await cursor.to_list(_LANES_AT_ONCE):
            forgotten = await _with_something_due(mongo, {lane["_id"] for lane in lanes}, now)
            await poke(mongo, dict.fromkeys(forgotten, now))
            poked += len(forgotten)
    return poked


async def _with_something_due(mongo: Mongo, webhook_ids: set[str], now: int) -> set[str]:
    """Return those of a few lanes that have something due: most of the time none, and one may have a million."""
    rest = set(webhook_ids)
    while rest:
        due = {"webhook_id": {"$in": sorted(rest)}, "open": OPEN, "next_attempt_at": {"$lte": now}}
        found = await fetch(mongo.deliveries.find(due, {"webhook_id": 1}).limit(_DUE_AT_ONCE))
        rest -= {each["webhook_id"] for each in found}
        if len(found) < _DUE_AT_ONCE:
            break
    return webhook_ids - rest
