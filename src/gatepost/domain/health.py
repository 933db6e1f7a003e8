"""How a webhook's receiver is doing, as its lane remembers it.

healthy ──5 failures in a row──▶ degraded ──failing for 24 h──▶ suspended ──for 7 days──▶ disabled
   ▲                                │                               │                        ▲
   └──────────any success───────────┴────────a probe that got through                     410 at once

A suspended webhook is sent one delivery every ten minutes, to see; the others wait, and their schedules stand still.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from gatepost.domain.outcomes import Accepted, ErrorClass, Outcome, Refused, error_class_of

DEGRADED_FROM_STREAK = 5
SUSPENDED_AFTER = timedelta(hours=24)
DISABLED_AFTER = timedelta(days=7)
PROBE_EVERY = timedelta(minutes=10)
NO_HOLD_IS_AS_LONG_AS = 2 * PROBE_EVERY  # one further ahead was written by a clock that was ahead itself


class Health(StrEnum):
    HEALTHY = "healthy"
    DEGRADED = "degraded"
    SUSPENDED = "suspended"
    DISABLED = "disabled"


class DisabledReason(StrEnum):
    ADMIN = "admin"
    GONE = "gone"  # the receiver answered 410
    SUSPENDED_7D = "suspended_7d"


@dataclass(frozen=True, slots=True)
class Condition:
    """What a lane remembers of its receiver.

    Shape: `streak` counts the failures in a row that count; `failing_since` is the first of them; `draining` from the
           end of a suspension until what was held back then is sent.
    """

    streak: int = 0
    failing_since: datetime | None = None
    suspended_at: datetime | None = None
    draining: bool = False

    @property
    def health(self) -> Health:
        """What it is as long as its webhook is enabled."""
        if self.suspended_at is not None:
            return Health.SUSPENDED
        return Health.DEGRADED if self.streak >= DEGRADED_FROM_STREAK else Health.HEALTHY


WELL = Condition()


def after_outcome(condition: Condition, outcome: Outcome, *, probe: bool, now: datetime) -> Condition:
    """Return the condition once the outcome of an attempt is known.

    >>> from gatepost.domain.outcomes import Response
    >>> down = Refused(Response(503, (), b""))
    >>> began = datetime(2026, 11, 23, 12, 0)
    >>> failing = after_outcome(Condition(streak=4, failing_since=began), down, probe=False, now=began)
    >>> failing.health.value, after_outcome(failing, down, probe=False, now=began + timedelta(days=1)).health.value
    ('degraded', 'suspended')
    """
    if isinstance(outcome, Accepted):
        if condition.suspended_at is not None:
            return Condition(draining=True)
        return replace(condition, streak=0, failing_since=None) if condition.streak else condition
    if probe or not _counts(outcome):
        return condition
    since = condition.failing_since or now
    failing = replace(condition, streak=condition.streak + 1, failing_since=since)
    if condition.suspended_at is None and failing.health is Health.DEGRADED and now - since >= SUSPENDED_AFTER:
        return replace(failing, suspended_at=now, draining=False)
    return failing


def news_of(before: Health, after: Health) -> str | None:
    """Return the type of the operator event that a change of health is worth, if it is one.

    >>> news_of(Health.HEALTHY, Health.DEGRADED), news_of(Health.SUSPENDED, Health.HEALTHY)
    ('webhook.degraded', 'webhook.recovered')
    """
    if after is before:
        return None
    return "webhook.recovered" if after is Health.HEALTHY else f"webhook.{after.value}"


def reason_to_disable(condition: Condition, outcome: Outcome, *, now: datetime) -> DisabledReason | None:
    """Return why a webhook is to be disabled after an outcome; None when it is not."""
    if isinstance(outcome, Refused) and outcome.response.status_code == 410:
        return DisabledReason.GONE
    failed = not isinstance(outcome, Accepted) and _counts(outcome)
    if failed and condition.suspended_at is not None and now - condition.suspended_at >= DISABLED_AFTER:
        return DisabledReason.SUSPENDED_7D
    return None


def _counts(outcome: Outcome) -> bool:
    """Say whether a failure says something about the receiver: not one of ours, nor that it has too much to do."""
    too_many = isinstance(outcome, Refused) and outcome.response.status_code == 429
    return not too_many and error_class_of(outcome) is not ErrorClass.INTERNAL_ERROR
