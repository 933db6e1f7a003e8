"""What is counted in MongoDB: a document per webhook and bucket, named by the two, that everybody adds to.

An attempt is recorded in the document of its delivery and counted in another. It is counted after it was recorded, and
only by the write that recorded it: a process that dies in between has lost that count, and nothing is counted twice.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import structlog
from pymongo import UpdateOne
from pymongo.errors import PyMongoError

from gatepost.adapters.storage.mongo_driver import Document, Mongo, fetch, said_by
from gatepost.adapters.storage.mongo_subscriptions import MOST_SUBSCRIPTIONS
from gatepost.adapters.storage.rows import from_ms, to_ms
from gatepost.domain.stats import BINS, BinTally, Bucket, Ending, Tally, count_of, merged, start_of_step, tally_of
from gatepost.ports import Settled

_BUCKETS_AT_ONCE = 1_000
_ENDINGS = (Ending.DELIVERED, Ending.FAILED, Ending.DEAD)  # as `BinTally` has them

log = structlog.get_logger()


class MongoStats:
    """Implements `ports.StatsStore`."""

    _mongo: Mongo

    async def stats(
        self, group_id: str, *, webhook_id: str | None, start: datetime, end: datetime, step: timedelta
    ) -> Sequence[Bucket]:
        return await self._mongo.read(_stats(self._mongo, group_id, webhook_id, to_ms(start), to_ms(end), step))


async def count(mongo: Mongo, moved: Iterable[Settled]) -> None:
    """Count attempts that have just been recorded, and have moved their deliveries; what fails is lost."""
    counts = Counter(
        (each.delivery.group_id, each.delivery.webhook_id, counts_as)
        for each in moved
        if (counts_as := count_of(each.attempt, each.progress)) is not None
    )
    buckets: dict[tuple[str, str, int], Document] = {}
    for (group_id, webhook_id, counts_as), number in counts.items():
        adding = buckets.setdefault((group_id, webhook_id, to_ms(counts_as.bucket_at)), {})
        adding[_field(counts_as.bin, counts_as.ending)] = number
    if not buckets:
        return
    try:
        await mongo.stats.bulk_write([_adding(*key, adding) for key, adding in buckets.items()], ordered=False)
    except PyMongoError as error:  # the attempts are recorded: that would not be done again
        log.warning("stats.not_counted", reason=said_by(error))


def _adding(group_id: str, webhook_id: str, bucket_at: int, adding: Document) -> UpdateOne:
    named = {"group_id": group_id, "webhook_id": webhook_id, "bucket_at": bucket_at}
    return UpdateOne({"_id": f"{webhook_id}/{bucket_at}"}, {"$inc": adding, "$setOnInsert": named}, upsert=True)


# --- reading -------------------------------------------------------------------------------------------------


async def _stats(
    mongo: Mongo, group_id: str, webhook_id: str | None, start: int, end: int, step: timedelta
) -> list[Bucket]:
    found: list[Bucket] = []
    for each in await _live(mongo, group_id, webhook_id):
        found += await _of_webhook(mongo, each, start, end, step)
    return found


async def _live(mongo: Mongo, group_id: str, webhook_id: str | None) -> list[str]:
    """Return the group's webhooks, or the one asked for if it is one of them, newest first."""
    asked: Document = {"group_id": group_id, "deleted": 0}
    if webhook_id is not None:
        asked["id"] = webhook_id
    live = await fetch(mongo.webhooks.find(asked, {"id": 1}).sort("id", -1).limit(MOST_SUBSCRIPTIONS))
    return [each["id"] for each in live]


async def _of_webhook(mongo: Mongo, webhook_id: str, start: int, end: int, step: timedelta) -> list[Bucket]:
    """Return what was counted for a webhook: a quarter of a year has some ten thousand buckets of it."""
    steps: dict[datetime, list[Tally]] = {}
    asked = {"webhook_id": webhook_id, "bucket_at": {"$gte": start, "$lt": end}}
    async with mongo.stats.find(asked).sort("bucket_at", 1).batch_size(_BUCKETS_AT_ONCE) as cursor:
        async for each in cursor:
            steps.setdefault(start_of_step(from_ms(each["bucket_at"]), step), []).append(_tally_from(each))
    return [Bucket(webhook_id, start_at, merged(tallies)) for start_at, tallies in steps.items()]


def _tally_from(document: Mapping[str, Any]) -> Tally:
    return tally_of(
        BinTally(number, *(document.get(_field(number, ending), 0) for ending in _ENDINGS)) for number in range(BINS)
    )


def _field(number: int, ending: Ending) -> str:
    """Return what counts an ending within a bin: no path, which the stand-in misnames in a new document."""
    return f"{ending.name.lower()}_{number}"
