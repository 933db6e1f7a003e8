"""The one wide log line of each attempt. Never a payload, a secret, a signature or a header value."""

import structlog

from gatepost.domain.outcomes import Blocked, Unreachable, error_class_of, response_of
from gatepost.ports import Settled

log = structlog.get_logger()


def log_attempt(settled: Settled) -> None:
    """Write one line about an attempt: who, what, how it ended, what comes next."""
    delivery, attempt, progress = settled.delivery, settled.attempt, settled.progress
    outcome = attempt.outcome
    response, error_class = response_of(outcome), error_class_of(outcome)
    log.info(
        "delivery.attempted",
        group_id=delivery.group_id,
        webhook_id=delivery.webhook_id,
        delivery_id=delivery.id,
        event_id=delivery.event_id,
        event_type=delivery.event,
        number=attempt.number,
        probe=attempt.probe,
        outcome=outcome.kind,
        status_code=response.status_code if response else None,
        error_class=error_class.value if error_class else None,
        detail=outcome.detail if isinstance(outcome, Unreachable | Blocked) else None,
        duration_ms=round(attempt.duration.total_seconds() * 1000, 1),
        status=progress.status.value if progress else None,
        next_attempt_at=progress.next_attempt_at.isoformat() if progress and progress.next_attempt_at else None,
    )
