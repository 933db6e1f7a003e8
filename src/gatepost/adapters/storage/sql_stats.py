"""Stats in SQL: counting attempts, and adding up what was counted."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from itertools import groupby
from operator import itemgetter

from gatepost.adapters.storage.rows import Row, from_ms, to_ms
from gatepost.adapters.storage.scripts import Database, Script, Statement, execute_many, fetch
from gatepost.domain.stats import BinTally, Bucket, count_of, tally_of
from gatepost.ports import Settled

COUNT = """
INSERT INTO stats (webhook_id, at, bin, delivered, failed, dead) VALUES {rows}
ON CONFLICT (webhook_id, at, bin) DO UPDATE SET
    delivered = stats.delivered + excluded.delivered, failed = stats.failed + excluded.failed,
    dead = stats.dead + excluded.dead
"""
COUNT_TYPES = "text bigint bigint bigint bigint bigint"

# CROSS JOIN: from the webhooks that are asked for to what was counted for each.
_STATS = """
SELECT stats.webhook_id, stats.at - stats.at % ? AS step, stats.bin,
       CAST(sum(stats.delivered) AS BIGINT), CAST(sum(stats.failed) AS BIGINT), CAST(sum(stats.dead) AS BIGINT)
FROM webhooks CROSS JOIN stats
WHERE webhooks.deleted_at IS NULL AND stats.webhook_id = webhooks.id AND stats.at >= ? AND stats.at < ?
      AND webhooks.group_id = ?
"""
_BY_STEP = " GROUP BY stats.webhook_id, step, stats.bin ORDER BY stats.webhook_id DESC, step, stats.bin"
_MILLISECOND = timedelta(milliseconds=1)


class SqlStats:
    """Implements `ports.StatsStore`."""

    _database: Database

    async def stats(
        self, group_id: str, *, webhook_id: str | None, start: datetime, end: datetime, step: timedelta
    ) -> Sequence[Bucket]:
        sql = stats_statement(webhook_id)
        params = (step // _MILLISECOND, to_ms(start), to_ms(end), group_id, *([webhook_id] if webhook_id else []))
        return await self._database.read(_stats(sql, params))


def stats_statement(webhook_id: str | None) -> str:
    return f"{_STATS} AND webhooks.id = ? {_BY_STEP}" if webhook_id else _STATS + _BY_STEP


def counted(moved: Iterable[Settled]) -> Statement | None:
    """Return the statement that counts the attempts that have moved their deliveries; None when none of them counts."""
    tallies: dict[tuple[str, int, int], list[int]] = {}
    for settled in moved:
        if count := count_of(settled.attempt, settled.progress):
            key = settled.delivery.webhook_id, to_ms(count.bucket_at), count.bin
            tallies.setdefault(key, [0, 0, 0])[count.ending.value] += 1
    rows = [(*key, *tally) for key, tally in sorted(tallies.items())]
    return execute_many(COUNT, rows, COUNT_TYPES) if rows else None


def _stats(sql: str, params: Row) -> Script[Sequence[Bucket]]:
    rows = yield fetch(sql, params)
    return [
        Bucket(webhook_id, from_ms(at), tally_of(BinTally(*row[2:]) for row in bins))
        for (webhook_id, at), bins in groupby(rows, key=itemgetter(0, 1))
    ]
