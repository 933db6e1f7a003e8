import json
from dataclasses import replace
from datetime import timedelta

import pytest
from tests.builders import GROUP_ID, make_occasion, make_swap, make_task
from tests.fakes import NOW

from gatepost.domain import swaps
from gatepost.domain.errors import Forbidden, GatepostError, InvalidInput, InvalidTransition, SwapDecided, SwapStale
from gatepost.domain.groups import Caller, Role
from gatepost.domain.swaps import Swap, SwapSide, SwapStatus
from gatepost.domain.tasks import Task, TaskStatus

LATER = NOW + timedelta(hours=1)
ADMIN_KEY = Caller("key_1", GROUP_ID, Role.ADMIN)
MEMBER_KEY = Caller("key_2", GROUP_ID, Role.MEMBER)
ANN = Caller("usr_ann", GROUP_ID, Role.MEMBER)
BEN = Caller("usr_ben", GROUP_ID, Role.MEMBER)
EVA_WHO_OWNS_IT = Caller("usr_eva", GROUP_ID, Role.OWNER)


@pytest.fixture
def task() -> Task:
    return make_task(assigned_to="usr_ann", version=3)


@pytest.fixture
def other() -> Task:
    return make_task(assigned_to="usr_ben", version=7, status=TaskStatus.COMPLETED)


def propose(task: Task, other: Task, caller: Caller = ADMIN_KEY, reason: str | None = None) -> Swap:
    return swaps.propose("swp_1", task, other, caller, reason=reason, now=NOW)


# --- proposing -----------------------------------------------------------------------------------------------


def test_a_proposal_remembers_both_assignees_and_versions(task: Task, other: Task) -> None:
    assert propose(task, other, reason="Holidays") == Swap(
        id="swp_1",
        group_id=GROUP_ID,
        task=SwapSide(task.id, "usr_ann", 3),
        with_task=SwapSide(other.id, "usr_ben", 7),
        reason="Holidays",
        status=SwapStatus.PENDING,
        proposed_by="key_1",
        created_at=NOW,
    )


@pytest.mark.parametrize("caller", [ANN, BEN, ADMIN_KEY])
def test_either_assignee_and_an_admins_key_may_propose(task: Task, other: Task, caller: Caller) -> None:
    assert propose(task, other, caller).proposed_by == caller.actor_id


@pytest.mark.parametrize("caller", [EVA_WHO_OWNS_IT, MEMBER_KEY])
def test_nobody_else_may(task: Task, other: Task, caller: Caller) -> None:
    with pytest.raises(Forbidden):
        propose(task, other, caller)


def test_a_task_cannot_be_swapped_with_itself(task: Task) -> None:
    refused(task, task, field="withTaskId", code="same_task")


def test_both_tasks_need_an_assignee(task: Task, other: Task) -> None:
    refused(replace(task, assigned_to=None), other, field="taskId", code="unassigned")
    refused(task, replace(other, assigned_to=None), field="withTaskId", code="unassigned")


def test_the_assignees_must_differ(task: Task, other: Task) -> None:
    refused(task, replace(other, assigned_to="usr_ann"), field="withTaskId", code="same_assignee")


@pytest.mark.parametrize("which", ["task", "other"])
def test_an_approved_task_is_not_swapped(task: Task, other: Task, which: str) -> None:
    approved = {"task": task, "other": other} | {which: make_task(assigned_to="usr_eva", status=TaskStatus.APPROVED)}
    with pytest.raises(InvalidTransition):
        propose(**approved)


@pytest.mark.parametrize("status", [status for status in TaskStatus if status is not TaskStatus.APPROVED])
def test_a_task_of_any_other_status_is(task: Task, other: Task, status: TaskStatus) -> None:
    assert propose(replace(task, status=status), other).status is SwapStatus.PENDING


@pytest.mark.parametrize("reason", ["x" * 1001, "a\x00b", "\ud800"])
def test_a_reason_that_no_store_can_hold_is_refused(task: Task, other: Task, reason: str) -> None:
    with pytest.raises(InvalidInput):
        propose(task, other, reason=reason)
    assert propose(task, other, reason="").reason == ""


# --- deciding ------------------------------------------------------------------------------------------------


def test_an_approval_exchanges_the_assignees_and_nothing_else(task: Task, other: Task) -> None:
    approval = swaps.approve(propose(task, other), task, other, make_occasion(at=LATER, actor_id="usr_eva"))

    after = {change.task.id: change.task for change in approval.changes}
    assert after == {
        task.id: replace(task, assigned_to="usr_ben", version=4, updated_at=LATER),
        other.id: replace(other, assigned_to="usr_ann", version=8, updated_at=LATER),
    }
    decided = (approval.swap.status, approval.swap.decided_by, approval.swap.decided_at)
    assert decided == (SwapStatus.APPROVED, "usr_eva", LATER)
    assert [change.history.event for change in approval.changes] == ["task.swapped"] * 2
    assert {change.task.id: change.history.changes for change in approval.changes} == {
        task.id: {"assignedTo": {"from": "usr_ann", "to": "usr_ben"}},
        other.id: {"assignedTo": {"from": "usr_ben", "to": "usr_ann"}},
    }


def test_the_event_names_both_tasks_in_the_order_they_were_proposed_in(task: Task, other: Task) -> None:
    approval = swaps.approve(propose(other, task), other, task, make_occasion(actor_id="usr_eva"))

    assert json.loads(approval.event.body)["data"] == {
        "swapId": "swp_1",
        "approvedBy": "usr_eva",
        "tasks": [
            {"id": other.id, "from": "usr_ben", "to": "usr_ann", "version": 8},
            {"id": task.id, "from": "usr_ann", "to": "usr_ben", "version": 4},
        ],
    }
    assert approval.event.tasks == ((other.id, 8), (task.id, 4))
    assert approval.event.event == "task.swapped"


def test_changes_are_in_the_order_of_ids_whoever_comes_first(task: Task, other: Task) -> None:
    for first, second in ((task, other), (other, task)):
        approval = swaps.approve(propose(first, second), first, second, make_occasion())
        assert [change.task.id for change in approval.changes] == sorted([task.id, other.id])


def test_an_approval_is_stale_once_a_task_has_changed_or_is_gone(task: Task, other: Task) -> None:
    swap = propose(task, other)
    for pair in (
        (replace(task, version=4), other),
        (task, replace(other, version=8)),
        (None, other),
        (task, None),
        (None, None),
    ):
        with pytest.raises(SwapStale):
            swaps.approve(swap, *pair, make_occasion())


@pytest.mark.parametrize("status", [SwapStatus.APPROVED, SwapStatus.REJECTED])
def test_what_is_decided_stays_decided_however_its_tasks_have_changed(
    task: Task, other: Task, status: SwapStatus
) -> None:
    swap = make_swap(task, other, status=status)
    with pytest.raises(SwapDecided):
        swaps.approve(swap, None, replace(other, version=9), make_occasion())
    with pytest.raises(SwapDecided):
        swaps.reject(swap, "usr_eva", now=LATER)


def test_a_rejection_says_who_and_when(task: Task, other: Task) -> None:
    swap = make_swap(task, other)
    expected = replace(swap, status=SwapStatus.REJECTED, decided_by="usr_eva", decided_at=LATER)
    assert swaps.reject(swap, "usr_eva", now=LATER) == expected


def test_a_swap_is_shown_with_null_for_what_is_not_yet(task: Task, other: Task) -> None:
    pending = swaps.as_json(make_swap(task, other))
    assert (pending["decidedAt"], pending["decidedBy"], pending["status"]) == (None, None, "pending")
    rejected = swaps.as_json(swaps.reject(make_swap(task, other), "usr_eva", now=LATER))
    assert rejected["decidedAt"] == "2026-11-23T13:34:56.789Z"


def refused(task: Task, other: Task, *, field: str, code: str) -> None:
    with pytest.raises(GatepostError) as refusal:
        propose(task, other)
    assert isinstance(refusal.value, InvalidInput)
    [error] = refusal.value.errors
    assert (error.loc, error.code) == ((field,), code)
