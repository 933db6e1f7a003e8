"""What people and systems do with tasks. Every change is one write: task, history, event and deliveries."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from gatepost.domain import tasks as rules
from gatepost.domain.errors import InvalidInput, NotFound, VersionConflict, invalid
from gatepost.domain.events import Occasion
from gatepost.domain.groups import Caller
from gatepost.domain.tasks import HistoryEntry, Task, TaskChange
from gatepost.ports import Chance, Clock, Draws, GroupStore, Page, Saved, TaskQuery, TaskStore
from gatepost.services.emitting import Emitter, occasion_of

MOST_TRIES = 5
CHANGED_BY_OTHERS = "the task is being changed by others; read it and try again"

Decision = Callable[[Task, Occasion], TaskChange | None]


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """A task and how it came to be so, oldest first."""

    task: Task
    history: Sequence[HistoryEntry]


async def existing(tasks: TaskStore, group_id: str, task_id: str) -> Task:
    """Return one task of a group.

    Raises: NotFound.
    """
    task = await tasks.task(group_id, task_id)
    if task is None:
        raise NotFound(f"there is no task {task_id} in this group")
    return task


class Tasks:
    """The tasks of all groups.

    Each change takes the `version` that the caller saw, if they want to hear of changes in between: it raises
    VersionConflict when that is no longer the version stored. Without one it applies to whatever is stored.
    Raises: NotFound, when the group has no such task; StoreUnavailable, with nothing written.
    """

    def __init__(self, tasks: TaskStore, groups: GroupStore, emitter: Emitter, clock: Clock, chance: Chance) -> None:
        self._tasks = tasks
        self._groups = groups
        self._emitter = emitter
        self._clock = clock
        self._chance = chance

    async def get(self, group_id: str, task_id: str) -> TaskRecord:
        """Return one task with its history."""
        task = await existing(self._tasks, group_id, task_id)
        return TaskRecord(task, await self._tasks.history(group_id, task_id))

    async def list(self, group_id: str, query: TaskQuery, *, limit: int, before: str | None) -> Page[Task]:
        """Return the group's tasks, newest first."""
        return await self._tasks.tasks(group_id, query, limit=limit, before=before)

    async def create(self, caller: Caller, fields: Mapping[str, Any], *, draws: Draws) -> TaskRecord:
        """Raises: InvalidInput, naming every field that is wrong."""
        task_id = draws.chance.new_id("tsk")
        occasion = occasion_of(caller, draws.chance.new_id("evt"), draws.at)
        change = rules.create(task_id, caller.group_id, fields, occasion)
        try:
            await self._must_suit_members(None, change.task)
        except InvalidInput:  # unless it was made by this very request, and the assignee has left since
            if not await self._tasks.history(caller.group_id, task_id):
                raise
        if await self._save(change) is not Saved.DONE:
            raise VersionConflict("a task with the new task's id exists already")
        return TaskRecord(change.task, (change.history,))

    async def update(
        self, caller: Caller, task_id: str, fields: Mapping[str, Any], *, version: int | None = None
    ) -> TaskRecord:
        """Set the given fields; nothing is written when that changes none of them."""

        def updated(task: Task, occasion: Occasion) -> TaskChange | None:
            return rules.update(task, fields, occasion)

        return await self._change(caller, task_id, updated, version=version)

    async def start(self, caller: Caller, task_id: str, *, version: int | None = None) -> TaskRecord:
        """Raises: InvalidTransition."""
        return await self._change(caller, task_id, rules.start, version=version)

    async def complete(self, caller: Caller, task_id: str, *, version: int | None = None) -> TaskRecord:
        """Raises: InvalidTransition."""
        return await self._change(caller, task_id, rules.complete, version=version)

    async def approve(self, caller: Caller, task_id: str, *, version: int | None = None) -> TaskRecord:
        """Raises: InvalidTransition."""
        return await self._change(caller, task_id, rules.approve, version=version)

    async def reject(self, caller: Caller, task_id: str, reason: str, *, version: int | None = None) -> TaskRecord:
        """Raises: InvalidTransition; InvalidInput, without a reason."""

        def rejected(task: Task, occasion: Occasion) -> TaskChange:
            return rules.reject(task, reason, occasion)

        return await self._change(caller, task_id, rejected, version=version)

    async def delete(self, caller: Caller, task_id: str, *, version: int | None = None) -> None:
        """Delete a task; its history and its events stay, and nobody is told."""
        occasion = self._occasion(caller)
        for _ in range(MOST_TRIES):
            task = await existing(self._tasks, caller.group_id, task_id)
            _must_have(task, version)
            if await self._tasks.delete_task(caller.group_id, rules.delete(task, occasion)) is Saved.DONE:
                return
        raise VersionConflict(CHANGED_BY_OTHERS)

    async def _change(self, caller: Caller, task_id: str, decide: Decision, *, version: int | None) -> TaskRecord:
        occasion = self._occasion(caller)
        for _ in range(MOST_TRIES):
            record = await self.get(caller.group_id, task_id)
            _must_have(record.task, version)
            change = decide(record.task, occasion)
            if change is None:
                return record
            await self._must_suit_members(record.task, change.task)
            if await self._save(change) is Saved.DONE:
                return TaskRecord(change.task, (*record.history, change.history))
        raise VersionConflict(CHANGED_BY_OTHERS)

    async def _must_suit_members(self, before: Task | None, after: Task) -> None:
        """Raises: InvalidInput, when a task is being assigned to somebody who is not of its group."""
        assignee = after.assigned_to
        if assignee is None or (before and before.assigned_to == assignee):
            return
        if await self._groups.member(after.group_id, assignee) is None:
            raise invalid("assignedTo", "give a member of the group", code="not_a_member")

    async def _save(self, change: TaskChange) -> Saved:
        return await self._emitter.emit(change.event, partial(self._tasks.save_change, change.task.group_id, change))

    def _occasion(self, caller: Caller) -> Occasion:
        return occasion_of(caller, self._chance.new_id("evt"), self._clock.now())


def _must_have(task: Task, version: int | None) -> None:
    if version is not None and task.version != version:
        raise VersionConflict(f"the task has version {task.version} by now, not {version}")
