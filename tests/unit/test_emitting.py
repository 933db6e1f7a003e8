"""Emitting an event to the webhooks that want it, while these are being written."""

from collections.abc import Sequence

import pytest
from tests.builders import make_event, make_webhook, subscription_of
from tests.fakes import NumberedChance

from gatepost.domain.deliveries import Delivery
from gatepost.domain.errors import StoreUnavailable
from gatepost.domain.webhooks import Subscription
from gatepost.ports import Saved, Subscriptions
from gatepost.services.emitting import MOST_MATCHES, Emitter
from gatepost.services.matcher import Matcher

WANTING = subscription_of(make_webhook(events=("task.*",)))
OTHER = subscription_of(make_webhook(events=("order.*",)))


class Group:
    """A group whose webhooks are written so many times while an event is."""

    def __init__(self, *items: Subscription, writes: int = 0, ends: Saved = Saved.DONE) -> None:
        self.items = items
        self.version = 1
        self.writes = writes
        self.ends = ends
        self.tried: list[Sequence[Delivery]] = []

    async def subscriptions(self, _: str) -> Subscriptions:
        return Subscriptions(self.version, self.items)

    async def write(self, deliveries: Sequence[Delivery], *, webhooks_version: int) -> Saved:
        self.tried.append(deliveries)
        if self.writes:
            self.writes -= 1
            self.version += 1
        return self.ends if webhooks_version == self.version else Saved.WEBHOOKS_MOVED


def emitter(group: Group) -> Emitter:
    return Emitter(Matcher(group), NumberedChance())  # it asks nothing else


async def test_an_event_is_owed_to_those_who_want_it() -> None:
    group, event = Group(WANTING, OTHER), make_event()

    assert await emitter(group).emit(event, group.write) is Saved.DONE

    [[delivery]] = group.tried
    assert (delivery.event_id, delivery.webhook_id) == (event.id, WANTING.webhook_id)


async def test_it_is_matched_again_when_webhooks_have_moved_meanwhile() -> None:
    group = Group(WANTING, writes=3)

    assert await emitter(group).emit(make_event(), group.write) is Saved.DONE

    assert [len(deliveries) for deliveries in group.tried] == [1, 1, 1, 1]


async def test_what_was_remembered_from_before_is_noticed_by_the_write() -> None:
    group = Group(OTHER)
    emitting = emitter(group)
    await emitting.emit(make_event(), group.write)
    group.items, group.version = (OTHER, WANTING), 2

    assert await emitting.emit(make_event(), group.write) is Saved.DONE

    assert [len(deliveries) for deliveries in group.tried] == [0, 0, 1]


@pytest.mark.parametrize("ends", [Saved.STALE, Saved.EXISTS])
async def test_a_conflict_is_for_the_caller_to_judge(ends: Saved) -> None:
    group = Group(WANTING, ends=ends)

    assert await emitter(group).emit(make_event(), group.write) is ends

    assert len(group.tried) == 1


async def test_webhooks_that_never_keep_still_are_given_up() -> None:
    group = Group(WANTING, writes=MOST_MATCHES)

    with pytest.raises(StoreUnavailable):
        await emitter(group).emit(make_event(), group.write)

    assert len(group.tried) == MOST_MATCHES
