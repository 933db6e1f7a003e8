"""Writes the outcomes of all lanes in batches, each fenced by its lane's token."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from gatepost.domain.errors import StoreUnavailable
from gatepost.domain.health import Condition
from gatepost.engine.lane import Lane, Phase
from gatepost.ports import Clock, LaneOutcomes, LaneStore, Settled

GATHER = timedelta(milliseconds=3)  # one commit costs as much as dozens of rows
FULL_BATCH = 200
LARGEST_BATCH = 1000
FIRST_PAUSE = timedelta(milliseconds=100)
LONGEST_PAUSE = timedelta(seconds=2)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Entry:
    """What is to be written of a lane: an attempt, if there is one, and what its owner knew when that was decided.

    What it has come to know since goes with what it has come from, or a process that dies in between leaves a
    suspended webhook, and nobody told.
    """

    lane: Lane
    settled: Settled | None
    condition: Condition
    held_until: datetime | None
    enabled_at: datetime


class Recorder:
    """Takes settled attempts, tells when they are committed. What it holds is lost only with the process.

    While the store fails, `failing` is set and the batch is tried again, for as long as it takes: the attempts
    were made, and until they are written nobody else knows. Lanes found lost meanwhile drop out of it.
    """

    def __init__(
        self, store: LaneStore, clock: Clock, *, on_recorded: Callable[[Lane, Sequence[Settled]], None]
    ) -> None:
        self.failing = False
        self._store = store
        self._clock = clock
        self._on_recorded = on_recorded
        self._waiting: list[Entry] = []
        self._writing = 0
        self._some = asyncio.Event()
        self._full = asyncio.Event()

    @property
    def unrecorded(self) -> int:
        return len(self._waiting) + self._writing

    def add(self, lane: Lane, settled: Settled | None = None) -> None:
        """Have an attempt written down, or what is known of the lane alone."""
        self._waiting.append(Entry(lane, settled, lane.condition, lane.held_until, lane.webhook.enabled_at))
        self._some.set()
        if len(self._waiting) >= FULL_BATCH:
            self._full.set()

    async def run(self) -> None:
        while True:
            await self._some.wait()
            if not self._full.is_set():
                await self._clock.wait(self._full, GATHER)
            batch, self._waiting = self._waiting[:LARGEST_BATCH], self._waiting[LARGEST_BATCH:]
            self._full.clear()
            if not self._waiting:
                self._some.clear()
            self._writing = len(batch)
            await self._record(batch)
            self._writing = 0

    async def _record(self, batch: Sequence[Entry]) -> None:
        pause = FIRST_PAUSE
        while True:
            lanes = _by_lane(batch)
            outcomes = [_outcomes(entries) for entries in lanes.values()]
            try:
                lost = await self._store.record_attempts(outcomes) if outcomes else set()
            except StoreUnavailable as error:
                self.failing = True
                log.warning("outcomes.delayed", count=len(batch), reason=error.detail)
                await self._clock.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
                continue
            self.failing = False
            self._tell(lanes, lost)
            return

    def _tell(self, lanes: dict[Lane, list[Entry]], lost: set[str]) -> None:
        for lane, entries in lanes.items():
            if lane.webhook_id in lost:
                lane.lose()
            self._on_recorded(lane, _settled(entries))


def _outcomes(entries: Sequence[Entry]) -> LaneOutcomes:
    last = entries[-1]
    return LaneOutcomes(
        last.lane.webhook_id,
        last.lane.token,
        last.lane.window,
        _settled(entries),
        last.condition,
        last.held_until,
        last.enabled_at,
    )


def _settled(entries: Sequence[Entry]) -> list[Settled]:
    return [entry.settled for entry in entries if entry.settled is not None]


def _by_lane(batch: Sequence[Entry]) -> dict[Lane, list[Entry]]:
    lanes: dict[Lane, list[Entry]] = {}
    for entry in batch:
        if entry.lane.phase is not Phase.LOST:
            lanes.setdefault(entry.lane, []).append(entry)
    return lanes
