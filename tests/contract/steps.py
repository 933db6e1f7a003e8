"""What contract tests do before they get to their point. Each step asserts that it went well."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from tests.builders import (
    GROUP_ID,
    make_delivery,
    make_occasion,
    make_outcomes,
    make_progress,
    make_settled,
    make_swap,
    make_task_change,
    make_user,
    make_webhook,
    refused,
)
from tests.contract.backends import Store
from tests.fakes import NOW

from gatepost.domain import swaps, tasks
from gatepost.domain.deliveries import Delivery, QueuedDelivery
from gatepost.domain.events import Event
from gatepost.domain.groups import Role
from gatepost.domain.outcomes import Outcome
from gatepost.domain.people import User
from gatepost.domain.swaps import Swap, SwapApproval
from gatepost.domain.tasks import Task, TaskChange
from gatepost.domain.webhooks import Webhook, with_changes
from gatepost.ports import DeliveryDetail, LaneAsk, LaneRead, LeasedLane, Position, Reading, Release, Saved, Settled

LEASE = timedelta(seconds=30)
SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
ADA, EVE = "owner-ada", "owner-eve"


async def add_user(store: Store, **changes: Any) -> User:
    user = make_user(**changes)
    assert await store.add_user(user) is Saved.DONE
    return user


async def add_member(store: Store, role: Role, group_id: str = GROUP_ID, **changes: Any) -> User:
    """Add a person who belongs to a group."""
    user = await add_user(store, **changes)
    assert await store.add_member(group_id, user.id, role, now=NOW) is Saved.DONE
    return user


async def add_webhook(store: Store, group_id: str = GROUP_ID, **changes: Any) -> Webhook:
    webhook = make_webhook(group_id=group_id, **changes)
    assert await store.add_webhook(group_id, webhook, quota=1_000) is Saved.DONE
    return webhook


async def edit_webhook(store: Store, webhook: Webhook, *, now: datetime = NOW, **changes: Any) -> Webhook:
    edited = with_changes(webhook, now=now, **changes)
    assert await store.save_webhook(webhook.group_id, edited) is Saved.DONE
    return edited


async def save(store: Store, change: TaskChange, *deliveries: Delivery) -> Saved:
    """Save a change, matched against the webhooks as they are now."""
    group_id = change.task.group_id
    version = (await store.subscriptions(group_id)).version
    return await store.save_change(group_id, change, deliveries, webhooks_version=version)


async def add_task(store: Store, **fields: Any) -> Task:
    change = make_task_change(**fields)
    assert await save(store, change) is Saved.DONE
    return change.task


async def assigned_pair(store: Store) -> tuple[Task, Task]:
    """Add two tasks, of Ada and of Eve."""
    return await add_task(store, assigned_to="usr_ada"), await add_task(store, assigned_to="usr_eve")


async def propose(store: Store, task: Task, with_task: Task, **changes: Any) -> Swap:
    swap = make_swap(task, with_task, **changes)
    assert await store.add_swap(swap.group_id, swap) is Saved.DONE
    return swap


async def proposed(store: Store) -> tuple[Swap, SwapApproval]:
    """Propose a swap of two new tasks, and return it with its approval, which is not saved."""
    task, with_task = await assigned_pair(store)
    swap = await propose(store, task, with_task)
    return swap, swaps.approve(swap, task, with_task, make_occasion(at=NOW + SECOND, actor_id="usr_boss"))


async def save_approval(store: Store, approval: SwapApproval, *deliveries: Delivery) -> Saved:
    """Save an approval, matched against the webhooks as they are now."""
    group_id = approval.swap.group_id
    version = (await store.subscriptions(group_id)).version
    return await store.approve_swap(group_id, approval, deliveries, webhooks_version=version)


async def publish(store: Store, event: Event, *deliveries: Delivery) -> Saved:
    """Publish an event, matched against the webhooks as they are now."""
    version = (await store.subscriptions(event.group_id)).version
    return await store.publish(event.group_id, event, deliveries, webhooks_version=version)


async def emit(store: Store, *webhooks: Webhook, at: datetime = NOW, due_at: datetime | None = None) -> list[Delivery]:
    """Create a task whose event is owed to these webhooks, due at once or when it is said."""
    change = make_task_change(at=at, group_id=webhooks[0].group_id)
    progress = make_progress(next_attempt_at=due_at or at)
    deliveries = [make_delivery(change.event, webhook, progress=progress) for webhook in webhooks]
    assert await save(store, change, *deliveries) is Saved.DONE
    return deliveries


async def emit_one(store: Store, webhook: Webhook, **moments: datetime) -> Delivery:
    (delivery,) = await emit(store, webhook, **moments)
    return delivery


async def emit_many(store: Store, webhook: Webhook, count: int) -> list[Delivery]:
    """Emit more than fits into any one statement, page or commit of a store."""
    return list(await asyncio.gather(*(emit_one(store, webhook) for _ in range(count))))


async def lease(store: Store, owner: str = ADA, *, now: datetime = NOW, limit: int = 100) -> dict[str, LeasedLane]:
    leased = await store.lease_lanes(owner, limit=limit, now=now, lease=LEASE)
    return {lane.webhook_id: lane for lane in leased.lanes}


async def lease_one(store: Store, webhook: Webhook, owner: str = ADA, *, now: datetime = NOW) -> LeasedLane:
    return (await lease(store, owner, now=now))[webhook.id]


async def happen(store: Store, webhook: Webhook, task: Task, *, times: int) -> list[Delivery]:
    """Change a task some times, and return what the webhook is owed for it."""
    deliveries = []
    for n in range(times):
        change = tasks.update(task, {"title": f"{task.version}.{n}"}, make_occasion())
        assert change is not None
        deliveries.append(make_delivery(change.event, webhook))
        assert await save(store, change, deliveries[-1]) is Saved.DONE
        task = change.task
    return deliveries


async def read(
    store: Store,
    webhook: Webhook,
    *,
    now: datetime = NOW,
    limit: int = 100,
    reading: Reading = Reading.DUE,
    look_at: int = 50,
    onward_from: Position | None = None,
) -> LaneRead:
    ask = LaneAsk(limit, reading, look_at, onward_from)
    return (await store.read_lanes({webhook.id: ask}, now=now))[webhook.id]


async def read_one(store: Store, webhook: Webhook, *, now: datetime = NOW) -> QueuedDelivery:
    (queued,) = (await read(store, webhook, now=now)).deliveries
    return queued


async def release(store: Store, lane: LeasedLane, *, pokes: int) -> bool:
    given_back = await store.release_lanes([Release(lane.webhook_id, lane.token, pokes)])
    assert given_back <= {lane.webhook_id}
    return lane.webhook_id in given_back


async def hand_back(store: Store, lane: LeasedLane) -> bool:
    """Give a lane back as it is, for others to take."""
    return await store.release_lanes([Release(lane.webhook_id, lane.token, None)]) == {lane.webhook_id}


async def give_back(store: Store, webhook: Webhook, lane: LeasedLane, *, now: datetime = NOW) -> None:
    """Release a lane as its owner does: look at it a last time, then let go."""
    assert await release(store, lane, pokes=(await read(store, webhook, now=now)).pokes)


async def webhook_due_at(store: Store, due_at: datetime) -> Webhook:
    """Add a webhook that was tried, and failed, and whose lane was given back until its retry at this moment."""
    webhook = await add_webhook(store)
    await emit_one(store, webhook)
    leased = await lease(store)
    failed = make_settled(await read_one(store, webhook), refused())
    retried = replace(failed, progress=replace(failed.progress, next_attempt_at=due_at))
    await record_settled(store, leased[webhook.id], retried)
    for webhook_id, lane in leased.items():
        assert await release(store, lane, pokes=await pokes_of(store, webhook_id))
    return webhook


async def leased_with_one(store: Store) -> tuple[Webhook, LeasedLane, Delivery, QueuedDelivery]:
    """Return a webhook, its lane leased, and its one delivery, as listed and as read."""
    webhook = await add_webhook(store)
    delivery = await emit_one(store, webhook)
    lane = await lease_one(store, webhook)
    return webhook, lane, delivery, await read_one(store, webhook)


async def pokes_of(store: Store, webhook_id: str) -> int:
    return (await store.read_lanes({webhook_id: LaneAsk(1)}, now=NOW))[webhook_id].pokes


async def record(
    store: Store, lane: LeasedLane, queued: QueuedDelivery, outcome: Outcome, *, at: datetime = NOW, **changes: Any
) -> set[str]:
    """Record the next attempt of a delivery."""
    return await record_settled(store, lane, make_settled(queued, outcome, at=at), **changes)


async def record_settled(store: Store, lane: LeasedLane, *settled: Settled, **changes: Any) -> set[str]:
    return await store.record_attempts([make_outcomes(lane, settled, **changes)])


async def detail(store: Store, delivery: Delivery | QueuedDelivery) -> DeliveryDetail:
    found = await store.delivery(delivery.group_id, delivery.webhook_id, delivery.id)
    assert found is not None
    return found


def taking(handed: list[QueuedDelivery]) -> Callable[[Sequence[QueuedDelivery]], set[str]]:
    """Return what takes all deliveries that it is handed, as an engine that holds every lane does."""

    def take(queued: Sequence[QueuedDelivery]) -> set[str]:
        handed.extend(queued)
        return set()

    return take


def ids(items: Sequence[Any]) -> list[str]:
    return [item.id for item in items]
