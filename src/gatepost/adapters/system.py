"""The only clock, the only ids and the only chance."""

import asyncio
import hmac
import os
import random
import threading
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import structlog

from gatepost.domain.errors import StoreUnavailable
from gatepost.ports import Clock

_POOL_BYTES = 4096  # of chance asked from the kernel at once: a system call for each id costs more than the id
_SAMPLE_EVERY = timedelta(minutes=1)
_SAMPLE_AGAIN = timedelta(seconds=5)  # when the store could not be asked
_EXACT_SECONDS = 0.1  # a sample can be off by half the time that its answer took; a lease has a fifth to spare
_ASKED_PER_SAMPLE = 3
_WORTH_TELLING = timedelta(seconds=2)

log = structlog.get_logger()


class SystemClock:
    """The machine's clock.

    Shape: `now` is cut to whole milliseconds, so that what a store keeps equals what is held in memory.
    """

    def now(self) -> datetime:
        return _whole_ms(datetime.now(UTC))

    def boot(self) -> float:
        return _boot()

    async def wait(self, event: asyncio.Event, timeout: timedelta) -> bool:
        try:
            async with asyncio.timeout(timeout.total_seconds()):
                await event.wait()
        except TimeoutError:
            pass
        return event.is_set()

    async def sleep(self, length: timedelta) -> None:
        await asyncio.sleep(length.total_seconds())


class FollowedClock:
    """The clock of the store's server, kept going by this machine's boot clock between samples.

    Leases and due times are moments that several machines compare, so all of them go by one clock. Steps of this
    machine's own do not matter; a step of the server's is followed at the next sample.
    Shape: until the first sample, and on a store that has no clock of its own, it is the machine's.
    """

    def __init__(self, machine: Clock | None = None) -> None:
        self._machine = machine or SystemClock()
        self._sampled: tuple[datetime, float] | None = None  # the server's clock, and ours of boot at that moment
        self._is_exact = True
        self._told = timedelta(0)

    def now(self) -> datetime:
        sampled = self._sampled  # read once: other threads ask too
        if sampled is None:
            return self._machine.now()
        server_at, boot = sampled
        return _whole_ms(server_at + timedelta(seconds=self._machine.boot() - boot))

    def boot(self) -> float:
        return self._machine.boot()

    async def wait(self, event: asyncio.Event, timeout: timedelta) -> bool:
        return await self._machine.wait(event, timeout)

    async def sleep(self, length: timedelta) -> None:
        await self._machine.sleep(length)

    async def sample(self, ask: Callable[[], Awaitable[datetime | None]]) -> None:
        """Ask for the server's clock, and follow the answer that says it most exactly.

        An answer that took long says little: it is followed only while there is none.
        Raises: whatever `ask` raises; what was followed before is then followed further.
        """
        answers = []
        for _ in range(_ASKED_PER_SAMPLE):
            asked = self._machine.boot()
            server_at = await ask()
            if server_at is None:
                return
            answers.append((self._machine.boot() - asked, asked, server_at))
        # The server looked at its clock somewhere between question and answer: in the middle, as far as we can know.
        took, asked, server_at = min(answers)
        self._is_exact = took / 2 <= _EXACT_SECONDS
        if self._is_exact or self._sampled is None:
            self._sampled = server_at, asked + took / 2
            self._tell_difference()

    async def keep(self, ask: Callable[[], Awaitable[datetime | None]]) -> None:
        """Sample once a minute, for as long as it is let run; outlive a failing store."""
        while True:
            await self.sleep(_SAMPLE_EVERY if self._is_exact else _SAMPLE_AGAIN)
            try:
                await self.sample(ask)
            except StoreUnavailable as error:
                log.warning("store.failed", step="clock", reason=error.detail)
                self._is_exact = False

    def _tell_difference(self) -> None:
        ahead = self._machine.now() - self.now()
        if abs(ahead) <= _WORTH_TELLING:
            self._told = timedelta(0)
        elif abs(ahead - self._told) > _WORTH_TELLING:
            self._told = ahead
            log.warning("clock.differs", ahead_seconds=round(ahead.total_seconds(), 1))


class SystemChance:
    """Ids and chance from the kernel."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pool = b""
        self._used = 0
        self._last_stamp = 0

    def new_id(self, prefix: str) -> str:
        """Return a fresh id. Source: RFC 9562, section 5.7; the counter is method 1 of section 6.2."""
        with self._lock:
            # 48 bits of milliseconds and 12 of counter as one number: it rises even when the clock steps back,
            # and runs into the next millisecond after 4,096 ids.
            stamp = self._last_stamp = max(time.time_ns() // 1_000_000 << 12, self._last_stamp + 1)
            tail = self._eight_bytes() & 0x3FFF_FFFF_FFFF_FFFF
        value = stamp >> 12 << 80 | 0x7 << 76 | (stamp & 0xFFF) << 64 | 0x2 << 62 | tail
        return f"{prefix}_{value:032x}"

    def draw(self) -> float:
        return random.random()

    def key_bytes(self, length: int) -> bytes:
        return os.urandom(length)

    def repeatable(self, seed: bytes, at: datetime) -> "SeededChance":
        """Return chance that comes of the seed."""
        return SeededChance(seed, at)

    def _eight_bytes(self) -> int:
        if self._used == len(self._pool):
            self._pool, self._used = os.urandom(_POOL_BYTES), 0
        self._used += 8
        return int.from_bytes(self._pool[self._used - 8 : self._used], "big")


class SeededChance:
    """Chance that is the same for the same seed and moment: HKDF's expansion, asked for one output after the other.

    Source: RFC 5869, section 2.3, with the number of the draw as its info.
    """

    def __init__(self, seed: bytes, at: datetime) -> None:
        self._seed = seed
        self._milliseconds = int(at.timestamp() * 1000)
        self._drawn = 0

    def new_id(self, prefix: str) -> str:
        """Return the next id: a UUIDv7 of the moment, whose 12 bits of counter are the number of the draw."""
        tail = int.from_bytes(self.key_bytes(8), "big") & 0x3FFF_FFFF_FFFF_FFFF
        value = self._milliseconds << 80 | 0x7 << 76 | (self._drawn & 0xFFF) << 64 | 0x2 << 62 | tail
        return f"{prefix}_{value:032x}"

    def draw(self) -> float:
        return int.from_bytes(self.key_bytes(7), "big") / (1 << 56)

    def key_bytes(self, length: int) -> bytes:
        self._drawn += 1
        block, made = b"", b""
        for number in range(1, -(-length // 32) + 1):
            block = hmac.digest(self._seed, block + b"%d" % self._drawn + bytes([number]), "sha256")
            made += block
        return made[:length]

    def repeatable(self, seed: bytes, at: datetime) -> "SeededChance":
        return SeededChance(seed, at)


def _whole_ms(moment: datetime) -> datetime:
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def _boot() -> float:
    # Linux: goes on while the machine is suspended. Elsewhere the monotonic clock is the nearest there is.
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
