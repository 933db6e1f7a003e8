"""Webhooks and their lanes to documents and back."""

from collections.abc import Mapping
from typing import Any

from gatepost.adapters.secretbox import SecretBox
from gatepost.adapters.storage.mongo_driver import Document
from gatepost.adapters.storage.rows import NEVER_MS, from_ms, target_of, to_ms, to_ms_or_none
from gatepost.adapters.storage.sealing import headers_from, sealed_headers, sealed_secrets, secrets_from
from gatepost.domain.health import WELL, Condition, DisabledReason
from gatepost.domain.retry import RetryPolicy
from gatepost.domain.webhooks import Subscription, Webhook

# A deleted webhook stays, for the deliveries that name it; once it is buried the sweep looks at it no more.
DELETED, BURIED = 1, 2
DELETED_REV = 2**53  # newer than every edit

SUBSCRIPTION_FIELDS = dict.fromkeys(("id", "enabled", "events", "ignore_origins", "max_attempts"), 1)


def webhook_document(box: SecretBox, webhook: Webhook) -> Document:
    return {
        "_id": webhook.id,
        "id": webhook.id,
        "group_id": webhook.group_id,
        "name": webhook.name,
        "url": webhook.target.url,
        "enabled": int(webhook.enabled),
        "events": list(webhook.events),
        "headers": sealed_headers(box, webhook),
        "schedule": list(webhook.policy.schedule),
        "max_attempts": webhook.policy.max_attempts,  # so that matching an event needs no policy
        "timeout_seconds": webhook.timeout_seconds,
        "max_concurrency": webhook.max_concurrency,
        "rate_limit_per_second": webhook.rate_limit_per_second,
        "preserve_task_order": int(webhook.preserve_task_order),
        "ignore_origins": list(webhook.ignore_origins),
        "secrets": sealed_secrets(box, webhook),
        "disabled_reason": webhook.disabled_reason and webhook.disabled_reason.value,
        "enabled_at": to_ms(webhook.enabled_at),
        "config_version": webhook.config_version,
        "created_at": to_ms(webhook.created_at),
        "updated_at": to_ms(webhook.updated_at),
        "deleted": 0,
        "deleted_at": 0,
        "rev": webhook.config_version,
        "enabled_rev": webhook.config_version,  # the `rev` that enabled it last
        "asks_since": webhook.config_version,  # the `rev` from which on it asks for just that
        "told": 0,
        "news": {},  # events that tell of it, until they are told
    }


def webhook_from_document(
    box: SecretBox, document: Mapping[str, Any], lane: Mapping[str, Any] | None = None
) -> Webhook:
    """Return the webhook, with the condition that its lane has noted, if that is given."""
    webhook_id, group_id, reason = document["_id"], document["group_id"], document["disabled_reason"]
    return Webhook(
        id=webhook_id,
        group_id=group_id,
        name=document["name"],
        target=target_of(document["url"]),
        enabled=bool(document["enabled"]),
        events=tuple(document["events"]),
        headers=headers_from(box, document["headers"], webhook_id, group_id),
        policy=RetryPolicy(tuple(float(seconds) for seconds in document["schedule"])),
        timeout_seconds=document["timeout_seconds"],
        max_concurrency=document["max_concurrency"],
        rate_limit_per_second=document["rate_limit_per_second"],
        preserve_task_order=bool(document["preserve_task_order"]),
        ignore_origins=tuple(document["ignore_origins"]),
        secrets=secrets_from(box, document["secrets"], webhook_id, group_id),
        disabled_reason=DisabledReason(reason) if reason else None,
        enabled_at=from_ms(document["enabled_at"]),
        config_version=document["config_version"],
        created_at=from_ms(document["created_at"]),
        updated_at=from_ms(document["updated_at"]),
        condition=condition_from(lane) if lane else WELL,
    )


def subscription_from_document(document: Mapping[str, Any]) -> Subscription:
    return Subscription(
        document["id"],
        bool(document["enabled"]),
        tuple(document["events"]),
        tuple(document["ignore_origins"]),
        document["max_attempts"],
    )


# What a webhook asks for; when this changes there is a new revision.
_ASKED = ("enabled", "events", "ignore_origins")
ASKED_FIELDS = dict.fromkeys((*_ASKED, "asks_since", "enabled_rev"), 1)


def asked_since(webhook: Mapping[str, Any], before: Mapping[str, Any]) -> Document:
    """Return since which `rev` an edited webhook asks for what it does, and which enabled it last."""
    is_same = all(webhook[field] == before[field] for field in _ASKED)
    is_enabled = webhook["enabled"] and not before["enabled"]
    return {
        "asks_since": before["asks_since"] if is_same else webhook["rev"],
        "enabled_rev": webhook["rev"] if is_enabled else before["enabled_rev"],
    }


def revision_document(webhook: Mapping[str, Any], from_version: int) -> Document:
    """Return what a webhook asks for from a version of its group's webhooks on."""
    rev = webhook["asks_since"]
    return {
        "_id": f"{webhook['id']}/{rev}",
        "group_id": webhook["group_id"],
        "webhook_id": webhook["id"],
        "rev": rev,
        "from_version": from_version,
        "deleted": int(bool(webhook["deleted"])),
        **{field: webhook[field] for field in _ASKED},
    }


def subscription_from_revision(webhook: Mapping[str, Any], revision: Mapping[str, Any] | None) -> Subscription | None:
    """Return what a webhook asked for; None when it was not there, yet or any more."""
    if revision is None or revision["deleted"]:
        return None
    asked = {field: revision[field] for field in _ASKED}
    return subscription_from_document({"id": webhook["id"], "max_attempts": webhook["max_attempts"], **asked})


def lane_document(webhook: Mapping[str, Any]) -> Document:
    """Return the lane of a new webhook: the lease on its queue, and hints about when to look at it."""
    return {
        "_id": webhook["id"],
        "due_at": NEVER_MS,  # a hint; never later than the truth in `deliveries` for longer than a sweep
        "pokes": 0,  # raised by whoever lowers `due_at`, so that a release cannot lose it
        "hold_until": 0 if webhook["enabled"] else NEVER_MS,  # not leased before; pokes leave it alone
        "owner": "",
        "free": 1,  # whether `owner` is "": an index can look for that, and sort by what comes after
        "token": 0,  # the fence: raised by each lease
        "lease_until": 0,
        "unclean": 0,
        "window": 1,  # of requests at once; 1 until a first success
        "rev": webhook["rev"],  # of the webhook that `hold_until` follows from
        "enabled_at": webhook["enabled_at"],  # a condition from before that is not kept
        "enabled_rev": webhook["enabled_rev"],
        **condition_fields(WELL),
    }


def condition_fields(condition: Condition) -> Document:
    return {
        "streak": condition.streak,
        "failing_since": to_ms_or_none(condition.failing_since) or 0,
        "suspended_at": to_ms_or_none(condition.suspended_at) or 0,
        "draining": int(condition.draining),
    }


CONDITION_FIELDS = dict.fromkeys(condition_fields(WELL), 1)


def condition_from(lane: Mapping[str, Any]) -> Condition:
    since, suspended_at = lane["failing_since"], lane["suspended_at"]
    return Condition(
        lane["streak"],
        from_ms(since) if since else None,
        from_ms(suspended_at) if suspended_at else None,
        bool(lane["draining"]),
    )
