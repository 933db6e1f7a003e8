"""The clock that follows the store's server, on a machine whose own clock is wrong."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

import pytest
from structlog.testing import capture_logs
from tests.fakes import NOW, FakeClock

from gatepost.adapters.system import FollowedClock
from gatepost.domain.errors import StoreUnavailable

HALF_A_MINUTE = timedelta(seconds=30)
SECOND = timedelta(seconds=1)


class Server:
    """A store's server, each of whose answers takes as long as it is told; it looks at its clock half-way."""

    def __init__(self, machine: FakeClock, *, ahead: timedelta) -> None:
        self._machine = machine
        self.ahead = ahead
        self.takes = [0.0]
        self.asked = 0
        self.failing = False

    @property
    def now(self) -> datetime:
        return NOW + timedelta(seconds=self._machine.boot() - 1_000.0) + self.ahead

    async def time(self) -> datetime:
        if self.failing:
            raise StoreUnavailable("it is gone")
        takes = self.takes[self.asked % len(self.takes)]
        self.asked += 1
        self._machine.advance(takes / 2)
        now = self.now
        self._machine.advance(takes / 2)
        return now


@pytest.fixture
def machine() -> FakeClock:
    return FakeClock()


@pytest.fixture
def server(machine: FakeClock) -> Server:
    return Server(machine, ahead=HALF_A_MINUTE)


async def no_clock() -> None:
    return None


async def test_an_answer_that_took_long_does_not_replace_a_good_one(machine: FakeClock, server: Server) -> None:
    clock = FollowedClock(machine)
    await clock.sample(server.time)

    server.takes = [2.0]
    server.ahead += SECOND
    await clock.sample(server.time)
    assert clock.now() == machine.now() + HALF_A_MINUTE

    server.takes = [0.0]
    await clock.sample(server.time)
    assert clock.now() == machine.now() + HALF_A_MINUTE + SECOND


async def test_an_answer_that_took_long_is_better_than_none(machine: FakeClock, server: Server) -> None:
    clock = FollowedClock(machine)
    server.takes = [2.0]

    await clock.sample(server.time)

    assert clock.now() == machine.now() + HALF_A_MINUTE


def test_before_the_first_sample_it_is_the_machines(machine: FakeClock) -> None:
    clock = FollowedClock(machine)

    machine.advance(5)

    assert (clock.now(), clock.boot()) == (machine.now(), machine.boot())


async def test_now_is_the_servers_and_goes_on_between_samples(machine: FakeClock, server: Server) -> None:
    clock = FollowedClock(machine)

    await clock.sample(server.time)
    machine.advance(12.345)

    assert clock.now() == server.now
    assert clock.now() - machine.now() == HALF_A_MINUTE


async def test_a_step_of_the_machines_clock_does_not_matter(machine: FakeClock, server: Server) -> None:
    clock = FollowedClock(machine)
    await clock.sample(server.time)

    machine.step(-7200)

    assert clock.now() == server.now


async def test_the_answer_that_took_the_least_is_followed_from_its_middle(machine: FakeClock, server: Server) -> None:
    clock = FollowedClock(machine)
    moments = iter([5.0, 0.25, 0.0])  # what its answers are wrong by: only the second came quickly
    server.takes = [4.0, 0.2, 3.0]

    async def ask() -> datetime:
        return await server.time() + timedelta(seconds=next(moments))

    await clock.sample(ask)

    assert clock.now() == server.now + timedelta(seconds=0.25)


async def test_now_has_no_more_than_a_store_keeps(machine: FakeClock, server: Server) -> None:
    clock = FollowedClock(machine)
    await clock.sample(server.time)

    machine.advance(0.123_456)

    assert clock.now().microsecond % 1000 == 0
    assert timedelta(0) <= server.now - clock.now() < timedelta(milliseconds=1)


async def test_a_store_without_a_clock_of_its_own_leaves_it_to_the_machine(machine: FakeClock) -> None:
    clock = FollowedClock(machine)

    await clock.sample(no_clock)
    machine.step(100)

    assert clock.now() == machine.now()


async def test_a_server_that_does_not_answer_leaves_the_clock_as_it_was(machine: FakeClock, server: Server) -> None:
    clock = FollowedClock(machine)
    await clock.sample(server.time)
    server.failing = True

    with pytest.raises(StoreUnavailable):
        await clock.sample(server.time)

    assert clock.now() == server.now


async def test_it_samples_each_minute_and_sooner_after_a_failure(machine: FakeClock, server: Server) -> None:
    clock = FollowedClock(machine)
    with capture_logs() as logs:
        keeping = asyncio.create_task(clock.keep(server.time))
        await passes(machine, 59)
        assert server.asked == 0
        await passes(machine, 2)
        assert clock.now() == server.now
        server.failing = True
        await passes(machine, 60)
        server.failing = False
        server.ahead = -HALF_A_MINUTE  # an operator has set its clock
        await passes(machine, 5)
        keeping.cancel()

    assert clock.now() == server.now
    assert [entry["step"] for entry in logs if entry["event"] == "store.failed"] == ["clock"]


async def test_operators_are_told_of_a_difference_once_until_it_changes(machine: FakeClock, server: Server) -> None:
    clock = FollowedClock(machine)

    async def told(ahead: timedelta, ask: Callable[[], Awaitable[datetime | None]] = server.time) -> list[float]:
        server.ahead = ahead
        with capture_logs() as logs:
            await clock.sample(ask)
        return [entry["ahead_seconds"] for entry in logs if entry["event"] == "clock.differs"]

    assert await told(1.9 * SECOND) == []
    assert await told(30 * SECOND) == [-30.0]
    assert await told(31 * SECOND) == []
    assert await told(-10 * SECOND) == [10.0]
    assert await told(0 * SECOND) == []
    assert await told(-10 * SECOND) == [10.0]


async def passes(machine: FakeClock, seconds: int) -> None:
    for _ in range(seconds):
        machine.advance(1)
        for _ in range(5):
            await asyncio.sleep(0)
