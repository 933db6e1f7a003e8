"""Stand-ins for time, chance and the network: they keep the promises of the ports, and do nothing unasked."""

import asyncio
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from hashlib import shake_128

from gatepost.domain.outcomes import Accepted, Outcome, Response
from gatepost.ports import Dropped, Outgoing

NOW = datetime(2026, 11, 23, 12, 34, 56, 789_000, tzinfo=UTC)


class FakeClock:
    """A clock that stands still until it is told to move."""

    def __init__(self, now: datetime = NOW, boot: float = 1_000.0) -> None:
        self._now = now
        self._boot = boot
        self._alarms: list[tuple[float, asyncio.Task[bool]]] = []

    def now(self) -> datetime:
        return self._now

    def boot(self) -> float:
        return self._boot

    async def wait(self, event: asyncio.Event, timeout: timedelta) -> bool:
        if event.is_set() or timeout <= timedelta(0):
            await asyncio.sleep(0)
            return event.is_set()
        waiting = asyncio.ensure_future(event.wait())
        alarm = (self._boot + timeout.total_seconds(), waiting)
        self._alarms.append(alarm)
        try:
            await asyncio.wait([waiting])
        finally:
            waiting.cancel()
            self._alarms.remove(alarm)
        return event.is_set()

    async def sleep(self, length: timedelta) -> None:
        await self.wait(asyncio.Event(), length)

    @property
    def next_alarm(self) -> float | None:
        """Seconds until the first of those who wait gives up; None when nobody waits."""
        return min((deadline - self._boot for deadline, _ in self._alarms), default=None)

    def advance(self, seconds: float) -> None:
        """Let time pass; whoever waited until then is woken when the loop next turns."""
        self._now += timedelta(seconds=seconds)
        self._boot += seconds
        for deadline, waiting in self._alarms:
            if deadline <= self._boot:
                waiting.cancel()

    def step(self, seconds: float) -> None:
        """Set the wall clock forward or back, as an operator would: `boot` does not move, nobody is woken."""
        self._now += timedelta(seconds=seconds)


class NumberedChance:
    """Ids that count upwards in the shape of UUIDv7; the number drawn is always `drawn`."""

    def __init__(self, first: int = 1, drawn: float = 0.0) -> None:
        self._next = first
        self.drawn = drawn

    def new_id(self, prefix: str) -> str:
        return f"{prefix}_{self._count():012x}70008{0:015x}"

    def draw(self) -> float:
        return self.drawn

    def key_bytes(self, length: int) -> bytes:
        return shake_128(b"key %d" % self._count()).digest(length)

    def repeatable(self, seed: bytes, at: datetime) -> "NumberedChance":
        return NumberedChance(int.from_bytes(seed[:4], "big"), self.drawn)

    def _count(self) -> int:
        number = self._next
        self._next += 1
        return number


class ScriptedSender:
    """A sender that sends nothing: it keeps each request and settles it as scripted.

    Shape: outcomes are looked up by delivery id, then by URL, then `otherwise`; the last one of a script
           repeats. What is held is settled by `settle` only; all else when the loop next turns.
    """

    def __init__(self, clock: FakeClock, *, otherwise: Outcome | Dropped | None = None) -> None:
        self._clock = clock
        self._otherwise = otherwise or Accepted(Response(204, (), b""))
        self._scripts: dict[str, deque[Outcome | Dropped]] = {}
        self._held: set[str] = set()
        self._started_at: dict[Outgoing, float] = {}
        self.sent: list[Outgoing] = []
        self.sent_at: list[float] = []  # of each that was sent, in seconds of `boot`
        self.in_flight: list[Outgoing] = []
        self.is_closed = False

    def script(self, url_or_delivery_id: str, *outcomes: Outcome | Dropped) -> None:
        """Say how the next requests to a URL, or for a delivery, end."""
        self._scripts[url_or_delivery_id] = deque(outcomes)

    def hold(self, url_or_delivery_id: str = "*") -> None:
        """Leave requests to a URL, for a delivery, or all (``*``) unanswered until they are settled."""
        self._held.add(url_or_delivery_id)

    def unhold(self, url_or_delivery_id: str = "*") -> None:
        """Answer what comes from now on at once again; what is in flight stays there."""
        self._held.discard(url_or_delivery_id)

    def submit(self, batch: Sequence[Outgoing]) -> None:
        if self.is_closed:
            raise RuntimeError("the sender is closed")
        loop = asyncio.get_running_loop()
        for outgoing in batch:
            if self._clock.boot() > outgoing.start_before():
                loop.call_soon(outgoing.settle, Dropped(), self._clock.boot(), 0.0)
                continue
            self._started_at[outgoing] = self._clock.boot()
            self.sent_at.append(self._clock.boot())
            self.sent.append(outgoing)
            self.in_flight.append(outgoing)
            if self._held.isdisjoint(("*", outgoing.target.url, delivery_id_of(outgoing))):
                loop.call_soon(self._settle_if_open, outgoing)

    def settle(self, outgoing: Outgoing, result: Outcome | Dropped | None = None) -> None:
        """End a request that is in flight: as given, else as scripted."""
        self.in_flight.remove(outgoing)
        started_at = self._started_at.pop(outgoing)
        result = result or self._scripted(outgoing)
        outgoing.settle(result, started_at, self._clock.boot() - started_at)

    def settle_all(self, result: Outcome | Dropped | None = None) -> None:
        """End everything that is in flight, in the order it was sent."""
        for outgoing in list(self.in_flight):
            self.settle(outgoing, result)

    async def close(self) -> None:
        self.is_closed = True
        self.in_flight.clear()

    def sent_to(self, url: str) -> list[Outgoing]:
        """List the requests made to a URL, in order."""
        return [outgoing for outgoing in self.sent if outgoing.target.url == url]

    def _settle_if_open(self, outgoing: Outgoing) -> None:
        if outgoing in self.in_flight:
            self.settle(outgoing)

    def _scripted(self, outgoing: Outgoing) -> Outcome | Dropped:
        for name in (delivery_id_of(outgoing), outgoing.target.url):
            if script := self._scripts.get(name):
                return script.popleft() if len(script) > 1 else script[0]
        return self._otherwise


def header_of(outgoing: Outgoing, name: str) -> str | None:
    """Return the first value of a header of a request, whatever the case of its name."""
    return next((value for key, value in outgoing.headers if key.lower() == name.lower()), None)


def delivery_id_of(outgoing: Outgoing) -> str:
    """Return the id of the delivery that a request was made for."""
    return header_of(outgoing, "X-Gatepost-Delivery") or ""
