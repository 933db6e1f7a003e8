"""Every kind of change that tasks, swaps and events can go through, each ready to be written, or to be broken off."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from tests.builders import GROUP_ID, make_delivery, make_event, make_occasion, make_swap, make_task_change
from tests.contract.steps import add_task, assigned_pair, propose, proposed, save
from tests.fakes import NOW

from gatepost.domain import swaps, tasks
from gatepost.domain.deliveries import Delivery
from gatepost.domain.events import Event
from gatepost.domain.tasks import Task, TaskChange
from gatepost.domain.webhooks import Webhook
from gatepost.ports import Saved
from gatepost.stores import Store

Write = Callable[[Store], Awaitable[Saved]]


@dataclass(frozen=True)
class Prepared:
    """A change of one kind that nothing stands against."""

    kind: str
    write: Write


KINDS = (
    "created",
    "updated",
    "started",
    "completed",
    "approved",
    "rejected",
    "deleted",
    "swap_proposed",
    "swap_approved",
    "swap_rejected",
    "published",
)


class Changes:
    """Prepares changes, whose events are owed to all of these webhooks."""

    def __init__(self, store: Store, webhooks: Sequence[Webhook]) -> None:
        self._store = store
        self._webhooks = webhooks

    async def prepare(self, kind: str) -> Prepared:
        """Return a change of tasks of its own."""
        write: Write = await getattr(self, f"_{kind}")()
        return Prepared(kind, write)

    async def _created(self) -> Write:
        return await self._saving(make_task_change(assigned_to="usr_ada"))

    async def _updated(self) -> Write:
        change = tasks.update(await self._task(), {"title": "Cut the roses"}, make_occasion())
        assert change is not None
        return await self._saving(change)

    async def _started(self) -> Write:
        return await self._saving(tasks.start(await self._task(), make_occasion()))

    async def _completed(self) -> Write:
        return await self._saving(tasks.complete(await self._task(), make_occasion()))

    async def _approved(self) -> Write:
        return await self._saving(tasks.approve(await self._completed_task(), make_occasion()))

    async def _rejected(self) -> Write:
        return await self._saving(tasks.reject(await self._completed_task(), "too dry", make_occasion()))

    async def _deleted(self) -> Write:
        deletion = tasks.delete(await self._task(), make_occasion())
        return lambda store: store.delete_task(GROUP_ID, deletion)

    async def _swap_proposed(self) -> Write:
        swap = make_swap(*await assigned_pair(self._store))
        return lambda store: store.add_swap(GROUP_ID, swap)

    async def _swap_approved(self) -> Write:
        pair = await assigned_pair(self._store)
        approval = swaps.approve(await propose(self._store, *pair), *pair, make_occasion())
        owed, version = self._owed(approval.event), await self._version()
        return lambda store: store.approve_swap(GROUP_ID, approval, owed, webhooks_version=version)

    async def _swap_rejected(self) -> Write:
        swap, _ = await proposed(self._store)
        rejected = swaps.reject(swap, "usr_boss", now=NOW)
        return lambda store: store.reject_swap(GROUP_ID, rejected)

    async def _published(self) -> Write:
        event = make_event(event="order.paid", tasks=())
        owed, version = self._owed(event), await self._version()
        return lambda store: store.publish(GROUP_ID, event, owed, webhooks_version=version)

    async def _saving(self, change: TaskChange) -> Write:
        owed, version = self._owed(change.event), await self._version()
        return lambda store: store.save_change(GROUP_ID, change, owed, webhooks_version=version)

    async def _task(self) -> Task:
        return await add_task(self._store, assigned_to="usr_ada")

    async def _completed_task(self) -> Task:
        change = tasks.complete(await self._task(), make_occasion())
        assert await save(self._store, change) is Saved.DONE
        return change.task

    def _owed(self, event: Event) -> list[Delivery]:
        return [make_delivery(event, webhook) for webhook in self._webhooks]

    async def _version(self) -> int:
        return (await self._store.subscriptions(GROUP_ID)).version
