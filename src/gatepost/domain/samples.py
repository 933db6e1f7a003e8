"""An example of every event that a webhook can ask for, made by the same rules as the real ones."""

from dataclasses import replace

from gatepost.domain import swaps, tasks
from gatepost.domain.errors import invalid
from gatepost.domain.events import TASK_EVENTS, TEST_EVENT, Event, Occasion, make_event
from gatepost.domain.groups import Caller, Role

SAMPLE_EVENTS = (TEST_EVENT, *TASK_EVENTS)

_TASK_ID = "tsk_" + "0" * 32
_OTHER_TASK_ID = "tsk_" + "0" * 31 + "1"
_SWAP_ID = "swp_" + "0" * 32
_ANN, _BEN = "usr_" + "0" * 32, "usr_" + "0" * 31 + "1"
_FIELDS = {"title": "Water the plants", "description": "A sample", "assigned_to": _ANN, "difficulty": 3}


def sample_event(event: str, group_id: str, occasion: Occasion) -> Event:
    """Return an example of an event, about tasks that do not exist.

    Raises: InvalidInput, when Gatepost has no such event to show.
    """
    if event == TEST_EVENT:
        return make_event(event, group_id=group_id, occasion=occasion, data={"message": "It works."})
    if event not in TASK_EVENTS:
        raise invalid("event", f"give one of {', '.join(SAMPLE_EVENTS)}", code="unknown_event")
    real = _swapped(group_id, occasion) if event == "task.swapped" else _task_change(event, group_id, occasion).event
    return replace(real, tasks=())


def _task_change(event: str, group_id: str, occasion: Occasion) -> tasks.TaskChange:
    created = tasks.create(_TASK_ID, group_id, _FIELDS, occasion)
    if event == "task.created":
        return created
    if event == "task.updated":
        return tasks.start(created.task, occasion)
    completed = tasks.complete(created.task, occasion)
    if event == "task.completed":
        return completed
    if event == "task.approved":
        return tasks.approve(completed.task, occasion)
    return tasks.reject(completed.task, "The cactus needed none.", occasion)


def _swapped(group_id: str, occasion: Occasion) -> Event:
    task = tasks.create(_TASK_ID, group_id, _FIELDS, occasion).task
    other = tasks.create(_OTHER_TASK_ID, group_id, {**_FIELDS, "assigned_to": _BEN}, occasion).task
    caller = Caller("key_" + "0" * 32, group_id, Role.ADMIN)
    swap = swaps.propose(_SWAP_ID, task, other, caller, reason=None, now=occasion.at)
    return swaps.approve(swap, task, other, occasion).event
