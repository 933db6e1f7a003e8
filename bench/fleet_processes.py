"""The processes of `fleet.py`: workers that are killed, APIs that are called, and the callers."""

import asyncio
import base64
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gatepost import config
from gatepost.bootstrap import opened_accounts
from gatepost.domain.groups import Role

SECRET_KEY = base64.b64encode(bytes(range(32))).decode()
ANSWERS_WITHIN_SECONDS = 30
STOPS_WITHIN_SECONDS = 60


class Process:
    """A command that may die at any moment; what it logs is kept."""

    def __init__(self, settings: Mapping[str, str], log: Path, *arguments: str) -> None:
        # Without compiled files every start compiles all libraries, which is not what is measured.
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        self._env = {**kept, **settings}
        self._command = [sys.executable, "-m", "gatepost", *arguments]
        self._log = log
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, env=self._env, stderr=log, stdout=log)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def ask_to_stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def stopped(self) -> int:
        return self._process.wait(STOPS_WITHIN_SECONDS)


class Installation:
    """All processes on one store."""

    def __init__(self, store_url: str, folder: Path, *, lease_seconds: float) -> None:
        self._folder = folder
        self._settings = {
            "GATEPOST_STORE": store_url,
            "GATEPOST_SECRET_KEY": SECRET_KEY,
            "GATEPOST_ALLOWED_TARGET_NETWORKS": "127.0.0.0/8",
            "GATEPOST_LEASE_SECONDS": str(lease_seconds),
            "GATEPOST_LOG_LEVEL": "warning",
            "GATEPOST_LOG_FORMAT": "json",
        }
        self.workers: list[Process] = []
        self.apis: list[Api] = []
        command = [sys.executable, "-m", "gatepost", "migrate"]
        subprocess.run(command, env={**os.environ, **self._settings}, check=True, capture_output=True)

    async def key(self, group: str) -> str:
        settings = config.load(store=self._settings["GATEPOST_STORE"], secret_key=SECRET_KEY)
        async with opened_accounts(settings) as accounts:
            made = await accounts.create_key(group, Role.ADMIN, create_group=True)
        return made.text

    async def start(self, *, apis: int, workers: int) -> None:
        for number in range(apis):
            self.apis.append(Api(self._settings, self._log("api", number)))
        for number in range(workers):
            self.workers.append(Process(self._settings, self._log("worker", number), "worker"))
        for api in self.apis:
            await api.until_ready()

    async def stop(self) -> list[int]:
        """Ask every process to stop; return the exit codes of those that went wrong."""
        processes = [*self.workers, *self.apis]
        for each in processes:
            each.ask_to_stop()
        codes = await asyncio.gather(*(asyncio.to_thread(each.stopped) for each in processes))
        return [code for code in codes if code]

    def kill(self) -> None:
        for each in (*self.workers, *self.apis):
            each.kill()

    def logged(self) -> Counter[str]:
        """Count what was logged, by event; lines that are no events by their text."""
        lines = [line for log in sorted(self._folder.glob("*.log")) for line in log.read_text().splitlines()]
        return Counter(_event(line) for line in lines)

    def _log(self, kind: str, number: int) -> Path:
        return self._folder / f"{kind}-{number}.log"


def _event(line: str) -> str:
    try:
        told = json.loads(line)
        return f"{told['event']} {told['step']}" if "step" in told else str(told["event"])
    except (ValueError, TypeError, KeyError):
        return line


class Api(Process):
    """`gatepost serve` without an engine."""

    def __init__(self, settings: Mapping[str, str], log: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        super().__init__(settings, log, "serve", "--port", str(self.port), "--engine", "off")

    async def until_ready(self) -> None:
        deadline = time.monotonic() + ANSWERS_WITHIN_SECONDS
        caller = Caller(self)
        while (await caller.call("GET", "/health/ready", ""))[0] != 200:
            assert time.monotonic() < deadline, self._log.read_text()
            await asyncio.sleep(0.05)
        caller.close()


class Caller:
    """Calls an API on one connection, and calls nothing twice."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._writer: asyncio.StreamWriter | None = None

    async def call(self, method: str, path: str, key: str, body: Mapping[str, Any] | None = None) -> tuple[int, Any]:
        """Return status and body of the answer; 0 when there was none."""
        try:
            async with asyncio.timeout(ANSWERS_WITHIN_SECONDS):
                return await self._call(method, path, key, json.dumps(body or {}).encode())
        except (OSError, EOFError, TimeoutError):
            self.close()
            return 0, None

    async def _call(self, method: str, path: str, key: str, body: bytes) -> tuple[int, Any]:
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._api.port)
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self._writer.write(head.encode() + body)
        status, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines if line)
        answer = await self._reader.readexactly(int(headers["content-length"]))
        return int(status.split()[1]), json.loads(answer)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def callers(apis: list[Api], count: int, chance: random.Random) -> list[Caller]:
    """Return callers, spread evenly over the APIs."""
    chosen = [Caller(apis[number % len(apis)]) for number in range(count)]
    chance.shuffle(chosen)
    return chosen
