"""A delivery and its attempts: what is sent, and what each outcome means.

    ┌────────── retry due ◀────────┐
    ▼                              │
queued ── attempt ──▶ 2xx ──▶ delivered
                │
                ├──▶ else, attempts left ──▶ failed
                └──▶ else, none left ──▶ dead-letter
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from hashlib import sha256

from gatepost.domain.events import Event
from gatepost.domain.outcomes import Accepted, ErrorClass, Outcome, error_class_of, response_of, retry_after
from gatepost.domain.retry import ONE_ATTEMPT, RetryPolicy
from gatepost.domain.signatures import SigningKey, sign_plain, sign_standard
from gatepost.domain.webhooks import Subscription


class Status(StrEnum):
    QUEUED = "queued"
    FAILED = "failed"  # will be tried again at `next_attempt_at`
    DELIVERED = "delivered"
    DEAD_LETTER = "dead-letter"


class DeadReason(StrEnum):
    ATTEMPTS_EXHAUSTED = "attempts_exhausted"
    DISCARDED = "discarded"
    WEBHOOK_DELETED = "webhook_deleted"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a delivery has come: the part of it that an attempt changes.

    Shape: `not_before` is the end of a `Retry-After` that lengthened the wait; not even a probe comes earlier.
    """

    status: Status
    attempt_count: int
    max_attempts: int
    next_attempt_at: datetime | None
    last_status_code: int | None = None
    last_error_class: ErrorClass | None = None
    dead_reason: DeadReason | None = None
    finished_at: datetime | None = None
    not_before: datetime | None = None


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event owed to one webhook."""

    id: str
    group_id: str
    webhook_id: str
    event_id: str
    event: str
    task_ids: tuple[str, ...]
    created_at: datetime
    progress: Progress
    replay_of: str | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One HTTP request made for a delivery.

    Shape: `number` counts from 1.
    """

    id: str
    number: int
    started_at: datetime
    duration: timedelta
    outcome: Outcome
    probe: bool = False


@dataclass(slots=True, eq=False)
class QueuedDelivery:
    """What the engine needs of an unfinished delivery to send it; made by the hundred thousand, so kept small."""

    id: str
    group_id: str
    webhook_id: str
    event_id: str
    event: str
    body: bytes
    hop: int
    attempt_count: int
    created_at: datetime


def derived_id(prefix: str, at: datetime, *parts: str) -> str:
    """Return the id, in the shape of a UUIDv7, that the same parts always give; it sorts as one of that moment.

    >>> from datetime import UTC
    >>> derived_id("dlv", datetime(2026, 11, 23, tzinfo=UTC), "evt_1", "wh_1")[:16]
    'dlv_01a205b3d000'
    """
    drawn = int.from_bytes(sha256("\n".join(parts).encode()).digest()[:10], "big")
    tail = 0x7 << 76 | (drawn >> 62 & 0xFFF) << 64 | 0x2 << 62 | (drawn & 0x3FFF_FFFF_FFFF_FFFF)
    return f"{prefix}_{int(at.timestamp() * 1000) << 80 | tail:032x}"


def first_progress(max_attempts: int, *, now: datetime) -> Progress:
    """Return the progress of a delivery that nobody has tried yet: due at once."""
    return Progress(Status.QUEUED, attempt_count=0, max_attempts=max_attempts, next_attempt_at=now)


def owed(delivery_id: str, event: Event, subscription: Subscription) -> Delivery:
    """Return the delivery of an event to a webhook that wants it."""
    return _first(delivery_id, event, subscription.webhook_id, max_attempts=subscription.max_attempts)


def sampled(delivery_id: str, event: Event, webhook_id: str) -> Delivery:
    """Return the delivery of a sample event, to be sent once."""
    return _first(delivery_id, event, webhook_id, max_attempts=ONE_ATTEMPT.max_attempts)


def replayed(original: Delivery, delivery_id: str, *, max_attempts: int, now: datetime) -> Delivery:
    """Return a new delivery of an old one's event, to the same webhook."""
    return replace(
        original,
        id=delivery_id,
        created_at=now,
        progress=first_progress(max_attempts, now=now),
        replay_of=original.id,
    )


def _first(delivery_id: str, event: Event, webhook_id: str, *, max_attempts: int) -> Delivery:
    return Delivery(
        id=delivery_id,
        group_id=event.group_id,
        webhook_id=webhook_id,
        event_id=event.id,
        event=event.event,
        task_ids=event.task_ids,
        created_at=event.created_at,
        progress=first_progress(max_attempts, now=event.created_at),
    )


def queued(delivery: Delivery, *, body: bytes, hop: int) -> QueuedDelivery:
    """Return what is needed of a delivery to send it, with the bytes and the hop of its event."""
    return QueuedDelivery(
        id=delivery.id,
        group_id=delivery.group_id,
        webhook_id=delivery.webhook_id,
        event_id=delivery.event_id,
        event=delivery.event,
        body=body,
        hop=hop,
        attempt_count=delivery.progress.attempt_count,
        created_at=delivery.created_at,
    )


def after_attempt(number: int, outcome: Outcome, policy: RetryPolicy, *, now: datetime, spread: float) -> Progress:
    """Return the progress of a delivery once the outcome of its attempt `number` is known.

    The policy in force at the attempt decides, so that an edited schedule holds from the next attempt on.
    A receiver's `Retry-After` (on 429 and 503) may lengthen the wait and never shortens it.
    """
    response = response_of(outcome)
    status_code = response.status_code if response else None
    if isinstance(outcome, Accepted):
        return Progress(
            Status.DELIVERED, number, policy.max_attempts, None, last_status_code=status_code, finished_at=now
        )
    error_class = error_class_of(outcome)
    delay = policy.delay_after(number, spread=spread)
    if delay is None:
        return Progress(
            Status.DEAD_LETTER,
            number,
            policy.max_attempts,
            None,
            last_status_code=status_code,
            last_error_class=error_class,
            dead_reason=DeadReason.ATTEMPTS_EXHAUSTED,
            finished_at=now,
        )
    asked = retry_after(outcome, now=now) or timedelta(0)
    return Progress(
        Status.FAILED,
        number,
        policy.max_attempts,
        now + max(delay, asked),
        last_status_code=status_code,
        last_error_class=error_class,
        not_before=now + asked if asked > delay else None,
    )


def request_headers(
    delivery: QueuedDelivery,
    *,
    keys: Sequence[SigningKey],
    own_headers: Sequence[tuple[str, str]],
    user_agent: str,
    timestamp: int,
) -> list[tuple[str, str]]:
    """Return the headers of one attempt, freshly signed: Gatepost's first, then the webhook's own.

    Units: `timestamp` in whole Unix seconds, the moment of this attempt.
    """
    return [
        ("Content-Type", "application/json"),
        ("User-Agent", user_agent),
        ("webhook-id", delivery.event_id),
        ("webhook-timestamp", str(timestamp)),
        ("webhook-signature", sign_standard(keys, delivery.event_id, timestamp, delivery.body)),
        ("X-Timestamp", str(timestamp)),
        ("X-Signature", sign_plain(keys, timestamp, delivery.body)),
        ("X-Gatepost-Event", delivery.event),
        ("X-Gatepost-Delivery", delivery.id),
        ("X-Gatepost-Attempt", str(delivery.attempt_count + 1)),
        ("X-Gatepost-Hop", str(delivery.hop)),
        *own_headers,
    ]
