from dataclasses import replace

import pytest
from tests.builders import GROUP_ID, make_event, make_occasion, make_operator_event, make_webhook, subscription_of

from gatepost.domain.operator_events import OPERATOR_EVENTS
from gatepost.domain.routing import Verdict, verdict
from gatepost.domain.samples import SAMPLE_EVENTS, sample_event
from gatepost.domain.webhooks import Subscription, Webhook, wants

WEBHOOK = make_webhook(events=("task.*", "webhook.*", "delivery.*"), ignore_origins=("inbound:jira",))
ALL = subscription_of(WEBHOOK)


def routed(subscription: Subscription | None, event: str, origin: str, *, has_delivery: bool = False) -> Verdict:
    made = make_event(event=event, origin=origin)
    return verdict(subscription, made, webhook_id=WEBHOOK.id, has_delivery=has_delivery)


def routed_news(event: str, about: Webhook, subscription: Subscription | None = ALL) -> Verdict:
    return verdict(subscription, make_operator_event(about, event), webhook_id=WEBHOOK.id, has_delivery=False)


@pytest.mark.parametrize(
    ("subscription", "event", "origin", "expected"),
    [
        (None, "task.created", "api", Verdict.CREATED_LATER),
        (None, "webhook.test", "api", Verdict.TEST_OF_ANOTHER),
        (replace(ALL, enabled=False), "task.created", "api", Verdict.DISABLED),
        (ALL, "order.paid", "api", Verdict.NOT_SELECTED),
        (ALL, "task.created", "inbound:jira", Verdict.ORIGIN_IGNORED),
        (ALL, "task.created", "api", Verdict.EDITED_MEANWHILE),
        # The first reason is told, of several.
        (replace(ALL, enabled=False), "order.paid", "inbound:jira", Verdict.DISABLED),
        (ALL, "order.paid", "inbound:jira", Verdict.NOT_SELECTED),
    ],
)
def test_a_webhook_without_a_delivery_is_told_why(
    subscription: Subscription | None, event: str, origin: str, expected: Verdict
) -> None:
    assert routed(subscription, event, origin) is expected


@pytest.mark.parametrize("subscription", [None, ALL, replace(ALL, enabled=False)])
def test_a_webhook_with_a_delivery_got_the_event_whatever_it_asked_for(subscription: Subscription | None) -> None:
    assert routed(subscription, "order.paid", "api", has_delivery=True) is Verdict.QUEUED


@pytest.mark.parametrize("event", ["task.created", "order.paid"])
@pytest.mark.parametrize("origin", ["api", "inbound:jira"])
@pytest.mark.parametrize("enabled", [True, False])
def test_only_who_wanted_an_event_and_has_none_was_edited_meanwhile(event: str, origin: str, enabled: bool) -> None:
    subscription = replace(ALL, enabled=enabled)
    found = routed(subscription, event, origin)
    assert (found is Verdict.EDITED_MEANWHILE) == wants(subscription, event, origin)


@pytest.mark.parametrize("event", OPERATOR_EVENTS)
def test_a_webhook_is_not_told_of_itself_whatever_it_asked_for(event: str) -> None:
    for subscription in (ALL, replace(ALL, enabled=False), replace(ALL, events=("*",))):
        assert routed_news(event, WEBHOOK, subscription) is Verdict.ABOUT_ITSELF


@pytest.mark.parametrize("event", OPERATOR_EVENTS)
def test_of_others_it_is_told_or_not_for_the_reasons_that_hold_for_any_event(event: str) -> None:
    other = make_webhook()
    assert routed_news(event, other, None) is Verdict.CREATED_LATER
    assert routed_news(event, other, replace(ALL, enabled=False)) is Verdict.DISABLED
    assert routed_news(event, other, replace(ALL, events=("*",))) is Verdict.NOT_SELECTED
    assert routed_news(event, other) is Verdict.EDITED_MEANWHILE


@pytest.mark.parametrize("event", SAMPLE_EVENTS)
def test_a_test_is_for_one_webhook_whatever_event_it_shows(event: str) -> None:
    sample = sample_event(event, GROUP_ID, make_occasion())
    assert verdict(ALL, sample, webhook_id=WEBHOOK.id, has_delivery=False) is Verdict.TEST_OF_ANOTHER
    assert verdict(ALL, sample, webhook_id=WEBHOOK.id, has_delivery=True) is Verdict.QUEUED
