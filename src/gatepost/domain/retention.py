"""How long what is finished is kept. What is unfinished is kept for as long as it takes."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum


class Kept(Enum):
    """What is kept for a while."""

    BODIES = "bodies"  # and heads of what receivers answered to deliveries that are finished
    DELIVERIES = "deliveries"  # that got through, with their attempts
    DEAD_LETTERS = "dead letters"  # with their attempts
    EVENTS = "events"  # that no delivery is left of
    REPLAYS = "bulk replays"  # that have ended
    STATS = "stats"


@dataclass(frozen=True, slots=True)
class Retention:
    """How long each is kept: deliveries and what belongs to them from when they were finished."""

    bodies: timedelta = timedelta(days=7)
    deliveries: timedelta = timedelta(days=30)
    dead_letters: timedelta = timedelta(days=90)
    stats: timedelta = timedelta(days=90)

    def expired(self, *, now: datetime) -> Sequence[tuple[Kept, datetime]]:
        """Return what may go, each with the moment that it has to be from before, in the order to go in.

        Events come after the deliveries of them. An event is kept as long as a delivery of it would be: it may be
        replayed until then, and after that for as long as a delivery of it is left. What a bulk replay has made may
        outlive it.

        >>> from datetime import UTC
        >>> expired = dict(Retention().expired(now=datetime(2026, 11, 23, tzinfo=UTC)))
        >>> expired[Kept.EVENTS].isoformat()
        '2026-10-24T00:00:00+00:00'
        """
        return (
            (Kept.BODIES, now - self.bodies),
            (Kept.DELIVERIES, now - self.deliveries),
            (Kept.DEAD_LETTERS, now - self.dead_letters),
            (Kept.EVENTS, now - self.deliveries),
            (Kept.REPLAYS, now - self.deliveries),
            (Kept.STATS, now - self.stats),
        )


DEFAULT_RETENTION = Retention()


def first_id(prefix: str, at: datetime) -> str:
    """Return an id that sorts before all that are drawn from a moment on, and after all that were drawn before it.

    >>> from datetime import UTC
    >>> first_id("dlv", datetime(2026, 11, 23, tzinfo=UTC))
    'dlv_01a205b3d00000000000000000000000'
    """
    return f"{prefix}_{int(at.timestamp() * 1000) << 80:032x}"
