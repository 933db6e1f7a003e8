"""Several engines on one store, each as a process of its own has it: own handle, own machine clock, own sender.

Time is shared and stands still while a store works, so that no test depends on how fast this machine is.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from math import ceil
from pathlib import Path
from typing import Any

from tests.builders import make_delivery, make_group, make_task_change, make_webhook
from tests.contract.backends import BACKENDS, Backend
from tests.fakes import FakeClock, NumberedChance, ScriptedSender, delivery_id_of, header_of
from tests.integration.rigs import LEASE, Watched

from gatepost.adapters.system import FollowedClock
from gatepost.domain.deliveries import Attempt, Delivery, Status
from gatepost.domain.webhooks import Webhook
from gatepost.engine.engine import Engine
from gatepost.engine.lane import Lane
from gatepost.engine.terms import Limits
from gatepost.ports import Clock, DeliveryQuery, Outgoing, Saved

SHARED_ON = ("sqlite", "postgres-18")  # names of `BACKENDS` that the tests of a fleet run on
STEP = 0.05
TURNS_OF_QUIET = 15  # of the event loop, in which whatever was woken comes to ask the store


class SlowSender(ScriptedSender):
    """A sender to receivers that take their time."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.hold()

    def settle_older_than(self, seconds: float) -> None:
        now = self._clock.boot()
        for outgoing in [each for each in self.in_flight if now - self._started_at[each] >= seconds]:
            self.settle(outgoing)


class Worker:
    """One process: an engine with all that is its own."""

    def __init__(
        self, handle: Any, number: int, *, machine: FakeClock, clock: Clock, around: Callable[[Any], Any]
    ) -> None:
        self.handle = handle
        self.number = number
        self.between = around(handle)
        self.store = Watched(self.between)
        self.machine = machine
        self.sender = SlowSender(clock)
        self.is_paused = False
        self._ids = NumberedChance(first=number * 1_000_000)
        self.engine = Engine(
            self.store,
            self.sender,
            clock,
            self._ids,
            owner=owner_of(number),
            user_agent="Gatepost/test",
            limits=Limits(lease=LEASE, max_in_flight=8192),
        )
        handle.on_queued = self.engine.hand_over
        handle.on_poked = self.engine.poked  # for stores that hear of other processes' commits
        self.task = asyncio.create_task(self.engine.run())

    @property
    def is_alive(self) -> bool:
        return not self.task.done()

    @property
    def lanes(self) -> dict[str, Lane]:
        return self.engine._lanes

    def made(self, attempt: Attempt) -> bool:
        """Say whether it is this worker that recorded an attempt."""
        return int(attempt.id[4:16], 16) // 1_000_000 == self.number


class Fleet:
    """Workers, the store they share, the clock of its server, and an API process that emits."""

    def __init__(self, backend: Backend, api: Any) -> None:
        self.backend = backend
        self.api = api
        self.server = FakeClock()
        self.group = make_group()
        self.workers: list[Worker] = []
        self.latency = 0.5  # seconds until a receiver answers

    async def server_time(self) -> datetime:
        return self.server.now()

    async def start(
        self, *, ahead: float = 0.0, follows: bool = True, around: Callable[[Any], Any] = lambda store: store
    ) -> Worker:
        """Start a worker on a machine whose clock is so many seconds ahead of the server's.

        It has joined a while ago, so that it counts at once. `around` gives what stands between it and its store.
        """
        machine = FakeClock(self.server.now() + timedelta(seconds=ahead), self.server.boot())
        clock: Clock = machine
        if follows:
            clock = FollowedClock(machine)
            await clock.sample(self.server_time)
        number = len(self.workers) + 1
        handle = await self.backend.open()
        await handle.join(owner_of(number), now=clock.now() - LEASE / 3)
        worker = Worker(handle, number, machine=machine, clock=clock, around=around)
        self.workers.append(worker)
        await self.settled()
        return worker

    async def kill(self, worker: Worker, *, seen: bool) -> None:
        """End a worker's engine without leaving; unseen, its death is known only by its leases that end."""
        worker.task.cancel()
        await asyncio.gather(worker.task, return_exceptions=True)
        if seen:
            await worker.handle.close()

    async def webhooks(self, count: int, **changes: Any) -> list[Webhook]:
        made = [make_webhook(group_id=self.group.id, **changes) for _ in range(count)]
        added = await asyncio.gather(*(self.api.add_webhook(self.group.id, each, quota=1000) for each in made))
        assert set(added) == {Saved.DONE}
        return made

    async def emit(self, *webhooks: Webhook, by: Worker | None = None) -> list[Delivery]:
        """Emit one event to these webhooks: in the API's process, or in a worker's own."""
        store = by.handle if by else self.api
        change = make_task_change(group_id=self.group.id, at=self.server.now())
        deliveries = [make_delivery(change.event, webhook) for webhook in webhooks]
        version = (await store.subscriptions(self.group.id)).version
        saved = await store.save_change(self.group.id, change, deliveries, webhooks_version=version)
        assert saved is Saved.DONE
        return deliveries

    # --- time ------------------------------------------------------------------------------------------------

    async def passes(self, seconds: float, *, step: float = STEP) -> None:
        for _ in range(ceil(seconds / step)):
            await self._tick(step)

    async def until(self, condition: Callable[[], Any], *, within: float) -> None:
        for _ in range(ceil(within / STEP)):
            if condition():
                return
            await self._tick()
        raise AssertionError(f"it did not come about within {within} s")

    async def settled(self) -> None:
        """Let everybody do whatever can be done without more time."""
        quiet = 0
        while quiet < TURNS_OF_QUIET:
            busy = any(worker.store.unanswered for worker in self.workers)
            await asyncio.sleep(0.0005 if busy else 0)
            quiet = 0 if busy else quiet + 1

    async def resume(self, worker: Worker) -> None:
        """Let a worker that was paused go on: its boot clock has counted all the while."""
        worker.is_paused = False
        worker.machine.advance(self.server.boot() - worker.machine.boot())
        await self.settled()

    async def _tick(self, step: float = STEP) -> None:
        self.server.advance(step)
        for worker in self.workers:
            if not worker.is_paused:
                worker.machine.advance(self.server.boot() - worker.machine.boot())
                if worker.is_alive:
                    worker.sender.settle_older_than(self.latency)
        await self.settled()

    # --- what came of it -------------------------------------------------------------------------------------

    @property
    def sent(self) -> Counter[tuple[str, str]]:
        """Count the requests made for each delivery and attempt number."""
        return Counter(send_of(outgoing) for worker in self.workers for outgoing in worker.sender.sent)

    @property
    def sent_twice(self) -> set[tuple[str, str]]:
        return {send for send, count in self.sent.items() if count > 1}

    def largest_share_of(self, lanes: int) -> float:
        """Return the part of the lanes that the worker with the most holds, in fair shares."""
        alive = [worker for worker in self.workers if worker.is_alive]
        return max(len(worker.lanes) for worker in alive) / (lanes / len(alive))

    async def unfinished(self) -> bool:
        pages = [
            await self.api.deliveries(self.group.id, DeliveryQuery(status=status), limit=1, before=None)
            for status in (Status.QUEUED, Status.FAILED)
        ]
        return any(page.items for page in pages)

    async def attempts(self, delivery: Delivery) -> Sequence[Attempt]:
        detail = await self.api.delivery(self.group.id, delivery.webhook_id, delivery.id)
        return detail.attempts


def owner_of(number: int) -> str:
    return f"eng_{number}"


def send_of(outgoing: Outgoing) -> tuple[str, str]:
    return delivery_id_of(outgoing), header_of(outgoing, "X-Gatepost-Attempt") or ""


@asynccontextmanager
async def fleet_on(name: str, folder: Path) -> AsyncIterator[Fleet]:
    backend = BACKENDS[name](folder)
    fleet = Fleet(backend, await backend.open())
    await fleet.api.add_group(fleet.group)
    try:
        yield fleet
    finally:
        for worker in fleet.workers:
            worker.task.cancel()
        ended = await asyncio.gather(*(worker.task for worker in fleet.workers), return_exceptions=True)
        await backend.close()
    bugs = [each for each in ended if isinstance(each, BaseException) and not isinstance(each, asyncio.CancelledError)]
    assert bugs == []


async def deliver_on_wrong_clocks(fleet: Fleet, *, deliveries: int, follows: bool) -> None:
    """Deliver to slow receivers from machines whose clocks are half a minute apart.

    One has the lanes when the other joins; half-way the clock of one is set, and a third comes when the first goes.
    """
    fleet.latency = 3.0
    webhooks = await fleet.webhooks(20, max_concurrency=8)
    rounds = deliveries // len(webhooks)
    first = await fleet.start(follows=follows)
    for n in range(rounds):
        await fleet.emit(*webhooks)
        await fleet.passes(0.5)
        if n == rounds // 4:
            second = await fleet.start(ahead=LEASE.total_seconds(), follows=follows)
        if n == rounds // 2:
            second.machine.step(-2 * LEASE.total_seconds())
            await fleet.start(follows=follows)
            first.engine.stop()
    await fleet.until(lambda: len(fleet.sent) == deliveries, within=600)
    await fleet.passes(2 * fleet.latency)
