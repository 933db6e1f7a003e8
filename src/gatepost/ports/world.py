"""Time, chance, the network, and what the engine is told."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from gatepost.domain.network import Target
from gatepost.domain.outcomes import Outcome


class Clock(Protocol):
    """The only clock."""

    def now(self) -> datetime:
        """Return the wall clock, aware, UTC, corrected towards the store's."""

    def boot(self) -> float:
        """Return seconds since boot; never steps, and counts time spent suspended."""

    async def wait(self, event: asyncio.Event, timeout: timedelta) -> bool:
        """Wait until the event is set, or the time is up; say whether it is set."""

    async def sleep(self, length: timedelta) -> None:
        """Wait until the time is up."""


class Chance(Protocol):
    """The only source of chance."""

    def new_id(self, prefix: str) -> str:
        """Return ``{prefix}_`` + a UUIDv7 as 32 hex digits; later ones of one process sort later."""

    def draw(self) -> float:
        """Return a number in [0, 1)."""

    def key_bytes(self, length: int) -> bytes:
        """Return bytes fit for a secret."""

    def repeatable(self, seed: bytes, at: datetime) -> "Chance":
        """Return chance that comes out the same for the same seed and moment; its ids sort as those of that moment."""


@dataclass(frozen=True, slots=True)
class Draws:
    """What one request draws: its moment, and its chance. They are the same when it is repeated under its key."""

    at: datetime
    chance: Chance


class Passwords(Protocol):
    """Hashes passwords, slowly on purpose and off the event loop."""

    async def hash(self, password: str) -> str:
        """Return a salted hash that tells how it was made."""

    async def verify(self, password: str, password_hash: str | None) -> bool:
        """Say whether it is the password; without a hash say no, after the same work."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """The request was not sent: its lease would have run out before it left."""


@dataclass(slots=True, eq=False)
class Outgoing:
    """One request to make.

    Units: `timeout` spans DNS, connect, TLS, sending, head and body. `start_before` gives a moment of `Clock.boot`;
           past it the request is dropped unsent. It is asked when the request leaves, from the sender's own thread.
    Shape: `settle(result, started, duration)` is called once, on the event loop's thread, with the start as a
           moment of `Clock.boot` and the duration in seconds.
    """

    target: Target
    headers: Sequence[tuple[str, str]]
    body: bytes
    timeout: float
    start_before: Callable[[], float]
    settle: Callable[[Outcome | Dropped, float, float], None]


class Sender(Protocol):
    """Makes HTTP requests: every address checked and pinned, one deadline, no redirects, response capped."""

    def submit(self, batch: Sequence[Outgoing]) -> None:
        """Start the requests; every one is settled once, whatever happens."""

    async def close(self) -> None:
        """Give up what is in flight, unsettled, and stop."""


class TimeSource(Protocol):
    """A clock that all processes of one store have in common."""

    async def server_time(self) -> datetime | None:
        """Return the clock of the store's server; None when the store has none but this machine's."""


class EngineHints(Protocol):
    """What the rest of the process may tell the engine, to save it a look. Correctness never rests on it."""

    def webhook_changed(self, webhook_id: str) -> None:
        """Read a webhook's configuration again before anything more is sent to it."""
