"""What is told of a receiver or of a delivery that was given up, and whom."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from tests.builders import (
    make_delivery,
    make_event,
    make_operator_event,
    make_progress,
    make_queued,
    make_webhook,
    refused,
    subscription_of,
)
from tests.event_schemas import must_fit
from tests.fakes import NOW

from gatepost.domain.consequences import Consequences
from gatepost.domain.deliveries import DeadReason, Status, after_attempt
from gatepost.domain.events import Event
from gatepost.domain.health import WELL, Condition, DisabledReason
from gatepost.domain.operator_events import (
    OPERATOR_EVENTS,
    about_dead_letter,
    about_webhook,
    news_after,
    occasion_of,
    owed_to,
    webhook_told_of,
)
from gatepost.domain.outcomes import Blocked, ErrorClass, Outcome, Unreachable
from gatepost.domain.retry import ONE_ATTEMPT
from gatepost.domain.webhooks import Webhook

OCCASION = occasion_of("evt_019ab0c4f1a27000b2eea66f90660364", NOW)
DEAD = make_progress(
    status=Status.DEAD_LETTER,
    attempt_count=3,
    next_attempt_at=None,
    last_status_code=503,
    last_error_class=ErrorClass.HTTP_5XX,
    dead_reason=DeadReason.ATTEMPTS_EXHAUSTED,
    finished_at=NOW,
)


def body_of(event: Event) -> dict[str, object]:
    return json.loads(event.body)


def degraded(webhook: Webhook) -> Event:
    return about_webhook("webhook.degraded", webhook, Condition(5, NOW), OCCASION)


def told(event: Event, about: Webhook, *webhooks: Webhook) -> set[str]:
    return {each.webhook_id for each in owed_to(map(subscription_of, webhooks), event, about=about.id)}


def test_the_event_about_a_webhook_says_how_it_is_and_since_when() -> None:
    webhook = make_webhook(name="Rota")
    since = NOW - timedelta(days=1)

    event = about_webhook("webhook.suspended", webhook, Condition(9, since, NOW), OCCASION)

    assert (event.event, event.group_id, event.task_ids) == ("webhook.suspended", webhook.group_id, ())
    assert (event.origin, event.actor_id) == ("system", None)
    assert body_of(event)["data"] == {
        "webhookId": webhook.id,
        "name": "Rota",
        "health": "suspended",
        "disabledReason": None,
        "failingSince": "2026-11-22T12:34:56.789Z",
        "suspendedAt": "2026-11-23T12:34:56.789Z",
    }


def test_the_event_about_a_disabled_webhook_says_why() -> None:
    event = about_webhook("webhook.disabled", make_webhook(), WELL, OCCASION, reason=DisabledReason.GONE)

    data = body_of(event)["data"]
    assert isinstance(data, dict)
    assert (data["health"], data["disabledReason"]) == ("disabled", "gone")


def test_the_event_about_a_dead_letter_names_it_and_says_what_it_met() -> None:
    delivery = make_queued()

    event = about_dead_letter(delivery, DEAD, OCCASION)

    assert event is not None
    assert body_of(event)["data"] == {
        "deliveryId": delivery.id,
        "webhookId": delivery.webhook_id,
        "eventId": delivery.event_id,
        "event": delivery.event,
        "attemptCount": 3,
        "deadReason": "attempts_exhausted",
        "lastStatusCode": 503,
        "lastErrorClass": "http_5xx",
    }


@pytest.mark.parametrize(
    "outcome",
    [
        refused(302),
        refused(404),
        refused(999),
        Unreachable(ErrorClass.TIMEOUT),
        Unreachable(ErrorClass.INTERNAL_ERROR),
        Blocked(ErrorClass.BLOCKED_ADDRESS),
    ],
)
def test_the_event_about_a_dead_letter_fits_its_schema_however_it_died(outcome: Outcome) -> None:
    progress = after_attempt(1, outcome, ONE_ATTEMPT, now=NOW, spread=0.0)

    event = about_dead_letter(make_queued(), progress, OCCASION)

    assert event is not None
    must_fit(body_of(event))


@pytest.mark.parametrize("event", OPERATOR_EVENTS)
def test_it_is_known_of_which_webhook_it_tells(event: str) -> None:
    webhook = make_webhook()
    assert webhook_told_of(make_operator_event(webhook, event)) == webhook.id


@pytest.mark.parametrize("event", ["task.created", "webhook.test", "order.paid"])
def test_other_events_tell_of_no_webhook(event: str) -> None:
    assert webhook_told_of(make_event(event=event)) is None


@pytest.mark.parametrize("event", [*OPERATOR_EVENTS, "webhook.test"])
def test_a_dead_letter_that_told_of_such_things_is_not_told_of(event: str) -> None:
    assert about_dead_letter(replace(make_queued(), event=event), DEAD, OCCASION) is None


@pytest.mark.parametrize(
    ("pattern", "is_told"),
    [
        ("webhook.degraded", True),
        ("webhook.*", True),
        ("*", False),
        ("task.*", False),
        ("webhook.recovered", False),
        ("delivery.*", False),
    ],
)
def test_it_is_told_to_those_who_ask_for_it_by_name(pattern: str, is_told: bool) -> None:
    failing, listening = make_webhook(), make_webhook(events=(pattern,))

    assert bool(told(degraded(failing), failing, failing, listening)) is is_told


def test_it_is_never_told_to_the_webhook_that_it_is_about_nor_to_one_that_is_disabled() -> None:
    failing, other = make_webhook(events=("webhook.*",)), make_webhook(events=("webhook.*",))
    disabled = make_webhook(events=("webhook.*",), enabled=False)

    assert told(degraded(failing), failing, failing, other, disabled) == {other.id}


def test_it_is_owed_under_the_same_ids_however_often_that_is_asked() -> None:
    failing, listening = make_webhook(), [make_webhook(events=("webhook.*",)) for _ in range(2)]
    event = degraded(failing)
    subscriptions = [subscription_of(each) for each in listening]

    once = owed_to(subscriptions, event, about=failing.id)
    again = owed_to(reversed(subscriptions), event, about=failing.id)

    assert {each.id for each in once} == {each.id for each in again}
    assert len({each.id for each in once}) == 2
    assert {each.id for each in once}.isdisjoint(
        each.id for each in owed_to(subscriptions, replace(event, id="evt_2"), about=failing.id)
    )
    assert {each.progress.next_attempt_at for each in once} == {NOW}


# --- after an attempt ----------------------------------------------------------------------------------------


def news(event: str, meant: Consequences, *, before: Condition = WELL) -> list[str | None]:
    delivery, webhook = make_queued(make_delivery(make_event(event=event))), make_webhook()
    found = news_after(delivery, webhook, before, meant, new_occasion=lambda: OCCASION)
    events = (found.given_up, found.of_health, found.disabling and found.disabling.event)
    return [each and each.event for each in events]


def test_an_attempt_is_news_of_its_delivery_and_of_its_webhook() -> None:
    dead = Consequences(DEAD, Condition(5, NOW), DisabledReason.GONE, None)

    assert news("task.created", dead) == ["delivery.dead_lettered", "webhook.degraded", "webhook.disabled"]
    assert news("task.created", Consequences(make_progress(), WELL, None, None)) == [None, None, None]
    assert (
        news("task.created", Consequences(None, WELL, None, None), before=Condition(5, NOW))[1] == "webhook.recovered"
    )


@pytest.mark.parametrize("event", OPERATOR_EVENTS)
def test_what_tells_of_gatepost_itself_is_news_of_nothing_but_the_end_of_a_webhook(event: str) -> None:
    """Two webhooks that tell each other of each other would never end."""
    dead = Consequences(DEAD, Condition(5, NOW), DisabledReason.GONE, None)

    assert news(event, dead) == [None, None, "webhook.disabled"]
