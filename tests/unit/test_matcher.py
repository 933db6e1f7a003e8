"""Which webhooks want an event, remembered."""

import pytest
from tests.builders import make_webhook, subscription_of

from gatepost.domain.webhooks import Subscription
from gatepost.ports import Subscriptions
from gatepost.services.matcher import Matcher


class Webhooks:
    """Counts how often it is asked; every answer has a version of its own."""

    def __init__(self, *items: Subscription) -> None:
        self.items = items
        self.asked: list[str] = []

    async def subscriptions(self, group_id: str) -> Subscriptions:
        self.asked.append(group_id)
        return Subscriptions(len(self.asked), self.items)


CREATED = subscription_of(make_webhook(events=("task.created",)))
ALL = subscription_of(make_webhook(events=("*",), ignore_origins=("ui",)))


@pytest.fixture
def webhooks() -> Webhooks:
    return Webhooks(CREATED, ALL)


@pytest.fixture
def matcher(webhooks: Webhooks) -> Matcher:
    return Matcher(webhooks)  # it asks nothing else


async def test_only_those_who_want_an_event_match(matcher: Matcher) -> None:
    assert (await matcher.match("grp_1", "task.created", "api")).subscriptions == (CREATED, ALL)
    assert (await matcher.match("grp_1", "task.updated", "api")).subscriptions == (ALL,)
    assert (await matcher.match("grp_1", "task.updated", "ui")).subscriptions == ()


async def test_a_group_is_read_once_and_matched_once_for_each_kind_of_event(
    matcher: Matcher, webhooks: Webhooks
) -> None:
    first = await matcher.match("grp_1", "task.created", "api")
    assert await matcher.match("grp_1", "task.created", "api") is first
    await matcher.match("grp_2", "task.created", "api")
    assert webhooks.asked == ["grp_1", "grp_2"]


async def test_what_is_forgotten_is_read_again(matcher: Matcher) -> None:
    assert (await matcher.match("grp_1", "task.created", "api")).version == 1
    matcher.forget("grp_1")
    matcher.forget("grp_2")
    assert (await matcher.match("grp_1", "task.created", "api")).version == 2


async def test_what_is_remembered_is_bounded(
    matcher: Matcher, webhooks: Webhooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gatepost.services.matcher.MOST_GROUPS", 2)
    monkeypatch.setattr("gatepost.services.matcher.MOST_KINDS", 2)
    for group_id in ("grp_1", "grp_2", "grp_1", "grp_3", "grp_1", "grp_2"):
        await matcher.match(group_id, "task.created", "api")
    assert webhooks.asked == ["grp_1", "grp_2", "grp_3", "grp_2"]
    first = await matcher.match("grp_1", "task.created", "api")
    for source in "abc":
        await matcher.match("grp_1", "task.created", f"inbound:{source}")
    again = await matcher.match("grp_1", "task.created", "api")
    assert again == first
    assert again is not first
