"""The engine's view of the store.

A lane is the queue of one webhook, leased by one owner at a time; `token` rises with each lease and fences every write
made under it. `docs/delivery-protocol.md` has the argument.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import NamedTuple, Protocol

from gatepost.domain.deliveries import Attempt, Progress, QueuedDelivery
from gatepost.domain.events import Event
from gatepost.domain.health import WELL, Condition
from gatepost.domain.operator_events import Disabling
from gatepost.domain.webhooks import Webhook


@dataclass(frozen=True, slots=True)
class LeasedLane:
    """A lane that is ours until its lease ends.

    Shape: `unclean` counts the owners in a row that lost it without releasing it; `window` and `condition` are the last
           ones kept.
    """

    webhook_id: str
    token: int
    pokes: int
    unclean: int
    window: int
    condition: Condition = WELL


class LaneMark(NamedTuple):
    """What tells an owner whether there is a reason to look again: at the configuration, or at the deliveries."""

    config_version: int
    pokes: int


@dataclass(frozen=True, slots=True)
class Leased:
    """The lanes just leased, and when the next one that nobody holds will be due, as far as hints can tell."""

    lanes: Sequence[LeasedLane]
    next_due_at: datetime | None


class Reading(Enum):
    """What is read of a lane."""

    DUE = "due"  # what is unfinished and due, the longest due first
    IN_ORDER = "in order"  # of that, what has nothing unfinished before it among the events of its tasks, replays apart
    PROBE = "probe"  # what is unfinished, due or not, unless its receiver asked us to wait; the longest due first
    PROBE_IN_ORDER = "probe in order"  # of that, what could start in order


class Position(NamedTuple):
    """A place in a lane's queue, which stands in the order of due times and, of the same time, of ids."""

    due_at: datetime
    delivery_id: str


class LaneAsk(NamedTuple):
    """What to read of a lane, and how many deliveries at most.

    Shape: `look_at` and `onward_from` are for what is read in order: at how many deliveries to look at once, and from
           where on, beside the head of the queue.
    """

    limit: int
    reading: Reading = Reading.DUE
    look_at: int = 1
    onward_from: Position | None = None


@dataclass(frozen=True, slots=True)
class LaneRead:
    """What a lane held when it was read: the poke counter first, then what was due.

    Shape: `deliveries` in the order of their due time; `next_due_at` is when the next one after them is due, or, in
           order, the next one that is not due yet. `looked_to`, in order only, is where to go on looking; None when
           all that is due was looked at to its end.
    """

    token: int
    pokes: int
    deliveries: Sequence[QueuedDelivery]
    next_due_at: datetime | None
    looked_to: Position | None = None


@dataclass(frozen=True, slots=True)
class Settled:
    """One attempt and what it means for its delivery, and for others.

    Shape: `progress` is None for a failed probe, which moves nothing; `amends` when the attempt of this number was
           written ahead of sending and is now replaced; `given_up` tells that its delivery was, and is told if this
           attempt moves it; `of_health` tells how its webhook is.
    """

    delivery: QueuedDelivery
    attempt: Attempt
    progress: Progress | None
    amends: bool = False
    given_up: Event | None = None
    of_health: Event | None = None
    disabling: Disabling | None = None


@dataclass(frozen=True, slots=True)
class LaneOutcomes:
    """The settled attempts of one lane under one lease.

    Shape: `window` and `condition` are kept for the lane's next owner; `held_until` is until when nobody leases it,
           None when it is not held by its owner.
    """

    webhook_id: str
    token: int
    window: int
    settled: Sequence[Settled]
    condition: Condition = WELL
    held_until: datetime | None = None
    enabled_at: datetime | None = None  # the last time that its owner knows of: a condition from before is not kept


@dataclass(frozen=True, slots=True)
class Release:
    """A lane to give back, if its token and its poke counter are still those.

    Shape: without `pokes` it is handed back as it is, due at once, for another owner to take.
    """

    webhook_id: str
    token: int
    pokes: int | None


@dataclass(frozen=True, slots=True)
class Renewal:
    """The lanes that turned out lost, and how many of the others are more than the owner's share."""

    lost: set[str]
    surplus: int


class LaneStore(Protocol):
    """What the engine asks of the store."""

    async def join(self, owner: str, *, now: datetime) -> None:
        """Make an owner known as alive. Leases of owners known to be dead end at once, where that can be known."""

    async def retire(self, owner: str) -> None:
        """Count an owner no more in what others may have: it leases nothing from now on, but finishes what it has."""

    async def leave(self, owner: str) -> None:
        """Forget an owner; whatever it still held can be leased at once."""

    async def lease_lanes(self, owner: str, *, limit: int, now: datetime, lease: timedelta) -> Leased:
        """Lease lanes that are due, not held, and not leased; each gets a new token. Longest due first.

        A lane that is just being written to may be passed over until the next time.

        A lease that ended before `now` is none, nor is one further ahead than twice its length (a clock stepped
        back). Taking over a lane that its owner did not release adds 1 to `unclean`. While other owners are alive an
        owner gets no more than its share: the lanes that are due or leased, held ones apart, divided by the owners,
        rounded up, and one more. Alive is who was seen within a lease, and still a quarter of one after it joined: a
        process that dies again and again as it starts is left no lanes that nobody would serve.
        """

    async def read_lanes(self, asked: Mapping[str, LaneAsk], *, now: datetime) -> Mapping[str, LaneRead]:
        """Read unfinished deliveries of each lane: which ones, `Reading` says.

        In order a read looks at no more than `look_at` deliveries at the head of the queue, and as many from
        `onward_from` on. So it costs the same however much waits there, and whoever goes on from `looked_to` sees all.
        """

    async def record_attempts(self, batch: Sequence[LaneOutcomes]) -> set[str]:
        """Write attempts and progress of every lane whose token still stands; return the lanes lost.

        At most one attempt is ever kept for (delivery, number), and progress moves only from the attempt before
        it; what is there already counts as recorded. `unclean` goes back to 0, `window` is kept, and so is `condition`,
        unless the webhook was enabled again since, and `held_until`, unless it was that, or disabled. Failed probes
        move nothing; the newest 20 of a delivery are kept beside its attempts. Of a discarded delivery only success is
        kept. An attempt the store cannot hold is written without its response, as `internal_error`; its neighbours are
        not touched.

        In the same write: the operator events, owed to the webhooks of the group that want them then, but never to the
        one of the lane; and the end of a webhook that is to be disabled, unless it was enabled after the attempt began.
        """

    async def renew_lanes(self, owner: str, tokens: Mapping[str, int], *, now: datetime, lease: timedelta) -> Renewal:
        """Extend the leases that still have these tokens. Shows the owner to be alive."""

    async def release_lanes(self, releases: Sequence[Release]) -> set[str]:
        """Give lanes back by compare-and-set on token and poke counter; return those given back.

        Their due time becomes the earliest next attempt of what is unfinished, never if there is nothing. Of lanes
        handed back, which compare the token only, it stays what it was when they were leased, or poked since.
        """

    async def lane_marks(self, webhook_ids: Sequence[str]) -> Mapping[str, LaneMark]:
        """Return the mark of each webhook that is neither deleted nor disabled."""

    async def webhooks_to_serve(self, webhook_ids: Sequence[str]) -> Mapping[str, Webhook | None]:
        """Return each webhook that is neither deleted nor disabled; None for one that is damaged at rest."""

    async def sweep(self, *, now: datetime) -> int:
        """Poke lanes that hold due deliveries but are not due themselves, held ones excepted; return how many.

        Lanes that are held until a moment absurdly far ahead, but not for ever, are let go.
        What deleted webhooks were still owed becomes dead, with its reason, once nobody holds their lanes.
        """
