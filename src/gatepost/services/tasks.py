"""What people and systems do with tasks. Every change is one write: task, history, event and deliveries."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gatepost.domain import tasks as rules
from gatepost.domain.deliveries import owed
from gatepost.domain.errors import NotFound, StoreUnavailable, VersionConflict
from gatepost.domain.events import Occasion
from gatepost.domain.groups import Caller
from gatepost.domain.tasks import HistoryEntry, Task, TaskChange
from gatepost.ports import Chance, Clock, Page, Saved, TaskQuery, TaskStore, WebhookStore
from gatepost.services.matcher import Matcher

MOST_TRIES = 5
MOST_MATCHES = 20  # while somebody edits webhooks as fast as we can match them

Decision = Callable[[Task, Occasion], TaskChange | None]


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """A task and how it came to be so, oldest first."""

    task: Task
    history: Sequence[HistoryEntry]


class Tasks:
    """The tasks of all groups.

    Each change takes the `version` that the caller saw, if they want to hear of changes in between: it raises
    VersionConflict when that is no longer the version stored. Without one it applies to whatever is stored.
    Raises: NotFound, when the group has no such task; StoreUnavailable, with nothing written.
    """

    def __init__(self, tasks: TaskStore, webhooks: WebhookStore, clock: Clock, chance: Chance) -> None:
        self._tasks = tasks
        self._matcher = Matcher(webhooks)
        self._clock = clock
        self._chance = chance

    async def get(self, group_id: str, task_id: str) -> TaskRecord:
        """Return one task with its history."""
        task = await self._tasks.task(group_id, task_id)
        if task is None:
            raise NotFound("there is no such task in this group")
        return TaskRecord(task, await self._tasks.history(group_id, task_id))

    async def list(self, group_id: str, query: TaskQuery, *, limit: int, before: str | None) -> Page[Task]:
        """Return the group's tasks, newest first."""
        return await self._tasks.tasks(group_id, query, limit=limit, before=before)

    async def create(self, caller: Caller, fields: Mapping[str, Any]) -> TaskRecord:
        """Raises: InvalidInput, naming every field that is wrong."""
        task_id = self._chance.new_id("tsk")
        change = rules.create(task_id, caller.group_id, fields, self._occasion(caller))
        if await self._save(caller.group_id, change) is not Saved.DONE:
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

    async def _change(self, caller: Caller, task_id: str, decide: Decision, *, version: int | None) -> TaskRecord:
        occasion = self._occasion(caller)
        for _ in range(MOST_TRIES):
            record = await self.get(caller.group_id, task_id)
            if version is not None and record.task.version != version:
                raise VersionConflict(f"the task has version {record.task.version} by now, not {version}")
            change = decide(record.task, occasion)
            if change is None:
                return record
            if await self._save(caller.group_id, change) is Saved.DONE:
                return TaskRecord(change.task, (*record.history, change.history))
        raise VersionConflict("the task is being changed by others; read it and try again")

    async def _save(self, group_id: str, change: TaskChange) -> Saved:
        event = change.event
        for _ in range(MOST_MATCHES):
            match = await self._matcher.match(group_id, event.event, event.origin)
            deliveries = [owed(self._chance.new_id("dlv"), event, wanting) for wanting in match.subscriptions]
            saved = await self._tasks.save_change(group_id, change, deliveries, webhooks_version=match.version)
            if saved is not Saved.WEBHOOKS_MOVED:
                return saved
            self._matcher.forget(group_id)
        raise StoreUnavailable("the group's webhooks keep changing; try again")

    def _occasion(self, caller: Caller) -> Occasion:
        return Occasion(self._chance.new_id("evt"), self._clock.now(), caller.actor_id)
