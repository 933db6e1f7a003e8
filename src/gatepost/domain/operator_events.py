"""Events about Gatepost itself: a receiver that fails or is well again, a delivery that was given up.

They are delivered like any other, to those who ask for them by name, `webhook.*` or `delivery.*`, but never to the
webhook that they are about: of its own end it could not be told, and of its failures it would be told for ever.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from gatepost.domain.consequences import Consequences
from gatepost.domain.deliveries import Delivery, Progress, QueuedDelivery, derived_id, owed
from gatepost.domain.events import Event, Json, Occasion, make_event, rfc3339
from gatepost.domain.health import Condition, DisabledReason, Health, news_of
from gatepost.domain.webhooks import OPERATOR_FAMILIES, Subscription, Webhook, wants

OPERATOR_EVENTS = (
    "webhook.degraded",
    "webhook.suspended",
    "webhook.disabled",
    "webhook.recovered",
    "delivery.dead_lettered",
)


@dataclass(frozen=True, slots=True)
class Disabling:
    """A webhook is to be disabled for what its receiver did to an attempt; `event` tells of it."""

    reason: DisabledReason
    event: Event


class News(NamedTuple):
    """What there is to tell of an attempt.

    Shape: `given_up` is true only if the attempt moves its delivery, and `disabling` only if the webhook is enabled.
    """

    given_up: Event | None
    of_health: Event | None
    disabling: Disabling | None


def news_after(
    delivery: QueuedDelivery,
    webhook: Webhook,
    before: Condition,
    meant: Consequences,
    *,
    new_occasion: Callable[[], Occasion],
) -> News:
    """Return the events that tell of what an attempt has brought about, each at an occasion of its own."""
    given_up = of_health = disabling = None
    if meant.progress is not None and meant.progress.dead_reason is not None:
        given_up = about_dead_letter(delivery, meant.progress, new_occasion())
    tells_itself = delivery.event.startswith(OPERATOR_FAMILIES)  # two who tell each other of each other would never end
    if not tells_itself and (event := news_of(before.health, meant.condition.health)):
        of_health = about_webhook(event, webhook, meant.condition, new_occasion())
    if reason := meant.disabled_for:
        told = about_webhook("webhook.disabled", webhook, meant.condition, new_occasion(), reason=reason)
        disabling = Disabling(reason, told)
    return News(given_up, of_health, disabling)


def about_webhook(
    event: str, webhook: Webhook, condition: Condition, occasion: Occasion, *, reason: DisabledReason | None = None
) -> Event:
    """Return the event that tells of a webhook's health from now on."""
    health = Health.DISABLED if reason else condition.health
    data: Json = {
        "webhookId": webhook.id,
        "name": webhook.name,
        "health": health.value,
        "disabledReason": reason and reason.value,
        "failingSince": condition.failing_since and rfc3339(condition.failing_since),
        "suspendedAt": condition.suspended_at and rfc3339(condition.suspended_at),
    }
    return make_event(event, group_id=webhook.group_id, occasion=occasion, data=data)


def about_dead_letter(delivery: QueuedDelivery, progress: Progress, occasion: Occasion) -> Event | None:
    """Return the event that tells of a delivery that was given up; None for one that told of such things itself."""
    if delivery.event.startswith(OPERATOR_FAMILIES):
        return None
    data: Json = {
        "deliveryId": delivery.id,
        "webhookId": delivery.webhook_id,
        "eventId": delivery.event_id,
        "event": delivery.event,
        "attemptCount": progress.attempt_count,
        "deadReason": progress.dead_reason and progress.dead_reason.value,
        "lastStatusCode": progress.last_status_code,
        "lastErrorClass": progress.last_error_class and progress.last_error_class.value,
    }
    return make_event("delivery.dead_lettered", group_id=delivery.group_id, occasion=occasion, data=data)


def webhook_told_of(event: Event) -> str | None:
    """Return the webhook that an operator event is about; None for any other event."""
    if event.event not in OPERATOR_EVENTS:
        return None
    about: str = json.loads(event.body)["data"]["webhookId"]
    return about


def occasion_of(event_id: str, at: datetime) -> Occasion:
    """Return the occasion of what Gatepost itself does."""
    return Occasion(event_id, at, actor_id=None, origin="system")


def owed_to(subscriptions: Iterable[Subscription], event: Event, *, about: str) -> list[Delivery]:
    """Return the deliveries of an operator event, the same each time; `about` is the webhook that it tells of."""
    return [
        owed(derived_id("dlv", event.created_at, event.id, each.webhook_id), event, each)
        for each in subscriptions
        if each.webhook_id != about and wants(each, event.event, event.origin)
    ]
