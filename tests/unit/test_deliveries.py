from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import (
    POLICY,
    accepted,
    make_delivery,
    make_event,
    make_progress,
    make_queued,
    make_response,
    make_webhook,
    refused,
    subscription_of,
    unreachable,
)
from tests.fakes import NOW

from gatepost.domain.deliveries import (
    DeadReason,
    Progress,
    Status,
    after_attempt,
    owed,
    queued,
    replayed,
    request_headers,
    sampled,
)
from gatepost.domain.outcomes import (
    Accepted,
    Blocked,
    ErrorClass,
    Outcome,
    Refused,
    Unreachable,
    error_class_of,
    outcome_of,
    response_of,
    retry_after,
    slows_down,
)
from gatepost.domain.retry import RetryPolicy
from gatepost.domain.signatures import Verdict, make_secret, parse_secret, verify_plain, verify_standard

LATER = NOW + timedelta(hours=1)
KEY = parse_secret(make_secret(bytes(32)))
WITHOUT_RESPONSE = [Unreachable(error_class) for error_class in ErrorClass] + [
    Blocked(ErrorClass.BLOCKED_ADDRESS),
    Blocked(ErrorClass.INVALID_TARGET),
]


# --- outcomes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status_code", "kind", "error_class"),
    [
        (200, Accepted, None),
        (204, Accepted, None),
        (299, Accepted, None),
        (199, Refused, ErrorClass.INVALID_RESPONSE),
        (300, Refused, ErrorClass.HTTP_3XX),
        (304, Refused, ErrorClass.HTTP_3XX),
        (399, Refused, ErrorClass.HTTP_3XX),
        (400, Refused, ErrorClass.HTTP_4XX),
        (410, Refused, ErrorClass.HTTP_4XX),
        (429, Refused, ErrorClass.HTTP_4XX),
        (500, Refused, ErrorClass.HTTP_5XX),
        (599, Refused, ErrorClass.HTTP_5XX),
        (600, Refused, ErrorClass.INVALID_RESPONSE),
        (999, Refused, ErrorClass.INVALID_RESPONSE),
    ],
)
def test_only_2xx_is_success(status_code: int, kind: type, error_class: ErrorClass | None) -> None:
    outcome = outcome_of(make_response(status_code))

    assert isinstance(outcome, kind)
    assert error_class_of(outcome) is error_class


@pytest.mark.parametrize("outcome", WITHOUT_RESPONSE)
def test_an_outcome_without_a_response_is_counted_under_its_own_class(outcome: Outcome) -> None:
    assert isinstance(outcome, Unreachable | Blocked)
    assert error_class_of(outcome) is outcome.error_class


def test_an_outcome_says_its_kind_and_what_was_answered() -> None:
    outcomes = (accepted(204), refused(503), unreachable(), Blocked(ErrorClass.BLOCKED_ADDRESS))

    assert [outcome.kind for outcome in outcomes] == ["accepted", "refused", "unreachable", "blocked"]
    assert [response_of(outcome) for outcome in outcomes] == [make_response(204), make_response(503), None, None]


# --- what an attempt means for its delivery ------------------------------------------------------------------


def test_a_success_delivers() -> None:
    progress = after_attempt(2, accepted(204), POLICY, now=LATER, spread=0.5)

    assert progress == Progress(
        status=Status.DELIVERED,
        attempt_count=2,
        max_attempts=3,
        next_attempt_at=None,
        last_status_code=204,
        finished_at=LATER,
    )


@pytest.mark.parametrize("outcome", [refused(302), refused(410), refused(500), refused(199), *WITHOUT_RESPONSE])
def test_a_failure_is_tried_again_after_the_wait_of_its_number(outcome: Outcome) -> None:
    progress = after_attempt(2, outcome, POLICY, now=LATER, spread=0.5)

    assert progress == Progress(
        status=Status.FAILED,
        attempt_count=2,
        max_attempts=3,
        next_attempt_at=LATER + timedelta(seconds=315),
        last_status_code=status_of(outcome),
        last_error_class=error_class_of(outcome),
    )


@pytest.mark.parametrize("outcome", [refused(302), refused(410), refused(500), refused(199), *WITHOUT_RESPONSE])
def test_the_last_failure_is_a_dead_letter(outcome: Outcome) -> None:
    progress = after_attempt(3, outcome, POLICY, now=LATER, spread=0.5)

    assert progress == Progress(
        status=Status.DEAD_LETTER,
        attempt_count=3,
        max_attempts=3,
        next_attempt_at=None,
        last_status_code=status_of(outcome),
        last_error_class=error_class_of(outcome),
        dead_reason=DeadReason.ATTEMPTS_EXHAUSTED,
        finished_at=LATER,
    )


def test_a_success_at_the_last_attempt_is_still_a_success() -> None:
    assert after_attempt(3, accepted(), POLICY, now=LATER, spread=0.0).status is Status.DELIVERED


@pytest.mark.parametrize("number", [2, 3, 7])
def test_a_schedule_cut_short_ends_a_delivery_that_is_past_it(number: int) -> None:
    progress = after_attempt(number, refused(), RetryPolicy((5.0,)), now=LATER, spread=0.0)

    assert (progress.status, progress.max_attempts) == (Status.DEAD_LETTER, 2)


def test_a_schedule_made_longer_holds_from_the_next_attempt_on() -> None:
    progress = after_attempt(3, refused(), RetryPolicy((5.0, 5.0, 60.0)), now=LATER, spread=0.0)

    assert progress.next_attempt_at == LATER + timedelta(seconds=60)
    assert progress.max_attempts == 4


@pytest.mark.parametrize(
    ("status_code", "asked", "waited"),
    [
        (503, "3600", 3600),
        (429, "3600", 3600),
        (503, "Mon, 23 Nov 2026 13:36:56 GMT", 119.211),
        (503, "1", 5),
        (503, "0", 5),
        (503, "Mon, 23 Nov 2026 00:00:00 GMT", 5),
        (503, "999999", 86_400),
        (503, "soon", 5),
        (500, "3600", 5),
        (404, "3600", 5),
        (302, "3600", 5),
    ],
)
def test_retry_after_on_429_and_503_lengthens_the_wait_and_never_shortens_it(
    status_code: int, asked: str, waited: float
) -> None:
    outcome = refused(status_code, headers=(("Retry-After", asked),))

    progress = after_attempt(1, outcome, POLICY, now=LATER, spread=0.0)

    assert progress.next_attempt_at == LATER + timedelta(seconds=waited)
    assert progress.not_before == (progress.next_attempt_at if waited > 5 else None)


@given(st.text(max_size=20) | st.integers(-10, 10**12).map(str), st.floats(0, 1, exclude_max=True))
def test_no_retry_after_whatsoever_makes_a_retry_early(asked: str, spread: float) -> None:
    outcome = refused(429, headers=(("retry-after", asked),))
    without = after_attempt(1, refused(429), POLICY, now=NOW, spread=spread)

    progress = after_attempt(1, outcome, POLICY, now=NOW, spread=spread)

    assert progress.next_attempt_at is not None
    assert without.next_attempt_at is not None
    assert without.next_attempt_at <= progress.next_attempt_at <= NOW + timedelta(hours=24)


def test_retry_after_does_not_raise_the_dead() -> None:
    outcome = refused(503, headers=(("Retry-After", "60"),))

    assert after_attempt(3, outcome, POLICY, now=LATER, spread=0.0).status is Status.DEAD_LETTER


def test_of_two_retry_afters_the_first_counts() -> None:
    outcome = refused(503, headers=(("retry-AFTER", "60"), ("Retry-After", "120")))

    assert retry_after(outcome, now=NOW) == timedelta(seconds=60)


@pytest.mark.parametrize(
    ("outcome", "slower"),
    [
        (accepted(), False),
        (refused(302), False),
        (refused(404), False),
        (refused(429), True),
        (refused(500), True),
        (refused(503), True),
        (unreachable(ErrorClass.TIMEOUT), True),
        (unreachable(ErrorClass.CONNECT), True),
        (unreachable(ErrorClass.DNS), True),
        (unreachable(ErrorClass.TLS), True),
        (unreachable(ErrorClass.INVALID_RESPONSE), False),
        (unreachable(ErrorClass.INTERNAL_ERROR), False),
        (Blocked(ErrorClass.BLOCKED_ADDRESS), False),
    ],
)
def test_what_is_a_sign_of_too_much_to_do_slows_us_down(outcome: Outcome, slower: bool) -> None:
    assert slows_down(outcome) is slower


# --- deliveries ----------------------------------------------------------------------------------------------


def test_what_is_owed_is_due_at_the_moment_of_its_event() -> None:
    event, webhook = make_event(), make_webhook()

    delivery = owed("dlv_1", event, subscription_of(webhook))

    assert delivery.progress == Progress(Status.QUEUED, attempt_count=0, max_attempts=3, next_attempt_at=NOW)
    assert (delivery.id, delivery.webhook_id, delivery.event_id) == ("dlv_1", webhook.id, event.id)
    assert (delivery.group_id, delivery.event, delivery.task_ids) == (event.group_id, event.event, event.task_ids)
    assert delivery.created_at == event.created_at
    assert delivery.replay_of is None


def test_a_replay_is_a_new_delivery_of_the_same_event() -> None:
    original = make_delivery(progress=make_progress(status=Status.DEAD_LETTER, attempt_count=3))

    replay = replayed(original, "dlv_new", max_attempts=7, now=LATER)

    assert replay.progress == Progress(Status.QUEUED, attempt_count=0, max_attempts=7, next_attempt_at=LATER)
    assert (replay.id, replay.replay_of, replay.created_at) == ("dlv_new", original.id, LATER)
    assert (replay.event_id, replay.webhook_id, replay.task_ids) == (
        original.event_id,
        original.webhook_id,
        original.task_ids,
    )


def test_a_sample_is_sent_once() -> None:
    event = make_event(event="webhook.test", tasks=())

    delivery = sampled("dlv_1", event, "wh_1")

    assert delivery.progress == Progress(Status.QUEUED, attempt_count=0, max_attempts=1, next_attempt_at=NOW)
    assert (delivery.webhook_id, delivery.event_id, delivery.task_ids) == ("wh_1", event.id, ())


def test_what_is_queued_is_the_delivery_with_the_bytes_of_its_event() -> None:
    delivery = make_delivery(progress=make_progress(attempt_count=2))

    sent = queued(delivery, body=b"{}", hop=3)

    assert (sent.id, sent.event_id, sent.created_at) == (delivery.id, delivery.event_id, delivery.created_at)
    assert (sent.body, sent.hop, sent.attempt_count) == (b"{}", 3, 2)


def test_a_request_carries_both_signatures_and_the_webhooks_own_headers_last() -> None:
    queued = make_queued(attempt_count=2, hop=3)

    headers = request_headers(
        queued,
        keys=[KEY],
        own_headers=[("Authorization", "Bearer abc")],
        user_agent="Gatepost/1.0",
        timestamp=1_795_437_296,
    )

    named = dict(headers)
    assert [name for name, _ in headers] == [
        "Content-Type",
        "User-Agent",
        "webhook-id",
        "webhook-timestamp",
        "webhook-signature",
        "X-Timestamp",
        "X-Signature",
        "X-Gatepost-Event",
        "X-Gatepost-Delivery",
        "X-Gatepost-Attempt",
        "X-Gatepost-Hop",
        "Authorization",
    ]
    assert named["webhook-id"] == queued.event_id
    assert named["webhook-timestamp"] == named["X-Timestamp"] == "1795437296"
    assert (named["X-Gatepost-Attempt"], named["X-Gatepost-Hop"]) == ("3", "3")
    assert (named["X-Gatepost-Event"], named["X-Gatepost-Delivery"]) == (queued.event, queued.id)
    assert named["Content-Type"] == "application/json"
    assert named["User-Agent"] == "Gatepost/1.0"


def test_the_signatures_of_a_request_are_of_its_bytes_and_moment() -> None:
    queued = make_queued()

    named = dict(request_headers(queued, keys=[KEY], own_headers=[], user_agent="Gatepost/1.0", timestamp=1_000))

    signed = {"timestamp": "1000", "body": queued.body, "now_seconds": 1_000.0}
    standard = verify_standard([KEY], message_id=queued.event_id, signature=named["webhook-signature"], **signed)
    plain = verify_plain([KEY], signature=named["X-Signature"], **signed)
    assert standard is plain is Verdict.VALID


def status_of(outcome: Outcome) -> int | None:
    return outcome.response.status_code if isinstance(outcome, Refused) else None
