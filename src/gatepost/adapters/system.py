"""The only clock, the only ids and the only chance."""

import asyncio
import os
import random
import threading
import time
from datetime import UTC, datetime, timedelta

_POOL_BYTES = 4096  # of chance asked from the kernel at once: a system call for each id costs more than the id


class SystemClock:
    """The machine's clock.

    Shape: `now` is cut to whole milliseconds, so that what a store keeps equals what is held in memory.
    """

    def now(self) -> datetime:
        moment = datetime.now(UTC)
        return moment.replace(microsecond=moment.microsecond // 1000 * 1000)

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

    def _eight_bytes(self) -> int:
        if self._used == len(self._pool):
            self._pool, self._used = os.urandom(_POOL_BYTES), 0
        self._used += 8
        return int.from_bytes(self._pool[self._used - 8 : self._used], "big")


def _boot() -> float:
    # Linux: goes on while the machine is suspended. Elsewhere the monotonic clock is the nearest there is.
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
