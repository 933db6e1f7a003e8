"""An example of every event that a webhook can ask for, made by the same rules as the real ones."""

from dataclasses import replace

from gatepost.domain import swaps, tasks, webhooks
from gatepost.domain.deliveries import QueuedDelivery, after_attempt
from gatepost.domain.errors import invalid
from gatepost.domain.events import TASK_EVENTS, TEST_EVENT, Event, Occasion, make_event
from gatepost.domain.groups import Caller, Role
from gatepost.domain.health import (
    DEGRADED_FROM_STREAK,
    DISABLED_AFTER,
    SUSPENDED_AFTER,
    WELL,
    Condition,
    DisabledReason,
)
from gatepost.domain.network import parse_target
from gatepost.domain.operator_events import (
    OPERATOR_EVENTS,
    about_dead_letter,
    about_webhook,
    occasion_of,
    webhook_told_of,
)
from gatepost.domain.outcomes import Refused, Response
from gatepost.domain.retry import DEFAULT_POLICY
from gatepost.domain.webhooks import Secret

SAMPLE_EVENTS = (TEST_EVENT, *TASK_EVENTS, *OPERATOR_EVENTS)

_TASK_ID = "tsk_" + "0" * 32
_OTHER_TASK_ID = "tsk_" + "0" * 31 + "1"
_SWAP_ID = "swp_" + "0" * 32
_WEBHOOK_ID = "wh_" + "0" * 32
_DELIVERY_ID = "dlv_" + "0" * 32
_EVENT_ID = "evt_" + "0" * 32
_ANN, _BEN = "usr_" + "0" * 32, "usr_" + "0" * 31 + "1"
_FIELDS = {"title": "Water the plants", "description": "A sample", "assigned_to": _ANN, "difficulty": 3}


def sample_event(event: str, group_id: str, occasion: Occasion) -> Event:
    """Return an example of an event, about tasks and webhooks that do not exist.

    Raises: InvalidInput, when Gatepost has no such event to show.
    """
    if event == TEST_EVENT:
        return make_event(event, group_id=group_id, occasion=occasion, data={"message": "It works."})
    if event in OPERATOR_EVENTS:
        return _of_gatepost(event, group_id, occasion_of(occasion.event_id, occasion.at))
    if event not in TASK_EVENTS:
        raise invalid("event", f"give one of {', '.join(SAMPLE_EVENTS)}", code="unknown_event")
    real = _swapped(group_id, occasion) if event == "task.swapped" else _task_change(event, group_id, occasion).event
    return replace(real, tasks=())


def is_sample(event: Event) -> bool:
    """Say whether an event is an example: a test that was sent, and nothing that happened."""
    about_no_task = event.event in TASK_EVENTS and not event.tasks
    return event.event == TEST_EVENT or about_no_task or webhook_told_of(event) == _WEBHOOK_ID


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


def _of_gatepost(event: str, group_id: str, occasion: Occasion) -> Event:
    if event == "delivery.dead_lettered":
        return _dead_letter(group_id, occasion)
    at = occasion.at
    conditions = {
        "webhook.degraded": Condition(DEGRADED_FROM_STREAK, failing_since=at),
        "webhook.suspended": Condition(2 * DEGRADED_FROM_STREAK, at - SUSPENDED_AFTER, suspended_at=at),
        "webhook.recovered": WELL,
        "webhook.disabled": Condition(
            2 * DEGRADED_FROM_STREAK, at - SUSPENDED_AFTER - DISABLED_AFTER, suspended_at=at - DISABLED_AFTER
        ),
    }
    fields = {"name": "Rota", "target": parse_target("https://hooks.example.com/in"), "events": ("task.*",)}
    webhook = webhooks.create(_WEBHOOK_ID, group_id, fields, Secret(""), now=at)
    reason = DisabledReason.SUSPENDED_7D if event == "webhook.disabled" else None
    return about_webhook(event, webhook, conditions[event], occasion, reason=reason)


def _dead_letter(group_id: str, occasion: Occasion) -> Event:
    policy = DEFAULT_POLICY
    delivery = QueuedDelivery(
        id=_DELIVERY_ID,
        group_id=group_id,
        webhook_id=_WEBHOOK_ID,
        event_id=_EVENT_ID,
        event="task.created",
        body=b"",
        hop=1,
        attempt_count=policy.max_attempts - 1,
        created_at=occasion.at,
    )
    refused = Refused(Response(503, (), b""))
    progress = after_attempt(policy.max_attempts, refused, policy, now=occasion.at, spread=0.0)
    told = about_dead_letter(delivery, progress, occasion)
    assert told is not None  # only what tells of such things itself is not told of
    return told
