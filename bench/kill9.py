"""Kill `gatepost serve` again and again while tasks are created, and account for every event.

    python -m bench.kill9 --events 2000 --kills 20

Prints a JSON report and exits 1 unless every acknowledged event arrived, nothing arrived that is not in the store, each
event always came under one `webhook-id`, and every restart delivered in time.
"""

import argparse
import asyncio
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

FIRST_DELIVERY_LIMIT_SECONDS = 1.5
CALLERS = 8
RECEIVER_DELAY_SECONDS = 0.02  # so that there is always something in flight when the process dies


@dataclass
class Receiver:
    """Answers every POST with 200 and remembers which event came when."""

    arrivals: list[tuple[float, str, dict[str, Any]]] = field(default_factory=list)
    last_connected: float = 0.0  # the youngest connection that a request came on

    async def serve(self) -> asyncio.Server:
        return await asyncio.start_server(self._connection, "127.0.0.1", 0, backlog=1000)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected = time.monotonic()
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                headers = dict(line.lower().split(": ", 1) for line in head.decode().split("\r\n")[1:] if line)
                body = await reader.readexactly(int(headers["content-length"]))
                self.arrivals.append((time.monotonic(), headers["webhook-id"], json.loads(body)))
                self.last_connected = max(self.last_connected, connected)
                await asyncio.sleep(RECEIVER_DELAY_SECONDS)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass  # the sender was killed, or this bench is over
        finally:
            writer.close()


class Server:
    """`gatepost serve` as a process that may die at any moment."""

    def __init__(self, store: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.env = {
            # Without compiled files every start compiles all libraries, which is not what is measured.
            **{name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
            "GATEPOST_STORE": f"sqlite:///{store}",
            "GATEPOST_ALLOWED_TARGET_NETWORKS": "127.0.0.0/8",
            "GATEPOST_LOG_LEVEL": "warning",
        }
        self.key = json.loads(self._gatepost("key", "create", "--group", "g", "--create-group", "--role", "admin"))[
            "key"
        ]
        self.start()

    def _gatepost(self, *arguments: str) -> str:
        command = [sys.executable, "-m", "gatepost", *arguments, "--json"]
        return subprocess.run(command, env=self.env, check=True, capture_output=True, text=True).stdout

    def start(self) -> None:
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gatepost", "serve", "--port", str(self.port)],
            env=self.env,
            stdout=subprocess.DEVNULL,  # where the first account is told; ours is the result's
        )

    async def kill_and_restart(self) -> None:
        self.process.kill()
        self.process.wait()
        self.start()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=60)

    async def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any] | None:
        """Return the answer to a call, None when there was none or it was not 2xx."""
        return await asyncio.to_thread(self._call, method, path, body)

    def _call(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any] | None:
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=json.dumps(body).encode() if body is not None else None,
            headers={"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                answered: dict[str, Any] = json.load(answer)
                return answered
        except (http.client.HTTPException, ValueError, OSError):  # killed before, or in the middle of, its answer
            return None

    async def until_ready(self) -> None:
        while await self.call("GET", "/health/ready") is None:
            await asyncio.sleep(0.02)


async def run(events: int, kills: int, seed: int) -> dict[str, Any]:
    chance = random.Random(seed)
    receiver = Receiver()
    listening = await receiver.serve()
    with TemporaryDirectory(prefix="gatepost-kill9-") as folder:
        server = Server(Path(folder) / "kill9.db")
        try:
            await server.until_ready()
            url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/"
            webhook = {"name": "kill9", "targetUrl": url, "events": ["*"], "retryPolicy": {"schedule": [0.2] * 10}}
            assert await server.call("POST", "/api/integrations/webhooks", webhook)
            acknowledged, restarts = await _emit_and_kill(server, receiver, chance, events, kills)
            await _until_arrived(receiver, acknowledged)
            stored = await _stored_events(server)
        finally:
            server.stop()
            listening.close()
    return _report(receiver, acknowledged, stored, restarts, kills)


async def _emit_and_kill(
    server: Server, receiver: Receiver, chance: random.Random, events: int, kills: int
) -> tuple[set[str], list[float]]:
    acknowledged: set[str] = set()
    restarts: list[float] = []
    left = iter(range(events))

    async def emit() -> None:
        for number in left:
            while (task := await server.call("POST", "/api/tasks", {"title": f"Task {number}"})) is None:
                await asyncio.sleep(0.01)
            acknowledged.add(task["id"])

    async def kill() -> None:
        for number in range(kills):
            while len(acknowledged) < events * (number + 1) // (kills + 1):
                await asyncio.sleep(0.005)
            await asyncio.sleep(chance.random() * 0.1)
            await server.kill_and_restart()
            while receiver.last_connected < server.started:
                await asyncio.sleep(0.002)
            restarts.append(time.monotonic() - server.started)

    await asyncio.gather(kill(), *(emit() for _ in range(CALLERS)))
    return acknowledged, restarts


async def _until_arrived(receiver: Receiver, acknowledged: set[str]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and acknowledged - _task_ids(receiver):
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.5)  # what is still coming may only be a repetition


async def _stored_events(server: Server) -> set[str]:
    found: set[str] = set()
    cursor = ""
    while True:
        page = await server.call("GET", f"/api/integrations/deliveries?limit=200{cursor}")
        assert page is not None
        found |= {delivery["eventId"] for delivery in page["items"]}
        if page["nextCursor"] is None:
            return found
        cursor = f"&cursor={page['nextCursor']}"


def _task_ids(receiver: Receiver) -> set[str]:
    return {event["data"]["id"] for _, _, event in receiver.arrivals}


def _report(
    receiver: Receiver, acknowledged: set[str], stored: set[str], restarts: list[float], kills: int
) -> dict[str, Any]:
    ids: dict[str, set[str]] = defaultdict(set)
    for _, webhook_id, event in receiver.arrivals:
        ids[event["data"]["id"]].add(webhook_id)
    arrived = {webhook_id for _, webhook_id, _ in receiver.arrivals}
    report = {
        "acknowledged": len(acknowledged),
        "arrived": len(arrived),
        "lost": len(acknowledged - _task_ids(receiver)),
        "phantom": len(arrived - stored),
        "underTwoIds": sum(len(webhook_ids) > 1 for webhook_ids in ids.values()),
        "duplicates": len(receiver.arrivals) - len(arrived),
        "kills": len(restarts),
        "slowestFirstDeliverySeconds": round(max(restarts, default=0.0), 3),
    }
    report["ok"] = (
        report["lost"] == report["phantom"] == report["underTwoIds"] == 0
        and report["kills"] == kills
        and max(restarts, default=0.0) <= FIRST_DELIVERY_LIMIT_SECONDS
    )
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    report = asyncio.run(run(options.events, options.kills, options.seed))
    print(json.dumps(report, indent=2))
    sys.exit(0 if report["ok"] else 1)


if __name__ == "__main__":
    main()
