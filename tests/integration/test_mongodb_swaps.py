"""Swaps on MongoDB: wherever somebody dies, pauses or interferes, all see both tasks changed, or neither.

Each race is made, not waited for: something else is done just before a certain write, or the process dies there.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from pymongo.asynchronous.cursor import AsyncCursor
from tests.builders import GROUP_ID, make_delivery, make_occasion, make_swap
from tests.contract.backends import MongoBackend, Store
from tests.contract.steps import add_task, add_webhook, ids, lease, read, save, taking
from tests.fakes import NOW
from tests.integration.mongodb_rigs import documents
from tests.integration.taps import Broken, Standing, Tap

from gatepost.adapters.storage import mongo_driver, mongo_tasks
from gatepost.adapters.storage.mongo_driver import Document
from gatepost.domain import swaps, tasks
from gatepost.domain.deliveries import Delivery, QueuedDelivery
from gatepost.domain.errors import StoreUnavailable
from gatepost.domain.swaps import Swap, SwapApproval, SwapStatus
from gatepost.domain.tasks import Task
from gatepost.domain.webhooks import Webhook
from gatepost.ports import Saved, TaskQuery

APPROVING = [
    "tasks.update_one",
    "tasks.update_one",
    "groups.update_one",
    "swaps.find_one_and_update",  # the commit
    "events.insert_many",
    "history.insert_many",
    "deliveries.insert_many",
    "lanes.bulk_write",
    "tasks.update_one",
    "tasks.update_one",
    "swaps.update_one",
]
COMMIT = 4


@pytest.fixture
async def store(mongodb: MongoBackend) -> Store:
    return await mongodb.open()


@pytest.fixture
async def other_store(mongodb: MongoBackend) -> Store:
    return await mongodb.open()


@dataclass
class Swapping:
    """A pending swap of two tasks, and the approval of it that is owed to a webhook."""

    webhook: Webhook
    before: tuple[Task, Task]
    swap: Swap
    approval: SwapApproval
    delivery: Delivery

    @property
    def after(self) -> tuple[Task, Task]:
        one, other = self.approval.changes
        return one.task, other.task


@pytest.fixture
async def swapping(store: Store) -> Swapping:
    webhook = await add_webhook(store, events=("task.swapped",))
    one, other = [await add_task(store, assigned_to=each) for each in ("usr_ada", "usr_eve")]
    swap = make_swap(one, other)
    assert await store.add_swap(GROUP_ID, swap) is Saved.DONE
    approval = swaps.approve(swap, one, other, make_occasion())
    return Swapping(webhook, (one, other), swap, approval, make_delivery(approval.event, webhook))


# --- approving -----------------------------------------------------------------------------------------------


async def test_an_approval_is_committed_by_the_write_of_the_swap(store: Store, swapping: Swapping) -> None:
    handed: list[QueuedDelivery] = []
    store.on_queued = taking(handed)
    tap = Tap(store)

    assert await approve(store, swapping) is Saved.DONE

    assert tap.written == APPROVING
    assert ids(handed) == [swapping.delivery.id]
    await assert_whole(store, swapping, SwapStatus.APPROVED)


@pytest.mark.parametrize("finished_by", ["the sweep", "a repeat", "a change", "a deletion"])
@pytest.mark.parametrize("is_done_first", [False, True])
@pytest.mark.parametrize("number", range(1, len(APPROVING) + 1))
async def test_wherever_its_process_dies_an_approval_is_there_whole_or_not_at_all(
    store: Store, other_store: Store, swapping: Swapping, number: int, is_done_first: bool, finished_by: str
) -> None:
    Tap(store).die_at(number, is_done_first=is_done_first)
    is_committed = number > COMMIT or (number == COMMIT and is_done_first)
    try:
        saved = await approve(store, swapping)
    except StoreUnavailable:
        saved = None
    assert saved is (Saved.DONE if number > COMMIT else None)
    seen = swapping.after if is_committed else swapping.before
    await assert_seen(other_store, swapping, seen)

    if finished_by == "a repeat":
        assert await approve(other_store, swapping) is Saved.DONE
        seen, is_committed = swapping.after, True
    elif finished_by == "a change":
        for task in seen:
            assert await save(other_store, tasks.complete(task, make_occasion())) is Saved.DONE
    elif finished_by == "a deletion":
        for task in seen:
            assert await other_store.delete_task(GROUP_ID, tasks.delete(task, make_occasion())) is Saved.DONE
    for _ in range(2):
        await other_store.sweep(now=NOW)

    if finished_by in ("the sweep", "a repeat"):
        await assert_seen(other_store, swapping, seen)
    await assert_whole(other_store, swapping, SwapStatus.APPROVED if is_committed else SwapStatus.PENDING)
    if finished_by == "the sweep" and not is_committed:
        assert await approve(other_store, swapping) is Saved.DONE


@pytest.mark.parametrize("number", range(1, len(APPROVING) + 1))
async def test_before_each_of_its_writes_others_see_both_tasks_the_same_way(
    store: Store, other_store: Store, swapping: Swapping, number: int
) -> None:
    async def look() -> None:
        await assert_seen(other_store, swapping, swapping.after if number > COMMIT else swapping.before)

    looked = before_write(store, number, look)

    assert await approve(store, swapping) is Saved.DONE
    assert looked == [number]
    await assert_seen(other_store, swapping, swapping.after)


@pytest.mark.parametrize("number", range(1, COMMIT + 1))
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("how", ["changed", "deleted"])
async def test_who_approves_slowly_cannot_once_a_task_has_been_changed(
    store: Store, other_store: Store, swapping: Swapping, how: str, which: int, number: int
) -> None:
    task = swapping.before[which]

    async def interfere() -> None:
        if how == "changed":
            assert await save(other_store, tasks.start(task, make_occasion())) is Saved.DONE
        else:
            assert await other_store.delete_task(GROUP_ID, tasks.delete(task, make_occasion())) is Saved.DONE

    before_write(store, number, interfere)

    assert await approve(store, swapping) is Saved.STALE
    other = swapping.before[1 - which]
    assert await other_store.task(GROUP_ID, other.id) == other
    assert await save(other_store, tasks.start(other, make_occasion())) is Saved.DONE
    await other_store.sweep(now=NOW)
    await assert_whole(other_store, swapping, SwapStatus.PENDING)


@pytest.mark.parametrize("number", range(1, COMMIT + 1))
async def test_who_lost_its_locks_to_a_sweep_takes_them_again(
    store: Store, other_store: Store, swapping: Swapping, number: int
) -> None:
    before_write(store, number, lambda: other_store.sweep(now=NOW))

    assert await approve(store, swapping) is Saved.DONE
    await assert_whole(store, swapping, SwapStatus.APPROVED)
    await assert_seen(other_store, swapping, swapping.after)


async def test_who_takes_a_void_lock_away_late_leaves_the_one_that_came_after_it(
    store: Store, other_store: Store, swapping: Swapping
) -> None:
    taking_away, goes_on = asyncio.Event(), asyncio.Event()
    sweeping: list[asyncio.Task[int]] = []

    async def pause() -> None:
        taking_away.set()
        await goes_on.wait()

    async def sweep_half() -> None:
        sweeping.append(asyncio.create_task(other_store.sweep(now=NOW)))
        async with asyncio.timeout(20):
            await taking_away.wait()

    async def sweep_rest() -> None:
        goes_on.set()
        await sweeping[0]

    before_write(other_store, 2, pause)  # the lock is void by then
    before_write(store, COMMIT, sweep_half)
    before_write(store, COMMIT + 6, sweep_rest)  # when it has locked one task anew, and not yet the other

    assert await approve(store, swapping) is Saved.DONE
    assert sweeping[0].done()
    await assert_whole(store, swapping, SwapStatus.APPROVED)
    await assert_seen(store, swapping, swapping.after)


async def test_who_reads_the_swap_as_it_was_before_takes_no_lock_away_that_is_good(
    store: Store, other_store: Store, swapping: Swapping
) -> None:
    one, _ = swapping.before
    started = tasks.start(one, make_occasion())
    behind = (await documents(store))["swaps"]
    mongo: Any = other_store._mongo
    swaps_now = mongo.swaps

    async def find_one(*asked: Any) -> Document | None:
        return behind.pop() if behind else await swaps_now.find_one(*asked)

    async def interfere() -> None:
        mongo.swaps = Standing(swaps_now, find_one=find_one)  # as who was just elected may answer
        assert await save(other_store, started) is Saved.DONE

    before_write(store, COMMIT, lambda: other_store.sweep(now=NOW))  # so that it tries again
    before_write(store, 2 * COMMIT, interfere)

    assert await approve(store, swapping) is Saved.STALE
    assert behind == []
    assert await store.task(GROUP_ID, one.id) == started.task
    await store.sweep(now=NOW)
    await assert_whole(store, swapping, SwapStatus.PENDING)


@pytest.mark.parametrize("number", range(1, COMMIT + 1))
@pytest.mark.parametrize("decision", ["approved", "rejected"])
async def test_who_approves_slowly_is_told_that_the_swap_was_decided_meanwhile(
    store: Store, other_store: Store, swapping: Swapping, decision: str, number: int
) -> None:
    theirs = swaps.approve(swapping.swap, *swapping.before, make_occasion())

    async def decide() -> None:
        if decision == "approved":
            assert await approve(other_store, swapping, theirs) is Saved.DONE
        else:
            rejected = swaps.reject(swapping.swap, "usr_ada", now=NOW)
            assert await other_store.reject_swap(GROUP_ID, rejected) is Saved.DONE

    before_write(store, number, decide)

    assert await approve(store, swapping) is Saved.EXISTS
    await store.sweep(now=NOW)
    emitted = {each["id"] for each in (await documents(store))["events"] if each["event"] == "task.swapped"}
    assert emitted == ({theirs.event.id} if decision == "approved" else set())
    after = tuple(each.task for each in theirs.changes)
    await assert_seen(other_store, swapping, after if decision == "approved" else swapping.before)
    assert {each["lock"] for each in (await documents(store))["tasks"]} == {""}


async def test_of_many_approvals_at_once_one_is_written(store: Store, other_store: Store, swapping: Swapping) -> None:
    approvals = [swaps.approve(swapping.swap, *swapping.before, make_occasion()) for _ in range(6)]

    saved = await asyncio.gather(
        *(approve((store, other_store)[n % 2], swapping, each) for n, each in enumerate(approvals))
    )

    assert sorted(each.value for each in saved) == ["done"] + ["exists"] * 5
    written = approvals[saved.index(Saved.DONE)]
    await assert_seen(store, swapping, tuple(each.task for each in written.changes))


async def test_a_task_stays_as_it_is_seen_while_what_its_swap_emits_cannot_be_passed_on(
    store: Store, other_store: Store, swapping: Swapping
) -> None:
    mongo: Any = other_store._mongo
    events, mongo.events = mongo.events, Broken(mongo.events)

    assert await approve(other_store, swapping) is Saved.DONE
    await assert_seen(store, swapping, swapping.after)
    with pytest.raises(StoreUnavailable):
        await save(other_store, tasks.start(swapping.after[0], make_occasion()))
    mongo.events = events

    assert await save(other_store, tasks.start(swapping.after[0], make_occasion())) is Saved.DONE
    await assert_whole(store, swapping, SwapStatus.APPROVED)


async def test_what_a_task_is_owed_from_before_its_swap_is_stored_first(
    store: Store, other_store: Store, swapping: Swapping
) -> None:
    webhook = await add_webhook(store)
    mongo: Any = other_store._mongo
    events, mongo.events = mongo.events, Broken(mongo.events)
    one, other = swapping.before
    started = tasks.start(one, make_occasion())
    earlier = make_delivery(started.event, webhook)
    assert await save(other_store, started, earlier) is Saved.DONE
    mongo.events = events
    swap = make_swap(started.task, other)
    assert await store.reject_swap(GROUP_ID, swaps.reject(swapping.swap, "usr_ada", now=NOW)) is Saved.DONE
    assert await store.add_swap(GROUP_ID, swap) is Saved.DONE
    approval = swaps.approve(swap, started.task, other, make_occasion())

    async with Tap(store).stopped_before("swaps.find_one_and_update", approve(store, swapping, approval)) as approving:
        assert ids((await read(other_store, webhook)).deliveries) == [earlier.id]

    assert approving.result() is Saved.DONE


# --- listing -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2])
async def test_a_list_during_which_a_swap_is_approved_is_read_again(
    store: Store, other_store: Store, swapping: Swapping, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def approve_it() -> None:
        assert await approve(other_store, swapping) is Saved.DONE

    read_singly_and_before(number, approve_it, monkeypatch)

    page = await store.tasks(GROUP_ID, TaskQuery(text="water"), limit=9, before=None)

    assert list(page.items) == list(reversed(swapping.after))


@pytest.mark.parametrize("number", [1, 2])
async def test_a_list_that_a_swap_overtakes_which_was_on_its_way_shows_both_tasks_as_they_were(
    store: Store, other_store: Store, swapping: Swapping, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked, goes_on = asyncio.Event(), asyncio.Event()

    async def pause() -> None:
        locked.set()
        await goes_on.wait()

    before_write(other_store, COMMIT, pause)
    approving = asyncio.create_task(approve(other_store, swapping))
    async with asyncio.timeout(20):
        await locked.wait()

    async def go_on() -> None:
        goes_on.set()
        assert await approving is Saved.DONE

    read_singly_and_before(number, go_on, monkeypatch)
    page = await store.tasks(GROUP_ID, TaskQuery(text="water"), limit=9, before=None)

    assert list(page.items) == list(reversed(swapping.before))
    await assert_seen(store, swapping, swapping.after)


# --- steps ---------------------------------------------------------------------------------------------------


async def approve(store: Store, swapping: Swapping, approval: SwapApproval | None = None) -> Saved:
    version = (await store.subscriptions(GROUP_ID)).version
    approval = approval or swapping.approval
    delivery = swapping.delivery if approval is swapping.approval else make_delivery(approval.event, swapping.webhook)
    return await store.approve_swap(GROUP_ID, approval, [delivery], webhooks_version=version)


def before_write(store: Store, number: int, do: Callable[[], Awaitable[Any]]) -> list[int]:
    """Do something else just before a store's n-th write from now on; return where that it was done is noted."""
    done: list[int] = []
    tap = Tap(store)
    write = tap.write

    async def write_after(name: str, writing: Callable[[], Awaitable[Any]]) -> Any:
        if len(tap.written) + 1 == number and not done:
            done.append(number)
            await do()
        return await write(name, writing)

    tap.write = write_after
    return done


def read_singly_and_before(number: int, do: Callable[[], Awaitable[Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let lists read one task at a time, and do something else before the n-th of them."""
    fetched: list[AsyncCursor[Document]] = []

    async def fetch(cursor: AsyncCursor[Document]) -> list[Document]:
        fetched.append(cursor)
        if len(fetched) == number:
            await do()
        return await mongo_driver.fetch(cursor)

    monkeypatch.setattr(mongo_tasks, "fetch", fetch)
    monkeypatch.setattr(mongo_tasks, "_SEARCHED_AT_ONCE", 1)


async def assert_seen(store: Store, swapping: Swapping, seen: tuple[Task, ...]) -> None:
    """Assert that whoever asks sees the two tasks like that: one by one, in lists, and in their history."""
    is_after = [task.version for task in seen] != [task.version for task in swapping.before]
    for task in (*seen, *reversed(seen)):
        assert await store.task(GROUP_ID, task.id) == task
        lines = [line.event for line in await store.history(GROUP_ID, task.id)]
        assert lines == ["task.created", "task.swapped"][: task.version]
    for query in (TaskQuery(), TaskQuery(text="water")):
        page = await store.tasks(GROUP_ID, query, limit=9, before=None)
        assert list(page.items) == sorted(seen, key=lambda task: task.id, reverse=True)
    for person in ("usr_ada", "usr_eve"):
        page = await store.tasks(GROUP_ID, TaskQuery(assigned_to=person), limit=1, before=None)
        assert list(page.items) == [task for task in seen if task.assigned_to == person]
    approved = (await store.swaps(GROUP_ID, SwapStatus.APPROVED, limit=1, before=None)).items
    assert bool(approved) == is_after


async def assert_whole(store: Store, swapping: Swapping, status: SwapStatus) -> None:
    """Assert that the approval left its event, history and delivery once, or nothing; and that nothing is left over."""
    found = await documents(store)
    count = 1 if status is SwapStatus.APPROVED else 0
    assert [each["id"] for each in found["events"] if each["event"] == "task.swapped"] == (
        [swapping.approval.event.id] * count
    )
    assert [each["event"] for each in found["history"]].count("task.swapped") == 2 * count
    assert [each["_id"] for each in found["deliveries"] if each["event"] == "task.swapped"] == (
        [swapping.delivery.id] * count
    )
    assert {each["lock"] for each in found["tasks"]} == {""}
    assert {each["pending_events"] for name in ("tasks", "swaps", "events") for each in found[name]} == {0}
    (swap,) = found["swaps"]
    assert (swap["status"], swap["outbox"], swap["pending_bytes"]) == (status.value, {}, 0)
    assert set(await lease(store, now=NOW)) == ({swapping.webhook.id} if count else set())
