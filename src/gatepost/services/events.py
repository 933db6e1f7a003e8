"""What admins do with events: publish those of other applications, list them, and ask who got one and why."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from gatepost.domain import events as rules
from gatepost.domain.errors import NotFound
from gatepost.domain.events import Event, Json
from gatepost.domain.groups import Caller
from gatepost.domain.routing import Verdict, verdict
from gatepost.ports import Draws, EventQuery, EventStore, Page, RoutedWebhook, Routing
from gatepost.services.emitting import Emitter, occasion_of


@dataclass(frozen=True, slots=True)
class Route:
    """Why one webhook did or did not get an event."""

    webhook: RoutedWebhook
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class EventRoutes:
    """An event, and its way to each webhook of its group, the newest webhook first."""

    event: Event
    routes: Sequence[Route]


class Events:
    """The events of all groups."""

    def __init__(self, events: EventStore, emitter: Emitter) -> None:
        self._events = events
        self._emitter = emitter

    async def publish(self, caller: Caller, event: str, data: Json, *, event_id: str | None, draws: Draws) -> str:
        """Emit an event of another application, under its own id or a new one; return the id.

        An id that the group has an event of already changes nothing: the first one stands.
        Raises: InvalidInput; PayloadTooLarge; StoreUnavailable, with nothing written.
        """
        own_id = draws.chance.new_id("evt") if event_id is None else event_id
        occasion = occasion_of(caller, own_id, draws.at)
        published = rules.publish(event, data, group_id=caller.group_id, occasion=occasion)
        await self._emitter.emit(published, partial(self._events.publish, caller.group_id, published))
        return published.id

    async def list(self, group_id: str, query: EventQuery, *, limit: int, before: str | None) -> Page[Event]:
        """Return the group's events, newest first."""
        return await self._events.events(group_id, query, limit=limit, before=before)

    async def routing(self, group_id: str, event_id: str) -> EventRoutes:
        """Say for each webhook of the group why it did or did not get an event.

        Raises: NotFound.
        """
        routing = await self._events.routing(group_id, event_id)
        if routing is None:
            raise NotFound("there is no such event in this group")
        return EventRoutes(routing.event, [_route(webhook, routing) for webhook in routing.webhooks])


def _route(webhook: RoutedWebhook, routing: Routing) -> Route:
    has_delivery = webhook.delivery_id is not None
    found = verdict(webhook.subscription, routing.event, webhook_id=webhook.webhook_id, has_delivery=has_delivery)
    return Route(webhook, found)
