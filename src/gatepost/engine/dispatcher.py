"""What happens to a delivery between the read that found it and the write that settles it.

`_start` signs and sends, `_finish` decides what the outcome means and has it recorded, `_recorded` lets go of it.
Nothing here waits: things happen to lanes, and one `_turn` looks at every lane that something happened to.
"""

import asyncio
import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from itertools import count

import structlog

from gatepost.domain.consequences import Consequences, consequences
from gatepost.domain.deliveries import Attempt, QueuedDelivery, after_attempt, request_headers
from gatepost.domain.events import Occasion
from gatepost.domain.operator_events import news_after, occasion_of
from gatepost.domain.outcomes import ErrorClass, Outcome, Unreachable
from gatepost.engine.attempt_log import log_attempt
from gatepost.engine.lane import Lane, Phase
from gatepost.engine.ready import ReadyLanes
from gatepost.engine.recorder import Recorder
from gatepost.engine.slots import Slot, StartSlots
from gatepost.ports import Chance, Clock, Dropped, LaneRead, LaneStore, Outgoing, Release, Sender, Settled

LONGEST_SLEEP = timedelta(seconds=1)
FURTHEST_ALARM_SECONDS = 60.0

log = structlog.get_logger()


@dataclass(slots=True, eq=False)
class Flight:
    """One attempt under way."""

    lane: Lane
    delivery: QueuedDelivery
    slot: Slot | None
    amends: bool
    is_probe: bool
    is_of_failing: bool  # counted among those of failing lanes, which leave the others half of all room


class Dispatcher:
    """Moves deliveries through the lanes this process holds; the engine fills and empties `lanes`.

    Shape: lanes that want a read stand in `hungry`, those that may go back to the store in `empty`.
    """

    def __init__(
        self,
        store: LaneStore,
        sender: Sender,
        clock: Clock,
        chance: Chance,
        *,
        user_agent: str,
        max_in_flight: int,
    ) -> None:
        self.lanes: dict[str, Lane] = {}
        self.hungry: dict[Lane, None] = {}
        self.empty: list[tuple[Lane, Release]] = []
        self.read_wanted = asyncio.Event()
        self.release_wanted = asyncio.Event()
        self.recorder = Recorder(store, clock, on_recorded=self._recorded)
        self.in_flight = 0
        self._failing_in_flight = 0

        self._sender = sender
        self._clock = clock
        self._chance = chance
        self._user_agent = user_agent
        self._max_in_flight = max_in_flight
        self._slots = StartSlots()
        self._arrived: list[tuple[Flight, Outcome | Dropped, float, float]] = []
        self._touched: set[Lane] = set()
        self._ready = ReadyLanes()
        self._alarms: list[tuple[float, int, Lane | None]] = []
        self._alarm_set = asyncio.Event()
        self._order = count()
        self._turn_wanted = asyncio.Event()
        self._turned = asyncio.Event()
        self._stopping = False

    def touch(self, lane: Lane) -> None:
        """Look at a lane in the next turn: something happened to it."""
        self._touched.add(lane)
        self._turn_wanted.set()

    def remove(self, lane: Lane) -> None:
        """Forget a lane that is not ours any more."""
        if self.lanes.get(lane.webhook_id) is lane:
            del self.lanes[lane.webhook_id]
            if lane.phase is Phase.LOST:
                log.warning("lane.lost", webhook_id=lane.webhook_id)

    async def shut_down(self) -> None:
        """Start nothing more; return when all that is in flight has ended and is recorded."""
        self._stopping = True
        for lane in self.lanes.values():
            self.touch(lane)
        while self.in_flight or self._arrived or self.recorder.unrecorded:
            self._turned.clear()
            await self._clock.wait(self._turned, LONGEST_SLEEP)

    def end_read(self, lane: Lane, read: LaneRead | None, *, boot: float, look_from: float | None) -> None:
        """Give a lane what a read has brought; that what it had missed is sent, its next owner is to know as well."""
        was_draining = lane.condition.draining
        lane.end_read(read, boot=boot, look_from=look_from)
        if was_draining and not lane.condition.draining:
            self.recorder.add(lane)
        self.touch(lane)

    # --- start -----------------------------------------------------------------------------------------------

    def _start_ready_lanes(self, boot: float) -> None:
        """Start one delivery of each ready lane in turn, while there are slots; every lane gets its share."""
        now = self._clock.now()
        batch: list[Outgoing] = []
        while self.in_flight < self._max_in_flight and not self.recorder.failing:
            lane = self._ready.first(
                room=self._max_in_flight - self.in_flight,
                room_for_failing=max(self._max_in_flight // 2, 1) - self._failing_in_flight,
            )
            if lane is None:
                break
            if not lane.may_start(boot):
                self._route(lane, boot)
                continue
            slot = self._slots.take(boot)
            if slot is None:
                self._set_alarm(self._slots.next_free(), None)
                break
            self._ready.discard(lane)
            if outgoing := self._start(lane, slot, now, boot):
                batch.append(outgoing)
            self._ready.add(lane)
        if batch:
            self._sender.submit(batch)

    def _start(self, lane: Lane, slot: Slot, now: datetime, boot: float) -> Outgoing | None:
        """Return the request of the lane's next delivery, signed now."""
        delivery = lane.start(boot)
        if lane.must_presume(delivery):
            self._slots.give_back(slot)
            self._presume_failed(lane, delivery, now)
            return None
        return self._launch(self._flight(lane, delivery, slot), now, boot)

    def _flight(self, lane: Lane, delivery: QueuedDelivery, slot: Slot | None) -> Flight:
        presumed = lane.is_presumed(delivery)
        return Flight(
            lane,
            delivery,
            slot,
            amends=presumed,
            is_probe=lane.is_suspended and not presumed,
            is_of_failing=lane.is_failing,
        )

    def _launch(self, flight: Flight, now: datetime, boot: float) -> Outgoing | None:
        self.in_flight += 1
        self._failing_in_flight += flight.is_of_failing
        try:
            return self._request(flight, now)
        except Exception as bug:  # a delivery that breaks us is an outcome, or it would loop for ever
            log.exception("delivery.crashed", delivery_id=flight.delivery.id)
            self._arrive(flight, Unreachable(ErrorClass.INTERNAL_ERROR, repr(bug)), boot, 0.0)
            return None

    def _request(self, flight: Flight, now: datetime) -> Outgoing:
        lane, webhook = flight.lane, flight.lane.webhook
        return Outgoing(
            target=webhook.target,
            headers=request_headers(
                flight.delivery,
                keys=lane.keys.at(now),
                own_headers=webhook.headers,
                user_agent=self._user_agent,
                timestamp=int(now.timestamp()),
            ),
            body=flight.delivery.body,
            timeout=webhook.timeout_seconds,
            start_before=lane.deadline,
            settle=partial(self._arrive, flight),
        )

    def _presume_failed(self, lane: Lane, delivery: QueuedDelivery, now: datetime) -> None:
        """Write the attempt as failed before it is made; it is made once that is committed, see `_recorded`."""
        lane.presume(delivery)
        died = Unreachable(ErrorClass.INTERNAL_ERROR, "process died")
        attempt = self._attempt(delivery, died, started_at=now, duration=timedelta(0))
        progress = after_attempt(attempt.number, died, lane.webhook.policy, now=now, spread=self._chance.draw())
        self.recorder.add(lane, Settled(delivery, attempt, progress))

    # --- settle ----------------------------------------------------------------------------------------------

    def _arrive(self, flight: Flight, result: Outcome | Dropped, started: float, duration: float) -> None:
        self._arrived.append((flight, result, started, duration))
        self._turn_wanted.set()

    def _finish(
        self, flight: Flight, result: Outcome | Dropped, *, started_at: datetime, duration: timedelta, now: datetime
    ) -> None:
        """Decide what an attempt means for its delivery and have that recorded, if the lane is still ours."""
        lane, delivery = flight.lane, flight.delivery
        if flight.slot is not None:
            self._slots.give_back(flight.slot)
        self.in_flight -= 1
        self._failing_in_flight -= flight.is_of_failing
        self._touched.add(lane)
        if isinstance(result, Dropped):
            lane.put_back(delivery)
            return
        lane.adapt_window(result)
        if lane.phase is Phase.LOST:
            log.info("outcome.abandoned", delivery_id=delivery.id, webhook_id=lane.webhook_id)
            return
        attempt = self._attempt(delivery, result, started_at=started_at, duration=duration, probe=flight.is_probe)
        settled = self._decide(flight, attempt, now=now)
        self.recorder.add(lane, settled)
        log_attempt(settled)

    def _attempt(
        self,
        delivery: QueuedDelivery,
        outcome: Outcome,
        *,
        started_at: datetime,
        duration: timedelta,
        probe: bool = False,
    ) -> Attempt:
        number = delivery.attempt_count + 1
        return Attempt(self._chance.new_id("att"), number, started_at, duration, outcome, probe)

    def _decide(self, flight: Flight, attempt: Attempt, *, now: datetime) -> Settled:
        """Return what an attempt means; its lane goes on accordingly, before that is written down."""
        lane, before = flight.lane, flight.lane.condition
        meant = consequences(attempt, lane.webhook, before, now=now, spread=self._chance.draw())
        news = news_after(flight.delivery, lane.webhook, before, meant, new_occasion=partial(self._occasion, now))
        self._follow(lane, meant, now=now)
        return Settled(flight.delivery, attempt, meant.progress, flight.amends, *news)

    def _follow(self, lane: Lane, meant: Consequences, *, now: datetime) -> None:
        lane.take_condition(meant.condition, now=now)  # first: it lets go of an earlier hold
        if meant.held_for is not None:
            lane.hold(self._clock.boot() + meant.held_for.total_seconds(), until_at=now + meant.held_for)
        if meant.disabled_for is not None:
            lane.hand_back()  # not to be called back by a look at its webhook from before that is written

    def _occasion(self, now: datetime) -> Occasion:
        return occasion_of(self._chance.new_id("evt"), now)

    # --- record ----------------------------------------------------------------------------------------------

    def _recorded(self, lane: Lane, batch: Sequence[Settled]) -> None:
        """Let go of what is committed; start what was only presumed."""
        now, boot = self._clock.now(), self._clock.boot()
        done = []
        for settled in batch:
            if lane.is_presumed(settled.delivery) and not settled.amends and lane.phase is not Phase.LOST:
                self._make_presumed_attempt(lane, settled.delivery, now, boot)
                continue
            done.append(settled.delivery.id)
            # Set only now: while an id is known, a read passes over it, and its alarm would ring in vain.
            if settled.progress is not None and settled.progress.next_attempt_at is not None:
                lane.look_not_later_than(boot + (settled.progress.next_attempt_at - now).total_seconds())
        if done:
            lane.recorded(done, boot=boot)
        self.touch(lane)

    def _make_presumed_attempt(self, lane: Lane, delivery: QueuedDelivery, now: datetime, boot: float) -> None:
        """Make the attempt that is written already; owed even by a lane that is on its way out."""
        flight = self._flight(lane, delivery, self._slots.take(boot))
        if outgoing := self._launch(flight, now, boot):
            self._sender.submit([outgoing])

    # --- the turn: one look at every lane that something happened to -----------------------------------------

    async def take_turns(self) -> None:
        while True:
            await self._turn_wanted.wait()
            self._turn_wanted.clear()
            self._turn()
            self._turned.set()

    def _turn(self) -> None:
        boot, now = self._clock.boot(), self._clock.now()
        arrived, self._arrived = self._arrived, []
        for flight, result, started, duration in arrived:
            started_at = now - timedelta(seconds=boot - started)
            try:
                self._finish(flight, result, started_at=started_at, duration=timedelta(seconds=duration), now=now)
            except Exception:  # a bug in one lane ends that lane; its lease lapses, and another owner starts afresh
                log.exception("lane.died", webhook_id=flight.lane.webhook_id)
                flight.lane.lose()
        touched, self._touched = self._touched, set()
        for lane in touched:
            self._route(lane, boot)
        self._start_ready_lanes(boot)

    def _route(self, lane: Lane, boot: float) -> None:
        """Put a lane where its state says it belongs."""
        if lane.phase is Phase.LOST:
            self.remove(lane)
        if self.lanes.get(lane.webhook_id) is not lane:
            self._ready.discard(lane)
            return
        if self._stopping:
            lane.leave()
        lane.notice(boot)
        if lane.may_start(boot):
            self._ready.add(lane)
        else:
            self._ready.discard(lane)
        if lane.wants_read(boot):
            self.hungry[lane] = None
            self.read_wanted.set()
        elif lane.may_release(boot):
            self.empty.append((lane, lane.begin_release()))
            self.release_wanted.set()
        elif lane not in self._ready:
            self._set_alarm(lane.next_moment(boot), lane)

    # --- time ------------------------------------------------------------------------------------------------

    def _set_alarm(self, moment: float | None, lane: Lane | None) -> None:
        """See to it that there is a turn at that moment, for that lane or for those who wait for slots."""
        if moment is None:
            return
        # A released lane hangs on until its alarm rings, so none is set for tomorrow; it is set again when it rings.
        moment = min(moment, self._clock.boot() + FURTHEST_ALARM_SECONDS)
        if lane is not None and lane.alarm is not None and lane.alarm <= moment:
            return
        if lane is not None:
            lane.alarm = moment
        heapq.heappush(self._alarms, (moment, next(self._order), lane))
        if self._alarms[0][0] == moment:
            self._alarm_set.set()

    async def ring_alarms(self) -> None:
        while True:
            boot = self._clock.boot()
            while self._alarms and self._alarms[0][0] <= boot:
                moment, _, lane = heapq.heappop(self._alarms)
                if lane is None:
                    self._turn_wanted.set()
                elif lane.alarm == moment:
                    lane.alarm = None
                    self.touch(lane)
            next_in = timedelta(seconds=self._alarms[0][0] - boot) if self._alarms else LONGEST_SLEEP
            await self._clock.wait(self._alarm_set, next_in)
            self._alarm_set.clear()
