"""Proposals of swaps on MongoDB: one pending swap per task, wherever somebody dies or is slow."""

import pytest
from tests.builders import GROUP_ID, make_occasion, make_swap
from tests.contract.backends import MongoBackend, Store
from tests.contract.steps import HOUR, SECOND, add_task, save
from tests.fakes import NOW
from tests.integration.taps import Tap

from gatepost.domain import swaps, tasks
from gatepost.domain.errors import StoreUnavailable
from gatepost.domain.swaps import Swap, SwapStatus
from gatepost.domain.tasks import Task
from gatepost.ports import Saved

ADDING = ["open_swaps.insert_many", "open_swaps.insert_many", "swaps.insert_many"]


@pytest.fixture
async def store(mongodb: MongoBackend) -> Store:
    return await mongodb.open()


@pytest.fixture
async def other_store(mongodb: MongoBackend) -> Store:
    return await mongodb.open()


@pytest.fixture
async def two_tasks(store: Store) -> tuple[Task, Task]:
    return await add_task(store, assigned_to="usr_ada"), await add_task(store, assigned_to="usr_eve")


@pytest.mark.parametrize("is_done_first", [False, True])
@pytest.mark.parametrize("number", range(1, len(ADDING) + 1))
async def test_wherever_its_process_dies_a_proposal_can_be_repeated_or_gives_its_tasks_back_after_a_minute(
    store: Store, other_store: Store, two_tasks: tuple[Task, Task], number: int, is_done_first: bool
) -> None:
    one, other = two_tasks
    ours, theirs = make_swap(one, other), make_swap(one, other, created_at=NOW + 61 * SECOND)
    tap = Tap(store)
    tap.die_at(number, is_done_first=is_done_first)
    with pytest.raises(StoreUnavailable):
        await store.add_swap(GROUP_ID, ours)
    assert tap.written == ADDING[:number]
    is_there = number == len(ADDING) and is_done_first
    has_place = number > 1 or is_done_first
    soon = make_swap(one, other, created_at=NOW + 59 * SECOND)

    saved = [await other_store.add_swap(GROUP_ID, each) for each in (soon, theirs, ours, ours)]

    if is_there:
        assert saved == [Saved.EXISTS, Saved.EXISTS, Saved.DONE, Saved.DONE]
    elif has_place:
        assert saved == [Saved.EXISTS, Saved.DONE, Saved.EXISTS, Saved.EXISTS]
    else:
        assert saved == [Saved.DONE, Saved.EXISTS, Saved.EXISTS, Saved.EXISTS]
    page = await pending(other_store)
    assert page == [ours if is_there else theirs if has_place else soon]


async def test_who_proposes_slowly_finds_that_another_has_taken_the_tasks(
    store: Store, other_store: Store, two_tasks: tuple[Task, Task]
) -> None:
    one, other = two_tasks
    theirs = make_swap(one, other, created_at=NOW + HOUR)

    async with Tap(store).stopped_before("swaps.insert_many", store.add_swap(GROUP_ID, make_swap(one, other))) as slow:
        assert await other_store.add_swap(GROUP_ID, theirs) is Saved.DONE

    assert slow.result() is Saved.EXISTS
    assert await pending(store) == [theirs]


async def test_a_proposal_whose_task_changes_meanwhile_is_stale_and_gives_its_tasks_back_at_once(
    store: Store, other_store: Store, two_tasks: tuple[Task, Task]
) -> None:
    one, other = two_tasks
    started = tasks.start(one, make_occasion())

    adding = store.add_swap(GROUP_ID, make_swap(one, other))
    async with Tap(store).stopped_before("open_swaps.insert_many", adding) as slow:
        assert await save(other_store, started) is Saved.DONE

    assert slow.result() is Saved.STALE
    assert await other_store.add_swap(GROUP_ID, make_swap(started.task, other)) is Saved.DONE


async def test_a_proposal_that_finds_one_task_taken_gives_the_other_back_at_once(store: Store) -> None:
    first, second, third = [await add_task(store, assigned_to=f"usr_{n}") for n in range(3)]
    pending = make_swap(second, third)
    assert await store.add_swap(GROUP_ID, pending) is Saved.DONE
    refused = make_swap(first, second)
    assert await store.add_swap(GROUP_ID, refused) is Saved.EXISTS
    fourth = await add_task(store, assigned_to="usr_4")

    assert await store.add_swap(GROUP_ID, make_swap(first, fourth)) is Saved.DONE


@pytest.mark.parametrize("is_done_first", [False, True])
async def test_wherever_its_process_dies_a_rejection_is_there_or_can_be_made(
    store: Store, other_store: Store, two_tasks: tuple[Task, Task], is_done_first: bool
) -> None:
    swap = make_swap(*two_tasks)
    assert await store.add_swap(GROUP_ID, swap) is Saved.DONE
    rejected = swaps.reject(swap, "usr_ada", now=NOW)
    Tap(store).die_at(1, is_done_first=is_done_first)
    with pytest.raises(StoreUnavailable):
        await store.reject_swap(GROUP_ID, rejected)

    await other_store.reject_swap(GROUP_ID, rejected)

    assert await other_store.swap(GROUP_ID, swap.id) == rejected
    assert await other_store.add_swap(GROUP_ID, make_swap(*two_tasks)) is Saved.DONE


async def test_a_proposal_of_which_a_twin_is_under_way_is_added_once(
    store: Store, other_store: Store, two_tasks: tuple[Task, Task]
) -> None:
    swap = make_swap(*two_tasks)

    async with Tap(store).stopped_before("swaps.insert_many", store.add_swap(GROUP_ID, swap)) as slow:
        assert await other_store.add_swap(GROUP_ID, swap) is Saved.DONE
        assert await other_store.add_swap(GROUP_ID, make_swap(*two_tasks)) is Saved.EXISTS

    assert slow.result() is Saved.DONE
    assert await pending(store) == [swap]


async def test_of_a_swap_that_is_approved_while_another_is_proposed_the_tasks_have_changed(
    store: Store, other_store: Store, two_tasks: tuple[Task, Task]
) -> None:
    swap = make_swap(*two_tasks)
    assert await store.add_swap(GROUP_ID, swap) is Saved.DONE
    approval = swaps.approve(swap, *two_tasks, make_occasion())

    adding = store.add_swap(GROUP_ID, make_swap(*two_tasks))
    async with Tap(store).stopped_before("open_swaps.insert_many", adding) as slow:
        assert await other_store.approve_swap(GROUP_ID, approval, [], webhooks_version=0) is Saved.DONE

    assert slow.result() is Saved.STALE
    assert await pending(store) == []


# --- steps ---------------------------------------------------------------------------------------------------


async def pending(store: Store) -> list[Swap]:
    return list((await store.swaps(GROUP_ID, SwapStatus.PENDING, limit=9, before=None)).items)
