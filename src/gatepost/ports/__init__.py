"""Everything the core asks of the world. Each docstring is a promise; `tests/contract` holds adapters to it.

Methods of stores raise StoreUnavailable when the store cannot be reached or written; nothing is then half-written.
"""

from gatepost.ports.accounts import GroupStore, KeptAnswer, KeyedRequest, KeyStore, PeopleStore, RequestStore
from gatepost.ports.lanes import (
    Disabling,
    LaneAsk,
    LaneMark,
    LaneOutcomes,
    LaneRead,
    LaneStore,
    Leased,
    LeasedLane,
    Reading,
    Release,
    Renewal,
    Settled,
)
from gatepost.ports.results import Page, Saved
from gatepost.ports.tasks import (
    EventQuery,
    EventStore,
    RoutedWebhook,
    Routing,
    SwapStore,
    TaskQuery,
    TaskStore,
)
from gatepost.ports.webhooks import DeliveryDetail, DeliveryLog, DeliveryQuery, Subscriptions, WebhookStore
from gatepost.ports.world import (
    Chance,
    Clock,
    Draws,
    Dropped,
    EngineHints,
    Outgoing,
    Passwords,
    Sender,
    TimeSource,
)

__all__ = [
    "Chance",
    "Clock",
    "DeliveryDetail",
    "DeliveryLog",
    "DeliveryQuery",
    "Disabling",
    "Draws",
    "Dropped",
    "EngineHints",
    "EventQuery",
    "EventStore",
    "GroupStore",
    "KeptAnswer",
    "KeyStore",
    "KeyedRequest",
    "LaneAsk",
    "LaneMark",
    "LaneOutcomes",
    "LaneRead",
    "LaneStore",
    "Leased",
    "LeasedLane",
    "Outgoing",
    "Page",
    "Passwords",
    "PeopleStore",
    "Reading",
    "Release",
    "Renewal",
    "RequestStore",
    "RoutedWebhook",
    "Routing",
    "Saved",
    "Sender",
    "Settled",
    "Subscriptions",
    "SwapStore",
    "TaskQuery",
    "TaskStore",
    "TimeSource",
    "WebhookStore",
]
