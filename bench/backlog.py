"""What a long history costs: draining beside a million finished deliveries, and while those are let go of.

    python -m bench.backlog --finished 1000000 --pending 100000 --rounds 3

The rates are those of draining the pending deliveries from an empty SQLite store, from one with the finished ones, and
from one whose finished ones are purged meanwhile, in turn. The history is made once, by SQL, and copied for each round.
"""

import argparse
import asyncio
import base64
import json
import shutil
import sqlite3
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gatepost import config, logs, stores
from gatepost.benchmark import Round, engine_on, interleaved, medians
from gatepost.bootstrap import Parts, system_clock
from gatepost.domain.retention import Retention
from gatepost.engine.retention import PAUSE

EMPTY, LONG, PURGED = "empty store", "long history", "history purged meanwhile"
AGE = timedelta(days=200)  # of the history: everything may go

# Of one delivery each, in the order of time, to a hundred webhooks; what they hold is about as long as it usually is.
_NUMBERS = "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < :count)"
_ID = "printf('%s_%012x70008000000000000000', '{}', :first + n)"
HISTORY = (
    f"""
{_NUMBERS} INSERT INTO events (group_id, id, event, created_at, origin, hop, tasks, webhooks_version, body)
SELECT 'grp_old', {_ID.format("evt")}, 'task.created', :first + n, 'api', 1, 'tsk_' || n || ':1', 1, zeroblob(1024)
FROM numbers
""",
    f"""
{_NUMBERS} INSERT INTO deliveries (id, group_id, webhook_id, event_id, event, task_ids, status, attempt_count,
    max_attempts, last_status_code, replay_key, created_at, finished_at)
SELECT {_ID.format("dlv")}, 'grp_old', 'wh_' || n % 100, {_ID.format("evt")}, 'task.created', 'tsk_' || n, 'delivered',
    1, 10, 200, '', :first + n, :first + n
FROM numbers
""",
    f"""
{_NUMBERS} INSERT INTO attempts (delivery_id, number, probe, probe_key, id, started_at, duration_us, outcome,
    status_code, headers, body, truncated, detail)
SELECT {_ID.format("dlv")}, 1, 0, '', {_ID.format("att")}, :first + n, 1000, 'accepted', 200,
    CAST('content-type: text/plain' AS BLOB), CAST('ok' AS BLOB), 0, ''
FROM numbers
""",
)


class Bench:
    """Stores for each round, in one folder, and what was seen beside the rates."""

    def __init__(self, folder: Path, finished: int) -> None:
        self._folder = folder
        self._finished = finished
        self._made = 0
        self.memory_mib: dict[str, list[float]] = {}
        self.purged = 0

    async def empty(self) -> str:
        self._note_memory(EMPTY)
        return _url(self._next())

    async def long(self, name: str = LONG) -> str:
        self._note_memory(name)
        history, copy = self._folder / "history.db", self._next()
        if not history.exists():
            await self._make(history)
        shutil.copyfile(history, copy)
        return _url(copy)

    async def to_purge(self) -> str:
        return await self.long(PURGED)

    async def purge(self, parts: Parts) -> None:
        """Let go of the history as an engine does, step after step."""
        for kept, before in Retention().expired(now=parts.clock.now()):
            after: str | None = ""
            while after is not None:
                step = await parts.store.purge(kept, before=before, after=after)
                self.purged += step.purged
                after = step.go_on_after
                await asyncio.sleep(PAUSE.total_seconds())

    async def _make(self, path: Path) -> None:
        key = base64.b64encode(bytes(config.SECRET_KEY_BYTES)).decode()
        await stores.migrate(config.load(store=_url(path), secret_key=key))
        first = int((system_clock().now() - AGE).timestamp() * 1000)
        with closing(sqlite3.connect(path)) as connection, connection:
            for statement in HISTORY:
                connection.execute(statement, {"count": self._finished, "first": first})

    def _next(self) -> Path:
        for old in self._folder.glob("bench-*"):
            old.unlink()
        self._made += 1
        return self._folder / f"bench-{self._made}.db"

    def _note_memory(self, name: str) -> None:
        """Keep what the process holds before a round, which is what the rounds before it have left."""
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.memory_mib.setdefault(name, []).append(round(pages * 4096 / 2**20, 1))


def _url(path: Path) -> str:
    return f"sqlite:///{path}"


async def measure(finished: int, pending: int, rounds: int) -> dict[str, Any]:
    with TemporaryDirectory(prefix="gatepost-backlog-") as folder:
        bench = Bench(Path(folder), finished)
        variants = [
            engine_on(EMPTY, bench.empty),
            engine_on(LONG, bench.long),
            engine_on(PURGED, bench.to_purge, beside=bench.purge),
        ]
        done = await interleaved(variants, pending, rounds)
        return report(done, bench, finished)


def report(done: Sequence[Round], bench: Bench, finished: int) -> dict[str, Any]:
    variants = medians(done)
    empty = variants[EMPTY]["cpuMicrosPerDelivery"]
    return {
        "finished": finished,
        "pending": done[0].deliveries,
        "variants": variants,
        "cpuToEmptyStore": {name: round(each["cpuMicrosPerDelivery"] / empty, 3) for name, each in variants.items()},
        "memoryMib": bench.memory_mib,
        "purgedInAll": bench.purged,
        "rounds": [asdict(each) for each in done],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="What a long history costs those who drain a backlog.")
    parser.add_argument("--finished", type=int, default=1_000_000)
    parser.add_argument("--pending", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    logs.configure(level="error", format=None)
    json.dump(asyncio.run(measure(asked.finished, asked.pending, asked.rounds)), sys.stdout, indent=2)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
