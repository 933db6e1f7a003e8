"""`gatepost bench deliver`: how fast a backlog drains, beside the same sender without a store.

Both variants run in this process, in turn, against one receiver in a process of its own. CPU is user + system time of
all threads of this process; on a shared machine it moves less than the wall clock does, so rank by it.
"""

import asyncio
import base64
import math
import os
import re
import resource
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, cast

from gatepost import config, stores
from gatepost.bootstrap import USER_AGENT, Parts, delivery_parts
from gatepost.domain.deliveries import QueuedDelivery, owed, request_headers
from gatepost.domain.events import Occasion
from gatepost.domain.groups import Group
from gatepost.domain.network import parse_target
from gatepost.domain.outcomes import Outcome
from gatepost.domain.signatures import make_secret, parse_secret
from gatepost.domain.tasks import create as create_task
from gatepost.domain.webhooks import Secret, Subscription, Webhook
from gatepost.domain.webhooks import create as create_webhook
from gatepost.engine.engine import Engine
from gatepost.engine.terms import Limits
from gatepost.ports import Dropped, Outgoing, Saved, Sender

WEBHOOKS = 100
MAX_CONCURRENCY = 10
EVENTS_AT_ONCE = 50
DESCRIPTION = "x" * 600  # makes an event of about one KiB


@dataclass(frozen=True, slots=True)
class Round:
    """One run of one variant.

    Units: deliveries per second of wall-clock time; CPU microseconds per delivery, of this process and of the store's
           server, if it has one.
    """

    variant: str
    deliveries: int
    per_second: float
    cpu_us: float
    server_cpu_us: float = 0.0


Variant = Callable[[int, int], Awaitable[Round]]  # of the receiver's port and the number of deliveries


def _no_server() -> float:
    return 0.0


async def bench_deliver(deliveries: int, rounds: int) -> list[Round]:
    """Send so many deliveries with each variant, in turn."""
    return await interleaved([sender_alone, engine_on("engine on SQLite")], deliveries, rounds)


async def interleaved(variants: Sequence[Variant], deliveries: int, rounds: int) -> list[Round]:
    """Run each variant in turn, again and again; the first round of each only warms up."""
    _pin(0)
    done: list[Round] = []
    with receiver() as port:
        for number in range(rounds + 1):
            for variant in variants:
                result = await variant(port, deliveries)
                if number:
                    done.append(result)
    return done


def medians(rounds: Sequence[Round]) -> dict[str, dict[str, Any]]:
    """Return the median figures of each variant, with their range."""
    figures: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(r.variant for r in rounds):
        own = [r for r in rounds if r.variant == name]
        cpu_us = round(median(r.cpu_us for r in own), 1)
        figures[name] = {
            "deliveriesPerSecond": round(median(r.per_second for r in own)),
            "cpuMicrosPerDelivery": cpu_us,
            "cpuMicrosRange": [min(r.cpu_us for r in own), max(r.cpu_us for r in own)],
            "deliveriesPerSecondPerCore": round(1_000_000 / cpu_us),
            "serverCpuMicrosPerDelivery": round(median(r.server_cpu_us for r in own), 1),
        }
    return figures


def report(rounds: Sequence[Round]) -> dict[str, Any]:
    """Return the median figures of each variant and their ratio, with every round."""
    variants = medians(rounds)
    ratio = (
        variants["engine on SQLite"]["deliveriesPerSecondPerCore"]
        / variants["sender alone"]["deliveriesPerSecondPerCore"]
    )
    return {
        "cpus": os.cpu_count(),
        "python": sys.version.split()[0],
        "deliveries": rounds[0].deliveries,
        "variants": variants,
        "engineToSenderPerCore": round(ratio, 3),
        "rounds": [asdict(r) for r in rounds],
    }


def table(figures: dict[str, Any]) -> str:
    """Return the report for people."""
    lines = [
        f"{figures['deliveries']:,} deliveries, {WEBHOOKS} webhooks; "
        f"{figures['cpus']} CPUs, Python {figures['python']}",
        f"{'':18}{'per second':>12}{'CPU µs each':>14}{'(range)':>18}{'per core':>12}",
    ]
    for name, variant in figures["variants"].items():
        low, high = variant["cpuMicrosRange"]
        lines.append(
            f"{name:18}{variant['deliveriesPerSecond']:>12,}{variant['cpuMicrosPerDelivery']:>14}"
            f"{f'{low}–{high}':>18}{variant['deliveriesPerSecondPerCore']:>12,}"
        )
    return "\n".join([*lines, f"engine to sender, per core: {figures['engineToSenderPerCore']}"])


# --- the two variants ----------------------------------------------------------------------------------------


async def sender_alone(port: int, count: int) -> Round:
    """Sign and send; remember nothing."""
    async with _parts() as parts:
        webhooks = [_webhook(parts, "grp_bench", _host(n), port) for n in range(WEBHOOKS)]
        return await _measured("sender alone", count, lambda: _send_all(parts, webhooks, _event_body(parts), count))


async def _send_all(parts: Parts, webhooks: Sequence[Webhook], body: bytes, count: int) -> None:
    """Keep as many requests in flight as the engine may, each signed as the engine does."""
    finished = asyncio.get_running_loop().create_future()
    keys = (parse_secret(webhooks[0].secrets[0].value),)
    started = settled = 0
    room = WEBHOOKS * MAX_CONCURRENCY
    wanted = asyncio.Event()

    def settle(_result: Outcome | Dropped, _started: float, _duration: float) -> None:
        nonlocal settled, room
        settled += 1
        room += 1
        wanted.set()
        if settled == count:
            finished.set_result(None)

    while started < count:
        wanted.clear()
        batch = []
        now = parts.clock.now()
        for _ in range(min(room, count - started)):
            webhook = webhooks[started % WEBHOOKS]
            delivery = QueuedDelivery(
                f"dlv_{started}", webhook.group_id, webhook.id, "evt_bench", "task.created", body, 1, 0, now
            )
            headers = request_headers(
                delivery, keys=keys, own_headers=(), user_agent=USER_AGENT, timestamp=int(now.timestamp())
            )
            batch.append(Outgoing(webhook.target, headers, body, 15, lambda: math.inf, settle))
            started += 1
            room -= 1
        parts.sender.submit(batch)
        if started < count:
            await wanted.wait()
    await finished


def engine_on(
    name: str,
    new_store: Callable[[], Awaitable[str]] | None = None,
    *,
    webhooks: int = WEBHOOKS,
    server_cpu: Callable[[], float] = _no_server,
    beside: Callable[[Parts], Awaitable[None]] | None = None,
) -> Variant:
    """Return the variant that commits a backlog to a durable store, then drains it, every attempt logged.

    Shape: `new_store` returns the URL of an empty store; without it that is a SQLite file. `server_cpu` returns the
           CPU seconds that its server has used so far. `beside` runs beside the drain, for as long as that takes.
    """

    async def run(port: int, count: int) -> Round:
        async with _parts(await new_store() if new_store else None) as parts:
            await _fill(parts, port, count, webhooks)
            task = asyncio.ensure_future(beside(parts)) if beside else None
            try:
                return await _measured(name, count, lambda: _drain(parts, count), server_cpu)
            finally:
                if task is not None:
                    task.cancel()
                    await asyncio.wait([task])

    return run


async def _drain(parts: Parts, count: int) -> None:
    sender = _CountingSender(parts.sender, count)
    engine = Engine(
        parts.store,
        sender,
        parts.clock,
        parts.chance,
        owner=parts.chance.new_id("eng"),
        user_agent=USER_AGENT,
        limits=Limits(lease=timedelta(seconds=30), max_in_flight=8192),
    )
    running = asyncio.create_task(engine.run())
    await sender.all_submitted.wait()
    engine.stop()
    await running


class _CountingSender:
    """Passes requests on, and says when as many were started as there are deliveries."""

    def __init__(self, sender: Sender, count: int) -> None:
        self.all_submitted = asyncio.Event()
        self._sender = sender
        self._left = count

    def submit(self, batch: Sequence[Outgoing]) -> None:
        self._sender.submit(batch)
        self._left -= len(batch)
        if self._left <= 0:
            self.all_submitted.set()

    async def close(self) -> None:
        await self._sender.close()


async def _fill(parts: Parts, port: int, count: int, webhooks: int) -> None:
    now = parts.clock.now()
    group = Group(parts.chance.new_id("grp"), "bench", now)
    await parts.store.add_group(group)
    for n in range(webhooks):
        webhook = _webhook(parts, group.id, _host(n % WEBHOOKS), port)
        assert await parts.store.add_webhook(group.id, webhook, quota=webhooks) is Saved.DONE
    subscriptions = await parts.store.subscriptions(group.id)
    for first in range(0, count // webhooks, EVENTS_AT_ONCE):
        last = min(first + EVENTS_AT_ONCE, count // webhooks)
        await asyncio.gather(
            *(_emit(parts, group.id, subscriptions.items, subscriptions.version) for _ in range(first, last))
        )


async def _emit(parts: Parts, group_id: str, owed_to: Sequence[Subscription], version: int) -> None:
    occasion = Occasion(parts.chance.new_id("evt"), parts.clock.now(), actor_id=None)
    fields = {"title": "Bench", "description": DESCRIPTION}
    change = create_task(parts.chance.new_id("tsk"), group_id, fields, occasion)
    deliveries = [owed(parts.chance.new_id("dlv"), change.event, subscription) for subscription in owed_to]
    saved = await parts.store.save_change(group_id, change, deliveries, webhooks_version=version)
    assert saved is Saved.DONE


@asynccontextmanager
async def _parts(store: str | None = None) -> AsyncIterator[Parts]:
    with TemporaryDirectory(prefix="gatepost-bench-") as folder:
        settings = config.load(
            store=store or f"sqlite:///{folder}/bench.db",
            allowed_target_networks="127.0.0.0/8",
            secret_key=base64.b64encode(bytes(config.SECRET_KEY_BYTES)).decode(),
        )
        await stores.migrate(settings)
        async with delivery_parts(settings) as parts:
            yield parts


def _host(number: int) -> str:
    """Return a loopback address of its own for each webhook: receivers rarely share a host."""
    return f"127.0.0.{number + 1}"


def _webhook(parts: Parts, group_id: str, host: str, port: int) -> Webhook:
    webhook_id, secret = parts.chance.new_id("wh"), Secret(make_secret(parts.chance.key_bytes(32)))
    fields = {
        "name": "bench",
        "target": parse_target(f"http://{host}:{port}/"),
        "events": ("*",),
        "max_concurrency": MAX_CONCURRENCY,
    }
    return create_webhook(webhook_id, group_id, fields, secret, now=parts.clock.now())


def _event_body(parts: Parts) -> bytes:
    occasion = Occasion(parts.chance.new_id("evt"), parts.clock.now(), actor_id=None)
    return create_task("tsk_bench", "grp_bench", {"title": "Bench", "description": DESCRIPTION}, occasion).event.body


async def _measured(
    variant: str, count: int, run: Callable[[], Awaitable[None]], server_cpu: Callable[[], float] = _no_server
) -> Round:
    loop = asyncio.get_running_loop()
    cpu_before, server_before, wall_before = _cpu_seconds(), server_cpu(), loop.time()
    await run()
    cpu, server, wall = _cpu_seconds() - cpu_before, server_cpu() - server_before, loop.time() - wall_before
    return Round(variant, count, round(count / wall), *(round(used / count * 1_000_000, 1) for used in (cpu, server)))


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


# --- the receiver --------------------------------------------------------------------------------------------


@contextmanager
def receiver() -> Iterator[int]:
    """Run the receiver in a process of its own, on another core where there is one; give its port."""
    command = [sys.executable, "-m", "gatepost", "bench", "receiver"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.terminate()


async def serve_receiver() -> None:
    """Answer every POST with 200 and nothing else, as fast as Python can; print the port first."""
    _pin(1)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Answer, _host(0), 0, backlog=4096)
    port = server.sockets[0].getsockname()[1]
    others = [await loop.create_server(_Answer, _host(n), port, backlog=4096) for n in range(1, WEBHOOKS)]
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    await asyncio.gather(*(each.serve_forever() for each in (server, *others)))


class _Answer(asyncio.Protocol):
    """Counts bodies by their `Content-Length`; parses nothing else."""

    _RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"

    def __init__(self) -> None:
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (head := self._received.find(b"\r\n\r\n")) >= 0:
            length = re.search(rb"\r\ncontent-length: *([0-9]+)", self._received[:head], re.IGNORECASE)
            end = head + 4 + (int(length[1]) if length else 0)
            if len(self._received) < end:
                return
            self._received = self._received[end:]
            self._transport.write(self._RESPONSE)


def _pin(core: int) -> None:
    if hasattr(os, "sched_setaffinity") and core in os.sched_getaffinity(0):
        os.sched_setaffinity(0, {core})
