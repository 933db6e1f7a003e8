"""Counting attempts, and what percentiles are known of afterwards."""

from collections.abc import Sequence
from datetime import timedelta
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import accepted, make_attempt, make_progress, make_settled, refused, unreachable
from tests.fakes import NOW

from gatepost.domain.deliveries import Status
from gatepost.domain.outcomes import ErrorClass
from gatepost.domain.retry import DEFAULT_POLICY, ONE_ATTEMPT, RetryPolicy
from gatepost.domain.stats import (
    BINS,
    BOUNDS_MS,
    BUCKET,
    BinTally,
    Ending,
    Tally,
    bin_of,
    count_of,
    start_of_bucket,
    tally_of,
    width_for,
)
from gatepost.ports import Settled

latencies = st.lists(st.integers(0, 60_000).map(lambda ms: timedelta(milliseconds=ms)), min_size=1)
percents = st.integers(1, 100)


def counted(lasted: Sequence[timedelta]) -> Tally:
    return tally_of(BinTally(bin_of(each), delivered=1, failed=0, dead=0) for each in lasted)


@given(latencies, percents)
def test_a_percentile_lies_in_the_bin_of_the_attempt_that_it_is_about(lasted: list[timedelta], percent: int) -> None:
    true = sorted(lasted)[ceil(len(lasted) * percent / 100) - 1]

    found = counted(lasted).percentile_ms(percent)

    assert found is not None
    assert bin_of(timedelta(milliseconds=found)) == bin_of(true)


@given(latencies)
def test_a_greater_percentile_is_never_less(lasted: list[timedelta]) -> None:
    tally = counted(lasted)
    found = [tally.percentile_ms(percent) or 0 for percent in range(1, 101)]

    assert found == sorted(found)


def test_without_attempts_there_is_no_percentile() -> None:
    assert tally_of([]).percentile_ms(50) is None


@pytest.mark.parametrize("number", range(BINS))
def test_a_bin_ends_before_its_bound(number: int) -> None:
    bound = timedelta(milliseconds=BOUNDS_MS[number])

    assert bin_of(bound - timedelta.resolution) == number
    assert bin_of(bound) == min(number + 1, BINS - 1)


@given(st.timedeltas(timedelta(0), timedelta(days=3650)), st.integers(1, 1000))
def test_a_stretch_of_time_is_never_shown_in_more_buckets_than_asked_for(length: timedelta, most: int) -> None:
    width = width_for(length, most=most)

    assert -(-length // width) <= most
    assert width % BUCKET == timedelta(0)


@given(st.timedeltas(timedelta(-10_000), timedelta(10_000)), st.integers(1, 1000))
def test_a_moment_lies_in_the_bucket_that_it_is_counted_in(since: timedelta, times: int) -> None:
    moment, width = NOW + since, BUCKET * times

    start = start_of_bucket(moment, width)

    assert start <= moment < start + width
    assert start_of_bucket(start, width) == start


@pytest.mark.parametrize(
    ("settled", "ending"),
    [
        (make_settled(), Ending.DELIVERED),
        (make_settled(outcome=refused(503)), Ending.FAILED),
        (make_settled(outcome=refused(503), policy=ONE_ATTEMPT), Ending.DEAD),
    ],
)
def test_an_attempt_counts_by_what_it_has_made_of_its_delivery(settled: Settled, ending: Ending) -> None:
    count = count_of(settled.attempt, settled.progress)

    assert count is not None
    assert (count.bucket_at, count.bin, count.ending) == (start_of_bucket(NOW, BUCKET), 4, ending)


@pytest.mark.parametrize("policy", [DEFAULT_POLICY, ONE_ATTEMPT])
def test_our_own_failures_count_for_nothing_though_they_were_the_last(policy: RetryPolicy) -> None:
    settled = make_settled(outcome=unreachable(ErrorClass.INTERNAL_ERROR), policy=policy)

    assert count_of(settled.attempt, settled.progress) is None


def test_what_a_store_could_not_hold_counts_as_what_it_was() -> None:
    attempt = make_attempt(outcome=unreachable(ErrorClass.INTERNAL_ERROR))
    delivered = make_progress(status=Status.DELIVERED)

    count = count_of(attempt, delivered)

    assert count is not None
    assert count == count_of(make_attempt(outcome=accepted()), delivered)
