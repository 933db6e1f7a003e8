"""Swaps: two tasks exchange their assignees, once an admin agrees.

pending ──approve──▶ approved
   └─────reject────▶ rejected
"""

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from gatepost.domain.errors import Forbidden, InvalidTransition, SwapDecided, SwapStale, invalid
from gatepost.domain.events import Event, Json, Occasion, make_event, rfc3339, rfc3339_or_none
from gatepost.domain.groups import Caller
from gatepost.domain.tasks import REASON_LIMIT, HistoryEntry, Task, TaskStatus, check_text


class SwapStatus(StrEnum):
    PENDING = "pending"
    APPROVED = "approved"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class SwapSide:
    """One of the two tasks: whom it was assigned to when the swap was proposed, and its version then."""

    task_id: str
    assigned_to: str
    version: int


@dataclass(frozen=True, slots=True)
class Swap:
    id: str
    group_id: str
    task: SwapSide
    with_task: SwapSide
    reason: str | None
    status: SwapStatus
    proposed_by: str
    created_at: datetime
    decided_by: str | None = None
    decided_at: datetime | None = None

    @property
    def task_ids(self) -> tuple[str, str]:
        return self.task.task_id, self.with_task.task_id


@dataclass(frozen=True, slots=True)
class ChangedTask:
    """A task as a swap leaves it, with its line of history."""

    task: Task
    history: HistoryEntry


@dataclass(frozen=True, slots=True)
class SwapApproval:
    """What the approval of a swap leaves behind, to be written as a whole.

    Shape: `changes` in the order of the tasks' ids; the version each must still have is one below.
    """

    swap: Swap
    changes: tuple[ChangedTask, ChangedTask]
    event: Event


def propose(swap_id: str, task: Task, with_task: Task, caller: Caller, *, reason: str | None, now: datetime) -> Swap:
    """Return a new pending swap.

    Raises: Forbidden, unless the caller is one of the assignees, or a key of an admin; InvalidInput, unless two tasks
            have different assignees; InvalidTransition, when one is approved.
    """
    if reason is not None:
        check_text("reason", reason, 0, REASON_LIMIT)
    if task.id == with_task.id:
        raise invalid("withTaskId", "give another task than taskId", code="same_task")
    _must_be_involved(caller, task, with_task)
    for each in (task, with_task):
        if each.status is TaskStatus.APPROVED:
            raise InvalidTransition(f"the task {each.id} is approved: it cannot be swapped any more")
    return Swap(
        id=swap_id,
        group_id=task.group_id,
        task=_side("taskId", task),
        with_task=_other_side(_side("withTaskId", with_task), task),
        reason=reason,
        status=SwapStatus.PENDING,
        proposed_by=caller.actor_id,
        created_at=now,
    )


def approve(swap: Swap, task: Task | None, with_task: Task | None, occasion: Occasion) -> SwapApproval:
    """Exchange the assignees; a task that is None is gone.

    Raises: SwapDecided; SwapStale, when one of the tasks has changed since the swap was proposed.
    """
    _must_be_pending(swap)
    if not (task and with_task) or (task.version, with_task.version) != (swap.task.version, swap.with_task.version):
        raise SwapStale("a task has changed since the swap was proposed; reject it, and propose it anew")
    approved = _decided(swap, SwapStatus.APPROVED, occasion.actor_id, occasion.at)
    one = _assigned(task, with_task.assigned_to, occasion)
    other = _assigned(with_task, task.assigned_to, occasion)
    event = make_event(
        "task.swapped",
        group_id=swap.group_id,
        occasion=occasion,
        data={
            "swapId": swap.id,
            "approvedBy": occasion.actor_id,
            "tasks": [_swapped_json(task, one.task), _swapped_json(with_task, other.task)],
        },
        tasks=tuple((each.task.id, each.task.version) for each in (one, other)),
    )
    return SwapApproval(approved, (one, other) if one.task.id < other.task.id else (other, one), event)


def reject(swap: Swap, actor_id: str, *, now: datetime) -> Swap:
    """Leave the tasks as they are. Raises: SwapDecided."""
    _must_be_pending(swap)
    return _decided(swap, SwapStatus.REJECTED, actor_id, now)


def as_json(swap: Swap) -> Json:
    """Return the swap as answers show it."""
    return {
        "id": swap.id,
        "groupId": swap.group_id,
        "taskId": swap.task.task_id,
        "withTaskId": swap.with_task.task_id,
        "assignedTo": swap.task.assigned_to,
        "withAssignedTo": swap.with_task.assigned_to,
        "reason": swap.reason,
        "status": swap.status.value,
        "proposedBy": swap.proposed_by,
        "decidedBy": swap.decided_by,
        "createdAt": rfc3339(swap.created_at),
        "decidedAt": rfc3339_or_none(swap.decided_at),
    }


def _must_be_involved(caller: Caller, task: Task, with_task: Task) -> None:
    if caller.is_person:
        if caller.actor_id not in (task.assigned_to, with_task.assigned_to):
            raise Forbidden("only somebody whom one of the tasks is assigned to may propose to swap them")
    elif not caller.is_admin:
        raise Forbidden("a key with the role member is nobody's: propose a swap with an admin key, or signed in")


def _side(field: str, task: Task) -> SwapSide:
    if task.assigned_to is None:
        raise invalid(field, "give a task that is assigned to somebody", code="unassigned")
    return SwapSide(task.id, task.assigned_to, task.version)


def _other_side(side: SwapSide, task: Task) -> SwapSide:
    if side.assigned_to == task.assigned_to:
        raise invalid("withTaskId", "give a task that is assigned to somebody else", code="same_assignee")
    return side


def _must_be_pending(swap: Swap) -> None:
    if swap.status is not SwapStatus.PENDING:
        raise SwapDecided(f"the swap is {swap.status} already")


def _decided(swap: Swap, status: SwapStatus, actor_id: str | None, at: datetime) -> Swap:
    return replace(swap, status=status, decided_by=actor_id, decided_at=at)


def _assigned(task: Task, to: str | None, occasion: Occasion) -> ChangedTask:
    after = replace(task, assigned_to=to, version=task.version + 1, updated_at=occasion.at)
    changes = {"assignedTo": {"from": task.assigned_to, "to": to}}
    return ChangedTask(after, HistoryEntry(after.version, occasion.at, occasion.actor_id, "task.swapped", changes))


def _swapped_json(before: Task, after: Task) -> Json:
    return {"id": after.id, "from": before.assigned_to, "to": after.assigned_to, "version": after.version}
