import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest
from tests.builders import make_occasion, make_task, make_task_change
from tests.fakes import NOW

from gatepost.domain import tasks
from gatepost.domain.errors import InvalidInput, InvalidTransition
from gatepost.domain.events import Occasion
from gatepost.domain.tasks import HistoryEntry, Task, TaskChange, TaskStatus

LATER = NOW + timedelta(minutes=5)

Verb = Callable[[Task, Occasion], TaskChange]
VERBS: dict[str, Verb] = {
    "start": tasks.start,
    "complete": tasks.complete,
    "approve": tasks.approve,
    "reject": lambda task, occasion: tasks.reject(task, "the ferns are dry", occasion),
}
ALLOWED = {
    ("pending", "start"): ("in_progress", "task.updated"),
    ("pending", "complete"): ("completed", "task.completed"),
    ("in_progress", "complete"): ("completed", "task.completed"),
    ("completed", "approve"): ("approved", "task.approved"),
    ("completed", "reject"): ("rejected", "task.rejected"),
    ("rejected", "start"): ("in_progress", "task.updated"),
    ("rejected", "complete"): ("completed", "task.completed"),
}
FORBIDDEN = sorted({(status.value, verb) for status in TaskStatus for verb in VERBS} - ALLOWED.keys())


@pytest.mark.parametrize(("status", "verb"), ALLOWED)
def test_an_allowed_transition_moves_the_task_and_emits_its_one_event(status: str, verb: str) -> None:
    after, event = ALLOWED[status, verb]
    task = make_task(status=TaskStatus(status), version=7)
    occasion = make_occasion(at=LATER)

    change = VERBS[verb](task, occasion)

    assert change.task.status == after
    assert change.event.event == change.history.event == event
    assert change.event.id == occasion.event_id
    assert change.history.changes["status"] == {"from": status, "to": after}


@pytest.mark.parametrize(("status", "verb"), FORBIDDEN)
def test_every_other_transition_is_refused(status: str, verb: str) -> None:
    task = make_task(status=TaskStatus(status))

    with pytest.raises(InvalidTransition, match=f"a task that is {status} cannot {verb}"):
        VERBS[verb](task, make_occasion())


@pytest.mark.parametrize(("status", "verb"), ALLOWED)
def test_each_change_raises_the_version_by_one_and_says_when_and_who(status: str, verb: str) -> None:
    task = make_task(status=TaskStatus(status), version=7)

    change = VERBS[verb](task, make_occasion(at=LATER, actor_id="usr_eve"))

    assert change.expected_version == 7
    assert change.task.version == change.history.version == 8
    assert change.event.tasks == ((task.id, 8),)
    assert change.task.updated_at == change.history.at == change.event.created_at == LATER
    assert change.history.actor_id == change.event.actor_id == "usr_eve"


def test_a_new_task_is_pending_at_version_one_and_expects_none_before_it() -> None:
    change = make_task_change(title="Water the plants", difficulty=3)

    assert change.task.status is TaskStatus.PENDING
    assert (change.task.version, change.expected_version) == (1, 0)
    assert change.event.event == "task.created"
    assert change.history.changes == {
        "title": {"from": None, "to": "Water the plants"},
        "difficulty": {"from": None, "to": 3},
        "status": {"from": None, "to": "pending"},
    }


def test_completing_sets_the_moment_and_starting_again_clears_it() -> None:
    completed = tasks.complete(make_task(), make_occasion(at=LATER)).task
    rejected = tasks.reject(completed, "the ferns are dry", make_occasion()).task
    started = tasks.start(rejected, make_occasion()).task

    assert completed.completed_at == LATER
    assert rejected.completed_at == LATER
    assert started.completed_at is None


def test_a_rejection_carries_its_reason_in_the_event_and_the_history() -> None:
    change = tasks.reject(make_task(status=TaskStatus.COMPLETED), "the ferns are dry", make_occasion())

    assert change.history.reason == "the ferns are dry"
    assert data_of(change)["reason"] == "the ferns are dry"


@pytest.mark.parametrize("reason", ["", "  ", "x" * 1001, "nul \x00", "half \ud800"])
def test_a_rejection_needs_a_reason(reason: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        tasks.reject(make_task(status=TaskStatus.COMPLETED), reason, make_occasion())

    assert refusal.value.errors[0].loc == ("reason",)


def test_an_update_sets_only_the_fields_given() -> None:
    task = make_task(description="All of them", difficulty=2)

    change = tasks.update(task, {"title": "Water the ferns", "difficulty": None}, make_occasion(at=LATER))

    assert change is not None
    assert (change.task.title, change.task.description, change.task.difficulty) == (
        "Water the ferns",
        "All of them",
        None,
    )
    assert change.history.changes == {
        "title": {"from": "Water the plants", "to": "Water the ferns"},
        "difficulty": {"from": 2, "to": None},
    }


def test_an_update_that_changes_nothing_is_no_change() -> None:
    task = make_task(due_at=NOW)

    assert tasks.update(task, {}, make_occasion()) is None
    assert tasks.update(task, {"title": task.title, "due_at": NOW}, make_occasion()) is None
    assert tasks.update(task, {"due_at": NOW + timedelta(microseconds=1)}, make_occasion()) is None
    assert tasks.update(task, {"due_at": NOW.astimezone(timezone(timedelta(hours=2)))}, make_occasion()) is None


def test_a_due_time_is_kept_in_utc_to_the_millisecond() -> None:
    given = datetime(2026, 12, 1, 9, 0, 0, 123_999, tzinfo=timezone(timedelta(hours=1)))

    task = make_task_change(due_at=given).task

    assert task.due_at is not None
    assert task.due_at.isoformat() == "2026-12-01T08:00:00.123000+00:00"


@pytest.mark.parametrize(
    ("field", "value", "spelled"),
    [
        ("title", "", "title"),
        ("title", "   ", "title"),
        ("title", "x" * 101, "title"),
        ("title", None, "title"),
        ("title", "nul \x00", "title"),
        ("title", "half \udfff", "title"),
        ("description", "x" * 1001, "description"),
        ("description", "nul \x00", "description"),
        ("assigned_to", "ada", "assignedTo"),
        ("assigned_to", "", "assignedTo"),
        ("difficulty", 0, "difficulty"),
        ("difficulty", 11, "difficulty"),
        ("due_at", NOW.replace(tzinfo=None), "dueAt"),
    ],
)
def test_a_field_outside_its_limits_is_refused_by_its_name_on_the_wire(field: str, value: object, spelled: str) -> None:
    with pytest.raises(InvalidInput) as creating:
        make_task_change(**{field: value})
    with pytest.raises(InvalidInput) as updating:
        tasks.update(make_task(), {field: value}, make_occasion())

    assert [error.loc for error in creating.value.errors] == [(spelled,)]
    assert [error.loc for error in updating.value.errors] == [(spelled,)]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("title", "x"),
        ("title", "x" * 100),
        ("description", ""),
        ("description", "x" * 1000),
        ("description", None),
        ("difficulty", 1),
        ("difficulty", 10),
        ("assigned_to", "usr_ada"),
        ("assigned_to", None),
        ("due_at", None),
    ],
)
def test_a_field_at_its_limits_is_taken(field: str, value: object) -> None:
    assert getattr(make_task_change(**{field: value}).task, field) == value


def test_every_wrong_field_is_named_at_once() -> None:
    with pytest.raises(InvalidInput) as refusal:
        make_task_change(title="", difficulty=11)

    assert {error.loc for error in refusal.value.errors} == {("title",), ("difficulty",)}


def test_the_event_shows_the_task_without_its_history_and_what_changed() -> None:
    change = tasks.complete(make_task(), make_occasion(at=LATER))

    assert data_of(change) == {**tasks.as_json(change.task), "changes": change.history.changes}


def test_a_change_too_big_for_an_event_is_sent_thin() -> None:
    # Built past the limits on purpose: no task within them is this big.
    task = make_task(description="🌹" * 20_000)

    change = tasks.complete(task, make_occasion())

    assert data_of(change) == {"id": task.id, "status": "completed", "version": 2, "truncated": True}


@pytest.mark.parametrize("status", list(TaskStatus))
def test_a_deletion_is_one_more_version_and_a_line_of_history_and_no_event(status: TaskStatus) -> None:
    task = make_task(status=status, version=4, assigned_to="usr_ada")

    deletion = tasks.delete(task, make_occasion(at=LATER, actor_id="usr_eva"))

    assert deletion.task == replace(task, version=5, updated_at=LATER)
    assert deletion.expected_version == 4
    assert deletion.history == HistoryEntry(5, LATER, "usr_eva", "task.deleted", {})


def data_of(change: TaskChange) -> dict[str, object]:
    data: dict[str, object] = json.loads(change.event.body)["data"]
    return data
