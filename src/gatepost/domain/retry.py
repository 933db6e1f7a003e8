"""When a failed delivery is tried again: a written schedule, jitter, and what `Retry-After` may add."""

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from gatepost.domain.errors import invalid

JITTER = 0.1  # of each delay, added and never taken away: a retry is never early
LONGEST_RETRY_AFTER = timedelta(hours=24)
LONGEST_BACKOFF_SECONDS = 86_400.0
MOST_RETRIES = 19
MOST_ATTEMPTS = MOST_RETRIES + 1
SHORTEST_WAIT_SECONDS = 0.1
LONGEST_WAIT_SECONDS = 604_800
LONGEST_FIRST_BACKOFF_SECONDS = 3_600


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The waits between attempts.

    Shape: `schedule[n - 1]` is the wait after attempt `n`; one attempt more than there are waits.
    Units: seconds.
    """

    schedule: tuple[float, ...]

    @property
    def max_attempts(self) -> int:
        return len(self.schedule) + 1

    def delay_after(self, attempt_number: int, *, spread: float) -> timedelta | None:
        """Return the wait after a failed attempt, or None when it was the last.

        Shape: `spread` in [0, 1) places the jitter.

        >>> RetryPolicy((5, 300)).delay_after(1, spread=0.0)
        datetime.timedelta(seconds=5)
        >>> RetryPolicy((5, 300)).delay_after(2, spread=0.5)
        datetime.timedelta(seconds=315)
        >>> RetryPolicy((5, 300)).delay_after(3, spread=0.0) is None
        True
        """
        if attempt_number > len(self.schedule):
            return None
        return timedelta(seconds=self.schedule[attempt_number - 1] * (1 + JITTER * spread))


# 5 s, 5 m, 30 m, 2 h, 5 h, 10 h, 14 h, 20 h, 24 h. Source: Standard Webhooks, "Retry schedule".
DEFAULT_POLICY = RetryPolicy((5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400))
ONE_ATTEMPT = RetryPolicy(())


def scheduled(schedule: tuple[float, ...]) -> RetryPolicy:
    """Return the policy of a written schedule.

    Raises: InvalidInput, when it has over 19 waits or one lies outside 0.1–604,800 seconds.
    """
    if len(schedule) > MOST_RETRIES:
        raise invalid("retryPolicy.schedule", f"give at most {MOST_RETRIES} waits")
    for position, seconds in enumerate(schedule):
        if not (math.isfinite(seconds) and SHORTEST_WAIT_SECONDS <= seconds <= LONGEST_WAIT_SECONDS):
            raise invalid(
                f"retryPolicy.schedule.{position}",
                f"give seconds between {SHORTEST_WAIT_SECONDS} and {LONGEST_WAIT_SECONDS}",
            )
    return RetryPolicy(tuple(schedule))


def exponential(max_attempts: int, backoff_seconds: float) -> RetryPolicy:
    """Return the policy that waits four times longer after each failure, a day at most.

    >>> exponential(4, 10).schedule
    (10, 40, 160)
    >>> exponential(20, 3600).schedule[-1]
    86400.0

    Raises: InvalidInput, outside 1–20 attempts or 0.1–3,600 seconds.
    """
    if not 1 <= max_attempts <= MOST_ATTEMPTS:
        raise invalid("retryPolicy.maxAttempts", f"give a number between 1 and {MOST_ATTEMPTS}")
    if not (
        math.isfinite(backoff_seconds) and SHORTEST_WAIT_SECONDS <= backoff_seconds <= LONGEST_FIRST_BACKOFF_SECONDS
    ):
        raise invalid(
            "retryPolicy.backoffSeconds",
            f"give seconds between {SHORTEST_WAIT_SECONDS} and {LONGEST_FIRST_BACKOFF_SECONDS}",
        )
    return RetryPolicy(tuple(min(backoff_seconds * 4**n, LONGEST_BACKOFF_SECONDS) for n in range(max_attempts - 1)))


def parse_retry_after(value: str, *, now: datetime) -> timedelta | None:
    """Return how long a receiver asked us to wait, or None when it makes no sense.

    Shape:  whole seconds or an HTTP date; cut to 0–24 h, so that a receiver cannot park a delivery for ever.
    Source: RFC 9110, section 10.2.3.

    >>> now = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
    >>> parse_retry_after("120", now=now)
    datetime.timedelta(seconds=120)
    >>> parse_retry_after("Mon, 23 Nov 2026 12:01:00 GMT", now=now)
    datetime.timedelta(seconds=60)
    >>> parse_retry_after("99999999999999", now=now)
    datetime.timedelta(days=1)
    >>> parse_retry_after("-1", now=now) is None
    True
    """
    value = value.strip()
    if re.fullmatch(r"[0-9]{1,100}", value):
        asked = timedelta(seconds=min(int(value), LONGEST_RETRY_AFTER.total_seconds()))
    else:
        try:
            moment = parsedate_to_datetime(value)
        except (ValueError, TypeError, OverflowError):
            return None
        asked = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - now
    return min(max(asked, timedelta(0)), LONGEST_RETRY_AFTER)
