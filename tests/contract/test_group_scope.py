"""Every method that takes a group first sees and changes that group only."""

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Protocol

import pytest
from tests.builders import (
    GROUP_ID,
    accepted,
    make_attempt,
    make_delivery,
    make_event,
    make_group,
    make_job,
    make_key,
    make_occasion,
    make_progress,
    make_task_change,
    make_webhook,
    new_id,
)
from tests.contract.backends import Store
from tests.contract.steps import (
    HOUR,
    add_member,
    add_webhook,
    detail,
    emit_one,
    lease_one,
    pokes_of,
    proposed,
    publish,
    read_one,
    record,
    save,
)
from tests.fakes import NOW

from gatepost import ports
from gatepost.domain import swaps, tasks
from gatepost.domain.deliveries import Delivery, replayed
from gatepost.domain.events import Event
from gatepost.domain.groups import ApiKey, Role
from gatepost.domain.people import User
from gatepost.domain.replays import ReplayFilter, ReplayJob
from gatepost.domain.stats import BUCKET, Bucket, start_of_bucket
from gatepost.domain.swaps import Swap, SwapApproval
from gatepost.domain.tasks import Task
from gatepost.domain.webhooks import Webhook, with_changes
from gatepost.ports import DeliveryQuery, EventQuery, Page, Saved, StatsQuery, TaskQuery

PORTS = [port for port in vars(ports).values() if Protocol in getattr(port, "__bases__", ())]
NOTHING = Page(items=[], next_cursor=None)
LATER = NOW + timedelta(seconds=1)


@dataclass(frozen=True)
class Belongings:
    """What one group has, and a strange group asks for."""

    person: User
    key: ApiKey
    task: Task
    webhook: Webhook
    event: Event
    delivery: Delivery
    job: ReplayJob
    swap: Swap
    approval: SwapApproval


@pytest.fixture
async def theirs(store: Store) -> Belongings:
    person, key, webhook = await add_member(store, Role.OWNER), make_key(), await add_webhook(store)
    await store.add_key(GROUP_ID, key)
    await send_one(store, webhook)
    change = make_task_change()
    delivery = make_delivery(change.event, webhook)
    await save(store, change, delivery)
    job = make_job(webhook)
    await store.add_job(GROUP_ID, job)
    return Belongings(person, key, change.task, webhook, change.event, delivery, job, *await proposed(store))


async def send_one(store: Store, webhook: Webhook) -> None:
    """Leave behind a delivery that is finished, and was counted."""
    await emit_one(store, webhook)
    lane = await lease_one(store, webhook)
    assert await record(store, lane, await read_one(store, webhook), accepted()) == set()


@pytest.fixture
async def stranger(store: Store) -> str:
    group = make_group(name="strangers")
    await store.add_group(group)
    return group.id


def methods_by_group() -> set[str]:
    return {
        name
        for port in PORTS
        for name, method in inspect.getmembers(port, inspect.isfunction)
        if not name.startswith("_") and list(inspect.signature(method).parameters)[1:2] == ["group_id"]
    }


async def start_their_task(store: Store, stranger: str, theirs: Belongings) -> object:
    change = tasks.start(theirs.task, make_occasion())
    version = (await store.subscriptions(stranger)).version
    return await store.save_change(stranger, change, [], webhooks_version=version)


async def ask_for_itself(store: Store, stranger: str, theirs: Belongings) -> object:
    group = await store.group(stranger)
    return group and group.id == stranger


async def let_their_person_in(store: Store, stranger: str, theirs: Belongings) -> object:
    await store.add_member(stranger, theirs.person.id, Role.MEMBER, now=NOW)
    member = await store.member(stranger, theirs.person.id)
    return member and member.group_id == stranger


async def add_a_key(store: Store, stranger: str, theirs: Belongings) -> object:
    key = make_key(group_id=stranger)
    await store.add_key(stranger, key)
    return await store.key(key.id) == key


async def subscribe_to_nothing(store: Store, stranger: str, theirs: Belongings) -> object:
    return list((await store.subscriptions(stranger)).items)


async def propose_their_swap(store: Store, stranger: str, theirs: Belongings) -> object:
    return await store.add_swap(stranger, replace(theirs.swap, id=new_id("swp"), group_id=stranger))


async def approve_their_swap(store: Store, stranger: str, theirs: Belongings) -> object:
    version = (await store.subscriptions(stranger)).version
    return await store.approve_swap(stranger, theirs.approval, [], webhooks_version=version)


async def publish_under_their_id(store: Store, stranger: str, theirs: Belongings) -> object:
    return await publish(store, make_event(id=theirs.event.id, group_id=stranger, tasks=(), body=b"{}"))


async def replay_their_event(store: Store, stranger: str, theirs: Belongings) -> object:
    replay = replayed(theirs.delivery, new_id("dlv"), max_attempts=3, now=NOW)
    return await store.add_replay(stranger, replace(replay, group_id=stranger))


async def count_their_deliveries(store: Store, stranger: str, theirs: Belongings) -> object:
    found = await store.count_replayable(stranger, theirs.webhook.id, ReplayFilter(), now=LATER, sample=5)
    return found.count, list(found.sample)


async def counted(store: Store, group: str, theirs: Belongings) -> Page[Bucket]:
    start = start_of_bucket(NOW, HOUR)
    asked = StatsQuery(start, start + HOUR, BUCKET, theirs.webhook.id)
    return await store.stats(group, asked, limit=10, most_read=100, before=None)


async def add_their_job(store: Store, stranger: str, theirs: Belongings) -> object:
    await store.add_job(stranger, replace(theirs.job, group_id=stranger, total=9))
    return await store.job(stranger, theirs.webhook.id, theirs.job.id)


async def send_a_test(store: Store, stranger: str, theirs: Belongings) -> object:
    webhook = await add_webhook(store, group_id=stranger)
    event = make_event(event="webhook.test", group_id=stranger, tasks=())
    delivery = make_delivery(event, webhook, progress=make_progress(next_attempt_at=None, finished_at=NOW))
    await store.add_test(stranger, event, delivery, make_attempt())
    return await store.delivery(GROUP_ID, webhook.id, delivery.id)


Call = Callable[[Store, str, Belongings], Awaitable[object]]

# What a strange group asks about somebody's belongings, and what it is told.
ASKED: dict[str, tuple[Call, object]] = {
    "task": (lambda store, group, theirs: store.task(group, theirs.task.id), None),
    "history": (lambda store, group, theirs: listed(store.history(group, theirs.task.id)), []),
    "tasks": (lambda store, group, theirs: paged(store.tasks(group, TaskQuery(), limit=10, before=None)), NOTHING),
    "save_change": (start_their_task, Saved.STALE),
    "delete_task": (
        lambda store, group, theirs: store.delete_task(group, tasks.delete(theirs.task, make_occasion())),
        Saved.STALE,
    ),
    "add_swap": (propose_their_swap, Saved.STALE),
    "swap": (lambda store, group, theirs: store.swap(group, theirs.swap.id), None),
    "swaps": (lambda store, group, theirs: paged(store.swaps(group, None, limit=10, before=None)), NOTHING),
    "approve_swap": (approve_their_swap, Saved.EXISTS),
    "reject_swap": (
        lambda store, group, theirs: store.reject_swap(group, swaps.reject(theirs.swap, "usr_eve", now=LATER)),
        Saved.EXISTS,
    ),
    "publish": (publish_under_their_id, Saved.DONE),
    "events": (
        lambda store, group, theirs: paged(
            store.events(group, EventQuery(task_id=theirs.task.id), limit=10, before=None)
        ),
        NOTHING,
    ),
    "routing": (lambda store, group, theirs: store.routing(group, theirs.event.id), None),
    "group": (ask_for_itself, True),
    "members": (lambda store, group, theirs: paged(store.members(group, limit=10, before=None)), NOTHING),
    "member": (lambda store, group, theirs: store.member(group, theirs.person.id), None),
    "add_member": (let_their_person_in, True),
    "save_role": (
        lambda store, group, theirs: store.save_role(group, theirs.person.id, Role.ADMIN, expected=Role.OWNER),
        Saved.STALE,
    ),
    "remove_member": (
        lambda store, group, theirs: store.remove_member(group, theirs.person.id, expected=Role.OWNER),
        Saved.STALE,
    ),
    "add_key": (add_a_key, True),
    "keys": (lambda store, group, theirs: paged(store.keys(group, limit=10, before=None)), NOTHING),
    "revoke_key": (lambda store, group, theirs: store.revoke_key(group, theirs.key.id, now=LATER), Saved.STALE),
    "subscriptions": (subscribe_to_nothing, []),
    "webhook": (lambda store, group, theirs: store.webhook(group, theirs.webhook.id), None),
    "webhooks": (lambda store, group, theirs: paged(store.webhooks(group, limit=10, before=None)), NOTHING),
    "add_webhook": (
        lambda store, group, theirs: store.add_webhook(group, make_webhook(group_id=group), quota=1),
        Saved.DONE,
    ),
    "save_webhook": (
        lambda store, group, theirs: store.save_webhook(group, with_changes(theirs.webhook, now=LATER, enabled=False)),
        Saved.STALE,
    ),
    "delete_webhook": (
        lambda store, group, theirs: store.delete_webhook(group, theirs.webhook.id, now=LATER),
        Saved.STALE,
    ),
    "deliveries": (
        lambda store, group, theirs: paged(
            store.deliveries(group, DeliveryQuery(webhook_id=theirs.webhook.id), limit=10, before=None)
        ),
        NOTHING,
    ),
    "delivery": (
        lambda store, group, theirs: store.delivery(group, theirs.webhook.id, theirs.delivery.id),
        None,
    ),
    "add_replay": (replay_their_event, Saved.STALE),
    "discard_backlog": (
        lambda store, group, theirs: store.discard_backlog(group, theirs.webhook.id, now=LATER),
        0,
    ),
    "add_test": (send_a_test, None),
    "stats": (lambda store, group, theirs: paged(counted(store, group, theirs)), NOTHING),
    "count_replayable": (count_their_deliveries, (0, [])),
    "add_job": (add_their_job, None),
    "job": (lambda store, group, theirs: store.job(group, theirs.webhook.id, theirs.job.id), None),
    "jobs": (
        lambda store, group, theirs: paged(store.jobs(group, theirs.webhook.id, limit=10, before=None)),
        NOTHING,
    ),
    "cancel_job": (
        lambda store, group, theirs: store.cancel_job(group, theirs.webhook.id, theirs.job.id, now=LATER),
        None,
    ),
}


def test_every_method_that_takes_a_group_first_is_asked() -> None:
    assert methods_by_group() == set(ASKED)
    assert len(ASKED) > 10


@pytest.mark.parametrize("method", sorted(ASKED))
async def test_a_strange_group_sees_and_changes_nothing(
    store: Store, theirs: Belongings, stranger: str, method: str
) -> None:
    ask, told = ASKED[method]
    before = await everything_of(store, theirs)

    answer = await ask(store, stranger, theirs)

    assert answer == told
    assert await everything_of(store, theirs) == before


@pytest.mark.parametrize("field", ["task_id", "event", "status"])
async def test_no_filter_reaches_into_another_group(
    store: Store, theirs: Belongings, stranger: str, field: str
) -> None:
    asked = {"task_id": theirs.task.id, "event": "task.created", "status": theirs.delivery.progress.status}

    page = await store.deliveries(stranger, DeliveryQuery(**{field: asked[field]}), limit=10, before=None)

    assert list(page.items) == []


async def test_a_cursor_of_one_group_shows_nothing_of_it_to_another(
    store: Store, theirs: Belongings, stranger: str
) -> None:
    for _ in range(2):
        await save(store, make_task_change())
    cursor = (await store.tasks(GROUP_ID, TaskQuery(), limit=1, before=None)).next_cursor

    page = await store.tasks(stranger, TaskQuery(), limit=10, before=cursor)

    assert list(page.items) == []


async def everything_of(store: Store, theirs: Belongings) -> list[object]:
    return [
        await paged(store.members(GROUP_ID, limit=10, before=None)),
        await paged(store.keys(GROUP_ID, limit=10, before=None)),
        await store.key(theirs.key.id),
        await store.task(GROUP_ID, theirs.task.id),
        list(await store.history(GROUP_ID, theirs.task.id)),
        await paged(store.tasks(GROUP_ID, TaskQuery(), limit=10, before=None)),
        await paged(store.swaps(GROUP_ID, None, limit=10, before=None)),
        await paged(store.events(GROUP_ID, EventQuery(), limit=10, before=None)),
        await store.routing(GROUP_ID, theirs.event.id),
        await store.subscriptions(GROUP_ID),
        await paged(store.webhooks(GROUP_ID, limit=10, before=None)),
        await paged(store.deliveries(GROUP_ID, DeliveryQuery(), limit=10, before=None)),
        await detail(store, theirs.delivery),
        await paged(store.jobs(GROUP_ID, theirs.webhook.id, limit=10, before=None)),
        await counted(store, GROUP_ID, theirs),
        await pokes_of(store, theirs.webhook.id),
        await store.lane_marks([theirs.webhook.id]),
    ]


async def listed(answer: Awaitable[object]) -> list[object]:
    return list(await answer)


async def paged(answer: Awaitable[Page[object]]) -> Page[object]:
    page = await answer
    return Page(list(page.items), page.next_cursor)
