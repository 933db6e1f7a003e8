"""`SwapStore`: two tasks exchange their assignees in one write, or not at all."""

import asyncio
from dataclasses import astuple, replace
from datetime import timedelta

import pytest
from tests.builders import GROUP_ID, make_delivery, make_occasion, make_queued, make_swap, new_id
from tests.contract.backends import Store
from tests.contract.steps import (
    SECOND,
    add_task,
    add_webhook,
    assigned_pair,
    detail,
    ids,
    lease,
    pokes_of,
    propose,
    proposed,
    save,
    save_approval,
    taking,
)
from tests.fakes import NOW

from gatepost.domain import swaps, tasks
from gatepost.domain.deliveries import QueuedDelivery
from gatepost.domain.swaps import Swap, SwapApproval, SwapStatus
from gatepost.domain.tasks import Task
from gatepost.ports import DeliveryQuery, EventQuery, Saved, TaskQuery

LATER = NOW + timedelta(milliseconds=1)

# --- proposing -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", [None, "", "Zahnarzt 🦷"])
async def test_a_proposed_swap_comes_back_as_it_was_written(
    store: Store, other_store: Store, reason: str | None
) -> None:
    swap = make_swap(*await assigned_pair(store), reason=reason, created_at=LATER)

    saved = await store.add_swap(GROUP_ID, swap)

    assert saved is Saved.DONE
    assert await other_store.swap(GROUP_ID, swap.id) == swap


async def test_a_swap_nobody_proposed_is_none(store: Store) -> None:
    assert await store.swap(GROUP_ID, new_id("swp")) is None


async def test_asked_again_a_swap_is_there_once(store: Store, other_store: Store) -> None:
    swap = make_swap(*await assigned_pair(store))

    saved = await asyncio.gather(*(each.add_swap(GROUP_ID, swap) for each in [store, other_store] * 3))
    again = await store.add_swap(GROUP_ID, swap)

    assert [*saved, again] == [Saved.DONE] * 7
    assert await every_page(store, None, limit=10) == [[swap]]


async def test_asked_again_after_its_decision_a_swap_stays_decided(store: Store) -> None:
    swap, approval = await proposed(store)
    await save_approval(store, approval)

    saved = await store.add_swap(GROUP_ID, swap)

    assert saved is Saved.DONE
    assert await store.swap(GROUP_ID, swap.id) == approval.swap


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("fault", ["changed since", "not that far", "deleted", "never there"])
async def test_a_swap_of_a_task_of_another_version_is_stale_and_holds_no_task(
    store: Store, which: int, fault: str
) -> None:
    pair = list(await assigned_pair(store))
    wrong, right = pair[which], pair[1 - which]
    if fault == "changed since":
        await save(store, tasks.start(wrong, make_occasion()))
    elif fault == "not that far":
        pair[which] = replace(wrong, version=2)
    elif fault == "deleted":
        await store.delete_task(GROUP_ID, tasks.delete(wrong, make_occasion()))
    else:
        pair[which] = replace(wrong, id=new_id("tsk"))
    swap = make_swap(*pair)

    saved = await store.add_swap(GROUP_ID, swap)

    assert saved is Saved.STALE
    assert await store.swap(GROUP_ID, swap.id) is None
    await propose(store, right, await add_task(store, assigned_to="usr_zoe"))


@pytest.mark.parametrize("held", [0, 1])
@pytest.mark.parametrize("as_side", [0, 1])
async def test_a_swap_of_a_task_in_another_pending_swap_is_refused_and_holds_no_task(
    store: Store, held: int, as_side: int
) -> None:
    first = await assigned_pair(store)
    free = await add_task(store, assigned_to="usr_zoe")
    await propose(store, *first)
    pair = [free, free]
    pair[as_side] = first[held]
    swap = make_swap(*pair)

    saved = await store.add_swap(GROUP_ID, swap)

    assert saved is Saved.EXISTS
    assert await store.swap(GROUP_ID, swap.id) is None
    await propose(store, free, await add_task(store, assigned_to="usr_bob"))


async def test_of_two_processes_that_propose_swaps_of_one_task_one_succeeds(store: Store, other_store: Store) -> None:
    task, with_task = await assigned_pair(store)
    third = await add_task(store, assigned_to="usr_zoe")
    rivals = [make_swap(task, with_task), make_swap(third, task)]

    saved = await asyncio.gather(store.add_swap(GROUP_ID, rivals[0]), other_store.add_swap(GROUP_ID, rivals[1]))

    assert sorted(each.value for each in saved) == ["done", "exists"]
    assert await every_page(store, None, limit=10) == [[rivals[saved.index(Saved.DONE)]]]


async def test_a_pending_swap_keeps_nobody_from_changing_its_tasks(store: Store) -> None:
    task, with_task = await assigned_pair(store)
    await propose(store, task, with_task)

    assert await save(store, tasks.start(task, make_occasion())) is Saved.DONE
    assert await store.delete_task(GROUP_ID, tasks.delete(with_task, make_occasion())) is Saved.DONE


# --- lists ---------------------------------------------------------------------------------------------------


async def test_swaps_are_listed_newest_first_page_by_page_to_the_end(store: Store) -> None:
    made = [await propose(store, *await assigned_pair(store)) for _ in range(4)]
    first = await store.swaps(GROUP_ID, None, limit=2, before=None)
    await propose(store, *await assigned_pair(store))

    second = await store.swaps(GROUP_ID, None, limit=2, before=first.next_cursor)

    assert [*first.items, *second.items] == made[::-1]
    assert second.next_cursor is None


async def test_swaps_are_listed_by_status(store: Store) -> None:
    pending = [(await proposed(store))[0] for _ in range(2)]
    approved = [(await proposed(store))[1] for _ in range(2)]
    rejected = [swaps.reject((await proposed(store))[0], "usr_boss", now=LATER) for _ in range(2)]
    for approval in approved:
        await save_approval(store, approval)
    for swap in rejected:
        await store.reject_swap(GROUP_ID, swap)

    assert await every_page(store, SwapStatus.PENDING, limit=1) == [[each] for each in pending[::-1]]
    assert await every_page(store, SwapStatus.APPROVED, limit=1) == [[each.swap] for each in approved[::-1]]
    assert await every_page(store, SwapStatus.REJECTED, limit=1) == [[each] for each in rejected[::-1]]
    assert len((await store.swaps(GROUP_ID, None, limit=10, before=None)).items) == 6


# --- approving -----------------------------------------------------------------------------------------------


async def test_an_approval_brings_both_tasks_their_history_its_event_and_its_deliveries(
    store: Store, other_store: Store
) -> None:
    webhooks = [await add_webhook(store) for _ in range(2)]
    swap, approval = await proposed(store)
    deliveries = [make_delivery(approval.event, webhook) for webhook in webhooks]

    saved = await save_approval(store, approval, *deliveries)

    assert saved is Saved.DONE
    assert await other_store.swap(GROUP_ID, swap.id) == approval.swap
    for change in approval.changes:
        assert await other_store.task(GROUP_ID, change.task.id) == change.task
        assert list(await other_store.history(GROUP_ID, change.task.id))[1:] == [change.history]
    for delivery in deliveries:
        found = await detail(other_store, delivery)
        assert (found.delivery, found.event, list(found.attempts)) == (delivery, approval.event, [])


async def test_the_task_proposed_first_may_be_the_younger_one(store: Store) -> None:
    older, younger = await assigned_pair(store)
    swap = await propose(store, younger, older)
    approval = swaps.approve(swap, younger, older, make_occasion())

    saved = await save_approval(store, approval)

    assert saved is Saved.DONE
    assert (await task_of(store, older)).assigned_to == younger.assigned_to
    assert (await task_of(store, younger)).assigned_to == older.assigned_to
    [event] = (await store.events(GROUP_ID, EventQuery(event="task.swapped"), limit=2, before=None)).items
    assert event.tasks == ((younger.id, 2), (older.id, 2))


async def test_a_swap_is_found_by_the_people_and_the_text_of_its_tasks(store: Store) -> None:
    task = await add_task(store, title="Roses", assigned_to="usr_ada")
    with_task = await add_task(store, title="Tulips", assigned_to="usr_eve")
    swap = await propose(store, task, with_task)
    await save_approval(store, swaps.approve(swap, task, with_task, make_occasion()))

    of_ada = await store.tasks(GROUP_ID, TaskQuery(assigned_to="usr_ada", text="tulips"), limit=10, before=None)

    assert ids(of_ada.items) == [with_task.id]


async def test_exactly_the_deliveries_of_an_approval_are_poked_and_handed_over(store: Store) -> None:
    webhook, other = await add_webhook(store), await add_webhook(store)
    handed: list[QueuedDelivery] = []
    store.on_queued = taking(handed)
    _, approval = await proposed(store)
    delivery = make_delivery(approval.event, webhook)

    await save_approval(store, approval, delivery)

    assert [astuple(queued) for queued in handed] == [astuple(make_queued(delivery, approval.event))]
    leased = await lease(store, now=NOW + SECOND)
    assert webhook.id in leased
    assert other.id not in leased


@pytest.mark.parametrize("decision", ["approved", "rejected", "never proposed"])
async def test_an_approval_of_a_swap_that_is_not_pending_changes_nothing(store: Store, decision: str) -> None:
    swap, approval = await proposed(store)
    if decision == "approved":
        await save_approval(store, replace(approval, event=replace(approval.event, id=new_id("evt"))))
    elif decision == "rejected":
        await store.reject_swap(GROUP_ID, swaps.reject(swap, "usr_boss", now=LATER))
    else:
        approval = replace(approval, swap=replace(approval.swap, id=new_id("swp")))

    await assert_refused(store, approval, Saved.EXISTS)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("meanwhile", ["changed", "deleted"])
async def test_an_approval_of_a_task_that_has_changed_is_stale_and_changes_nothing(
    store: Store, which: int, meanwhile: str
) -> None:
    pair = await assigned_pair(store)
    swap = await propose(store, *pair)
    approval = swaps.approve(swap, *pair, make_occasion())
    if meanwhile == "changed":
        await save(store, tasks.start(pair[which], make_occasion()))
    else:
        await store.delete_task(GROUP_ID, tasks.delete(pair[which], make_occasion()))

    await assert_refused(store, approval, Saved.STALE)
    assert await store.reject_swap(GROUP_ID, swaps.reject(swap, "usr_boss", now=LATER)) is Saved.DONE


async def test_an_approval_matched_against_webhooks_that_were_written_since_changes_nothing(
    store: Store, other_store: Store
) -> None:
    matched = await store.subscriptions(GROUP_ID)
    _, approval = await proposed(store)
    webhook = await add_webhook(other_store)

    await assert_refused(store, approval, Saved.WEBHOOKS_MOVED, webhooks_version=matched.version)

    delivery = make_delivery(approval.event, webhook)
    assert await save_approval(store, approval, delivery) is Saved.DONE
    assert (await detail(store, delivery)).event == approval.event


async def test_asked_again_with_the_same_ids_an_approval_is_written_once(store: Store, other_store: Store) -> None:
    webhook = await add_webhook(store)
    handed: list[QueuedDelivery] = []
    for each in (store, other_store):
        each.on_queued = taking(handed)
    _, approval = await proposed(store)
    delivery = make_delivery(approval.event, webhook)

    at_once = await asyncio.gather(*(save_approval(each, approval, delivery) for each in [store, other_store] * 3))
    again = await save_approval(other_store, approval, delivery)

    assert [*at_once, again] == [Saved.DONE] * 7
    assert ids(handed) == [delivery.id]
    for change in approval.changes:
        assert await store.task(GROUP_ID, change.task.id) == change.task
        assert list(await store.history(GROUP_ID, change.task.id))[1:] == [change.history]


async def test_asked_again_after_a_task_has_moved_on_an_approval_takes_nothing_back(store: Store) -> None:
    _, approval = await proposed(store)
    await save_approval(store, approval)
    started = tasks.start(approval.changes[0].task, make_occasion())
    await save(store, started)

    saved = await save_approval(store, approval)

    assert saved is Saved.DONE
    assert await task_of(store, started.task) == started.task


async def test_of_two_processes_that_approve_one_swap_one_succeeds(store: Store, other_store: Store) -> None:
    task, with_task = await assigned_pair(store)
    swap = await propose(store, task, with_task)
    approvals = [swaps.approve(swap, task, with_task, make_occasion(actor_id=name)) for name in ("usr_1", "usr_2")]

    saved = await asyncio.gather(save_approval(store, approvals[0]), save_approval(other_store, approvals[1]))

    assert sorted(each.value for each in saved) == ["done", "exists"]
    winner = approvals[saved.index(Saved.DONE)]
    assert await store.swap(GROUP_ID, swap.id) == winner.swap
    for change in winner.changes:
        assert await task_of(store, change.task) == change.task
        assert list(await store.history(GROUP_ID, change.task.id))[1:] == [change.history]


async def test_of_an_approval_and_a_rejection_at_once_one_succeeds(store: Store, other_store: Store) -> None:
    swap, approval = await proposed(store)
    rejected = swaps.reject(swap, "usr_boss", now=LATER)

    saved = await asyncio.gather(save_approval(store, approval), other_store.reject_swap(GROUP_ID, rejected))

    assert sorted(each.value for each in saved) == ["done", "exists"]
    was_approved = saved[0] is Saved.DONE
    assert await store.swap(GROUP_ID, swap.id) == (approval.swap if was_approved else rejected)
    for change in approval.changes:
        assert (await task_of(store, change.task) == change.task) is was_approved


@pytest.mark.parametrize("which", [0, 1])
async def test_of_an_approval_and_a_change_of_one_of_its_tasks_at_once_one_succeeds(
    store: Store, other_store: Store, which: int
) -> None:
    pair = await assigned_pair(store)
    swap = await propose(store, *pair)
    approval = swaps.approve(swap, *pair, make_occasion())
    started = tasks.start(pair[which], make_occasion())

    saved = await asyncio.gather(save_approval(store, approval), save(other_store, started))

    assert sorted(each.value for each in saved) == ["done", "stale"]
    was_approved = saved[0] is Saved.DONE
    versions = [(await task_of(store, each)).version for each in pair]
    assert versions == ([2, 2] if was_approved else [2 - which, 1 + which])
    assert (await task_of(store, pair[which])).assigned_to == pair[1 - which if was_approved else which].assigned_to


async def test_nobody_reads_one_task_as_before_and_the_other_as_after(store: Store, other_store: Store) -> None:
    for _ in range(5):
        _, approval = await proposed(store)
        approving = asyncio.create_task(save_approval(store, approval))
        ended = False
        while not ended:
            ended = approving.done()
            page = await other_store.tasks(GROUP_ID, TaskQuery(), limit=2, before=None)
            assert len({task.version for task in page.items}) == 1
            for one, other in (approval.changes, approval.changes[::-1]):
                first, second = await task_of(other_store, one.task), await task_of(other_store, other.task)
                assert first.version <= second.version
        assert await approving is Saved.DONE


async def test_the_tasks_of_a_decided_swap_can_be_swapped_again(store: Store) -> None:
    _, approval = await proposed(store)
    await save_approval(store, approval)

    one, other = (change.task for change in approval.changes)
    again = await propose(store, one, other)
    await store.reject_swap(GROUP_ID, swaps.reject(again, "usr_boss", now=LATER))

    await propose(store, other, one)


# --- rejecting -----------------------------------------------------------------------------------------------


async def test_a_rejection_is_written_and_leaves_the_tasks_alone(store: Store, other_store: Store) -> None:
    task, with_task = await assigned_pair(store)
    webhook = await add_webhook(store)
    before = await pokes_of(store, webhook.id)
    rejected = swaps.reject(await propose(store, task, with_task), "usr_boss", now=LATER)

    saved = await store.reject_swap(GROUP_ID, rejected)

    assert saved is Saved.DONE
    assert await other_store.swap(GROUP_ID, rejected.id) == rejected
    assert (await task_of(store, task), await task_of(store, with_task)) == (task, with_task)
    assert await pokes_of(store, webhook.id) == before


async def test_a_rejection_of_a_swap_that_is_not_pending_changes_nothing(store: Store) -> None:
    swap, approval = await proposed(store)
    await save_approval(store, approval)
    rejections = [swaps.reject(each, "usr_boss", now=LATER) for each in (swap, replace(swap, id=new_id("swp")))]

    saved = [await store.reject_swap(GROUP_ID, each) for each in rejections]

    assert saved == [Saved.EXISTS, Saved.EXISTS]
    assert await store.swap(GROUP_ID, swap.id) == approval.swap
    assert await store.swap(GROUP_ID, rejections[1].id) is None


async def test_a_rejection_frees_no_task_for_a_swap_proposed_since(store: Store) -> None:
    task, with_task = await assigned_pair(store)
    rejected = swaps.reject(await propose(store, task, with_task), "usr_boss", now=LATER)
    await store.reject_swap(GROUP_ID, rejected)
    await propose(store, task, with_task)

    again = await store.reject_swap(GROUP_ID, rejected)

    assert again is Saved.EXISTS
    assert await store.add_swap(GROUP_ID, make_swap(task, with_task)) is Saved.EXISTS


async def task_of(store: Store, task: Task) -> Task:
    found = await store.task(GROUP_ID, task.id)
    assert found is not None
    return found


async def assert_refused(
    store: Store, approval: SwapApproval, answer: Saved, *, webhooks_version: int | None = None
) -> None:
    """Save an approval that is refused, and see that it has changed nothing."""
    webhook = await add_webhook(store) if webhooks_version is None else None
    deliveries = [make_delivery(approval.event, webhook)] if webhook else []
    handed: list[QueuedDelivery] = []
    store.on_queued = taking(handed)
    before = await everything_about(store, approval)
    version = (await store.subscriptions(GROUP_ID)).version if webhooks_version is None else webhooks_version

    saved = await store.approve_swap(GROUP_ID, approval, deliveries, webhooks_version=version)

    assert saved is answer
    assert await everything_about(store, approval) == before
    assert handed == []


async def everything_about(store: Store, approval: SwapApproval) -> list[object]:
    task_ids = [change.task.id for change in approval.changes]
    return [
        await store.swap(GROUP_ID, approval.swap.id),
        [await store.task(GROUP_ID, task_id) for task_id in task_ids],
        [list(await store.history(GROUP_ID, task_id)) for task_id in task_ids],
        list((await store.events(GROUP_ID, EventQuery(), limit=100, before=None)).items),
        list((await store.deliveries(GROUP_ID, DeliveryQuery(), limit=100, before=None)).items),
    ]


async def every_page(store: Store, status: SwapStatus | None, *, limit: int) -> list[list[Swap]]:
    pages: list[list[Swap]] = []
    cursor: str | None = None
    while not pages or cursor is not None:
        page = await store.swaps(GROUP_ID, status, limit=limit, before=cursor)
        pages.append(list(page.items))
        cursor = page.next_cursor
    return pages
