"""Kill workers at random and restart the database while tasks are created, and account for every delivery.

    python -m bench.fleet --store postgres --events 20000 --workers 4 --apis 2 --restarts 2
    python -m bench.fleet --store mongodb --events 2000

Run from a checkout: `postgres` and `mongodb` start a server of their own, as the tests do; a URL names an empty
database. An event counts as acknowledged on 2xx only, and nothing is asked twice. Prints a JSON report and exits 1
unless every acknowledged event arrived or is a dead letter, every delivery is finished, the store has one attempt for
each number, and every repetition was in flight at a kill or an outage: `fleet_account.py` has the rules.
"""

import argparse
import asyncio
import json
import random
import resource
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.fleet_account import Account, Disturbance, Events
from bench.fleet_processes import Caller, Installation, callers
from bench.fleet_receiver import Receiver
from bench.fleet_stores import StoreServer, store_named

CALLERS = 8
WEBHOOKS_OF_GROUP = 2  # so that a commit has more than one delivery
SCHEDULE = [0.2] * 10
PAUSE_WHEN_REFUSED_SECONDS = 0.05
FINISHED_WITHIN_SECONDS = 180
# Of our own code: whatever was killed or restarted, none of it is to be logged.
BUGS = ("process.died", "lane.died", "delivery.crashed", "request.failed", "sender.settle_failed", "webhook.damaged")


@dataclass(frozen=True, slots=True)
class Group:
    key: str
    webhooks: Sequence[str]


@dataclass(slots=True)
class Run:
    """One run: what it is made of, and what happened."""

    options: argparse.Namespace
    store: StoreServer
    installation: Installation
    chance: random.Random
    receiver: Receiver = field(default_factory=Receiver)
    events: Events = field(default_factory=Events)
    kills: list[Disturbance] = field(default_factory=list)
    outages: list[Disturbance] = field(default_factory=list)
    started_again: int = 0
    emitted: asyncio.Event = field(default_factory=asyncio.Event)

    async def go(self) -> dict[str, Any]:
        """Run it all; return the report."""
        listening = await self.receiver.serve()
        url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/"
        try:
            await self.installation.start(apis=self.options.apis, workers=self.options.workers)
            groups = [await self._group(number, url) for number in range(self._groups)]
            began = time.monotonic()
            await self._emit_and_disturb(groups)
            emitted = time.monotonic()
            in_time = await self._finished()
            finished = time.monotonic()
            await asyncio.sleep(self.options.lease + 1)  # what still comes may only be a repetition
            codes = await self.installation.stop()
            stored = await self.store.deliveries()
        finally:
            self.installation.kill()
            listening.close()
        account = Account(self.events, self.receiver.arrivals, stored, self.kills, self.outages)
        seconds = {"emitting": emitted - began, "finishing": finished - emitted}
        return self._report(account.figures(), seconds, in_time=in_time, codes=codes)

    @property
    def _groups(self) -> int:
        return max(int(self.options.webhooks) // WEBHOOKS_OF_GROUP, 1)

    async def _group(self, number: int, url: str) -> Group:
        key = await self.installation.key(f"Group {number}")
        caller = Caller(self.installation.apis[0])
        webhooks = []
        for name in range(WEBHOOKS_OF_GROUP):
            webhook = {"name": f"{name}", "targetUrl": url, "events": ["*"], "retryPolicy": {"schedule": SCHEDULE}}
            status, made = await caller.call("POST", "/api/integrations/webhooks", key, webhook)
            assert status == 201, made
            webhooks.append(made["id"])
        caller.close()
        return Group(key, webhooks)

    # --- what happens ----------------------------------------------------------------------------------------

    async def _emit_and_disturb(self, groups: Sequence[Group]) -> None:
        numbers = count()
        chosen = callers(self.installation.apis, CALLERS, self.chance)
        killing = asyncio.create_task(self._kill())
        restarting = asyncio.create_task(self._restart())
        supervising = asyncio.create_task(self._supervise())
        await asyncio.gather(*(self._emit(caller, groups, numbers) for caller in chosen))
        self.emitted.set()
        await asyncio.gather(killing, restarting, supervising)

    async def _emit(self, caller: Caller, groups: Sequence[Group], numbers: Iterator[int]) -> None:
        while len(self.events.acknowledged) < self.options.events:
            number = next(numbers)
            group = groups[number % len(groups)]
            status, task = await caller.call("POST", "/api/tasks", group.key, {"title": f"Task {number}"})
            if 200 <= status < 300:
                self.events.acknowledged[task["id"]] = group.webhooks
            else:
                self.events.refused[status] += 1
                await asyncio.sleep(PAUSE_WHEN_REFUSED_SECONDS)
        caller.close()

    async def _kill(self) -> None:
        """Kill one worker after the other, and start it again at once, for as long as tasks are created."""
        while not await self._emitted_within(self.options.kill_every * self.chance.uniform(0.5, 1.5)):
            worker = self.chance.choice(self.installation.workers)
            began = time.monotonic()
            worker.kill()
            self.kills.append(Disturbance(began, time.monotonic()))
            worker.start()

    async def _supervise(self) -> None:
        """Start again what ends by itself, as a worker does that finds no database when it starts."""
        while not self.emitted.is_set() or any(worker.has_ended for worker in self.installation.workers):
            await asyncio.sleep(0.2)
            for worker in self.installation.workers:
                if worker.has_ended:
                    worker.start()
                    self.started_again += 1

    async def _restart(self) -> None:
        """Restart the database, evenly spread over the events."""
        restarts = self.options.restarts
        for number in range(restarts):
            while len(self.events.acknowledged) < self.options.events * (number + 1) // (restarts + 1):
                await asyncio.sleep(0.01)
            began = time.monotonic()
            await asyncio.to_thread(self.store.restart)
            self.outages.append(Disturbance(began, time.monotonic()))

    async def _emitted_within(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            await asyncio.wait_for(self.emitted.wait(), seconds)
        return self.emitted.is_set()

    async def _finished(self) -> bool:
        """Wait until every delivery is finished; say whether they were in time."""
        deadline = time.monotonic() + FINISHED_WITHIN_SECONDS
        while await self.store.unfinished():
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.2)
        return True

    # --- what is told ----------------------------------------------------------------------------------------

    def _report(
        self, figures: dict[str, Any], seconds: dict[str, float], *, in_time: bool, codes: list[int]
    ) -> dict[str, Any]:
        logged = self.installation.logged()
        report = {
            "store": self.options.store.partition(":")[0],
            "events": self.options.events,
            "workers": self.options.workers,
            "apis": self.options.apis,
            "webhooks": self._groups * WEBHOOKS_OF_GROUP,
            "leaseSeconds": self.options.lease,
            **figures,
            "seconds": {name: round(value, 1) for name, value in seconds.items()},
            "startedAgain": self.started_again,
            "exitCodes": codes,
            "bugs": sum(logged[event] for event in BUGS),
            "logged": dict(logged.most_common(20)),
        }
        nothing = ("lost", "unfinished", "phantom", "deliveredWithoutArrival", "inconsistent", "ofOtherBytes", "bugs")
        report["ok"] = (
            in_time
            and not codes
            and not any(report[name] for name in (*nothing, "duplicatesUnexplained"))
            and report["restarts"] == self.options.restarts
            and report["acknowledged"] >= self.options.events
        )
        return report


async def run(options: argparse.Namespace) -> dict[str, Any]:
    if task := asyncio.current_task():  # so that no process is left behind by whoever ends this one
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    store = store_named(options.store)
    with TemporaryDirectory(prefix="gatepost-fleet-") as folder:
        try:
            installation = Installation(store.url, Path(folder), lease_seconds=options.lease)
            report = await Run(options, store, installation, random.Random(options.seed)).go()
        finally:
            store.remove()
    report["cpuSeconds"] = {"bench": _cpu(resource.RUSAGE_SELF), "gatepostAndServer": _cpu(resource.RUSAGE_CHILDREN)}
    return report


def _cpu(who: int) -> float:
    used = resource.getrusage(who)
    return round(used.ru_utime + used.ru_stime, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", default="postgres", help="postgres, mongodb, or the URL of an empty database")
    parser.add_argument("--events", type=int, default=20_000, help="to be acknowledged")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--apis", type=int, default=2)
    parser.add_argument("--webhooks", type=int, default=20)
    parser.add_argument("--kill-every", type=float, default=1.0, help="seconds, half as much more or less")
    parser.add_argument("--restarts", type=int, default=0, help="of the database, without a goodbye")
    parser.add_argument("--lease", type=float, default=3.0, help="seconds")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    report = asyncio.run(run(options))
    print(json.dumps(report, indent=2))
    sys.exit(0 if report["ok"] else 1)


if __name__ == "__main__":
    main()
