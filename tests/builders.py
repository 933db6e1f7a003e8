"""Valid values, each made with one call; a test names only what it is about."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from tests.fakes import NOW, NumberedChance

from gatepost.domain import events, tasks, webhooks
from gatepost.domain.deliveries import (
    Attempt,
    Delivery,
    Progress,
    QueuedDelivery,
    after_attempt,
    first_progress,
    owed,
    queued,
)
from gatepost.domain.errors import GatepostError
from gatepost.domain.events import Event, Occasion
from gatepost.domain.groups import ApiKey, Group, Role, hash_key_secret
from gatepost.domain.health import DisabledReason
from gatepost.domain.network import parse_target
from gatepost.domain.operator_events import Disabling, occasion_of
from gatepost.domain.outcomes import Accepted, ErrorClass, Outcome, Refused, Response, Unreachable
from gatepost.domain.people import Session, User
from gatepost.domain.replays import ReplayFilter, ReplayJob
from gatepost.domain.retry import RetryPolicy
from gatepost.domain.signatures import make_secret
from gatepost.domain.swaps import Swap, SwapSide, SwapStatus
from gatepost.domain.tasks import Task, TaskChange
from gatepost.domain.webhooks import Secret, Subscription, Webhook
from gatepost.ports import KeyedRequest, LaneOutcomes, LeasedLane, Settled

CHANCE = NumberedChance()
GROUP_ID = "grp_" + "0" * 12 + "70008" + "0" * 15
POLICY = RetryPolicy((5.0, 300.0))
SECOND = timedelta(seconds=1)


def new_id(prefix: str) -> str:
    """Return an id that no other call of this test run returns."""
    return CHANCE.new_id(prefix)


def every_error(root: type[GatepostError] = GatepostError) -> list[type[GatepostError]]:
    """Return all errors that stand under one in the tree."""
    return [error for child in root.__subclasses__() for error in (child, *every_error(child))]


def make_group(**changes: Any) -> Group:
    group = Group(id=new_id("grp"), name="Night shift", created_at=NOW)
    return replace(group, **changes)


def make_key(**changes: Any) -> ApiKey:
    key = ApiKey(
        id=new_id("key"),
        group_id=GROUP_ID,
        role=Role.ADMIN,
        secret_hash=hash_key_secret(bytes(32)),
        created_at=NOW,
    )
    return replace(key, **changes)


def make_user(**changes: Any) -> User:
    number = new_id("usr")
    user = User(id=number, email=f"{number}@example.com", name="Ada", password_hash="$argon2id$…", created_at=NOW)
    return replace(user, **changes)


def make_session(user: User, **changes: Any) -> Session:
    session = Session(new_id("ses"), user.id, hash_key_secret(bytes(32)), created_at=NOW, last_used_at=NOW)
    return replace(session, **changes)


def make_swap(task: Task, with_task: Task, **changes: Any) -> Swap:
    """Return a pending swap of two tasks that are assigned."""
    swap = Swap(
        id=new_id("swp"),
        group_id=task.group_id,
        task=SwapSide(task.id, task.assigned_to, task.version),
        with_task=SwapSide(with_task.id, with_task.assigned_to, with_task.version),
        reason=None,
        status=SwapStatus.PENDING,
        proposed_by="usr_ada",
        created_at=NOW,
    )
    return replace(swap, **changes)


def make_request(**changes: Any) -> KeyedRequest:
    request = KeyedRequest(id=new_id("req"), body_hash=bytes(32), seed=bytes(range(32)), at=NOW)
    return replace(request, **changes)


def make_occasion(**changes: Any) -> Occasion:
    return replace(Occasion(event_id=new_id("evt"), at=NOW, actor_id="usr_ada"), **changes)


def make_task_change(
    *, group_id: str = GROUP_ID, task_id: str | None = None, at: datetime = NOW, **fields: Any
) -> TaskChange:
    """Return the creation of a task; `fields` are those of the task."""
    fields = {"title": "Water the plants", **fields}
    return tasks.create(task_id or new_id("tsk"), group_id, fields, make_occasion(at=at))


def make_task(**changes: Any) -> Task:
    return replace(make_task_change().task, **changes)


def make_event(*, event: str = "task.created", group_id: str = GROUP_ID, **changes: Any) -> Event:
    made = events.make_event(
        event,
        group_id=group_id,
        occasion=make_occasion(),
        data={"id": "tsk_1", "title": "Water the plants"},
        tasks=(("tsk_1", 1),),
    )
    return replace(made, **changes)


def make_operator_event(webhook: Webhook, event: str = "webhook.degraded", *, at: datetime = NOW) -> Event:
    """Return an event of Gatepost itself, about a webhook."""
    occasion = occasion_of(new_id("evt"), at)
    return events.make_event(event, group_id=webhook.group_id, occasion=occasion, data={"webhookId": webhook.id})


def make_disabling(webhook: Webhook, *, at: datetime = NOW) -> Disabling:
    return Disabling(DisabledReason.GONE, make_operator_event(webhook, "webhook.disabled", at=at))


def make_webhook(*, url: str = "https://hooks.example.com/in", **changes: Any) -> Webhook:
    fields = {"name": "Rota", "target": parse_target(url), "events": ("*",), "policy": POLICY}
    secret = Secret(make_secret(CHANCE.key_bytes(32)))
    return replace(webhooks.create(new_id("wh"), GROUP_ID, fields, secret, now=NOW), **changes)


def subscription_of(webhook: Webhook) -> Subscription:
    return Subscription(
        webhook_id=webhook.id,
        enabled=webhook.enabled,
        events=webhook.events,
        ignore_origins=webhook.ignore_origins,
        max_attempts=webhook.policy.max_attempts,
    )


def make_delivery(event: Event | None = None, webhook: Webhook | None = None, **changes: Any) -> Delivery:
    """Return the delivery of an event to a webhook, due at once."""
    event, webhook = event or make_event(), webhook or make_webhook()
    return replace(owed(new_id("dlv"), event, subscription_of(webhook)), **changes)


def make_job(webhook: Webhook, **changes: Any) -> ReplayJob:
    """Return a job that replays all that a webhook was sent."""
    job = ReplayJob(new_id("rpl"), webhook.group_id, webhook.id, ReplayFilter(), total=0, created_at=NOW)
    return replace(job, **changes)


def make_progress(**changes: Any) -> Progress:
    return replace(first_progress(POLICY.max_attempts, now=NOW), **changes)


def make_queued(delivery: Delivery | None = None, event: Event | None = None, **changes: Any) -> QueuedDelivery:
    """Return what the engine would be given of a delivery."""
    event = event or make_event()
    delivery = delivery or make_delivery(event)
    return replace(queued(delivery, body=event.body, hop=event.hop), **changes)


def make_response(status_code: int = 200, **changes: Any) -> Response:
    response = Response(status_code, headers=(("content-type", "text/plain"),), body=b"noted")
    return replace(response, **changes)


def accepted(status_code: int = 200, **changes: Any) -> Accepted:
    return Accepted(make_response(status_code, **changes))


def refused(status_code: int = 503, **changes: Any) -> Refused:
    return Refused(make_response(status_code, **changes))


def unreachable(error_class: ErrorClass = ErrorClass.TIMEOUT) -> Unreachable:
    return Unreachable(error_class)


def make_attempt(number: int = 1, **changes: Any) -> Attempt:
    attempt = Attempt(
        id=new_id("att"),
        number=number,
        started_at=NOW,
        duration=timedelta(milliseconds=42),
        outcome=accepted(),
    )
    return replace(attempt, **changes)


def make_settled(
    delivery: QueuedDelivery | None = None,
    outcome: Outcome | None = None,
    *,
    at: datetime = NOW,
    policy: RetryPolicy = POLICY,
    **changes: Any,
) -> Settled:
    """Return the next attempt of a delivery, and what its outcome means under the policy."""
    delivery, outcome = delivery or make_queued(), outcome or accepted()
    number = delivery.attempt_count + 1
    settled = Settled(
        delivery=delivery,
        attempt=make_attempt(number, outcome=outcome, started_at=at),
        progress=after_attempt(number, outcome, policy, now=at, spread=0.0),
    )
    return replace(settled, **changes)


def make_outcomes(lane: LeasedLane, settled: Sequence[Settled], **changes: Any) -> LaneOutcomes:
    """Return what a lane's owner has to record."""
    outcomes = LaneOutcomes(
        webhook_id=lane.webhook_id,
        token=lane.token,
        window=lane.window,
        settled=settled,
        condition=lane.condition,
        enabled_at=NOW,
    )
    return replace(outcomes, **changes)
