"""What an engine is given to work with."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from gatepost.domain.retention import DEFAULT_RETENTION, Retention
from gatepost.ports import LaneStore, ReplayStore, RetentionStore


class EngineStore(LaneStore, ReplayStore, RetentionStore, Protocol):
    """What an engine asks of the store."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What an operator decides of an engine."""

    lease: timedelta
    max_in_flight: int
    retention: Retention = DEFAULT_RETENTION
