"""What makes it cheap to ask at every request who is asking: short trust in what was read, and seldom written uses."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import Generic, TypeVar

from gatepost.domain.errors import StoreUnavailable
from gatepost.ports import Clock

TRUST_SECONDS = 1.0  # what another process revoked lives on here no longer than this
MOST_TRUSTED = 1024
TOUCH_INTERVAL = timedelta(minutes=1)

T = TypeVar("T")


class Trusted(Generic[T]):
    """What was read of the store, by id: believed for a second, and no longer once it is known to have changed."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._held: OrderedDict[str, tuple[T, float]] = OrderedDict()
        self._changes = 0

    async def get(self, item_id: str, read: Callable[[str], Awaitable[T | None]]) -> T | None:
        """Return what is held, else what is read; what is not there is not remembered."""
        now = self._clock.boot()
        held = self._held.get(item_id)
        if held is not None and now < held[1]:
            return held[0]
        changes = self._changes
        item = await read(item_id)
        if item is None:
            self._held.pop(item_id, None)
        elif changes == self._changes:  # else it may have been read before the change
            self._hold(item_id, item, until=now + TRUST_SECONDS)
        return item

    def forget(self, is_concerned: Callable[[T], bool]) -> None:
        """Read these again at the next question. To be called after the change was written."""
        self._changes += 1
        for item_id in [item_id for item_id, (item, _) in self._held.items() if is_concerned(item)]:
            del self._held[item_id]

    def _hold(self, item_id: str, item: T, *, until: float) -> None:
        self._held[item_id] = (item, until)
        self._held.move_to_end(item_id)
        if len(self._held) > MOST_TRUSTED:
            self._held.popitem(last=False)


class LastUses:
    """When something was used last: written at most once a minute, and beside the request that used it."""

    def __init__(self, clock: Clock, write: Callable[[Mapping[str, datetime]], Awaitable[None]]) -> None:
        self._clock = clock
        self._write = write
        self._noted: OrderedDict[str, datetime] = OrderedDict()
        self._waiting: dict[str, datetime] = {}
        self._writing: asyncio.Task[None] | None = None

    def note(self, item_id: str, *, known: datetime | None) -> None:
        """Note that something is being used whose last use, as the store has it, was `known`."""
        now = self._clock.now()
        last = max(filter(None, (known, self._noted.get(item_id))), default=None)
        if last is not None and now - last < TOUCH_INTERVAL:
            return
        self._noted[item_id] = self._waiting[item_id] = now
        self._noted.move_to_end(item_id)
        if len(self._noted) > MOST_TRUSTED:
            self._noted.popitem(last=False)
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_waiting())

    async def close(self) -> None:
        """Write what is still waiting."""
        if self._writing is not None:
            await self._writing

    async def _write_waiting(self) -> None:
        while self._waiting:
            uses, self._waiting = self._waiting, {}
            try:
                await self._write(uses)
            except StoreUnavailable:
                return  # a last use is worth no more than one attempt; the next one comes within a minute
