"""What an attempt means for its delivery, its lane and its webhook."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from tests.builders import accepted, make_attempt, make_webhook, refused, unreachable
from tests.fakes import NOW

from gatepost.domain.consequences import Consequences, consequences
from gatepost.domain.deliveries import DeadReason, Status
from gatepost.domain.health import WELL, Condition, DisabledReason, Health
from gatepost.domain.outcomes import ErrorClass, Outcome
from gatepost.domain.retry import RetryPolicy

DAY = timedelta(days=1)
BEGAN = NOW - 3 * DAY
WEBHOOK = make_webhook(enabled_at=BEGAN, policy=RetryPolicy((5, 5)))
SUSPENDED = Condition(streak=9, failing_since=NOW - 2 * DAY, suspended_at=NOW - DAY)


def meant_by(outcome: Outcome, condition: Condition = WELL, *, number: int = 1, **attempt: Any) -> Consequences:
    made = make_attempt(number, outcome=outcome, **attempt)
    return consequences(made, WEBHOOK, condition, now=NOW, spread=0.0)


def internal_error() -> Outcome:
    return unreachable(ErrorClass.INTERNAL_ERROR)


def asking_to_wait(seconds: int, status_code: int = 503) -> Outcome:
    return refused(status_code, headers=(("Retry-After", str(seconds)),))


def test_a_success_delivers_and_holds_nothing_up() -> None:
    meant = meant_by(accepted())

    assert meant.progress.status is Status.DELIVERED
    assert (meant.condition, meant.disabled_for, meant.held_for) == (WELL, None, None)


def test_an_ordinary_failure_waits_for_itself_alone() -> None:
    meant = meant_by(refused(500))

    assert (meant.progress.status, meant.progress.attempt_count) == (Status.FAILED, 1)
    assert (meant.condition.streak, meant.held_for) == (1, None)


@pytest.mark.parametrize(("asked", "held"), [(20, 20), (60, 60), (3600, 60), (1, 1)])
def test_retry_after_holds_the_lane_a_minute_at_most_and_its_delivery_in_full(asked: int, held: int) -> None:
    meant = meant_by(asking_to_wait(asked))

    assert meant.held_for == timedelta(seconds=held)
    assert meant.progress.next_attempt_at == NOW + timedelta(seconds=max(asked, 5))
    assert meant.progress.not_before == (NOW + timedelta(seconds=asked) if asked > 5 else None)


@pytest.mark.parametrize("outcome", [asking_to_wait(0), asking_to_wait(60, status_code=500), refused(429)])
def test_where_no_wait_was_asked_for_none_is_made(outcome: Outcome) -> None:
    assert meant_by(outcome).held_for is None


def test_the_last_failure_holds_the_lane_as_well() -> None:
    meant = meant_by(asking_to_wait(30), number=3)

    assert (meant.progress.status, meant.progress.not_before) == (Status.DEAD_LETTER, None)
    assert meant.held_for == timedelta(seconds=30)


def test_what_suspends_a_webhook_holds_it_until_the_first_probe() -> None:
    meant = meant_by(refused(), Condition(streak=30, failing_since=NOW - DAY))

    assert meant.condition.health is Health.SUSPENDED
    assert meant.held_for == timedelta(minutes=10)
    assert meant.progress.attempt_count == 1  # it was no probe yet


@pytest.mark.parametrize("outcome", [refused(), asking_to_wait(30), refused(404)])
def test_a_probe_that_failed_moves_nothing_and_the_next_comes_ten_minutes_later(outcome: Outcome) -> None:
    meant = meant_by(outcome, SUSPENDED, number=3, probe=True)  # it would have been the last

    assert (meant.progress, meant.condition, meant.disabled_for) == (None, SUSPENDED, None)
    assert meant.held_for == timedelta(minutes=10)


def test_a_probe_that_got_through_is_a_delivery_like_any_other() -> None:
    meant = meant_by(accepted(), SUSPENDED, number=2, probe=True)

    assert (meant.progress.status, meant.progress.attempt_count) == (Status.DELIVERED, 2)
    assert (meant.condition, meant.held_for) == (Condition(draining=True), None)


def test_410_disables_the_webhook_and_its_delivery_may_be_sent_later() -> None:
    meant = meant_by(refused(410))

    assert (meant.disabled_for, meant.progress.status) == (DisabledReason.GONE, Status.FAILED)


def test_410_to_the_last_attempt_makes_a_dead_letter() -> None:
    meant = meant_by(refused(410), number=3)

    assert (meant.disabled_for, meant.progress.dead_reason) == (DisabledReason.GONE, DeadReason.ATTEMPTS_EXHAUSTED)


def test_the_first_probe_that_fails_a_week_after_the_suspension_disables_the_webhook() -> None:
    for_a_week = replace(SUSPENDED, suspended_at=NOW - 7 * DAY)

    assert meant_by(refused(), for_a_week, probe=True).disabled_for is DisabledReason.SUSPENDED_7D
    assert meant_by(refused(), SUSPENDED, probe=True).disabled_for is None
    assert meant_by(accepted(), for_a_week, probe=True).disabled_for is None


@pytest.mark.parametrize("outcome", [refused(429), internal_error()])
def test_what_says_nothing_of_the_receiver_disables_nothing(outcome: Outcome) -> None:
    for_a_week = replace(SUSPENDED, suspended_at=NOW - 7 * DAY)

    assert meant_by(outcome, for_a_week, probe=True).disabled_for is None


def test_a_webhook_that_was_enabled_by_a_clock_ahead_has_a_health_all_the_same() -> None:
    ahead = replace(WEBHOOK, enabled_at=NOW + DAY)

    meant = consequences(make_attempt(1, outcome=refused(410)), ahead, WELL, now=NOW, spread=0.0)

    assert meant.disabled_for is DisabledReason.GONE


@pytest.mark.parametrize("outcome", [refused(410), refused(500)])
def test_an_attempt_from_before_the_webhook_was_enabled_again_says_nothing_about_it(outcome: Outcome) -> None:
    before = meant_by(outcome, started_at=BEGAN - timedelta(microseconds=1))
    since = meant_by(outcome, started_at=BEGAN)

    assert (before.condition, before.disabled_for) == (WELL, None)
    assert before.progress.status is Status.FAILED  # that it was made is as true as ever
    assert since.condition.streak == 1
