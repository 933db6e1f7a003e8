"""What is counted in MongoDB: a document per webhook and bucket, named by the two, that everybody adds to.

An attempt is recorded in the document of its delivery and counted in another. It is counted after it was recorded, and
only by the write that recorded it: a process that dies in between has lost that count, and nothing is counted twice.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

import structlog
from pymongo import UpdateOne
from pymongo.errors import PyMongoError

from gatepost.adapters.storage.mongo_driver import Document, Mongo, fetch, said_by
from gatepost.adapters.storage.paging import page_of_stats, parse_stats_cursor, part_of_stats
from gatepost.adapters.storage.rows import from_ms, to_ms
from gatepost.domain.stats import BINS, BinTally, Bucket, Ending, count_of, start_of_bucket, tally_of
from gatepost.ports import Page, Settled, StatsQuery

_READ_AT_ONCE = 1_000
_ENDINGS = (Ending.DELIVERED, Ending.FAILED, Ending.DEAD)  # as `BinTally` has them


def _field(number: int, ending: Ending) -> str:
    """Return what counts an ending within a bin: no path, which the stand-in misnames in a new document."""
    return f"{ending.name.lower()}_{number}"


_FIELDS = [[_field(number, ending) for ending in _ENDINGS] for number in range(BINS)]

log = structlog.get_logger()


class MongoStats:
    """Implements `ports.StatsStore`."""

    _mongo: Mongo

    async def stats(
        self, group_id: str, query: StatsQuery, *, limit: int, most_read: int, before: str | None
    ) -> Page[Bucket]:
        cursor = parse_stats_cursor(before)
        return await self._mongo.read(_stats(self._mongo, group_id, query, limit, most_read, cursor))


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
    mongo: Mongo, group_id: str, query: StatsQuery, limit: int, most_read: int, before: str
) -> Page[Bucket]:
    found = await _live(mongo, group_id, query.webhook_id, before, limit + 1)
    asked, end = part_of_stats(found, query, limit, before)
    counted = {"webhook_id": {"$in": list(asked)}, "bucket_at": {"$gte": to_ms(query.start), "$lt": end}}
    newest_first = [("webhook_id", -1), ("bucket_at", -1)]
    number_read = 0
    bins: dict[tuple[str, datetime], list[BinTally]] = {}
    async with mongo.stats.find(counted).sort(newest_first).limit(most_read).batch_size(_READ_AT_ONCE) as cursor:
        async for each in cursor:
            number_read += 1
            start_at = start_of_bucket(from_ms(each["bucket_at"]), query.width)
            bins.setdefault((each["webhook_id"], start_at), []).extend(_bins_of(each))
    buckets = [Bucket(webhook_id, start_at, tally_of(those)) for (webhook_id, start_at), those in bins.items()]
    return page_of_stats(found, asked, buckets, width=query.width, is_cut=number_read == most_read)


async def _live(mongo: Mongo, group_id: str, webhook_id: str | None, before: str, limit: int) -> list[str]:
    """Return the group's webhooks, or the one asked for if it is one of them, newest first."""
    of_which = {"$lt": before} if webhook_id is None else {"$lt": before, "$eq": webhook_id}
    asked = {"group_id": group_id, "deleted": 0, "id": of_which}
    live = await fetch(mongo.webhooks.find(asked, {"id": 1}).sort("id", -1).limit(limit))
    return [each["id"] for each in live]


def _bins_of(document: Mapping[str, Any]) -> Iterator[BinTally]:
    for number, fields in enumerate(_FIELDS):
        yield BinTally(number, *(document.get(field, 0) for field in fields))
