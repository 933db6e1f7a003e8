"""Everything the core asks of the world. Each docstring is a promise; `tests/contract` holds adapters to it."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Generic, NamedTuple, Protocol, TypeVar

from gatepost.domain.deliveries import Attempt, Delivery, Outcome, Progress, QueuedDelivery, Status
from gatepost.domain.events import Event
from gatepost.domain.groups import ApiKey, Group
from gatepost.domain.network import Target
from gatepost.domain.tasks import HistoryEntry, Task, TaskChange, TaskStatus
from gatepost.domain.webhooks import Subscription, Webhook

T = TypeVar("T")

# --- time and chance -----------------------------------------------------------------------------------------


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


# --- sending -------------------------------------------------------------------------------------------------


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


# --- storing -------------------------------------------------------------------------------------------------
# Methods raise StoreUnavailable when the store cannot be reached or written; nothing is then half-written.


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A page of a list, newest first; pass `next_cursor` as `before` to get the one after, None at the end."""

    items: Sequence[T]
    next_cursor: str | None


class Saved(Enum):
    """How a conditional write ended. Whatever is not DONE has changed nothing."""

    DONE = "done"
    STALE = "stale"  # the version expected is not the one stored
    WEBHOOKS_MOVED = "webhooks_moved"  # a webhook of the group was written since its events were matched
    EXISTS = "exists"
    QUOTA_EXCEEDED = "quota_exceeded"


@dataclass(frozen=True, slots=True)
class Subscriptions:
    """What a group's webhooks ask for; `version` changes with every write of any of them."""

    version: int
    items: tuple[Subscription, ...]


@dataclass(frozen=True, slots=True)
class TaskQuery:
    """Which tasks to list; None asks nothing."""

    status: TaskStatus | None = None
    assigned_to: str | None = None


@dataclass(frozen=True, slots=True)
class DeliveryQuery:
    """Which deliveries to list; None asks nothing. `created_from` is inclusive, `created_to` exclusive."""

    webhook_id: str | None = None
    status: Status | None = None
    event: str | None = None
    task_id: str | None = None
    created_from: datetime | None = None
    created_to: datetime | None = None


@dataclass(frozen=True, slots=True)
class DeliveryDetail:
    """A delivery with all that is kept of it; the event is None once its bytes are gone."""

    delivery: Delivery
    event: Event | None
    attempts: Sequence[Attempt]


class AccountStore(Protocol):
    """Groups and their API keys."""

    async def add_group(self, group: Group) -> Saved:
        """Add a group: DONE, or EXISTS when the name is taken."""

    async def group_named(self, name: str) -> Group | None:
        """Return the group of that name."""

    async def add_key(self, group_id: str, key: ApiKey) -> None:
        """Add an API key to a group."""

    async def key(self, key_id: str) -> ApiKey | None:
        """Return a key, revoked or not."""

    async def touch_keys(self, used_at: Mapping[str, datetime]) -> None:
        """Raise the last use of each key to the moment given; never lower it."""


class TaskStore(Protocol):
    """Tasks, their history and the events that changes of them emit."""

    async def task(self, group_id: str, task_id: str) -> Task | None:
        """Return a task of this group."""

    async def history(self, group_id: str, task_id: str) -> Sequence[HistoryEntry]:
        """Return the history of a task of this group, oldest first."""

    async def tasks(self, group_id: str, query: TaskQuery, *, limit: int, before: str | None) -> Page[Task]:
        """Return the group's tasks, newest first."""

    async def save_change(
        self, group_id: str, change: TaskChange, deliveries: Sequence[Delivery], *, webhooks_version: int
    ) -> Saved:
        """Write the task, its history entry, its event and the event's deliveries: all of them or nothing.

        DONE; STALE unless the stored task has `change.expected_version` (0: there is none);
        WEBHOOKS_MOVED unless the group's subscriptions still have `webhooks_version`. Asked again with the same
        ids after a doubtful end, the same change is written once. When it is DONE the lanes of the deliveries
        are poked, and the deliveries handed to this process's engine before the caller goes on.
        """


class WebhookStore(Protocol):
    """Webhooks as people configure them. Header values and secrets are sealed at rest."""

    async def subscriptions(self, group_id: str) -> Subscriptions:
        """Return what the group's webhooks ask for, disabled ones too, deleted ones not."""

    async def webhook(self, group_id: str, webhook_id: str) -> Webhook | None:
        """Return a webhook of this group that is not deleted."""

    async def webhooks(self, group_id: str, *, limit: int, before: str | None) -> Page[Webhook]:
        """Return the group's webhooks that are not deleted, newest first."""

    async def add_webhook(self, group_id: str, webhook: Webhook, *, quota: int) -> Saved:
        """Add a webhook and its lane: DONE, or QUOTA_EXCEEDED when the group has `quota` live ones."""

    async def save_webhook(self, group_id: str, webhook: Webhook) -> Saved:
        """Write an edited webhook: DONE, or STALE unless the stored version is one below `config_version`.

        Its lane is held while it is disabled, freed when it is enabled, and poked.
        """

    async def delete_webhook(self, group_id: str, webhook_id: str, *, now: datetime) -> Saved:
        """Delete a webhook softly: DONE, or STALE when there is none. Its lane is held until the sweep buries
        what it was still owed."""


class DeliveryLog(Protocol):
    """Deliveries as people look at them."""

    async def deliveries(
        self, group_id: str, query: DeliveryQuery, *, limit: int, before: str | None
    ) -> Page[Delivery]:
        """Return the group's deliveries, newest first."""

    async def delivery(self, group_id: str, webhook_id: str, delivery_id: str) -> DeliveryDetail | None:
        """Return a delivery of this webhook of this group, its attempts in the order they were made."""

    async def add_replay(self, group_id: str, delivery: Delivery) -> Saved:
        """Add a new delivery of a stored event: DONE, or STALE when the event is gone. Pokes and hands over."""

    async def add_test(self, group_id: str, event: Event, delivery: Delivery, attempt: Attempt) -> None:
        """Write a test send that is over: its event, its finished delivery and its one attempt."""


# --- the engine's view of the store --------------------------------------------------------------------------
# A lane is the queue of one webhook, leased by one owner at a time; `token` rises with each lease and fences
# every write made under it. `docs/delivery-protocol.md` has the argument.


@dataclass(frozen=True, slots=True)
class LeasedLane:
    """A lane that is ours until its lease ends.

    Shape: `unclean` counts the owners in a row that lost it without releasing it; `window` is the last one kept.
    """

    webhook_id: str
    token: int
    pokes: int
    unclean: int
    window: int


class LaneMark(NamedTuple):
    """What tells an owner whether there is a reason to look again: at the configuration, or at the deliveries."""

    config_version: int
    pokes: int


@dataclass(frozen=True, slots=True)
class Leased:
    """The lanes just leased, and when the next one that nobody holds will be due, as far as hints can tell."""

    lanes: Sequence[LeasedLane]
    next_due_at: datetime | None


@dataclass(frozen=True, slots=True)
class LaneRead:
    """What a lane held when it was read: the poke counter first, then what was due.

    Shape: `deliveries` in the order of their due time; `next_due_at` is when the next one after them is due.
    """

    token: int
    pokes: int
    deliveries: Sequence[QueuedDelivery]
    next_due_at: datetime | None


@dataclass(frozen=True, slots=True)
class Settled:
    """One attempt and what it means for its delivery.

    Shape: `amends` when the attempt of this number was written ahead of sending and is now replaced.
    """

    delivery: QueuedDelivery
    attempt: Attempt
    progress: Progress
    amends: bool = False


@dataclass(frozen=True, slots=True)
class LaneOutcomes:
    """The settled attempts of one lane under one lease; `window` is kept for the lane's next owner."""

    webhook_id: str
    token: int
    window: int
    settled: Sequence[Settled]


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

    async def read_lanes(self, limits: Mapping[str, int], *, now: datetime) -> Mapping[str, LaneRead]:
        """Read up to so many due, unfinished deliveries of each lane, the longest due first."""

    async def record_attempts(self, batch: Sequence[LaneOutcomes]) -> set[str]:
        """Write attempts and progress of every lane whose token still stands; return the lanes lost.

        At most one attempt is ever kept for (delivery, number), and progress moves only from the attempt before
        it; what is there already counts as recorded. `unclean` goes back to 0, `window` is kept. An attempt the
        store cannot hold is written without its response, as `internal_error`; its neighbours are not touched.
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

        What deleted webhooks were still owed becomes dead, with its reason, once nobody holds their lanes.
        """


class TimeSource(Protocol):
    """A clock that all processes of one store have in common."""

    async def server_time(self) -> datetime | None:
        """Return the clock of the store's server; None when the store has none but this machine's."""


class EngineHints(Protocol):
    """What the rest of the process may tell the engine, to save it a look. Correctness never rests on it."""

    def webhook_changed(self, webhook_id: str) -> None:
        """Read a webhook's configuration again before anything more is sent to it."""
