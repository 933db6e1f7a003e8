"""One worker's drain on PostgreSQL: beside the same worker on SQLite, and from few webhooks to many.

    python -m bench.postgres --deliveries 20000 --rounds 3

A PostgreSQL server of its own, durable as it comes, in a process tree of its own; its CPU is all of that tree's.
"""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import asyncpg
from tests.postgres_servers import PostgresServer, binaries

from gatepost import logs
from gatepost.benchmark import Round, engine_on, interleaved, medians, sender_alone


class Bench:
    """A server, and an empty schema in it for each round."""

    def __init__(self, version: int) -> None:
        folder = binaries(version)
        if folder is None:
            sys.exit(f"There is no PostgreSQL {version} on this machine.")
        self.server = PostgresServer(folder)
        self._schemas = 0

    async def new_store(self) -> str:
        self._schemas += 1
        connection = await asyncpg.connect(self.server.url)
        await connection.execute(f"CREATE SCHEMA bench_{self._schemas}")
        await connection.execute("CHECKPOINT")
        await connection.close()
        return f"{self.server.url}&search_path=bench_{self._schemas}"

    def cpu(self) -> float:
        return sum(_cpu_seconds(pid) for pid in (self.server.process.pid, *_children(self.server.process.pid)))


def _children(pid: int) -> Iterator[int]:
    for thread in Path(f"/proc/{pid}/task").iterdir():
        yield from map(int, (thread / "children").read_text().split())


def _cpu_seconds(pid: int) -> float:
    """Return user and system time, of children that have ended too."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0.0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


async def run(deliveries: int, rounds: int, version: int) -> list[Round]:
    bench = Bench(version)
    try:
        many = deliveries // 2
        stores = [
            engine_on("SQLite, 100 webhooks"),
            engine_on("PostgreSQL, 100 webhooks", bench.new_store, server_cpu=bench.cpu),
            engine_on("PostgreSQL, 10 webhooks", bench.new_store, webhooks=10, server_cpu=bench.cpu),
            engine_on(f"PostgreSQL, {many:,} webhooks", bench.new_store, webhooks=many, server_cpu=bench.cpu),
        ]
        return await interleaved([sender_alone, *stores], deliveries, rounds)
    finally:
        bench.server.remove()


def table(figures: dict[str, dict[str, Any]]) -> str:
    lines = [f"{'':28}{'per second':>12}{'CPU µs each':>14}{'(range)':>18}{'per core':>10}{'server µs':>12}"]
    for name, each in figures.items():
        low, high = each["cpuMicrosRange"]
        lines.append(
            f"{name:28}{each['deliveriesPerSecond']:>12,}{each['cpuMicrosPerDelivery']:>14}{f'{low}–{high}':>18}"
            f"{each['deliveriesPerSecondPerCore']:>10,}{each['serverCpuMicrosPerDelivery']:>12}"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--deliveries", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--version", type=int, default=18)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    logs.configure(level="error", format=None)
    rounds = asyncio.run(run(options.deliveries, options.rounds, options.version))
    figures = medians(rounds)
    print(json.dumps({"variants": figures, "rounds": [asdict(r) for r in rounds]}) if options.json else table(figures))


if __name__ == "__main__":
    main()
