"""Everything the core asks of the world. Each docstring is a promise; `tests/contract` holds adapters to it.

Methods of stores raise StoreUnavailable when the store cannot be reached or written; nothing is then half-written.
"""

from gatepost.ports.accounts import GroupStore, KeptAnswer, KeyedRequest, KeyStore, PeopleStore, RequestStore
from gatepost.ports.lanes import (
    LaneAsk,
    LaneMark,
    LaneOutcomes,
    LaneRead,
    LaneStore,
    Leased,
    LeasedLane,
    Position,
    Reading,
    Release,
    Renewal,
    Settled,
)
from gatepost.ports.replays import Advanced, JobLease, Replayable, ReplayStore, Step
from gatepost.ports.results import Page, Saved
from gatepost.ports.retention import PurgeStep, RetentionStore
from gatepost.ports.stats import StatsQuery, StatsStore
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
    "Advanced",
    "Chance",
    "Clock",
    "DeliveryDetail",
    "DeliveryLog",
    "DeliveryQuery",
    "Draws",
    "Dropped",
    "EngineHints",
    "EventQuery",
    "EventStore",
    "GroupStore",
    "JobLease",
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
    "Position",
    "PurgeStep",
    "Reading",
    "Release",
    "Renewal",
    "ReplayStore",
    "Replayable",
    "RequestStore",
    "RetentionStore",
    "RoutedWebhook",
    "Routing",
    "Saved",
    "Sender",
    "Settled",
    "StatsQuery",
    "StatsStore",
    "Step",
    "Subscriptions",
    "SwapStore",
    "TaskQuery",
    "TaskStore",
    "TimeSource",
    "WebhookStore",
]
