"""Writes the outcomes of all lanes in batches, each fenced by its lane's token."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta

import structlog

from gatepost.domain.errors import StoreUnavailable
from gatepost.engine.lane import Lane, Phase
from gatepost.ports import Clock, LaneOutcomes, LaneStore, Settled

GATHER = timedelta(milliseconds=3)  # one commit costs as much as dozens of rows
FULL_BATCH = 200
LARGEST_BATCH = 1000
FIRST_PAUSE = timedelta(milliseconds=100)
LONGEST_PAUSE = timedelta(seconds=2)

log = structlog.get_logger()


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
        self._waiting: list[tuple[Lane, Settled]] = []
        self._writing = 0
        self._some = asyncio.Event()
        self._full = asyncio.Event()

    @property
    def unrecorded(self) -> int:
        return len(self._waiting) + self._writing

    def add(self, lane: Lane, settled: Settled) -> None:
        self._waiting.append((lane, settled))
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

    async def _record(self, batch: Sequence[tuple[Lane, Settled]]) -> None:
        pause = FIRST_PAUSE
        while True:
            lanes = _by_lane(batch)
            outcomes = [_outcomes(lane, settled) for lane, settled in lanes.items()]
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

    def _tell(self, lanes: dict[Lane, list[Settled]], lost: set[str]) -> None:
        for lane, settled in lanes.items():
            if lane.webhook_id in lost:
                lane.lose()
            self._on_recorded(lane, settled)


def _outcomes(lane: Lane, settled: Sequence[Settled]) -> LaneOutcomes:
    return LaneOutcomes(
        lane.webhook_id,
        lane.token,
        lane.window,
        settled,
        lane.condition,
        lane.held_until,
        lane.webhook.enabled_at,
    )


def _by_lane(batch: Sequence[tuple[Lane, Settled]]) -> dict[Lane, list[Settled]]:
    lanes: dict[Lane, list[Settled]] = {}
    for lane, settled in batch:
        if lane.phase is not Phase.LOST:
            lanes.setdefault(lane, []).append(settled)
    return lanes
