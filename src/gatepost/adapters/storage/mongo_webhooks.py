"""Webhooks in MongoDB, their secrets sealed.

A webhook's write touches three documents: the webhook, its lane, and its group, whose `webhooks_version` tells those
who matched an event before that they have to match again. In that order, and only then is it answered:

* The lane of a new webhook first: a webhook that can be matched has a lane that can be poked.
* The webhook before the version. Raised before, the version could be read together with the webhooks of before, and
  would then look current for ever: an event after the answer would miss the webhook. Raised after, whoever still
  believes the old version is refused.
* What it asks for from this version on is noted after the version, which nobody knows before; for people who ask why
  an event did not go to it.
* Whoever dies in between leaves the webhook with `told` at 0. Nobody was promised anything then; the sweep finishes it,
  so that processes that remember their subscriptions learn of it, and the lane is held or freed as the webhook says.

Writers of one webhook may be slow and overtake each other. `rev` puts that right: a lane takes only what is newer. And
`enabled_rev` tells it whether it was enabled since it last heard: two moments may be the same, or go backwards.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import structlog
from pymongo import ReturnDocument

from gatepost.adapters.secretbox import SecretBox
from gatepost.adapters.storage.mongo_documents import event_from_document
from gatepost.adapters.storage.mongo_driver import Document, Mongo, fetch, insert_new, parts_of
from gatepost.adapters.storage.mongo_operator_events import emit_operator_events
from gatepost.adapters.storage.mongo_quotas import reserved
from gatepost.adapters.storage.mongo_subscriptions import subscriptions_of
from gatepost.adapters.storage.mongo_webhook_documents import (
    ASKED_FIELDS,
    CONDITION_FIELDS,
    DELETED,
    DELETED_REV,
    asked_since,
    condition_fields,
    lane_document,
    revision_document,
    webhook_document,
    webhook_from_document,
)
from gatepost.adapters.storage.paging import page_of
from gatepost.adapters.storage.rows import NEVER_MS, to_ms
from gatepost.domain.health import WELL
from gatepost.domain.webhooks import Webhook
from gatepost.ports import LaneMark, Page, Saved, Subscriptions

log = structlog.get_logger()


class MongoWebhooks:
    """Implements `ports.WebhookStore`, and what the engine asks about webhooks."""

    _mongo: Mongo
    _box: SecretBox

    async def subscriptions(self, group_id: str) -> Subscriptions:
        return await self._mongo.read(subscriptions_of(self._mongo, group_id))

    async def webhook(self, group_id: str, webhook_id: str) -> Webhook | None:
        return await self._mongo.read(_webhook(self._mongo, self._box, group_id, webhook_id))

    async def webhooks(self, group_id: str, *, limit: int, before: str | None) -> Page[Webhook]:
        return await self._mongo.read(_webhooks(self._mongo, self._box, group_id, limit, before))

    async def add_webhook(self, group_id: str, webhook: Webhook, *, quota: int) -> Saved:
        return await self._mongo.write(_add(self._mongo, group_id, webhook_document(self._box, webhook), quota))

    async def save_webhook(self, group_id: str, webhook: Webhook) -> Saved:
        return await self._mongo.write(_save(self._mongo, group_id, webhook_document(self._box, webhook)))

    async def delete_webhook(self, group_id: str, webhook_id: str, *, now: datetime) -> Saved:
        return await self._mongo.write(_delete(self._mongo, group_id, webhook_id, to_ms(now)))

    async def lane_marks(self, webhook_ids: Sequence[str]) -> Mapping[str, LaneMark]:
        return await self._mongo.read_lanes(_lane_marks(self._mongo, webhook_ids))

    async def webhooks_to_serve(self, webhook_ids: Sequence[str]) -> Mapping[str, Webhook | None]:
        return await self._mongo.read_lanes(_webhooks_to_serve(self._mongo, self._box, webhook_ids))


async def _webhook(mongo: Mongo, box: SecretBox, group_id: str, webhook_id: str) -> Webhook | None:
    found = await mongo.webhooks.find_one({"_id": webhook_id, "group_id": group_id, "deleted": 0})
    if found is None:
        return None
    lanes = await _conditions(mongo, [webhook_id])
    return webhook_from_document(box, found, lanes.get(webhook_id))


async def _webhooks(mongo: Mongo, box: SecretBox, group_id: str, limit: int, before: str | None) -> Page[Webhook]:
    asked: dict[str, Any] = {"group_id": group_id, "deleted": 0}
    if before is not None:
        asked["id"] = {"$lt": before}
    found = await fetch(mongo.webhooks.find(asked).sort("id", -1).limit(limit + 1))
    lanes = await _conditions(mongo, [each["_id"] for each in found])
    return page_of([webhook_from_document(box, each, lanes.get(each["_id"])) for each in found], limit)


async def _conditions(mongo: Mongo, webhook_ids: Sequence[str]) -> dict[str, Document]:
    """Return what the lanes of webhooks have noted of their receivers."""
    lanes: dict[str, Document] = {}
    for part in parts_of(webhook_ids):
        found = await fetch(mongo.lanes.find({"_id": {"$in": part}}, CONDITION_FIELDS))
        lanes |= {lane["_id"]: lane for lane in found}
    return lanes


# --- writing -------------------------------------------------------------------------------------------------


_TOLD = ("id", "group_id", "deleted", "rev", "told", "enabled_at", "enabled_rev", "news")
TOLD_FIELDS = ASKED_FIELDS | dict.fromkeys(_TOLD, 1)  # what is told of a webhook
_NEVER_EDITED = ("_id", "id", "group_id", "deleted", "news")


async def _add(mongo: Mongo, group_id: str, webhook: Document, quota: int) -> Saved:
    found = await mongo.webhooks.find_one({"_id": webhook["id"], "group_id": group_id}, TOLD_FIELDS)
    if found is not None:
        if not found["told"]:
            await tell(mongo, found, now=webhook["updated_at"])
        return Saved.DONE
    if not await reserved(mongo, group_id, webhook["id"], quota, now=webhook["created_at"]):
        return Saved.QUOTA_EXCEEDED
    await insert_new(mongo.lanes, [lane_document(webhook)])
    await insert_new(mongo.webhooks, [webhook])
    await tell(mongo, webhook, now=webhook["updated_at"])
    return Saved.DONE


async def _save(mongo: Mongo, group_id: str, webhook: Document) -> Saved:
    stored = {"_id": webhook["id"], "group_id": group_id, "deleted": 0, "config_version": webhook["config_version"] - 1}
    before = await mongo.webhooks.find_one(stored, ASKED_FIELDS)
    if before is None:
        return Saved.STALE
    webhook = {**webhook, **asked_since(webhook, before)}
    saved = await mongo.webhooks.find_one_and_update(
        stored,
        {"$set": {field: value for field, value in webhook.items() if field not in _NEVER_EDITED}},
        projection=TOLD_FIELDS,
        return_document=ReturnDocument.AFTER,
    )
    if saved is None:
        return Saved.STALE
    await tell(mongo, saved, now=webhook["updated_at"])
    return Saved.DONE


async def _delete(mongo: Mongo, group_id: str, webhook_id: str, now: int) -> Saved:
    # What signs nothing any more is not kept.
    gone = {"deleted": DELETED, "deleted_at": now, "headers": "", "secrets": "", "told": 0}
    gone |= {"rev": DELETED_REV, "asks_since": DELETED_REV}
    deleted = await mongo.webhooks.find_one_and_update(
        {"_id": webhook_id, "group_id": group_id, "deleted": 0},
        {"$set": gone},
        projection=TOLD_FIELDS,
        return_document=ReturnDocument.AFTER,
    )
    if deleted is None:
        return Saved.STALE
    await tell(mongo, deleted, now=now)
    return Saved.DONE


async def tell(mongo: Mongo, webhook: Mapping[str, Any], *, now: int) -> None:
    """Do what follows from a webhook's write; done twice it does no harm.

    Its lane is held or freed, and poked: whoever has it looks again. Its group's version is raised, and what it asks
    for from that version on is noted, unless it is what it asked for before. Then the group hears its news.
    """
    webhook_id, rev = webhook["id"], webhook["rev"]
    await _tell_lane(mongo, webhook, now)
    change: Document = {"$inc": {"webhooks_version": 1}}
    if webhook["deleted"]:
        change["$unset"] = {f"live.{webhook_id}": ""}  # it counts against the quota no more
    group = await mongo.groups.find_one_and_update(
        {"_id": webhook["group_id"]},
        change,
        projection={"webhooks_version": 1},
        return_document=ReturnDocument.AFTER,
    )
    if group is not None:
        await insert_new(mongo.webhook_revisions, [revision_document(webhook, group["webhooks_version"])])
    await emit_operator_events(mongo, [(event_from_document(each), webhook_id) for each in webhook["news"].values()])
    await mongo.webhooks.update_one({"_id": webhook_id, "rev": rev}, {"$set": {"told": 1, "news": {}}})


async def _tell_lane(mongo: Mongo, webhook: Mapping[str, Any], now: int) -> None:
    """Hold or free the lane of a webhook, and poke it.

    Enabled again, what its receiver had done no longer counts; enabled as before, it is held as its owner wants it.
    """
    older = {"_id": webhook["id"], "rev": {"$lt": webhook["rev"]}}
    heard: Document = {"rev": webhook["rev"]}
    poked: Document = {"$inc": {"pokes": 1}, "$min": {"due_at": now}}
    if webhook["enabled"] and not webhook["deleted"]:
        enabled_since = {**older, "enabled_rev": {"$lt": webhook["enabled_rev"]}}
        anew = heard | {field: webhook[field] for field in ("enabled_at", "enabled_rev")} | condition_fields(WELL)
        freed = await mongo.lanes.update_one(enabled_since, {"$set": {**anew, "hold_until": 0}, **poked})
        if freed.matched_count:
            return
    else:
        heard["hold_until"] = NEVER_MS
    await mongo.lanes.update_one(older, {"$set": heard, **poked})


# --- the engine's view ---------------------------------------------------------------------------------------


async def _lane_marks(mongo: Mongo, webhook_ids: Sequence[str]) -> dict[str, LaneMark]:
    marks: dict[str, LaneMark] = {}
    for part in parts_of(webhook_ids):
        served = await fetch(
            mongo.webhooks.find({"_id": {"$in": part}, "enabled": 1, "deleted": 0}, {"config_version": 1})
        )
        lanes = await fetch(mongo.lanes.find({"_id": {"$in": part}}, {"pokes": 1}))
        pokes = {lane["_id"]: lane["pokes"] for lane in lanes}
        marks |= {
            each["_id"]: LaneMark(each["config_version"], pokes[each["_id"]]) for each in served if each["_id"] in pokes
        }
    return marks


async def _webhooks_to_serve(mongo: Mongo, box: SecretBox, webhook_ids: Sequence[str]) -> dict[str, Webhook | None]:
    served: dict[str, Webhook | None] = {}
    for part in parts_of(webhook_ids):
        found = await fetch(mongo.webhooks.find({"_id": {"$in": part}, "enabled": 1, "deleted": 0}))
        served |= {each["_id"]: _unless_damaged(box, each) for each in found}
    return served


def _unless_damaged(box: SecretBox, document: Document) -> Webhook | None:
    # One document that was damaged at rest stops its own lane, not the two hundred it is read with.
    try:
        return webhook_from_document(box, document)
    except Exception as error:  # noqa: BLE001  # whatever is wrong with it
        log.error(  # noqa: TRY400  # no bug: no trace
            "webhook.damaged", webhook_id=document["_id"], group_id=document["group_id"], reason=type(error).__name__
        )
        return None
