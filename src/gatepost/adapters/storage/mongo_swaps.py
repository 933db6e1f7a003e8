"""Swaps in MongoDB: two tasks change at one moment, though MongoDB changes one document at a time.

The swap's document is the commit point of its approval, which takes three steps:

1. Both tasks are locked, the one with the lower id first: a compare-and-set on version and lock, when nothing waits in
   the task's outbox. The lock names the swap and its `try` (`mongo_locks.py`). The group counts the approval.
2. The swap goes from pending to approved, if it is still pending at that `try`. The same write puts into its outbox the
   event, both lines of history, the deliveries, and both tasks as they are from now on.
3. What waits in its outbox is passed on (`mongo_outbox.py`), the tasks last: each is written and let go in one write.

Whoever dies before 2 has changed nothing; after it, everybody who meets a lock, or the sweep, does 3 to its end.

What 2 finds. A lock of this try was put on each task when it had the version that the approval expects. Nobody changes
a task that is locked, and nobody takes a lock away without having raised `try`, or found the swap decided, or its `try`
another one. So as long as the swap is pending at this try, both tasks are still locked, and still have that version:

* An approver is paused between 1 and 2, and somebody changes a task: that one raises `try` first, and 2 fails.
* An approver is paused within 1, its first lock is voided and taken away, and it locks the second task then: that lock
  is of a try that was before, worth nothing, and goes with whoever meets it. 2 fails.
* An approver tries again, and somebody who is slow takes away the lock of its try before: the lock has another name by
  now, and stays.
* Two approve the same swap: they share the locks, and one finds it pending. The other is told that it is decided.
* Somebody rejects it between 1 and 2: 2 fails; the locks are void, as the swap is not pending any more.

How tasks are read. One that is locked is read together with its swap: pending, it is as it was; approved, it is as the
swap's outbox says; and if nothing waits there any more it has been written since, and is read again. So all who read a
task after 2 see it as it is after, and all who read it before as it was: there is no order in which somebody sees one
task after and then the other before. Of lists, which are not read at one moment, `mongo_tasks.py` tells.

A lock is voided at once by whoever wants to change the task, and not after some seconds: voiding is always safe, it
needs no clock, and that change makes the swap stale anyway. The sweep voids what it finds, too; whoever was at work
then tries once more.

One pending swap per task: `open_swaps` has a document for each task that was ever in a swap, with the swap that has the
place. Both places are taken before the swap is written, and they are compared with nothing at that moment. So:

* The place of a swap that is pending is taken; that of a decided one is free to be taken over, by compare-and-set.
* The place of a swap that is not there is somebody's who is about to write it, or has died, or gave up. After a minute,
  or when it was given up, it may be taken over; but before that a tombstone is written in place of the swap, so that
  whoever was only slow finds its `_id` taken and gives up.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pymongo import ReturnDocument

from gatepost.adapters.storage.mongo_documents import (
    SWAP_FIELDS,
    key_of,
    swap_document,
    swap_from_document,
    task_document,
)
from gatepost.adapters.storage.mongo_driver import Document, Mongo, fetch, insert_new
from gatepost.adapters.storage.mongo_locks import (
    APPROVED,
    DECISION_FIELDS,
    MOST_TRIES,
    PENDING,
    STATE_FIELDS,
    lock_of,
    made_way,
    settle,
    task_as_it_stands,
)
from gatepost.adapters.storage.mongo_outbox import (
    NOTHING_WAITS,
    emitted_entry,
    history_rows,
    relayed,
    sealed_entry,
    waits_from_now_on,
)
from gatepost.adapters.storage.mongo_subscriptions import webhooks_version_of
from gatepost.adapters.storage.paging import page_of
from gatepost.adapters.storage.rows import to_ms, to_ms_or_none
from gatepost.domain.deliveries import Delivery, queued
from gatepost.domain.errors import StoreUnavailable
from gatepost.domain.events import Event
from gatepost.domain.swaps import ChangedTask, Swap, SwapApproval, SwapStatus
from gatepost.ports import Page, Saved

_ABANDONED_AFTER_MS = 60_000
_GIVEN_UP = 0  # the moment of a place that its swap does not want any more
_BURIED = "buried"  # the status of a tombstone


class MongoSwaps:
    """Implements `ports.SwapStore`."""

    _mongo: Mongo

    async def add_swap(self, group_id: str, swap: Swap) -> Saved:
        if swap.group_id != group_id:
            return Saved.STALE
        return await self._mongo.write(_add(self._mongo, swap))

    async def swap(self, group_id: str, swap_id: str) -> Swap | None:
        return await self._mongo.read(_swap(self._mongo, group_id, swap_id))

    async def swaps(self, group_id: str, status: SwapStatus | None, *, limit: int, before: str | None) -> Page[Swap]:
        return await self._mongo.read(_swaps(self._mongo, group_id, status, limit, before))

    async def approve_swap(
        self, group_id: str, approval: SwapApproval, deliveries: Sequence[Delivery], *, webhooks_version: int
    ) -> Saved:
        approving = _Approving(self._mongo, group_id, approval, deliveries, webhooks_version)
        return await self._mongo.write(approving.approve())

    async def reject_swap(self, group_id: str, swap: Swap) -> Saved:
        return await self._mongo.write(_reject(self._mongo, group_id, swap))


async def _swap(mongo: Mongo, group_id: str, swap_id: str) -> Swap | None:
    found = await mongo.swaps.find_one(key_of(group_id, swap_id), SWAP_FIELDS)
    return swap_from_document(found) if found else None


async def _swaps(mongo: Mongo, group_id: str, status: SwapStatus | None, limit: int, before: str | None) -> Page[Swap]:
    asked: dict[str, Any] = {"group_id": group_id}
    if status is not None:
        asked["status"] = status.value
    if before is not None:
        asked["id"] = {"$lt": before}
    found = await fetch(mongo.swaps.find(asked, SWAP_FIELDS).sort("id", -1).limit(limit + 1))
    return page_of([swap_from_document(each) for each in found], limit)


# --- proposing -----------------------------------------------------------------------------------------------


async def _add(mongo: Mongo, swap: Swap) -> Saved:
    if await _is_there(mongo, swap):
        return Saved.DONE
    if not await _names_what_stands(mongo, swap):
        return Saved.STALE
    places = [await _take_place(mongo, swap, task_id) for task_id in sorted(swap.task_ids)]
    if not all(places):
        return await _give_up(mongo, swap, Saved.EXISTS)
    # Once more, as a swap that was pending before may have been approved meanwhile.
    if not await _names_what_stands(mongo, swap):
        return await _give_up(mongo, swap, Saved.STALE)
    if await insert_new(mongo.swaps, [swap_document(swap) | NOTHING_WAITS]):
        return Saved.DONE
    return Saved.DONE if await _is_there(mongo, swap) else Saved.EXISTS  # its twin was faster; or it is buried


async def _is_there(mongo: Mongo, swap: Swap) -> bool:
    return await mongo.swaps.find_one(key_of(swap.group_id, swap.id), {"_id": 1}) is not None


async def _names_what_stands(mongo: Mongo, swap: Swap) -> bool:
    tasks = [await task_as_it_stands(mongo, swap.group_id, side.task_id) for side in (swap.task, swap.with_task)]
    versions = [task and task["version"] for task in tasks]
    return versions == [swap.task.version, swap.with_task.version]


async def _take_place(mongo: Mongo, swap: Swap, task_id: str) -> bool:
    """Take the place of the one pending swap of a task; say whether it is ours."""
    place: Document = {"swap_id": swap.id, "at": to_ms(swap.created_at)}
    key = {"_id": f"{swap.group_id}/{task_id}"}
    for _ in range(MOST_TRIES):
        if await insert_new(mongo.open_swaps, [{**key, **place}]):
            return True
        found = await mongo.open_swaps.find_one(key)
        if found is None:
            continue
        if found["swap_id"] != swap.id and not await _is_free(mongo, swap, found):
            return False
        as_found = {**key, "swap_id": found["swap_id"], "at": found["at"]}
        if (await mongo.open_swaps.update_one(as_found, {"$set": place})).matched_count:
            return True
    raise StoreUnavailable("too many propose swaps of the task at this moment; try again")


async def _is_free(mongo: Mongo, swap: Swap, place: Mapping[str, Any]) -> bool:
    """Say whether the swap that has a place needs it no more; make sure of it, if it is not there yet."""
    holder_id = f"{swap.group_id}/{place['swap_id']}"
    holder = await mongo.swaps.find_one({"_id": holder_id}, {"status": 1})
    if holder is not None:
        return bool(holder["status"] != PENDING)
    if place["at"] > to_ms(swap.created_at) - _ABANDONED_AFTER_MS:
        return False
    tombstone = {"_id": holder_id, "group_id": "", "id": "", "status": _BURIED, **NOTHING_WAITS}
    return bool(await insert_new(mongo.swaps, [tombstone]))


async def _give_up(mongo: Mongo, swap: Swap, saved: Saved) -> Saved:
    """Let others have our places. They make sure that this swap is not there: a twin of ours may be adding it."""
    for task_id in swap.task_ids:
        ours = {"_id": f"{swap.group_id}/{task_id}", "swap_id": swap.id}
        await mongo.open_swaps.update_one(ours, {"$set": {"at": _GIVEN_UP}})
    return saved


# --- deciding ------------------------------------------------------------------------------------------------


async def _reject(mongo: Mongo, group_id: str, swap: Swap) -> Saved:
    rejected = await mongo.swaps.update_one(
        {**key_of(group_id, swap.id), "status": PENDING}, {"$set": _decision_of(swap)}
    )
    return Saved.DONE if rejected.matched_count else Saved.EXISTS


def _decision_of(swap: Swap) -> Document:
    return {"status": swap.status.value, "decided_by": swap.decided_by, "decided_at": to_ms_or_none(swap.decided_at)}


class _Approving:
    """The approval of a swap: as often as it takes, while others take its locks away."""

    def __init__(
        self,
        mongo: Mongo,
        group_id: str,
        approval: SwapApproval,
        deliveries: Sequence[Delivery],
        webhooks_version: int,
    ) -> None:
        self._mongo = mongo
        self._group_id = group_id
        self._approval = approval
        self._deliveries = deliveries
        self._webhooks_version = webhooks_version

    async def approve(self) -> Saved:
        event = self._approval.event
        emitted = [queued(each, body=event.body, hop=event.hop) for each in self._deliveries]
        with self._mongo.hand_over.emission(emitted) as hand_over:
            for _ in range(MOST_TRIES):
                swap = await self._look()
                if swap is None or swap["status"] != PENDING:
                    return await self._decided(swap, event)
                if await webhooks_version_of(self._mongo, self._group_id) != self._webhooks_version:
                    return Saved.WEBHOOKS_MOVED
                if not await self._lock_both(lock_of(swap)):
                    await self._unlock(lock_of(swap))
                    swap = await self._look()  # others may have approved it, and so changed the tasks
                    is_pending = swap is not None and swap["status"] == PENDING
                    return Saved.STALE if is_pending else await self._decided(swap, event)
                approved = await self._commit(swap)
                if approved is not None:
                    if await relayed(self._mongo, self._mongo.swaps, approved):
                        hand_over()
                    return Saved.DONE
        raise StoreUnavailable("too many want to change the tasks of the swap at this moment; try again")

    async def _look(self) -> Document | None:
        key = key_of(self._group_id, self._approval.swap.id)
        found: Document | None = await self._mongo.swaps.find_one(key, DECISION_FIELDS)
        return found

    async def _decided(self, swap: Document | None, event: Event) -> Saved:
        """Tell of a swap that is not pending; if this very approval is what was written, finish it, too."""
        if swap is None or swap["status"] != APPROVED or swap["event_id"] != event.id:
            return Saved.EXISTS
        await relayed(self._mongo, self._mongo.swaps, swap)
        return Saved.DONE

    async def _lock_both(self, lock: str) -> bool:
        for each in self._approval.changes:  # the lower id first
            if not await self._lock(each, lock):
                return False
        return True

    async def _lock(self, changed: ChangedTask, lock: str) -> bool:
        """Lock a task; False when it has another version than the one that is expected."""
        key, expected = key_of(self._group_id, changed.task.id), changed.task.version - 1
        free = {"version": expected, "deleted": 0, "lock": {"$in": ["", lock]}, "pending_events": 0}
        for _ in range(MOST_TRIES):
            locked = await self._mongo.tasks.update_one({**key, **free}, {"$set": {"lock": lock}})
            if locked.matched_count:
                return True
            if not await made_way(self._mongo, key, expected):
                return False
        raise StoreUnavailable("too many want to change a task of the swap at this moment; try again")

    async def _unlock(self, lock: str) -> None:
        for each in self._approval.changes:
            task = await self._mongo.tasks.find_one(key_of(self._group_id, each.task.id), STATE_FIELDS)
            if task is not None and task["lock"] == lock:
                await settle(self._mongo, task)

    async def _commit(self, swap: Mapping[str, Any]) -> Document | None:
        """Approve the swap, if it is still pending at the try that locked its tasks; return it as it is then."""
        await self._mongo.groups.update_one({"_id": self._group_id}, {"$inc": {"approvals": 1}})
        approval, event = self._approval, self._approval.event
        entry = sealed_entry(
            **emitted_entry(event, self._deliveries, webhooks_version=self._webhooks_version),
            history=history_rows(*((each.task, each.history) for each in approval.changes)),
            tasks=[task_document(each.task) | {"lock": lock_of(swap)} for each in approval.changes],
        )
        approved: Document | None = await self._mongo.swaps.find_one_and_update(
            {**key_of(self._group_id, swap["id"]), "status": PENDING, "try": swap["try"]},
            waits_from_now_on(event.id, entry, **_decision_of(approval.swap), event_id=event.id),
            projection=DECISION_FIELDS,
            return_document=ReturnDocument.AFTER,
        )
        return approved
