"""Stats in SQL: counting attempts, and adding up what was counted."""

from collections.abc import Iterable
from datetime import timedelta
from itertools import groupby
from operator import itemgetter

from gatepost.adapters.storage.paging import page_of_stats, parse_stats_cursor, part_of_stats
from gatepost.adapters.storage.rows import from_ms, to_ms
from gatepost.adapters.storage.scripts import IN_LIST, Database, Script, Statement, execute_many, fetch, listed
from gatepost.domain.stats import BINS, BinTally, Bucket, count_of, tally_of
from gatepost.ports import Page, Settled, StatsQuery

COUNT = """
INSERT INTO stats (webhook_id, at, bin, delivered, failed, dead) VALUES {rows}
ON CONFLICT (webhook_id, at, bin) DO UPDATE SET
    delivered = stats.delivered + excluded.delivered, failed = stats.failed + excluded.failed,
    dead = stats.dead + excluded.dead
"""
COUNT_TYPES = "text bigint bigint bigint bigint bigint"

WEBHOOKS = """
SELECT id FROM webhooks WHERE group_id = ? AND deleted_at IS NULL AND id < ? ORDER BY id DESC LIMIT ?
"""
WEBHOOK = "SELECT id FROM webhooks WHERE group_id = ? AND deleted_at IS NULL AND id < ? AND id = ?"
# What is read stands in the order of the primary key: no more of it is read than is asked for.
STATS = f"""
SELECT webhook_id, began, bin,
       CAST(sum(delivered) AS BIGINT), CAST(sum(failed) AS BIGINT), CAST(sum(dead) AS BIGINT), count(*)
FROM (SELECT webhook_id, at - at % ? AS began, bin, delivered, failed, dead FROM stats
      WHERE webhook_id {IN_LIST} AND at >= ? AND at < ?
      ORDER BY webhook_id DESC, at DESC, bin DESC LIMIT ?) AS found
GROUP BY webhook_id, began, bin ORDER BY webhook_id DESC, began DESC
"""
_MILLISECOND = timedelta(milliseconds=1)


class SqlStats:
    """Implements `ports.StatsStore`."""

    _database: Database

    async def stats(
        self, group_id: str, query: StatsQuery, *, limit: int, most_read: int, before: str | None
    ) -> Page[Bucket]:
        return await self._database.read(_stats(group_id, query, limit, most_read, parse_stats_cursor(before)))


def counted(moved: Iterable[Settled]) -> Statement | None:
    """Return the statement that counts the attempts that have moved their deliveries; None when none of them counts."""
    tallies: dict[tuple[str, int, int], list[int]] = {}
    for settled in moved:
        if count := count_of(settled.attempt, settled.progress):
            key = settled.delivery.webhook_id, to_ms(count.bucket_at), count.bin
            tallies.setdefault(key, [0, 0, 0])[count.ending.value] += 1
    rows = [(*key, *tally) for key, tally in sorted(tallies.items())]
    return execute_many(COUNT, rows, COUNT_TYPES) if rows else None


def _stats(group_id: str, query: StatsQuery, limit: int, most_read: int, before: str) -> Script[Page[Bucket]]:
    if query.webhook_id is None:
        rows = yield fetch(WEBHOOKS, (group_id, before, limit + 1))
    else:
        rows = yield fetch(WEBHOOK, (group_id, before, query.webhook_id))
    found = [webhook_id for (webhook_id,) in rows]
    asked, end = part_of_stats(found, query, limit, before)
    most_rows = most_read * BINS
    rows = yield fetch(STATS, (query.width // _MILLISECOND, listed(asked), to_ms(query.start), end, most_rows))
    buckets = [
        Bucket(webhook_id, from_ms(began), tally_of(BinTally(*row[2:-1]) for row in bins))
        for (webhook_id, began), bins in groupby(rows, key=itemgetter(0, 1))
    ]
    is_cut = sum(row[-1] for row in rows) == most_rows
    return page_of_stats(found, asked, buckets, width=query.width, is_cut=is_cut)
