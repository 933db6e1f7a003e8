"""What became of the attempts for each webhook, and how long they took: counted in buckets of five minutes.

Latencies are counted in a few bins of fixed bounds. So buckets can be added up, in a store too, and a percentile of any
stretch of time is known as exactly as its bin is wide.
"""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from itertools import accumulate
from math import ceil
from typing import NamedTuple

from gatepost.domain.deliveries import Attempt, Progress, Status
from gatepost.domain.outcomes import ErrorClass

BUCKET = timedelta(minutes=5)
# Each bin ends before its bound; the last, which no attempt is meant to outlast, with the longest timeout there is.
BOUNDS_MS = (5, 10, 20, 35, 50, 75, 100, 150, 250, 500, 1_000, 2_000, 4_000, 8_000, 15_000, 30_000)
BINS = len(BOUNDS_MS)
# How wide buckets are shown, the longer the stretch the wider; past the last of them in multiples of it.
_HOUR, _DAY = timedelta(hours=1), timedelta(days=1)
_WIDTHS = (BUCKET, 2 * BUCKET, 3 * BUCKET, 6 * BUCKET, _HOUR, 2 * _HOUR, 3 * _HOUR, 6 * _HOUR, 12 * _HOUR, _DAY)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


class Ending(Enum):
    """What an attempt has made of its delivery."""

    DELIVERED = 0
    FAILED = 1  # to be tried again
    DEAD = 2


_ENDINGS = {Status.DELIVERED: Ending.DELIVERED, Status.DEAD_LETTER: Ending.DEAD}


class Count(NamedTuple):
    """One attempt, as it is counted: the start of its bucket, the bin of its latency, and how it ended."""

    bucket_at: datetime
    bin: int
    ending: Ending


class BinTally(NamedTuple):
    """How often each ending came about within one bin."""

    bin: int
    delivered: int
    failed: int
    dead: int


@dataclass(frozen=True, slots=True)
class Tally:
    """What was counted in some stretch of time.

    Shape: `latencies` has a number for each bin.
    """

    delivered: int
    failed: int
    dead: int
    latencies: tuple[int, ...]

    def percentile_ms(self, percent: int) -> int | None:
        """Return the latency that so many in a hundred attempts stayed within; None without any attempt.

        It is placed within its bin as if the attempts were spread evenly there.

        >>> tally_of([BinTally(bin=7, delivered=90, failed=0, dead=0), BinTally(14, 0, 10, 0)]).percentile_ms(50)
        127
        """
        total = sum(self.latencies)
        if not total:
            return None
        rank = max(ceil(total * percent / 100), 1)
        reached = list(accumulate(self.latencies))
        found = next(number for number, count in enumerate(reached) if count >= rank)
        low, high = BOUNDS_MS[found - 1] if found else 0, BOUNDS_MS[found]
        count = self.latencies[found]
        place = rank - (reached[found] - count)  # among those of the bin, from 1
        return low + (high - low) * (2 * place - 1) // (2 * count)


@dataclass(frozen=True, slots=True)
class Bucket:
    """What was counted for a webhook from a moment on, for as long as was asked for."""

    webhook_id: str
    start_at: datetime
    tally: Tally


def count_of(attempt: Attempt, progress: Progress | None) -> Count | None:
    """Return what an attempt that has moved its delivery counts as; None when it says nothing of the receiver.

    By the progress, which stays true where a store could not hold the outcome.
    """
    if progress is None or progress.last_error_class is ErrorClass.INTERNAL_ERROR:
        return None
    ending = _ENDINGS.get(progress.status, Ending.FAILED)
    return Count(start_of_bucket(attempt.started_at, BUCKET), bin_of(attempt.duration), ending)


def bin_of(latency: timedelta) -> int:
    """Return the bin that a latency falls into.

    >>> bin_of(timedelta(0)), bin_of(timedelta(milliseconds=5)), bin_of(timedelta(minutes=1))
    (0, 1, 15)
    """
    return min(bisect_right(BOUNDS_MS, latency // _MILLISECOND), BINS - 1)


def tally_of(bins: Iterable[BinTally]) -> Tally:
    """Return the sum of what was counted in bins, however often each is given.

    >>> tally_of([BinTally(0, 3, 0, 0), BinTally(0, 2, 1, 0)]).latencies[:2]
    (6, 0)
    """
    delivered = failed = dead = 0
    latencies = [0] * BINS
    for each in bins:
        delivered, failed, dead = delivered + each.delivered, failed + each.failed, dead + each.dead
        latencies[each.bin] += each.delivered + each.failed + each.dead
    return Tally(delivered, failed, dead, tuple(latencies))


def start_of_bucket(moment: datetime, width: timedelta) -> datetime:
    """Return when the bucket of some width began that a moment lies in; they are counted from 1970.

    >>> start_of_bucket(datetime(2026, 11, 23, 12, 34, 56, tzinfo=UTC), BUCKET).isoformat()
    '2026-11-23T12:30:00+00:00'
    """
    return moment - (moment - _EPOCH) % width


def width_for(length: timedelta, *, most: int) -> timedelta:
    """Return how wide buckets have to be for no more than so many of them to cover a stretch of time.

    >>> [str(width_for(timedelta(days=days), most=300)) for days in (1, 7, 90, 3650)]
    ['0:05:00', '1:00:00', '12:00:00', '13 days, 0:00:00']
    """
    for width in _WIDTHS:
        if length <= width * most:
            return width
    return _DAY * -(-length // (_DAY * most))
