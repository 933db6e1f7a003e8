"""How a swap holds its two tasks while it is approved in MongoDB. `mongo_swaps.py` has the argument.

A task's `lock` is ``<swap id>/<try>`` while a swap holds it, and ``""`` at all other times. Nothing but its swap
changes a task that is held. What a lock is worth says the swap alone:

* It is approved: the tasks are as the approval has left them, which its outbox says until they are written.
* It is pending and at that try: whoever approves it is at work, or has died. To raise `try` voids the lock, so that
  whoever approves it cannot do so any more with what that try has locked.
* Anything else: the lock is void, and left over.

So whoever wants to change a task that is held finishes what is approved, or voids the lock, and then takes it away.
"""

from collections.abc import Mapping
from typing import Any

from pymongo.errors import PyMongoError

from gatepost.adapters.storage.mongo_documents import TASK_FIELDS, key_of
from gatepost.adapters.storage.mongo_driver import Document, Mongo, fetch, parts_of
from gatepost.adapters.storage.mongo_outbox import OUTBOX_FIELDS, relay, waiting_in
from gatepost.domain.errors import StoreUnavailable
from gatepost.domain.swaps import SwapStatus

PENDING, APPROVED = SwapStatus.PENDING.value, SwapStatus.APPROVED.value

MOST_TRIES = 100

STATE_FIELDS = OUTBOX_FIELDS | {"version": 1, "deleted": 1, "lock": 1}  # of a task
DECISION_FIELDS = OUTBOX_FIELDS | {"status": 1, "try": 1, "event_id": 1, "task_id": 1, "with_task_id": 1}  # of a swap

_MOST_HELD = 10_000  # in a group; those who approve at once are far fewer


def lock_of(swap: Mapping[str, Any]) -> str:
    return f"{swap['id']}/{swap['try']}"


# --- reading -------------------------------------------------------------------------------------------------


async def task_as_it_stands(mongo: Mongo, group_id: str, task_id: str) -> Document | None:
    """Return a task that is not deleted, as the swap that holds it may have left it."""
    for _ in range(MOST_TRIES):
        task = await mongo.tasks.find_one({**key_of(group_id, task_id), "deleted": 0}, TASK_FIELDS)
        if task is None or not task["lock"]:
            return task
        swap = await swap_that_holds(mongo, task)
        if swap["status"] != APPROVED:
            return task
        if task_id in (left := states_in(swap)):
            return left[task_id]
        # It has been written since.
    raise StoreUnavailable("the task is swapped too often at this moment; try again")


async def tasks_held(mongo: Mongo, group_id: str) -> dict[str, Document]:
    """Return the tasks of a group that are held, as they stand."""
    asked = mongo.tasks.find({"group_id": group_id, "lock": {"$gt": ""}}, TASK_FIELDS)
    locked = await fetch(asked.sort("lock", 1).limit(_MOST_HELD))
    states: dict[str, dict[str, Document]] = {}
    for part in parts_of({f"{group_id}/{_swap_id_in(task['lock'])}" for task in locked}):
        approved = {"_id": {"$in": part}, "group_id": group_id, "status": APPROVED}
        states |= {swap["id"]: states_in(swap) for swap in await fetch(mongo.swaps.find(approved, DECISION_FIELDS))}
    held = {}
    for task in locked:
        left = states.get(_swap_id_in(task["lock"]))
        if left is None:
            held[task["id"]] = task
        elif task["id"] in left:  # if not, it has been written since, and is read as any other task
            held[task["id"]] = left[task["id"]]
    return held


async def swap_that_holds(mongo: Mongo, task: Mapping[str, Any]) -> Document:
    """Return a swap that is there: it was before the lock was, and nobody takes swaps away."""
    key = key_of(task["group_id"], _swap_id_in(task["lock"]))
    swap: Document | None = await mongo.swaps.find_one(key, DECISION_FIELDS)
    if swap is None:
        raise StoreUnavailable(f"the swap that holds the task {task['id']} is not in the database")
    return swap


def states_in(swap: Mapping[str, Any]) -> dict[str, Document]:
    """Return the tasks as an approved swap leaves them, by their ids; none once they are written."""
    return {task["id"]: task for entry in waiting_in(swap) for task in entry["tasks"]}


def _swap_id_in(lock: str) -> str:
    return lock.rpartition("/")[0]


def _try_in(lock: str) -> int:
    return int(lock.rpartition("/")[2])


# --- changing ------------------------------------------------------------------------------------------------


async def made_way(mongo: Mongo, key: Mapping[str, Any], version: int) -> bool:
    """Do away with what keeps a task of this version from being written.

    Shape:  False when nothing can: it has another version, or is deleted. Otherwise the write is to be tried again.
    Raises: StoreUnavailable, when what waits in its outbox cannot be passed on.
    """
    task = await mongo.tasks.find_one(key, STATE_FIELDS)
    if task is None or task["deleted"] or task["version"] > version:
        return False
    if task["lock"]:
        await settle(mongo, task)
        return True
    if task["version"] != version:
        return False
    try:
        await relay(mongo, mongo.tasks, task)
    except PyMongoError as error:
        raise StoreUnavailable("too many events of this task wait to be passed on; try again in a minute") from error
    return True


async def settle(mongo: Mongo, task: Mapping[str, Any]) -> None:
    """Finish the swap that holds a task, if it is approved, and take the lock that was found away from the task."""
    swap = await swap_that_holds(mongo, task)
    if swap["status"] == APPROVED:
        await relay(mongo, mongo.swaps, swap)
    # A lock may be of a later try than was read: a primary that was just elected may answer from before. It is no void
    # one then; and to void the try that was read fails.
    elif swap["status"] == PENDING and _try_in(task["lock"]) >= swap["try"] and not await _voided(mongo, swap):
        return  # decided or voided meanwhile: to be looked at again
    key = key_of(task["group_id"], task["id"])
    await mongo.tasks.update_one({**key, "lock": task["lock"]}, {"$set": {"lock": ""}})


async def _voided(mongo: Mongo, swap: Mapping[str, Any]) -> bool:
    at_that_try = {**key_of(swap["group_id"], swap["id"]), "status": PENDING, "try": swap["try"]}
    voided = await mongo.swaps.update_one(at_that_try, {"$inc": {"try": 1}})
    return voided.matched_count == 1
