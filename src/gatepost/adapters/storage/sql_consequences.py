"""What attempts mean for others, in SQL: webhooks that are disabled, and operator events. Written with the attempts."""

from collections.abc import Iterable, Sequence

from gatepost.adapters.storage.rows import from_words, to_ms
from gatepost.adapters.storage.scripts import IN_LIST, LOCKED, Script, fetch, listed
from gatepost.adapters.storage.sql_emitting import emit_once
from gatepost.adapters.storage.sql_webhooks import disable
from gatepost.domain.deliveries import QueuedDelivery
from gatepost.domain.events import Event
from gatepost.domain.operator_events import owed_to
from gatepost.domain.webhooks import Subscription
from gatepost.ports import LaneOutcomes, Settled, Subscriptions

LOCK_WEBHOOKS = f"SELECT 1 FROM webhooks WHERE id {IN_LIST} ORDER BY id {LOCKED}"
# The version of a group's webhooks and what they ask for at it, as of one moment.
GROUPS_WEBHOOKS = """
SELECT groups.webhooks_version, webhooks.id, enabled, events, ignore_origins, max_attempts
FROM groups LEFT JOIN webhooks ON webhooks.group_id = ? AND webhooks.deleted_at IS NULL
WHERE groups.id = ? ORDER BY webhooks.id
"""

Told = tuple[Event, str]  # an operator event, and the webhook that it is about


def lock_disabled(batch: Iterable[LaneOutcomes]) -> Script[None]:
    """Lock webhooks that may be disabled. An edit takes its webhook, its lane and its group in this order, too."""
    disabled = {outcomes.webhook_id for outcomes in batch for _ in _disabling(outcomes.settled)}
    if disabled:
        yield fetch(LOCK_WEBHOOKS, (listed(sorted(disabled)),))


def disable_webhooks(batch: Iterable[LaneOutcomes]) -> Script[list[Told]]:
    """Disable the webhooks that are to be; return the events that tell of those that were enabled until now."""
    told: list[Told] = []
    disabling = [each for outcomes in batch for each in _disabling(outcomes.settled)]
    for each in sorted(disabling, key=lambda each: (each.delivery.group_id, each.delivery.webhook_id)):
        group_id, webhook_id = each.delivery.group_id, each.delivery.webhook_id
        if each.disabling and (
            yield from disable(
                group_id,
                webhook_id,
                each.disabling.reason,
                started_at=to_ms(each.attempt.started_at),
                now=to_ms(each.disabling.event.created_at),
            )
        ):
            told.append((each.disabling.event, webhook_id))
    return told


def tell(events: Sequence[Told]) -> Script[list[QueuedDelivery]]:
    """Add operator events and what is owed for them to the webhooks of their groups, as these are now."""
    if not events:
        return []
    groups: dict[str, Subscriptions] = {}
    for group_id in sorted({event.group_id for event, _ in events}):
        groups[group_id] = yield from _subscriptions(group_id)
    return (
        yield from emit_once(
            [
                (event, owed_to(groups[event.group_id].items, event, about=about), groups[event.group_id].version)
                for event, about in events
            ]
        )
    )


def _disabling(settled: Iterable[Settled]) -> list[Settled]:
    return [each for each in settled if each.disabling is not None]


def _subscriptions(group_id: str) -> Script[Subscriptions]:
    rows = yield fetch(GROUPS_WEBHOOKS, (group_id, group_id))
    items = [
        Subscription(webhook_id, bool(enabled), from_words(events), from_words(ignored), max_attempts)
        for _, webhook_id, enabled, events, ignored, max_attempts in rows
        if webhook_id is not None
    ]
    return Subscriptions(rows[0][0] if rows else 0, tuple(items))
