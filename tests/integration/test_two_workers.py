"""Two workers on one store, and whatever happens to them: each example is a story of emits, answers, outages, pauses,
deaths and clocks that are wrong. It ends well: the world heals, and nothing may then be owed or forgotten.

    pytest --hypothesis-profile nightly tests/integration/test_two_workers.py    # 2,000 stories
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Sequence
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.builders import accepted, refused, unreachable
from tests.integration.fleets import Fleet, Worker, fleet_on

from gatepost.domain.deliveries import Delivery, Status
from gatepost.domain.errors import StoreUnavailable
from gatepost.domain.webhooks import Webhook, with_changes
from gatepost.ports import LaneOutcomes, Leased, Saved

T = TypeVar("T")

WEBHOOKS = 3
MOST_WORKERS = 2
METHODS = ["record_attempts", "lease_lanes", "read_lanes", "renew_lanes", "release_lanes", "lane_marks", "sweep"]
MOST_MINUTES = 60  # that it may take until the last retry of the last delivery is made


class Fenced:
    """A handle on the store that can fail, and that sees who records what under which token."""

    def __init__(self, store: Any, tokens: Counter[str]) -> None:
        self._store = store
        self.tokens = tokens  # of each lane the highest that any worker has leased; one for all handles of a story
        self.failing: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        if name in self.failing:
            return _unavailable
        return getattr(self._store, name)

    async def lease_lanes(self, owner: str, *, limit: int, now: datetime, lease: timedelta) -> Leased:
        if "lease_lanes" in self.failing:
            raise StoreUnavailable("the connection is gone")
        leased = await self._store.lease_lanes(owner, limit=limit, now=now, lease=lease)
        for lane in leased.lanes:
            assert lane.token > self.tokens[lane.webhook_id], "two owners have one token"
            self.tokens[lane.webhook_id] = lane.token
        return leased

    async def record_attempts(self, batch: Sequence[LaneOutcomes]) -> set[str]:
        if "record_attempts" in self.failing:
            raise StoreUnavailable("the disk is full")
        taken_over = {each.webhook_id for each in batch if self.tokens[each.webhook_id] > each.token}
        lost: set[str] = await self._store.record_attempts(batch)
        assert taken_over <= lost, "an outcome was recorded for a lane that another worker had taken over"
        return lost


async def _unavailable(*_: Any, **__: Any) -> None:
    raise StoreUnavailable("the connection is gone")


class TwoWorkers(RuleBasedStateMachine):
    """One story."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = AsyncExitStack()
        self.tokens: Counter[str] = Counter()
        self.owed: list[Delivery] = []

    def do(self, doing: Awaitable[T]) -> T:
        async def done() -> T:
            return await doing

        return self.runner.run(done())

    @initialize()
    def begin(self) -> None:
        self.runner = asyncio.Runner()
        folder = self.stack.enter_context(TemporaryDirectory())
        self.fleet: Fleet = self.do(self.stack.enter_async_context(fleet_on("sqlite", Path(folder))))
        self.webhooks: list[Webhook] = self.do(self.fleet.webhooks(WEBHOOKS, max_concurrency=2))
        for _ in range(MOST_WORKERS):
            self.start(ahead=0.0)

    # --- what happens ----------------------------------------------------------------------------------------

    @rule(number=st.integers(0, WEBHOOKS - 1), count=st.integers(1, 4))
    def emit(self, number: int, count: int) -> None:
        for _ in range(count):
            self.owed += self.do(self.fleet.emit(self.webhooks[number]))

    @rule(seconds=st.sampled_from([0.2, 1.0, 6.0, 35.0, 400.0]))
    def time_passes(self, seconds: float) -> None:
        self.do(self.fleet.passes(seconds, step=max(seconds / 12, 0.05)))

    @rule(number=st.integers(0, WEBHOOKS - 1), answer=st.sampled_from(["200", "503", "nothing"]))
    def receiver_answers(self, number: int, answer: str) -> None:
        outcome = {"200": accepted(), "503": refused(503), "nothing": unreachable()}[answer]
        for worker in self.fleet.workers:
            worker.sender.script(self.webhooks[number].target.url, outcome)

    @rule(latency=st.sampled_from([0.0, 0.5, 20.0]))
    def receivers_take_their_time(self, latency: float) -> None:
        self.fleet.latency = latency

    @rule(ahead=st.sampled_from([0.0, 45.0, -45.0]))
    def start(self, ahead: float) -> None:
        if len(self.alive()) < MOST_WORKERS:
            self.do(self.fleet.start(ahead=ahead, around=lambda store: Fenced(store, self.tokens)))

    @rule(which=st.integers(0, 1), seen=st.booleans())
    def kill(self, which: int, seen: bool) -> None:
        if worker := self.one_of(which):
            self.do(self.fleet.kill(worker, seen=seen))

    @rule(which=st.integers(0, 1), seconds=st.sampled_from([5.0, 40.0]), blind=st.booleans(), answered=st.booleans())
    def freeze(self, which: int, seconds: float, blind: bool, answered: bool) -> None:
        """Stop a process with requests under way, and let it go on: perhaps before it can see what others did."""
        self.owed += self.do(self.fleet.emit(*self.webhooks))
        self.time_passes(0.2)
        if worker := self.one_of(which):
            worker.is_paused = True
            self.time_passes(seconds)
            if blind:
                worker.between.failing = {"renew_lanes", "lane_marks", "lease_lanes"}
            if answered:
                worker.sender.settle_all()
            self.do(self.fleet.resume(worker))
            self.time_passes(1.0)

    @rule(which=st.integers(0, 1), step=st.sampled_from([-90.0, -5.0, 5.0, 90.0]))
    def clock_steps(self, which: int, step: float) -> None:
        if worker := self.one_of(which):
            worker.machine.step(step)

    @rule(
        which=st.integers(0, 1),
        failing=st.sets(st.sampled_from(METHODS)),
    )
    def store_fails(self, which: int, failing: set[str]) -> None:
        if worker := self.one_of(which):
            worker.between.failing = failing

    @rule(number=st.integers(0, WEBHOOKS - 1))
    def webhook_is_disabled_or_enabled(self, number: int) -> None:
        webhook = self.webhooks[number]
        edited = with_changes(webhook, now=self.fleet.server.now(), enabled=not webhook.enabled)
        assert self.do(self.fleet.api.save_webhook(self.fleet.group.id, edited)) is Saved.DONE
        self.webhooks[number] = edited

    # --- what holds all the time -----------------------------------------------------------------------------

    @invariant()
    def nobody_has_died_of_a_bug(self) -> None:
        for worker in self.fleet.workers:
            if worker.task.done() and not worker.task.cancelled():
                worker.task.result()

    # --- how it ends -----------------------------------------------------------------------------------------

    def teardown(self) -> None:
        if not hasattr(self, "fleet"):
            return
        try:
            self.heal()
            self.do(self.everything_ends())
            for delivery in self.owed:
                self.check(delivery)
        finally:
            self.do(self.stack.aclose())
            self.runner.close()

    def heal(self) -> None:
        self.fleet.latency = 0.0
        for number, webhook in enumerate(self.webhooks):
            self.receiver_answers(number, "200")
            if not webhook.enabled:
                self.webhook_is_disabled_or_enabled(number)
        for worker in self.alive():
            worker.between.failing = set()
        self.start(ahead=0.0)

    async def everything_ends(self) -> None:
        for _ in range(MOST_MINUTES):
            await self.fleet.passes(60.0, step=5.0)
            if not await self.fleet.unfinished():
                return

    def check(self, delivery: Delivery) -> None:
        found = self.do(self.fleet.api.delivery(self.fleet.group.id, delivery.webhook_id, delivery.id))
        progress = found.delivery.progress
        assert progress.status in (Status.DELIVERED, Status.DEAD_LETTER), "undelivered and forgotten"
        numbers = [attempt.number for attempt in found.attempts if not attempt.probe]
        assert numbers == list(range(1, progress.attempt_count + 1)), "an outcome is missing, or there twice"

    def alive(self) -> list[Worker]:
        return [worker for worker in self.fleet.workers if worker.is_alive]

    def one_of(self, which: int) -> Worker | None:
        alive = self.alive()
        return alive[which] if which < len(alive) else None


TestTwoWorkers = pytest.mark.timeout(3_600)(TwoWorkers.TestCase)
TestTwoWorkers.settings = settings(max_examples=max(settings().max_examples, 100), stateful_step_count=20)
