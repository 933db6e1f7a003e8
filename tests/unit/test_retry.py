from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes import NOW

from gatepost.domain.errors import InvalidInput
from gatepost.domain.retry import DEFAULT_POLICY, RetryPolicy, exponential, parse_retry_after, scheduled

waits = st.lists(st.floats(0.1, 604_800), max_size=19).map(tuple)
spreads = st.floats(0, 1, exclude_max=True)


def test_the_default_is_ten_attempts_over_75_hours_and_35_minutes() -> None:
    hours_and_minutes = timedelta(hours=75, minutes=35, seconds=5)

    assert DEFAULT_POLICY.max_attempts == 10
    assert timedelta(seconds=sum(DEFAULT_POLICY.schedule)) == hours_and_minutes


@given(waits, spreads)
def test_a_retry_is_never_early_and_at_most_a_tenth_late(schedule: tuple[float, ...], spread: float) -> None:
    policy = scheduled(schedule)

    for number, seconds in enumerate(schedule, start=1):
        delay = policy.delay_after(number, spread=spread)

        assert delay is not None
        assert timedelta(seconds=seconds) <= delay <= timedelta(seconds=seconds * 1.1)


@given(waits, spreads)
def test_there_is_one_attempt_more_than_there_are_waits(schedule: tuple[float, ...], spread: float) -> None:
    policy = scheduled(schedule)

    assert policy.max_attempts == len(schedule) + 1
    assert policy.delay_after(policy.max_attempts, spread=spread) is None
    assert policy.delay_after(policy.max_attempts + 1, spread=spread) is None


def test_no_wait_at_all_is_a_schedule_of_one_attempt() -> None:
    assert scheduled(()) == RetryPolicy(())
    assert RetryPolicy(()).max_attempts == 1


@pytest.mark.parametrize(
    "schedule",
    [(0.09,), (604_801,), (-5,), (float("nan"),), (float("inf"),), (5, 0), (5,) * 20],
    ids=["too short", "too long", "negative", "not a number", "for ever", "second one zero", "twenty"],
)
def test_a_schedule_outside_its_limits_is_refused(schedule: tuple[float, ...]) -> None:
    with pytest.raises(InvalidInput):
        scheduled(schedule)


def test_the_refusal_of_a_wait_names_its_place() -> None:
    with pytest.raises(InvalidInput) as refusal:
        scheduled((5, 300, 0))

    assert refusal.value.errors[0].loc == ("retryPolicy", "schedule", "2")


@pytest.mark.parametrize("schedule", [(0.1,), (604_800,), (5,) * 19])
def test_a_schedule_at_its_limits_is_taken(schedule: tuple[float, ...]) -> None:
    assert scheduled(schedule).schedule == schedule


@given(st.integers(1, 20), st.floats(0.1, 3_600))
def test_exponential_waits_four_times_longer_after_each_failure_and_a_day_at_most(
    max_attempts: int, backoff_seconds: float
) -> None:
    policy = exponential(max_attempts, backoff_seconds)

    assert policy.max_attempts == max_attempts
    assert policy.schedule == tuple(min(backoff_seconds * 4**n, 86_400) for n in range(max_attempts - 1))
    assert scheduled(policy.schedule) == policy


@pytest.mark.parametrize(
    ("max_attempts", "backoff_seconds", "field"),
    [
        (0, 5, "maxAttempts"),
        (21, 5, "maxAttempts"),
        (3, 0.09, "backoffSeconds"),
        (3, 3_601, "backoffSeconds"),
        (3, float("nan"), "backoffSeconds"),
        (3, float("inf"), "backoffSeconds"),
    ],
)
def test_exponential_outside_its_limits_is_refused(max_attempts: int, backoff_seconds: float, field: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        exponential(max_attempts, backoff_seconds)

    assert refusal.value.errors[0].loc == ("retryPolicy", field)


@pytest.mark.parametrize(
    ("value", "asked"),
    [
        ("0", 0),
        ("120", 120),
        (" 120 ", 120),
        ("86400", 86_400),
        ("86401", 86_400),
        ("9999999999", 86_400),
        ("99999999999999", 86_400),
        ("9" * 100, 86_400),
        ("0" * 99 + "5", 5),
        ("Mon, 23 Nov 2026 12:35:56 GMT", 59.211),
        ("Mon, 23 Nov 2026 12:35:56 -0000", 59.211),
        ("Mon, 23 Nov 2026 12:34:56 GMT", 0),
        ("Fri, 01 Jan 1999 00:00:00 GMT", 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 86_400),
    ],
)
def test_retry_after_is_seconds_or_a_date_cut_to_a_day(value: str, asked: float) -> None:
    assert parse_retry_after(value, now=NOW) == timedelta(seconds=asked)


@pytest.mark.parametrize(
    "value", ["", "-1", "1.5", "1e3", "NaN", "Infinity", "soon", "٣", "9" * 101, "12 0", "Mon, 23 Nov 2026"]
)
def test_a_retry_after_that_makes_no_sense_asks_nothing(value: str) -> None:
    assert parse_retry_after(value, now=NOW) is None


@given(st.text() | st.binary().map(lambda raw: raw.decode("latin-1")) | st.datetimes().map(datetime.ctime))
def test_any_retry_after_gives_nothing_or_a_wait_of_at_most_a_day(value: str) -> None:
    asked = parse_retry_after(value, now=NOW)

    assert asked is None or timedelta(0) <= asked <= timedelta(hours=24)
