from dataclasses import replace

import pytest
from tests.builders import make_webhook, subscription_of

from gatepost.domain.routing import Verdict, verdict
from gatepost.domain.webhooks import Subscription, wants

ALL = subscription_of(make_webhook(events=("task.*",), ignore_origins=("inbound:jira",)))


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
    assert verdict(subscription, event, origin, has_delivery=False) is expected


@pytest.mark.parametrize("subscription", [None, ALL, replace(ALL, enabled=False)])
def test_a_webhook_with_a_delivery_got_the_event_whatever_it_asked_for(subscription: Subscription | None) -> None:
    assert verdict(subscription, "order.paid", "api", has_delivery=True) is Verdict.QUEUED


@pytest.mark.parametrize("event", ["task.created", "order.paid"])
@pytest.mark.parametrize("origin", ["api", "inbound:jira"])
@pytest.mark.parametrize("enabled", [True, False])
def test_only_who_wanted_an_event_and_has_none_was_edited_meanwhile(event: str, origin: str, enabled: bool) -> None:
    subscription = replace(ALL, enabled=enabled)
    found = verdict(subscription, event, origin, has_delivery=False)
    assert (found is Verdict.EDITED_MEANWHILE) == wants(subscription, event, origin)
