"""Tasks, swaps, and the events that come of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from gatepost.domain.deliveries import Delivery
from gatepost.domain.events import Event
from gatepost.domain.swaps import Swap, SwapApproval, SwapStatus
from gatepost.domain.tasks import HistoryEntry, Task, TaskChange, TaskDeletion, TaskStatus
from gatepost.domain.webhooks import Subscription
from gatepost.ports.results import Page, Saved


@dataclass(frozen=True, slots=True)
class TaskQuery:
    """Which tasks to list; None asks nothing."""

    status: TaskStatus | None = None
    assigned_to: str | None = None
    text: str | None = None  # that title, description or external id contain, whatever its case


@dataclass(frozen=True, slots=True)
class EventQuery:
    """Which events to list; None asks nothing."""

    event: str | None = None
    task_id: str | None = None


@dataclass(frozen=True, slots=True)
class RoutedWebhook:
    """A webhook as an event found it.

    Shape: `name` is today's; `subscription` is None when it was not there yet; `delivery_id` is that of the event's
           first delivery to it, replays apart, None when it got none.
    """

    webhook_id: str
    name: str
    subscription: Subscription | None
    delivery_id: str | None


@dataclass(frozen=True, slots=True)
class Routing:
    """An event and every webhook that its group had then, or has had since and still has, newest first."""

    event: Event
    webhooks: Sequence[RoutedWebhook]


class TaskStore(Protocol):
    """Tasks, their history and the events that changes of them emit."""

    async def task(self, group_id: str, task_id: str) -> Task | None:
        """Return a task of this group that is not deleted."""

    async def history(self, group_id: str, task_id: str) -> Sequence[HistoryEntry]:
        """Return the history of a task of this group, oldest first; of a deleted one too."""

    async def tasks(self, group_id: str, query: TaskQuery, *, limit: int, before: str | None) -> Page[Task]:
        """Return the group's tasks that are not deleted, newest first."""

    async def save_change(
        self, group_id: str, change: TaskChange, deliveries: Sequence[Delivery], *, webhooks_version: int
    ) -> Saved:
        """Write the task, its history entry, its event and the event's deliveries: all of them or nothing.

        DONE; STALE unless the stored task has `change.expected_version` (0: there is none);
        WEBHOOKS_MOVED unless the group's subscriptions still have `webhooks_version`. Asked again with the same
        ids after a doubtful end, the same change is written once. When it is DONE the lanes of the deliveries
        are poked, and the deliveries handed to this process's engine before the caller goes on.
        """

    async def delete_task(self, group_id: str, deletion: TaskDeletion) -> Saved:
        """Delete a task softly, and write its last line of history: both or nothing.

        DONE; STALE unless the stored task has `deletion.expected_version`. Its id is never free again.
        """


class SwapStore(Protocol):
    """Swaps of two tasks."""

    async def add_swap(self, group_id: str, swap: Swap) -> Saved:
        """Add a pending swap.

        DONE, also when this very swap is there already; STALE unless both tasks still have the versions that it names;
        EXISTS when one of them is in another pending swap.
        """

    async def swap(self, group_id: str, swap_id: str) -> Swap | None:
        """Return a swap of this group."""

    async def swaps(self, group_id: str, status: SwapStatus | None, *, limit: int, before: str | None) -> Page[Swap]:
        """Return the group's swaps, of one status or of any, newest first."""

    async def approve_swap(
        self, group_id: str, approval: SwapApproval, deliveries: Sequence[Delivery], *, webhooks_version: int
    ) -> Saved:
        """Write the swap, both tasks, their history, the event and its deliveries: all of them or nothing.

        DONE; EXISTS unless the swap is still pending; STALE unless both tasks still have the version below theirs;
        WEBHOOKS_MOVED, repeats, pokes and handing over as `TaskStore.save_change`. Nobody ever reads one of the tasks
        as it was before and the other as it is after.
        """

    async def reject_swap(self, group_id: str, swap: Swap) -> Saved:
        """Write a rejected swap: DONE, or EXISTS unless the stored one is still pending. Its tasks are free again."""


class EventStore(Protocol):
    """Events, whoever caused them."""

    async def publish(
        self, group_id: str, event: Event, deliveries: Sequence[Delivery], *, webhooks_version: int
    ) -> Saved:
        """Write an event that belongs to no task, and its deliveries: all of them or nothing.

        DONE; EXISTS, with nothing written, when the group has an event of this id; otherwise as
        `TaskStore.save_change`.
        """

    async def events(self, group_id: str, query: EventQuery, *, limit: int, before: str | None) -> Page[Event]:
        """Return the group's events, newest first, those that matched no webhook too.

        Newest is by creation; `before` and `next_cursor` are opaque to callers.
        """

    async def routing(self, group_id: str, event_id: str) -> Routing | None:
        """Return what the group's webhooks asked for when an event was written, as far as it is kept."""
