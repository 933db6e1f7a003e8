"""What bad webhooks do to good ones: from an event to its arrival at 89 receivers that are well, alone, and beside one
that hangs for 30 s per request with a backlog of 10,000, and ten that answer 500.

    python -m bench.isolation --rounds 5

A server of its own for each round, the two kinds in turn. The receivers are in this process, and read the moment of the
event in its body. The bad ones have events of their own, as many and halfway between: one event for all would be one
for 89 alone and for 100 beside bad ones, and its last arrival the later for being one of more.
"""

import argparse
import asyncio
import json
import re
import time
from collections.abc import Mapping
from datetime import datetime
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, cast

import httpx2
import uvloop
from tests.installations import serving, settings_on

GOOD, BAD = 89, 10
HANGS_SECONDS = 30.0
WARM_UP = 30  # events, until every connection is open
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
OK = b"HTTP/1.1 204 No Content\r\n\r\n"
BROKEN = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"


class Receiver(asyncio.Protocol):
    """Answers as its path says, and notes how long each event of a good one took."""

    taken: ClassVar[list[float]] = []  # milliseconds; of all connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._received = b""

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (head := self._received.find(b"\r\n\r\n")) >= 0:
            length = LENGTH.search(self._received, 0, head)
            end = head + 4 + (int(length[1]) if length else 0)
            if len(self._received) < end:
                return
            self._answer(self._received.split(b" ", 2)[1], self._received[head + 4 : end])
            self._received = self._received[end:]

    def _answer(self, path: bytes, body: bytes) -> None:
        if path.startswith(b"/hangs"):
            asyncio.get_running_loop().call_later(HANGS_SECONDS, self._write, OK)
            return
        if path.startswith(b"/good"):
            said = datetime.fromisoformat(json.loads(body)["timestamp"]).timestamp()
            Receiver.taken.append((time.time() - said) * 1000)
        self._write(OK if path.startswith(b"/good") else BROKEN)

    def _write(self, answer: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(answer)


async def measured(port: int, *, beside_bad: bool, backlog: int, events: int, per_second: float) -> list[float]:
    """Return the milliseconds from each event to each of its arrivals."""
    with TemporaryDirectory() as folder:
        settings = settings_on(f"sqlite:///{folder}/gatepost.db", GATEPOST_LOG_LEVEL="error")
        with serving(settings, engine="on") as served:
            headers = {"Authorization": f"Bearer {served.key}"}
            async with httpx2.AsyncClient(base_url=served.url, headers=headers, timeout=60) as http:
                await _make_webhooks(http, port, beside_bad=beside_bad)
                if beside_bad:
                    await _publish(http, "backlog.grown", backlog, per_second=None)
                await _pulse(http, WARM_UP, per_second, beside_bad=beside_bad)
                Receiver.taken.clear()
                await _pulse(http, events, per_second, beside_bad=beside_bad)
                return list(Receiver.taken)


async def _pulse(http: httpx2.AsyncClient, events: int, per_second: float, *, beside_bad: bool) -> None:
    wanted = len(Receiver.taken) + events * GOOD
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_publish(http, "pulse.good", events, per_second=per_second))
        if beside_bad:
            await asyncio.sleep(0.5 / per_second)
            tasks.create_task(_publish(http, "pulse.bad", events, per_second=per_second))
    while len(Receiver.taken) < wanted:
        await asyncio.sleep(0.1)


async def _make_webhooks(http: httpx2.AsyncClient, port: int, *, beside_bad: bool) -> None:
    wanted: list[Mapping[str, Any]] = [_webhook(port, f"good/{n}", "pulse.good") for n in range(GOOD)]
    if beside_bad:
        wanted += [_webhook(port, f"bad/{n}", "pulse.bad") for n in range(BAD)]
        wanted.append(_webhook(port, "hangs", "backlog.grown", "pulse.bad"))
    for body in wanted:
        (await http.post("/api/integrations/webhooks", json=body)).raise_for_status()


def _webhook(port: int, path: str, *events: str) -> Mapping[str, Any]:
    host = f"127.0.0.{2 + sum(map(ord, path)) % 200}"
    return {
        "name": path,
        "targetUrl": f"http://{host}:{port}/{path}",
        "events": events,
        "timeoutSeconds": 30,
    }


async def _publish(http: httpx2.AsyncClient, event: str, count: int, *, per_second: float | None) -> None:
    began = time.monotonic()
    at_once = asyncio.Semaphore(20)

    async def publish() -> None:
        async with at_once:
            answer = await http.post("/api/integrations/events", json={"event": event, "data": {}})
            answer.raise_for_status()

    async with asyncio.TaskGroup() as tasks:
        for number in range(count):
            if per_second is not None:
                await asyncio.sleep(max(0.0, began + number / per_second - time.monotonic()))
            tasks.create_task(publish())


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--backlog", type=int, default=10_000)
    parser.add_argument("--events", type=int, default=150)
    parser.add_argument("--per-second", type=float, default=4.0)
    asked = parser.parse_args()
    server = await asyncio.get_running_loop().create_server(Receiver, "0.0.0.0", 0, backlog=4096)
    port = server.sockets[0].getsockname()[1]
    taken: dict[bool, list[list[float]]] = {False: [], True: []}
    for _ in range(asked.rounds):
        for beside_bad, rounds in taken.items():
            rounds.append(
                await measured(
                    port,
                    beside_bad=beside_bad,
                    backlog=asked.backlog,
                    events=asked.events,
                    per_second=asked.per_second,
                )
            )
    print(f"ms from an event to its arrival at {GOOD} good receivers, median of {asked.rounds} rounds")
    figures = {}
    for beside_bad, rounds in taken.items():
        p50, p95, p99 = (median(quantiles(each, n=100)[q - 1] for each in rounds) for q in (50, 95, 99))
        figures[beside_bad] = p95
        name = f"beside one that hangs, {BAD} that fail" if beside_bad else "alone"
        print(f"{name:36} p50 {p50:8.1f}  p95 {p95:8.1f}  p99 {p99:8.1f}")
    print(f"p95, beside bad ones to alone: {figures[True] / figures[False]:.2f}")


if __name__ == "__main__":
    uvloop.run(main())
