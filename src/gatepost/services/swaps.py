"""What people do with swaps: propose that two tasks exchange their assignees, and decide on it."""

from dataclasses import replace
from functools import partial

from gatepost.domain import swaps as rules
from gatepost.domain.errors import InvalidTransition, NotFound, SwapDecided, SwapStale, VersionConflict, invalid
from gatepost.domain.groups import Caller
from gatepost.domain.swaps import Swap, SwapStatus
from gatepost.ports import Chance, Clock, Draws, GroupStore, Page, Saved, SwapStore, TaskStore
from gatepost.services.emitting import Emitter, occasion_of
from gatepost.services.tasks import CHANGED_BY_OTHERS, MOST_TRIES, existing


class Swaps:
    """The swaps of all groups.

    Raises: NotFound, when the group has no such swap or task; StoreUnavailable, with nothing written.
    """

    def __init__(
        self, swaps: SwapStore, tasks: TaskStore, groups: GroupStore, emitter: Emitter, clock: Clock, chance: Chance
    ) -> None:
        self._swaps = swaps
        self._tasks = tasks
        self._groups = groups
        self._emitter = emitter
        self._clock = clock
        self._chance = chance

    async def get(self, group_id: str, swap_id: str) -> Swap:
        """Return one swap."""
        swap = await self._swaps.swap(group_id, swap_id)
        if swap is None:
            raise NotFound("there is no such swap in this group")
        return swap

    async def list(self, group_id: str, status: SwapStatus | None, *, limit: int, before: str | None) -> Page[Swap]:
        """Return the group's swaps, newest first."""
        return await self._swaps.swaps(group_id, status, limit=limit, before=before)

    async def propose(
        self, caller: Caller, task_id: str, with_task_id: str, *, reason: str | None, draws: Draws
    ) -> Swap:
        """Propose that two tasks exchange their assignees.

        Raises: Forbidden; InvalidInput; InvalidTransition, also when one of them is in a pending swap already.
        """
        swap_id = draws.chance.new_id("swp")
        made = await self._swaps.swap(caller.group_id, swap_id)
        if made is not None:  # by this very request; since then it may have been decided
            return replace(made, status=SwapStatus.PENDING, decided_by=None, decided_at=None)
        for _ in range(MOST_TRIES):
            task = await existing(self._tasks, caller.group_id, task_id)
            with_task = await existing(self._tasks, caller.group_id, with_task_id)
            swap = rules.propose(swap_id, task, with_task, caller, reason=reason, now=draws.at)
            if field := await self._of_nobody_here(swap):
                raise invalid(field, "give a task whose assignee belongs to the group", code="not_a_member")
            saved = await self._swaps.add_swap(caller.group_id, swap)
            if saved is Saved.DONE:
                return swap
            if saved is Saved.EXISTS:
                raise InvalidTransition(
                    "one of the tasks is in a pending swap already; that one is to be decided first"
                )
        raise VersionConflict(CHANGED_BY_OTHERS)

    async def approve(self, caller: Caller, swap_id: str) -> Swap:
        """Exchange the assignees of the two tasks.

        Raises: SwapDecided; SwapStale, when one of the tasks has changed since the swap was proposed, or one of the
                assignees has left the group.
        """
        group_id = caller.group_id
        occasion = occasion_of(caller, self._chance.new_id("evt"), self._clock.now())
        task_ids = (await self.get(group_id, swap_id)).task_ids
        for _ in range(MOST_TRIES):
            task, with_task = [await self._tasks.task(group_id, task_id) for task_id in task_ids]
            # Read after its tasks: who has approved it meanwhile changed them, too, and is to be told of instead.
            swap = await self.get(group_id, swap_id)
            approval = rules.approve(swap, task, with_task, occasion)
            if await self._of_nobody_here(swap):
                raise SwapStale("an assignee has left the group since the swap was proposed; reject it")
            write = partial(self._swaps.approve_swap, group_id, approval)
            if await self._emitter.emit(approval.event, write) is Saved.DONE:
                return approval.swap
        raise VersionConflict(CHANGED_BY_OTHERS)

    async def reject(self, caller: Caller, swap_id: str) -> Swap:
        """Leave the tasks as they are. Raises: SwapDecided."""
        swap = await self.get(caller.group_id, swap_id)
        rejected = rules.reject(swap, caller.actor_id, now=self._clock.now())
        if await self._swaps.reject_swap(caller.group_id, rejected) is not Saved.DONE:
            raise SwapDecided("the swap has just been decided")
        return rejected

    async def _of_nobody_here(self, swap: Swap) -> str | None:
        """Return the field of the task whose assignee does not belong to the group any more."""
        for field, side in (("taskId", swap.task), ("withTaskId", swap.with_task)):
            if await self._groups.member(swap.group_id, side.assigned_to) is None:
                return field
        return None
