import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from tests.builders import GROUP_ID, make_delivery, make_occasion, make_task_change, new_id
from tests.contract.backends import Store
from tests.contract.steps import add_task, add_webhook, detail, ids, save
from tests.fakes import NOW

from gatepost.domain import tasks
from gatepost.domain.tasks import Task, TaskStatus
from gatepost.ports import Saved, TaskQuery

LATER = NOW + timedelta(milliseconds=1)
EVERYTHING = TaskQuery()


async def test_a_created_task_comes_back_as_it_was_written(store: Store) -> None:
    change = make_task_change(
        title="Rosen gießen 🌹",
        description='line\nbreak, "quotes", \\ and \u2028',
        assigned_to="usr_ada",
        difficulty=10,
        due_at=NOW + timedelta(milliseconds=7),
    )

    saved = await save(store, change)

    assert saved is Saved.DONE
    assert await store.task(GROUP_ID, change.task.id) == change.task


async def test_a_task_with_every_field_set_comes_back_as_it_was_written(store: Store) -> None:
    change = make_task_change(assigned_to="usr_ada", difficulty=1, due_at=LATER)
    full = replace(change.task, external_id="JIRA-1", source="jira", completed_at=LATER, status=TaskStatus.APPROVED)

    await save(store, replace(change, task=full))

    assert await store.task(GROUP_ID, full.id) == full


async def test_a_task_nobody_created_is_none_and_has_no_history(store: Store) -> None:
    assert await store.task(GROUP_ID, new_id("tsk")) is None
    assert list(await store.history(GROUP_ID, new_id("tsk"))) == []


async def test_a_change_of_the_version_expected_is_written(store: Store) -> None:
    task = await add_task(store)
    change = tasks.start(task, make_occasion(at=LATER))

    saved = await save(store, change)

    assert saved is Saved.DONE
    assert await store.task(GROUP_ID, task.id) == change.task


async def test_a_change_of_any_other_version_is_stale_and_changes_nothing(store: Store) -> None:
    task = await add_task(store)
    started = tasks.start(task, make_occasion())
    await save(store, started)

    late = await save(store, tasks.complete(task, make_occasion()))
    early = await save(store, tasks.complete(replace(started.task, version=3), make_occasion()))

    assert (late, early) == (Saved.STALE, Saved.STALE)
    assert await store.task(GROUP_ID, task.id) == started.task
    assert list(await store.history(GROUP_ID, task.id))[1:] == [started.history]


async def test_a_change_of_a_task_that_is_not_there_is_stale_and_creates_none(store: Store) -> None:
    unsaved = make_task_change().task

    saved = await save(store, tasks.start(unsaved, make_occasion()))

    assert saved is Saved.STALE
    assert await store.task(GROUP_ID, unsaved.id) is None
    assert list(await store.history(GROUP_ID, unsaved.id)) == []


async def test_creating_a_task_that_is_there_is_stale(store: Store) -> None:
    task = await add_task(store)

    saved = await save(store, make_task_change(task_id=task.id, title="Another"))

    assert saved is Saved.STALE
    assert await store.task(GROUP_ID, task.id) == task


async def test_of_two_processes_that_change_one_version_one_succeeds(store: Store, other_store: Store) -> None:
    task = await add_task(store)
    changes = [tasks.start(task, make_occasion()), tasks.complete(task, make_occasion())]

    saved = await asyncio.gather(save(store, changes[0]), save(other_store, changes[1]))

    assert sorted(each.value for each in saved) == ["done", "stale"]
    winner = changes[saved.index(Saved.DONE)]
    assert await store.task(GROUP_ID, task.id) == winner.task
    assert list(await store.history(GROUP_ID, task.id))[1:] == [winner.history]


async def test_of_many_changes_at_once_in_one_process_one_succeeds(store: Store) -> None:
    task = await add_task(store)

    saved = await asyncio.gather(*(save(store, tasks.start(task, make_occasion())) for _ in range(20)))

    assert sorted(each.value for each in saved) == ["done"] + ["stale"] * 19
    assert len(await store.history(GROUP_ID, task.id)) == 2


async def test_asked_again_with_the_same_ids_the_same_change_is_written_once(store: Store, other_store: Store) -> None:
    change = make_task_change()

    saved = [await save(store, change), await save(store, change), await save(other_store, change)]

    assert saved == [Saved.DONE] * 3
    assert await store.task(GROUP_ID, change.task.id) == change.task
    assert list(await store.history(GROUP_ID, change.task.id)) == [change.history]


async def test_asked_again_at_the_same_moment_the_same_change_is_written_once(store: Store) -> None:
    change = make_task_change()

    saved = await asyncio.gather(*(save(store, change) for _ in range(5)))

    assert saved == [Saved.DONE] * 5
    assert list(await store.history(GROUP_ID, change.task.id)) == [change.history]


async def test_asked_again_after_the_task_has_moved_on_a_change_takes_nothing_back(store: Store) -> None:
    created = make_task_change()
    started = tasks.start(created.task, make_occasion())
    await save(store, created)
    await save(store, started)

    saved = await save(store, created)

    assert saved is Saved.DONE
    assert await store.task(GROUP_ID, created.task.id) == started.task
    assert list(await store.history(GROUP_ID, created.task.id)) == [created.history, started.history]


async def test_the_history_is_told_oldest_first_with_changes_and_reasons(store: Store) -> None:
    created = make_task_change(due_at=LATER)
    completed = tasks.complete(created.task, make_occasion(at=LATER, actor_id=None))
    rejected = tasks.reject(completed.task, "zu trocken 🌵", make_occasion(at=LATER))
    for change in (created, completed, rejected):
        await save(store, change)

    history = await store.history(GROUP_ID, created.task.id)

    assert list(history) == [created.history, completed.history, rejected.history]


async def test_tasks_are_listed_newest_first_page_by_page_to_the_end(store: Store) -> None:
    added = [await add_task(store, at=NOW + n * timedelta(seconds=1)) for n in range(5)]

    pages = await every_page(store, EVERYTHING, limit=2)

    assert pages == [added[4:2:-1], added[2:0:-1], added[:1]]


async def test_tasks_of_one_moment_are_all_listed_once(store: Store) -> None:
    added = [await add_task(store) for _ in range(5)]

    pages = await every_page(store, EVERYTHING, limit=2)

    assert sorted(ids([task for page in pages for task in page])) == sorted(ids(added))


async def test_the_last_page_says_that_it_is_the_end_even_when_it_is_full(store: Store) -> None:
    for n in range(4):
        await add_task(store, at=NOW + n * timedelta(seconds=1))

    pages = await every_page(store, EVERYTHING, limit=2)

    assert [len(page) for page in pages] == [2, 2]


async def test_tasks_added_while_somebody_pages_move_no_page(store: Store) -> None:
    added = [await add_task(store, at=NOW + n * timedelta(seconds=1)) for n in range(4)]
    first = await store.tasks(GROUP_ID, EVERYTHING, limit=2, before=None)
    await add_task(store, at=NOW + timedelta(minutes=1))

    second = await store.tasks(GROUP_ID, EVERYTHING, limit=2, before=first.next_cursor)

    assert [*first.items, *second.items] == added[::-1]
    assert second.next_cursor is None


async def test_a_group_without_tasks_has_one_empty_page(store: Store) -> None:
    page = await store.tasks(GROUP_ID, EVERYTHING, limit=2, before=None)

    assert list(page.items) == []
    assert page.next_cursor is None


@pytest.mark.parametrize(
    ("query", "found"),
    [
        (TaskQuery(), ["mine, started", "nobody's", "eve's", "mine"]),
        (TaskQuery(status=TaskStatus.PENDING), ["nobody's", "eve's", "mine"]),
        (TaskQuery(status=TaskStatus.IN_PROGRESS), ["mine, started"]),
        (TaskQuery(status=TaskStatus.APPROVED), []),
        (TaskQuery(assigned_to="usr_ada"), ["mine, started", "mine"]),
        (TaskQuery(assigned_to="usr_ad"), []),
        (TaskQuery(status=TaskStatus.PENDING, assigned_to="usr_ada"), ["mine"]),
    ],
)
async def test_a_query_finds_what_meets_all_of_it(store: Store, query: TaskQuery, found: list[str]) -> None:
    await add_task(store, title="mine", assigned_to="usr_ada", at=NOW)
    await add_task(store, title="eve's", assigned_to="usr_eve", at=NOW + timedelta(seconds=1))
    await add_task(store, title="nobody's", at=NOW + timedelta(seconds=2))
    mine = await add_task(store, title="mine, started", assigned_to="usr_ada", at=NOW + timedelta(seconds=3))
    await save(store, tasks.start(mine, make_occasion()))

    pages = await every_page(store, query, limit=1)

    assert [task.title for page in pages for task in page] == found


# --- search --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("roses", ["Water the ROSES"]),
        ("ROSES", ["Water the ROSES"]),
        ("the rose", ["Water the ROSES"]),
        ("water", ["Water the ROSES", "Pipe"]),
        ("jira-1", ["Ledger"]),
        ("STRASSE", ["Hauptstraße fegen"]),
        ("hauptSTRAßE", ["Hauptstraße fegen"]),
        ("äpfel", ["Ledger"]),
        ("100%", ["Ledger"]),
        ("100_", []),
        ("a_b", ["Pipe"]),
        ("%", ["Ledger"]),
        ("_", ["Pipe"]),
        ("\\", ["Pipe"]),
        ("\\_", []),
        ("*", []),
        ("the(", []),
        ("usr_ada", []),
        ("roses water", []),
    ],
)
async def test_a_search_finds_what_contains_the_text_as_it_stands_but_for_case(
    store: Store, text: str, found: list[str]
) -> None:
    await add_task(store, title="Pipe", description="a_b \\ water", at=NOW)
    await add_task(store, title="Hauptstraße fegen", at=NOW + timedelta(seconds=1))
    change = make_task_change(title="Ledger", description="100% Äpfel", at=NOW + timedelta(seconds=2))
    await save(store, replace(change, task=replace(change.task, external_id="JIRA-17")))
    await add_task(store, title="Water the ROSES", assigned_to="usr_ada", at=NOW + timedelta(seconds=3))

    pages = await every_page(store, TaskQuery(text=text), limit=1)

    assert [task.title for page in pages for task in page] == found


async def test_a_search_is_one_condition_among_others(store: Store) -> None:
    mine = await add_task(store, title="Water roses", assigned_to="usr_ada")
    await add_task(store, title="Water roses", assigned_to="usr_eve")
    await add_task(store, title="Cut roses", assigned_to="usr_ada")
    started = await add_task(store, title="Water roses", assigned_to="usr_ada")
    await save(store, tasks.start(started, make_occasion()))

    query = TaskQuery(status=TaskStatus.PENDING, assigned_to="usr_ada", text="water")

    assert await every_page(store, query, limit=10) == [[mine]]


async def test_a_search_sees_what_a_change_has_made_of_the_text(store: Store) -> None:
    task = await add_task(store, title="Roses")
    change = tasks.update(task, {"title": "Tulips"}, make_occasion())
    assert change is not None
    await save(store, change)

    assert await every_page(store, TaskQuery(text="roses"), limit=10) == [[]]
    assert await every_page(store, TaskQuery(text="tulips"), limit=10) == [[change.task]]


# --- deleting ------------------------------------------------------------------------------------------------


async def test_a_deleted_task_is_gone_from_every_list_and_keeps_its_history(store: Store, other_store: Store) -> None:
    kept = await add_task(store, assigned_to="usr_ada")
    created = make_task_change(assigned_to="usr_ada")
    await save(store, created)
    deletion = tasks.delete(created.task, make_occasion(at=LATER))

    saved = await store.delete_task(GROUP_ID, deletion)

    assert saved is Saved.DONE
    assert await other_store.task(GROUP_ID, created.task.id) is None
    for query in (
        EVERYTHING,
        TaskQuery(status=TaskStatus.PENDING),
        TaskQuery(assigned_to="usr_ada"),
        TaskQuery(text=""),
    ):
        assert await every_page(other_store, query, limit=10) == [[kept]]
    assert list(await other_store.history(GROUP_ID, created.task.id)) == [created.history, deletion.history]


async def test_what_a_deleted_task_was_about_to_tell_is_still_owed(store: Store) -> None:
    webhook = await add_webhook(store)
    change = make_task_change()
    delivery = make_delivery(change.event, webhook)
    await save(store, change, delivery)

    await store.delete_task(GROUP_ID, tasks.delete(change.task, make_occasion()))

    found = await detail(store, delivery)
    assert (found.delivery, found.event) == (delivery, change.event)


async def test_deleting_any_other_version_is_stale_and_changes_nothing(store: Store) -> None:
    task = await add_task(store)
    started = tasks.start(task, make_occasion())
    await save(store, started)

    late = await store.delete_task(GROUP_ID, tasks.delete(task, make_occasion()))
    early = await store.delete_task(GROUP_ID, tasks.delete(replace(task, version=3), make_occasion()))

    assert (late, early) == (Saved.STALE, Saved.STALE)
    assert await store.task(GROUP_ID, task.id) == started.task
    assert list(await store.history(GROUP_ID, task.id))[1:] == [started.history]


async def test_deleting_what_is_deleted_or_never_was_is_stale(store: Store) -> None:
    task = await add_task(store)
    deletion = tasks.delete(task, make_occasion())
    await store.delete_task(GROUP_ID, deletion)
    never_there = make_task_change().task

    saved = [
        await store.delete_task(GROUP_ID, tasks.delete(each, make_occasion(at=LATER)))
        for each in (task, deletion.task, never_there)
    ]

    assert saved == [Saved.STALE] * 3
    assert list(await store.history(GROUP_ID, task.id))[1:] == [deletion.history]
    assert list(await store.history(GROUP_ID, never_there.id)) == []


async def test_asked_again_the_same_deletion_is_written_once(store: Store, other_store: Store) -> None:
    task = await add_task(store)
    deletion = tasks.delete(task, make_occasion(at=LATER))

    saved = await asyncio.gather(*(each.delete_task(GROUP_ID, deletion) for each in (store, other_store, store)))
    again = await store.delete_task(GROUP_ID, deletion)

    assert [*saved, again] == [Saved.DONE] * 4
    assert list(await store.history(GROUP_ID, task.id))[1:] == [deletion.history]


async def test_a_change_of_a_deleted_task_is_stale_and_changes_nothing(store: Store) -> None:
    task = await add_task(store)
    deletion = tasks.delete(task, make_occasion())
    await store.delete_task(GROUP_ID, deletion)

    saved = [await save(store, tasks.start(each, make_occasion())) for each in (task, deletion.task)]

    assert saved == [Saved.STALE, Saved.STALE]
    assert await store.task(GROUP_ID, task.id) is None
    assert list(await store.history(GROUP_ID, task.id))[1:] == [deletion.history]


async def test_the_id_of_a_deleted_task_is_never_free_again(store: Store) -> None:
    task = await add_task(store)
    await store.delete_task(GROUP_ID, tasks.delete(task, make_occasion()))

    saved = await save(store, make_task_change(task_id=task.id, title="Another"))

    assert saved is Saved.STALE
    assert await store.task(GROUP_ID, task.id) is None


async def test_of_a_deletion_and_a_change_at_once_one_succeeds(store: Store, other_store: Store) -> None:
    task = await add_task(store)
    change, deletion = tasks.start(task, make_occasion()), tasks.delete(task, make_occasion())

    saved = await asyncio.gather(save(store, change), other_store.delete_task(GROUP_ID, deletion))

    assert sorted(each.value for each in saved) == ["done", "stale"]
    changed = saved[0] is Saved.DONE
    assert await store.task(GROUP_ID, task.id) == (change.task if changed else None)
    expected = change.history if changed else deletion.history
    assert list(await store.history(GROUP_ID, task.id))[1:] == [expected]


async def every_page(store: Store, query: TaskQuery, *, limit: int) -> list[list[Task]]:
    pages: list[list[Task]] = []
    cursor: str | None = None
    while not pages or cursor is not None:
        page = await store.tasks(GROUP_ID, query, limit=limit, before=cursor)
        pages.append(list(page.items))
        cursor = page.next_cursor
    return pages
