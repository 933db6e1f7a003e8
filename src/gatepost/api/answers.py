"""Domain values as the wire shows them. Header values and secrets never pass through here but once."""

import base64
import binascii
import json
import re
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TypeVar

from gatepost.api.event_types import DIALECT, EventType
from gatepost.domain import tasks
from gatepost.domain.deliveries import Attempt, Delivery
from gatepost.domain.errors import invalid
from gatepost.domain.events import Event, Json, rfc3339, rfc3339_or_none
from gatepost.domain.outcomes import Response, error_class_of, response_of
from gatepost.domain.replays import ReplayJob
from gatepost.domain.stats import Bucket
from gatepost.domain.tasks import HistoryEntry
from gatepost.domain.webhooks import Webhook
from gatepost.ports import Page, Replayable
from gatepost.services.deliveries import SentTest, ShownDelivery, ShownRequest
from gatepost.services.events import EventRoutes, Route
from gatepost.services.tasks import TaskRecord

T = TypeVar("T")

_ID = re.compile(r"[a-z]{2,3}_[0-9a-f]{32}")
_OPAQUE = re.compile(r"[!-~]+")


def page_json(page: Page[T], item_json: Callable[[T], Json]) -> Json:
    """Return a page of a list."""
    cursor = page.next_cursor
    return {
        "items": [item_json(item) for item in page.items],
        "nextCursor": None if cursor is None else base64.urlsafe_b64encode(cursor.encode()).decode().rstrip("="),
    }


def parse_cursor(cursor: str | None) -> str | None:
    """Return where a page begins that is sorted by ids.

    Raises: InvalidInput, when it is no cursor of ours.
    """
    return _parsed(cursor, _ID)


def parse_opaque_cursor(cursor: str | None) -> str | None:
    """Return where a page begins, for a store to understand; raise as `parse_cursor` does."""
    return _parsed(cursor, _OPAQUE)


def task_json(record: TaskRecord) -> Json:
    return {**tasks.as_json(record.task), "history": [_history_json(entry) for entry in record.history]}


def etag(record: TaskRecord) -> str:
    return f'"{record.task.version}"'


def webhook_json(webhook: Webhook) -> Json:
    return {
        "id": webhook.id,
        "groupId": webhook.group_id,
        "name": webhook.name,
        "targetUrl": webhook.target.url,
        "enabled": webhook.enabled,
        "events": list(webhook.events),
        "headers": {name: None for name, _ in webhook.headers},
        "retryPolicy": {"schedule": list(webhook.policy.schedule)},
        "timeoutSeconds": webhook.timeout_seconds,
        "maxConcurrency": webhook.max_concurrency,
        "rateLimitPerSecond": webhook.rate_limit_per_second,
        "preserveTaskOrder": webhook.preserve_task_order,
        "ignoreOrigins": list(webhook.ignore_origins),
        "health": webhook.health,
        "disabledReason": webhook.disabled_reason,
        "createdAt": rfc3339(webhook.created_at),
        "updatedAt": rfc3339(webhook.updated_at),
        "secretHint": webhook.secret_hint,
    }


def new_webhook_json(webhook: Webhook) -> Json:
    """Return a webhook just created, its secret shown this once."""
    return {**webhook_json(webhook), "secret": webhook.secrets[0].value}


def rotation_json(webhook: Webhook) -> Json:
    expires_at = webhook.secrets[1].expires_at if len(webhook.secrets) > 1 else None
    return {"secretHint": webhook.secret_hint, "previousExpiresAt": rfc3339_or_none(expires_at)}


def new_secret_json(webhook: Webhook) -> Json:
    """Return a rotation just made, the new secret shown this once."""
    return {"secret": webhook.secrets[0].value, **rotation_json(webhook)}


def delivery_json(delivery: Delivery) -> Json:
    progress = delivery.progress
    return {
        "id": delivery.id,
        "groupId": delivery.group_id,
        "webhookId": delivery.webhook_id,
        "eventId": delivery.event_id,
        "event": delivery.event,
        "taskIds": list(delivery.task_ids),
        "status": progress.status,
        "attemptCount": progress.attempt_count,
        "maxAttempts": progress.max_attempts,
        "nextAttemptAt": rfc3339_or_none(progress.next_attempt_at),
        "lastStatusCode": progress.last_status_code,
        "lastErrorClass": progress.last_error_class,
        "deadReason": progress.dead_reason,
        "replayOf": delivery.replay_of,
        "createdAt": rfc3339(delivery.created_at),
        "finishedAt": rfc3339_or_none(progress.finished_at),
    }


def delivery_detail_json(shown: ShownDelivery) -> Json:
    return {
        **delivery_json(shown.detail.delivery),
        "request": _request_json(shown.request),
        "attempts": [_attempt_json(attempt) for attempt in shown.detail.attempts],
    }


def sent_test_json(sent: SentTest) -> Json:
    response = response_of(sent.outcome)
    return {
        "deliveryId": sent.delivery.id,
        "request": _request_json(sent.request),
        "response": None if response is None else _response_json(response),
        "errorClass": error_class_of(sent.outcome),
    }


def replay_preview_json(found: Replayable) -> Json:
    return {"count": found.count, "sample": [delivery_json(delivery) for delivery in found.sample]}


def replay_job_json(job: ReplayJob) -> Json:
    wanted = job.filter
    return {
        "id": job.id,
        "groupId": job.group_id,
        "webhookId": job.webhook_id,
        "status": job.status,
        "total": job.total,
        "done": job.done,
        "createdAt": rfc3339(job.created_at),
        "finishedAt": rfc3339_or_none(job.finished_at),
        "filter": {
            "status": wanted.status,
            "event": wanted.event,
            "from": rfc3339_or_none(wanted.created_from),
            "to": rfc3339_or_none(wanted.created_to),
        },
    }


def stats_json(bucket: Bucket, width: timedelta) -> Json:
    tally = bucket.tally
    return {
        "webhookId": bucket.webhook_id,
        "from": rfc3339(bucket.start_at),
        "to": rfc3339(bucket.start_at + width),
        "delivered": tally.delivered,
        "failed": tally.failed,
        "dead": tally.dead,
        "p50Ms": tally.percentile_ms(50),
        "p95Ms": tally.percentile_ms(95),
    }


def event_json(event: Event) -> Json:
    """Return an event as receivers get it, with the tasks that it is about."""
    return {**json.loads(event.body), "taskIds": list(event.task_ids)}


def routing_json(routes: EventRoutes) -> Json:
    event = routes.event
    items = [_route_json(route) for route in routes.routes]
    return {"eventId": event.id, "event": event.event, "origin": event.origin, "items": items}


def event_type_json(each: EventType) -> Json:
    schema = {"$schema": DIALECT, **each.schema}
    return {"event": each.event, "description": each.description, "schema": schema, "example": each.example}


def _parsed(cursor: str | None, pattern: re.Pattern[str]) -> str | None:
    if cursor is None:
        return None
    try:
        before = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        before = ""
    if not pattern.fullmatch(before):
        raise invalid("cursor", "give the nextCursor of the page before, or leave it out", code="cursor")
    return before


def _route_json(route: Route) -> Json:
    webhook = route.webhook
    return {
        "webhookId": webhook.webhook_id,
        "name": webhook.name,
        "verdict": route.verdict,
        "deliveryId": webhook.delivery_id,
    }


def _history_json(entry: HistoryEntry) -> Json:
    return {
        "version": entry.version,
        "at": rfc3339(entry.at),
        "actorId": entry.actor_id,
        "event": entry.event,
        "changes": entry.changes,
        "reason": entry.reason,
    }


def _request_json(request: ShownRequest) -> Json:
    return {"method": "POST", "url": request.url, "headers": _joined(request.headers), "body": _text(request.body)}


def _attempt_json(attempt: Attempt) -> Json:
    response = response_of(attempt.outcome)
    return {
        "id": attempt.id,
        "number": attempt.number,
        "probe": attempt.probe,
        "startedAt": rfc3339(attempt.started_at),
        "durationMs": attempt.duration // timedelta(milliseconds=1),
        "outcome": attempt.outcome.kind,
        "errorClass": error_class_of(attempt.outcome),
        "statusCode": response.status_code if response else None,
        "responseHeaders": _joined(response.headers) if response else None,
        "responseBody": _text(response.body) if response else None,
        "responseTruncated": response.truncated if response else False,
    }


def _response_json(response: Response) -> Json:
    return {
        "statusCode": response.status_code,
        "headers": _joined(response.headers),
        "body": _text(response.body),
        "truncated": response.truncated,
    }


def _joined(headers: Sequence[tuple[str, str]] | None) -> dict[str, str] | None:
    """Return headers by name, if they are kept; RFC 9110, section 5.3: repeated ones read as one list."""
    if headers is None:
        return None
    values: dict[str, tuple[str, list[str]]] = {}
    for name, value in headers:
        values.setdefault(name.lower(), (name, []))[1].append(value)
    return {name: ", ".join(listed) for name, listed in values.values()}


def _text(body: bytes | None) -> str | None:
    return None if body is None else body.decode("utf-8", "replace")
