"""Emitting: who is owed an event, and the one write of the event, of what it tells of, and of its deliveries."""

from collections.abc import Awaitable, Sequence
from datetime import datetime
from typing import Protocol

from gatepost.domain.deliveries import Delivery, owed
from gatepost.domain.errors import StoreUnavailable
from gatepost.domain.events import Event, Occasion
from gatepost.domain.groups import Caller
from gatepost.ports import Chance, Saved
from gatepost.services.matcher import Matcher

MOST_MATCHES = 20  # while somebody edits webhooks as fast as we can match them


class Write(Protocol):
    """A method of a store that writes an event, all but its last arguments given."""

    def __call__(self, deliveries: Sequence[Delivery], *, webhooks_version: int) -> Awaitable[Saved]: ...


class Emitter:
    """Whatever emits an event does it here."""

    def __init__(self, matcher: Matcher, chance: Chance) -> None:
        self._matcher = matcher
        self._chance = chance

    async def emit(self, event: Event, write: Write) -> Saved:
        """Write an event for the webhooks that want it, again when they have moved meanwhile; say how that ended.

        Shape:  the answer is never WEBHOOKS_MOVED.
        Raises: StoreUnavailable, with nothing written, while the webhooks do not keep still.
        """
        for _ in range(MOST_MATCHES):
            match = await self._matcher.match(event.group_id, event.event, event.origin)
            deliveries = [owed(self._chance.new_id("dlv"), event, wanting) for wanting in match.subscriptions]
            saved = await write(deliveries, webhooks_version=match.version)
            if saved is not Saved.WEBHOOKS_MOVED:
                return saved
            self._matcher.forget(event.group_id)
        raise StoreUnavailable("the group's webhooks keep changing; try again")


def occasion_of(caller: Caller, event_id: str, at: datetime) -> Occasion:
    """Return the occasion of what a caller does."""
    return Occasion(event_id, at, caller.actor_id, caller.origin)
