"""What a lane remembers of its receiver after each outcome, and what comes of it."""

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import accepted, refused, unreachable
from tests.fakes import NOW

from gatepost.domain.health import (
    DISABLED_AFTER,
    SUSPENDED_AFTER,
    WELL,
    Condition,
    DisabledReason,
    Health,
    after_outcome,
    news_of,
    reason_to_disable,
)
from gatepost.domain.outcomes import Blocked, ErrorClass, Outcome

DAY = timedelta(days=1)
FAILING = Condition(streak=5, failing_since=NOW - SUSPENDED_AFTER)
SUSPENDED = Condition(streak=9, failing_since=NOW - 2 * DAY, suspended_at=NOW - DAY)
COUNTED = [
    refused(301),
    refused(404),
    refused(410),
    refused(500),
    refused(503),
    unreachable(ErrorClass.TIMEOUT),
    unreachable(ErrorClass.DNS),
    unreachable(ErrorClass.INVALID_RESPONSE),
    Blocked(ErrorClass.BLOCKED_ADDRESS),
]
NOT_COUNTED = [refused(429), unreachable(ErrorClass.INTERNAL_ERROR)]
A_MINUTE_APART = timedelta(minutes=1)


def after(condition: Condition, *outcomes: Outcome, at: datetime = NOW, probe: bool = False) -> Condition:
    for n, outcome in enumerate(outcomes):
        condition = after_outcome(condition, outcome, probe=probe, now=at + n * A_MINUTE_APART)
    return condition


def test_four_failures_in_a_row_are_not_yet_a_reason_to_worry_the_fifth_is() -> None:
    assert after(WELL, *[refused()] * 4).health is Health.HEALTHY
    assert after(WELL, *[refused()] * 5).health is Health.DEGRADED


def test_the_first_failure_of_a_row_is_where_it_began() -> None:
    condition = after(WELL, refused(), accepted(), refused(), refused())

    assert condition == Condition(streak=2, failing_since=NOW + 2 * A_MINUTE_APART)


@pytest.mark.parametrize("outcome", COUNTED)
def test_what_says_something_about_the_receiver_counts(outcome: Outcome) -> None:
    assert after(WELL, outcome).streak == 1


@pytest.mark.parametrize("outcome", NOT_COUNTED)
@pytest.mark.parametrize("condition", [WELL, FAILING, SUSPENDED])
def test_being_asked_to_slow_down_and_our_own_errors_count_for_nothing(condition: Condition, outcome: Outcome) -> None:
    assert after(condition, outcome) == condition


def test_a_success_ends_the_row() -> None:
    assert after(FAILING, accepted()) == WELL


def test_it_is_suspended_at_the_first_failure_a_day_after_the_first() -> None:
    just_before = after(FAILING, refused(), at=NOW - timedelta(microseconds=1))
    just_then = after(FAILING, refused())

    assert just_before.health is Health.DEGRADED
    assert (just_then.health, just_then.suspended_at) == (Health.SUSPENDED, NOW)


def test_a_receiver_that_is_hardly_ever_asked_is_not_suspended_for_four_failures() -> None:
    rare = Condition(streak=3, failing_since=NOW - 30 * DAY)

    assert after(rare, refused()).suspended_at is None
    assert after(rare, refused(), refused()).suspended_at == NOW + A_MINUTE_APART


def test_a_probe_that_failed_changes_nothing_whatever_it_met() -> None:
    for outcome in (*COUNTED, *NOT_COUNTED):
        assert after(SUSPENDED, outcome, probe=True) == SUSPENDED


@pytest.mark.parametrize("probe", [True, False])
def test_a_suspension_ends_with_any_success_and_what_was_held_back_is_to_be_drained(probe: bool) -> None:
    condition = after(SUSPENDED, accepted(), probe=probe)

    assert condition == Condition(draining=True)
    assert condition.health is Health.HEALTHY


def test_what_was_in_flight_when_it_was_suspended_does_not_suspend_it_anew() -> None:
    assert after(SUSPENDED, refused()).suspended_at == SUSPENDED.suspended_at


def test_successes_and_failures_while_it_drains_do_not_end_the_draining_a_new_suspension_does() -> None:
    draining = Condition(draining=True)

    assert after(draining, accepted()).draining
    assert after(draining, refused(), accepted()).draining
    assert not after(Condition(9, NOW - DAY, draining=True), refused()).draining


@pytest.mark.parametrize(
    ("before", "then", "news"),
    [
        (Health.HEALTHY, Health.HEALTHY, None),
        (Health.DEGRADED, Health.DEGRADED, None),
        (Health.HEALTHY, Health.DEGRADED, "webhook.degraded"),
        (Health.DEGRADED, Health.SUSPENDED, "webhook.suspended"),
        (Health.DEGRADED, Health.HEALTHY, "webhook.recovered"),
        (Health.SUSPENDED, Health.HEALTHY, "webhook.recovered"),
    ],
)
def test_each_change_of_health_is_news_once(before: Health, then: Health, news: str | None) -> None:
    assert news_of(before, then) == news


@pytest.mark.parametrize("condition", [WELL, FAILING, SUSPENDED])
def test_410_disables_at_once(condition: Condition) -> None:
    assert reason_to_disable(condition, refused(410), now=NOW) is DisabledReason.GONE


def test_a_week_of_suspension_disables_with_the_next_failure() -> None:
    ends = (SUSPENDED.suspended_at or NOW) + DISABLED_AFTER

    assert reason_to_disable(SUSPENDED, refused(), now=ends - timedelta(microseconds=1)) is None
    assert reason_to_disable(SUSPENDED, refused(), now=ends) is DisabledReason.SUSPENDED_7D
    assert reason_to_disable(WELL, accepted(), now=ends) is None


def test_a_receiver_that_has_failed_for_years_without_being_suspended_is_not_disabled() -> None:
    assert reason_to_disable(FAILING, refused(), now=NOW + 1000 * DAY) is None


@given(st.lists(st.tuples(st.sampled_from([accepted(), *COUNTED, *NOT_COUNTED]), st.booleans()), max_size=40))
def test_whatever_happens_a_condition_makes_sense(history: list[tuple[Outcome, bool]]) -> None:
    condition = WELL
    for hours, (outcome, probe) in enumerate(history):
        condition = after_outcome(condition, outcome, probe=probe, now=NOW + timedelta(hours=3 * hours))

        assert (condition.streak > 0) == (condition.failing_since is not None)
        assert condition.suspended_at is None or condition.streak >= 5
        assert not (condition.draining and condition.suspended_at)
