"""An engine over a real store, on a clock that moves when told and a sender that answers as scripted."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from tests.builders import make_delivery, make_group, make_task_change, make_webhook
from tests.contract.backends import data_on
from tests.fakes import FakeClock, NumberedChance, ScriptedSender

from gatepost.domain.deliveries import Delivery, Status
from gatepost.domain.errors import StoreUnavailable
from gatepost.domain.outcomes import Refused, Response
from gatepost.domain.tasks import TaskChange
from gatepost.domain.webhooks import Webhook, with_changes
from gatepost.engine.engine import Engine
from gatepost.engine.terms import Limits
from gatepost.ports import Saved

LEASE = timedelta(seconds=30)
TURNS_OF_QUIET = 15  # of the event loop, in which whatever was woken comes to ask the store
FAILED = Refused(Response(500, (), b"broken"))


class Watched:
    """A handle on the store that knows what it was asked, and how much of it is unanswered."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.calls: Counter[str] = Counter()
        self.unanswered = 0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            self.calls[name] += 1
            self.unanswered += 1
            try:
                return await method(*args, **kwargs)
            finally:
                self.unanswered -= 1

        return call


class Rig:
    """A store, a sender and an engine that can be started more than once."""

    def __init__(self, store: Any, clock: FakeClock) -> None:
        self.store = store
        self.clock = clock
        self.sender = ScriptedSender(clock)
        self.chance = NumberedChance(first=1 << 40)  # far from the ids that builders draw
        self.group = make_group()
        self.engine: Engine | None = None
        self._watched = Watched(store)
        self._running: asyncio.Task[None] | None = None

    async def start(self, store: Any = None, owner: str = "eng_1", *, max_in_flight: int = 8192) -> Engine:
        self._watched = Watched(store or self.store)
        self.engine = Engine(
            self._watched,
            self.sender,
            self.clock,
            self.chance,
            owner=owner,
            user_agent="Gatepost/test",
            limits=Limits(lease=LEASE, max_in_flight=max_in_flight),
        )
        self.store.on_queued = self.engine.hand_over
        self._running = asyncio.create_task(self.engine.run())
        return self.engine

    async def stop(self) -> None:
        if self.engine and self._running:
            self.engine.stop()
            await self.until(lambda: self._running is None or self._running.done())
            await self._running
        self._running = None

    async def abandon(self) -> None:
        """Stop, whatever the test left unanswered."""
        if self.engine:
            self.engine.stop()
            await asyncio.sleep(0.01)
            self.sender.settle_all()
            await self.stop()

    async def webhook(self, **changes: Any) -> Webhook:
        webhook = make_webhook(group_id=self.group.id, **changes)
        assert await self.store.add_webhook(self.group.id, webhook, quota=2000) is Saved.DONE
        return webhook

    async def emit(self, *webhooks: Webhook) -> list[Delivery]:
        return await self.emit_change(make_task_change(group_id=self.group.id, at=self.clock.now()), *webhooks)

    async def emit_change(self, change: TaskChange, *webhooks: Webhook) -> list[Delivery]:
        deliveries = [make_delivery(change.event, webhook) for webhook in webhooks]
        version = (await self.store.subscriptions(self.group.id)).version
        saved = await self.store.save_change(self.group.id, change, deliveries, webhooks_version=version)
        assert saved is Saved.DONE
        return deliveries

    async def until(self, condition: Callable[[], Any], *, step: float = 0.004) -> None:
        """Let the loop and the store's threads work, and time pass in small steps, until the condition holds."""
        for _ in range(3000):
            if condition():
                return
            await self._tick(step, pause=0.001)
        raise AssertionError("it never came about")

    async def quiet(self, seconds: float) -> None:
        """Let time pass in which nothing is expected."""
        for _ in range(20):
            await self._tick(seconds / 20, pause=0.002)

    async def lives(self, seconds: float, *, step: float = 0.25, stride: float = 120.0) -> None:
        """Let a long time pass: in small steps while the engine is busy, in strides while nothing is to be done."""
        ends = self.clock.boot() + seconds
        while (left := ends - self.clock.boot()) > 1e-6:
            self.clock.advance(min(step if self._is_busy else stride, left))
            await self.settled()

    @property
    def _is_busy(self) -> bool:
        lanes = self.engine._lanes.values() if self.engine else ()
        return any(lane.known or lane.look_again or lane.reading or lane.pokes is None for lane in lanes)

    async def settled(self) -> None:
        """Let everybody do whatever can be done without more time."""
        quiet = 0
        while quiet < TURNS_OF_QUIET:
            busy = self._watched.unanswered > 0
            await asyncio.sleep(0.0005 if busy else 0)
            quiet = 0 if busy else quiet + 1

    async def webhook_now(self, webhook: Webhook) -> Webhook:
        return await self.store.webhook(self.group.id, webhook.id)

    async def _tick(self, seconds: float, *, pause: float) -> None:
        """Let time pass, but not much of it while the store works, however slow this machine is."""
        self.clock.advance(seconds)
        await asyncio.sleep(pause)
        for _ in range(200):
            if not self._watched.unanswered:
                return
            await asyncio.sleep(0.001)

    async def status(self, delivery: Delivery) -> Status:
        return (await self.detail(delivery)).delivery.progress.status

    async def detail(self, delivery: Delivery) -> Any:
        return await self.store.delivery(self.group.id, delivery.webhook_id, delivery.id)

    async def until_status(self, delivery: Delivery, status: Status, *, step: float = 0.004) -> None:
        for _ in range(2000):
            if await self.status(delivery) is status:
                return
            await self._tick(step, pause=0.001)
        raise AssertionError(f"it is still {await self.status(delivery)}")


class FailingRecords:
    """The store, with one method that fails while it is told to."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.failing = False
        self.refused = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def record_attempts(self, batch: Sequence[Any]) -> set[str]:
        if self.failing:
            self.refused += 1
            raise StoreUnavailable("the disk is full")
        return await self._store.record_attempts(batch)


class SlowRecords:
    """The store, which writes no attempts down before it may."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.may_write = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def record_attempts(self, batch: Sequence[Any]) -> set[str]:
        await self.may_write.wait()
        return await self._store.record_attempts(batch)


class Damaged:
    """The store, some of whose webhooks cannot be read."""

    def __init__(self, store: Any, damaged: set[str]) -> None:
        self._store = store
        self._damaged = damaged

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def webhooks_to_serve(self, webhook_ids: Sequence[str]) -> dict[str, Webhook | None]:
        served = await self._store.webhooks_to_serve(webhook_ids)
        return {each: None if each in self._damaged else webhook for each, webhook in served.items()}


class Blinking:
    """The store, in which a webhook is disabled just when its lane was leased, and enabled again just after."""

    def __init__(self, rig: Rig, webhook: Webhook) -> None:
        self._rig = rig
        self._webhook = webhook
        self.blinked = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rig.store, name)

    async def webhooks_to_serve(self, webhook_ids: Sequence[str]) -> Any:
        if self.blinked:
            return await self._rig.store.webhooks_to_serve(webhook_ids)
        self.blinked = True
        await self._edit(enabled=False)
        served = await self._rig.store.webhooks_to_serve(webhook_ids)
        await self._edit(enabled=True)
        return served

    async def _edit(self, *, enabled: bool) -> None:
        self._webhook = with_changes(self._webhook, now=self._rig.clock.now(), enabled=enabled)
        assert await self._rig.store.save_webhook(self._rig.group.id, self._webhook) is Saved.DONE


class FailingOnce:
    """The store, one method of which fails the first time."""

    def __init__(self, store: Any, method: str) -> None:
        self._store = store
        self._method = method
        self.failed = False

    def __getattr__(self, name: str) -> Any:
        if name == self._method and not self.failed:
            self.failed = True
            return _unavailable
        return getattr(self._store, name)


class Unanswered:
    """The store, one method of which is done without an answer the first times."""

    def __init__(self, store: Any, method: str, times: int) -> None:
        self._store = store
        self._method = method
        self._times = times
        self.unanswered = 0
        self.asked: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        if name != self._method:
            return method

        async def lose_the_answer(*args: Any, **kwargs: Any) -> Any:
            self.asked.append(args)
            answer = await method(*args, **kwargs)
            if self.unanswered == self._times:
                return answer
            self.unanswered += 1
            raise StoreUnavailable("the connection is gone")

        return lose_the_answer


async def _unavailable(*_: Any, **__: Any) -> None:
    raise StoreUnavailable("the disk is full")


@asynccontextmanager
async def engine_rig(tmp_path: Path, *, on: str = "sqlite") -> AsyncIterator[Rig]:
    async with data_on(on, tmp_path) as backend, rig_on(await backend.open()) as rig:
        yield rig


@asynccontextmanager
async def rig_on(store: Any) -> AsyncIterator[Rig]:
    """Return a rig on a store that is open, and stays so."""
    rig = Rig(store, FakeClock())
    await store.add_group(rig.group)
    yield rig
    await rig.abandon()
