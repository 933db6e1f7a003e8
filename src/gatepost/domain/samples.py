"""An example of every event that a webhook can ask for, made by the same rules as the real ones."""

from dataclasses import replace

from gatepost.domain import tasks
from gatepost.domain.errors import invalid
from gatepost.domain.events import TASK_EVENTS, TEST_EVENT, Event, Occasion, make_event

SAMPLE_EVENTS = (TEST_EVENT, *TASK_EVENTS)

_TASK_ID = "tsk_" + "0" * 32
_OTHER_TASK_ID = "tsk_" + "0" * 31 + "1"
_ANN, _BEN = "usr_" + "0" * 32, "usr_" + "0" * 31 + "1"
_FIELDS = {"title": "Water the plants", "description": "A sample", "assigned_to": _ANN, "difficulty": 3}


def sample_event(event: str, group_id: str, occasion: Occasion) -> Event:
    """Return an example of an event, about tasks that do not exist.

    Raises: InvalidInput, when Gatepost has no such event to show.
    """
    if event == TEST_EVENT:
        return make_event(event, group_id=group_id, occasion=occasion, data={"message": "It works."})
    if event == "task.swapped":
        return make_event(event, group_id=group_id, occasion=occasion, data=_swap(occasion))
    if event not in TASK_EVENTS:
        raise invalid("event", f"give one of {', '.join(SAMPLE_EVENTS)}", code="unknown_event")
    return replace(_task_change(event, group_id, occasion).event, tasks=())


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


def _swap(occasion: Occasion) -> dict[str, object]:
    return {
        "swapId": "swp_" + "0" * 32,
        "approvedBy": occasion.actor_id,
        "tasks": [
            {"id": _TASK_ID, "from": _ANN, "to": _BEN, "version": 2},
            {"id": _OTHER_TASK_ID, "from": _BEN, "to": _ANN, "version": 2},
        ],
    }
