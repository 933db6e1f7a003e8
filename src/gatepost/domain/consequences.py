"""What an attempt means: for its delivery, for its webhook, and for whoever wants to hear of either."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from gatepost.domain.deliveries import Attempt, Progress, after_attempt
from gatepost.domain.health import PROBE_EVERY, Condition, DisabledReason, after_outcome, reason_to_disable
from gatepost.domain.outcomes import Accepted, retry_after
from gatepost.domain.webhooks import Webhook

LONGEST_PAUSE = timedelta(seconds=60)  # of a whole lane, for one Retry-After; its delivery waits in full


@dataclass(frozen=True, slots=True)
class Consequences:
    """What is to be written down and done after an attempt.

    Shape: `progress` is None when the delivery stays as it is, which a failed probe says nothing about; `disabled_for`
           is why the webhook is to be disabled, None when it is not; `held_for` is how long nothing more goes to it,
           None when that goes on.
    """

    progress: Progress | None
    condition: Condition
    disabled_for: DisabledReason | None
    held_for: timedelta | None


def consequences(
    attempt: Attempt, webhook: Webhook, condition: Condition, *, now: datetime, spread: float
) -> Consequences:
    """Return what an attempt means, by the webhook's configuration and condition at its end.

    One that began before the webhook was enabled again says nothing about its receiver as it is taken to be since.
    """
    outcome = attempt.outcome
    is_failed_probe = attempt.probe and not isinstance(outcome, Accepted)
    moved = after_attempt(attempt.number, outcome, webhook.policy, now=now, spread=spread)
    progress = None if is_failed_probe else moved
    if attempt.started_at < webhook.enabled_at <= now:  # not by a clock that was ahead
        return Consequences(progress, condition, None, _hold(attempt, condition, now=now))
    after = after_outcome(condition, outcome, probe=attempt.probe, now=now)
    return Consequences(progress, after, reason_to_disable(after, outcome, now=now), _hold(attempt, after, now=now))


def _hold(attempt: Attempt, condition: Condition, *, now: datetime) -> timedelta | None:
    if condition.suspended_at is not None:
        return PROBE_EVERY
    asked = retry_after(attempt.outcome, now=now)
    return min(asked, LONGEST_PAUSE) if asked else None
