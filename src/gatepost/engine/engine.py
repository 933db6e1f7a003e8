"""The engine: lease lanes, drain them, release them.

Read downwards, this is the life of a lease: take what is due, read what it holds, keep the lease and the
configuration fresh, give it back when it is empty. What happens to each delivery meanwhile stands in `dispatcher.py`.
Deliveries in the store are the truth; everything here may be lost at any moment.
The rules, and the race that each one closes: docs/delivery-protocol.md.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import islice

import structlog

from gatepost.domain.deliveries import QueuedDelivery
from gatepost.domain.errors import StoreUnavailable
from gatepost.engine.dispatcher import Dispatcher
from gatepost.engine.lane import Lane, Phase
from gatepost.engine.replays import Replays
from gatepost.engine.retention import CHECK_EVERY, Purges
from gatepost.engine.terms import EngineStore, Limits
from gatepost.ports import Chance, Clock, LaneRead, LeasedLane, Release, Sender

LANES_AT_ONCE = 200  # leased or read in one call
READ_AHEAD = 200  # deliveries of one lane
READ_AHEAD_IN_ALL = 20_000  # shared out between lanes when there are many
POLL = timedelta(seconds=1)  # how long a hint that never came can delay a delivery
CONFIRM_EVERY = timedelta(seconds=1)
SWEEP_EVERY = timedelta(seconds=30)
PAUSE_BETWEEN_VAIN_LEASES = timedelta(milliseconds=25)  # hints of what others lease come in crowds
LARGEST_CLOCK_STEP = 0.05  # of a lease
PAUSE_WHEN_STORE_FAILS = timedelta(milliseconds=500)
USABLE_PART = 0.8  # of a lease, from before it was asked for; what is left over covers a request on its way

log = structlog.get_logger()


class Engine:
    """Delivers what the store owes, for as long as it runs; tells nobody and trusts no hint."""

    def __init__(
        self,
        store: EngineStore,
        sender: Sender,
        clock: Clock,
        chance: Chance,
        *,
        owner: str,
        user_agent: str,
        limits: Limits,
    ) -> None:
        self._store = store
        self._clock = clock
        self._owner = owner
        self._lease = limits.lease
        self._dispatcher = Dispatcher(
            store, sender, clock, chance, user_agent=user_agent, max_in_flight=limits.max_in_flight
        )
        self._lanes = self._dispatcher.lanes
        self._replays = Replays(store, clock, owner=owner)
        self._purges = Purges(store, clock, owner=owner, retention=limits.retention)
        self._edited_since_leasing: set[str] = set()
        self._unserved: list[tuple[LeasedLane, float]] = []  # leased, and when that was asked for
        self._renewed = 0.0
        self._last_vain_lease = float("-inf")
        self._wall_at_renewal = clock.now()
        self._lease_wanted = asyncio.Event()
        self._confirm_wanted = asyncio.Event()
        self._stop_asked = asyncio.Event()

    async def run(self) -> None:
        """Deliver until `stop`; then finish and record what is in flight, and give the lanes back."""
        await self._join()
        log.info("engine.started", owner=self._owner)
        loops = [
            self._every(POLL, self._lease_due_lanes, self._lease_wanted),
            self._every(POLL, self._read_hungry_lanes, self._dispatcher.read_wanted),
            self._every(POLL, self._release_empty_lanes, self._dispatcher.release_wanted),
            self._every(CONFIRM_EVERY, self._confirm_configuration, self._confirm_wanted),
            self._every(self._lease / 3, self._renew_leases),
            self._every(SWEEP_EVERY, self._sweep),
            self._every(POLL, self._replays.advance),
            self._every(CHECK_EVERY, self._purges.advance),
            self._dispatcher.recorder.run(),
            self._dispatcher.take_turns(),
            self._dispatcher.ring_alarms(),
        ]
        tasks = [asyncio.create_task(loop) for loop in (*loops, self._finish_when_asked())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # a loop ends by a bug only: let it be seen
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        try:
            await self._store.leave(self._owner)
        except StoreUnavailable as error:  # then the leases end by themselves
            log.warning("store.failed", step="leave", reason=error.detail)
        log.info("engine.stopped", owner=self._owner)

    def stop(self) -> None:
        """Start nothing more; `run` returns once all that is in flight is recorded."""
        self._stop_asked.set()

    async def _join(self) -> None:
        while not self._stop_asked.is_set():
            try:
                await self._store.join(self._owner, now=self._clock.now())
                return
            except StoreUnavailable as error:
                log.warning("store.failed", step="join", reason=error.detail)
                await self._clock.wait(self._stop_asked, PAUSE_WHEN_STORE_FAILS)

    async def _finish_when_asked(self) -> None:
        await self._stop_asked.wait()
        await asyncio.gather(
            self._retire(), self._replays.finish(), self._purges.finish(), self._dispatcher.shut_down()
        )

    async def _retire(self) -> None:
        """Leave the others what we shall not lease any more, however long our last request takes."""
        try:
            await self._store.retire(self._owner)
        except StoreUnavailable as error:
            log.warning("store.failed", step="retire", reason=error.detail)

    @property
    def in_flight(self) -> int:
        return self._dispatcher.in_flight

    @property
    def lanes_held(self) -> int:
        return len(self._lanes)

    # --- hints -----------------------------------------------------------------------------------------------

    def hand_over(self, deliveries: Sequence[QueuedDelivery]) -> set[str]:
        """Take deliveries just committed into the lanes we hold; return the webhooks whose lanes took none."""
        refused = set()
        for delivery in deliveries:
            lane = self._lanes.get(delivery.webhook_id)
            if lane is not None and lane.offer(delivery):
                self._dispatcher.touch(lane)
            else:
                refused.add(delivery.webhook_id)
        if refused:
            self._lease_wanted.set()
        return refused

    def webhook_changed(self, webhook_id: str) -> None:
        """Send nothing more to a webhook before its configuration was read again."""
        self._edited_since_leasing.add(webhook_id)
        if lane := self._lanes.get(webhook_id):
            lane.note_edit()
            self._confirm_wanted.set()
        self._lease_wanted.set()

    def poked(self, webhook_ids: Sequence[str]) -> None:
        """Look at the deliveries of these webhooks; without any, at all. Other processes have committed some."""
        if not webhook_ids:
            self._confirm_wanted.set()  # which compares the poke counters of all our lanes
            self._lease_wanted.set()
        for webhook_id in webhook_ids:
            if lane := self._lanes.get(webhook_id):
                lane.look_again = True
                self._dispatcher.touch(lane)
            else:
                self._lease_wanted.set()

    # --- lease -----------------------------------------------------------------------------------------------

    async def _lease_due_lanes(self) -> timedelta | None:
        """Lease what is due; return how long until the next lane will be."""
        if self._stop_asked.is_set() or self._dispatcher.recorder.failing:
            return None
        await self._serve_leased_lanes()
        self._edited_since_leasing.clear()
        asked, now = self._clock.boot(), self._clock.now()
        if self._may_have_lapsed(asked, now):
            await self._renew_leases()
        leased = await self._store.lease_lanes(self._owner, limit=LANES_AT_ONCE, now=now, lease=self._lease)
        self._unserved += [(lane, asked) for lane in leased.lanes]
        await self._serve_leased_lanes()
        if len(leased.lanes) == LANES_AT_ONCE:
            return timedelta(0)
        if not leased.lanes:
            await self._pause_in_a_crowd(asked)
        return max(leased.next_due_at - self._clock.now(), timedelta(0)) if leased.next_due_at else None

    async def _pause_in_a_crowd(self, asked: float) -> None:
        """Pause after a look that found nothing, if there was another just before it: one alone may have come early."""
        if asked - self._last_vain_lease < PAUSE_BETWEEN_VAIN_LEASES.total_seconds():
            await self._clock.sleep(PAUSE_BETWEEN_VAIN_LEASES)
        self._last_vain_lease = asked

    async def _serve_leased_lanes(self) -> None:
        """Begin with the lanes just leased; give back those whose webhook was disabled or deleted meanwhile.

        If the store fails in between, they wait here: they are ours, and nobody else can serve them. So do those it
        would not take back: poked meanwhile, their webhooks may be enabled again. A lane whose webhook is damaged is
        left to lapse: given back it would be due again at once, and in the way of all others.
        """
        if not self._unserved:
            return
        webhooks = await self._store.webhooks_to_serve([lane.webhook_id for lane, _ in self._unserved])
        gone = [lane for lane, _ in self._unserved if lane.webhook_id not in webhooks]
        released: set[str] = set()
        if gone:
            released = await self._store.release_lanes(
                [Release(each.webhook_id, each.token, each.pokes) for each in gone]
            )
        leased, self._unserved = self._unserved, []
        for lease, asked in leased:
            if lease.webhook_id not in webhooks:
                if lease.webhook_id not in released and self._clock.boot() < self._usable_until(asked):
                    self._unserved.append((lease, asked))
                continue
            if former := self._lanes.get(lease.webhook_id):
                former.lose()  # our own lease had lapsed: what was sent under it is not ours to record
            if webhook := webhooks.get(lease.webhook_id):
                then = self._clock.now() - timedelta(seconds=self._clock.boot() - asked)
                lane = Lane(lease, webhook, usable_until=self._usable_until(asked), boot=asked, now=then)
                self._lanes[lane.webhook_id] = lane
                self._dispatcher.touch(lane)
        for webhook_id in self._edited_since_leasing & self._lanes.keys():
            self._lanes[webhook_id].note_edit()  # what was read may be the configuration before the edit
            self._confirm_wanted.set()

    def _may_have_lapsed(self, boot: float, now: datetime) -> bool:
        """Say whether, by the wall clock that leases are kept in, some of ours may count as lapsed at that moment.

        Renewing brings them back, unless somebody has taken them over. Without that we would lease our own lanes
        anew, and send what is in flight again.
        """
        elapsed = boot - self._renewed
        clock_stepped_by = abs((now - self._wall_at_renewal).total_seconds() - elapsed)
        return bool(self._lanes) and (
            elapsed > self._lease.total_seconds() * USABLE_PART
            or clock_stepped_by > self._lease.total_seconds() * LARGEST_CLOCK_STEP
        )

    async def _renew_leases(self) -> None:
        asked, wall = self._clock.boot(), self._clock.now()
        tokens = {lane.webhook_id: lane.token for lane in self._lanes.values()}
        renewal = await self._store.renew_lanes(self._owner, tokens, now=wall, lease=self._lease)
        self._renewed, self._wall_at_renewal = asked, wall
        for webhook_id, token in tokens.items():
            lane = self._lanes.get(webhook_id)
            if lane is None or lane.token != token:
                continue
            if webhook_id in renewal.lost:
                lane.lose()
            else:
                lane.usable_until = self._usable_until(asked)
            self._dispatcher.touch(lane)
        self._hand_back(renewal.surplus, kept=tokens.keys() - renewal.lost)

    def _hand_back(self, surplus: int, *, kept: Collection[str]) -> None:
        """Leave so many of the lanes kept to other owners; those that are idle first, since they can go at once.

        Those that are on their way back count, whatever for, as do those that went since the renewal was asked for.
        """
        ours = [lane for lane in self._lanes.values() if lane.phase is Phase.ACTIVE]
        going = len(kept) - sum(lane.webhook_id in kept for lane in ours)
        ours.sort(key=lambda lane: lane.in_flight)
        leaving = ours[: max(surplus - going, 0)]
        for lane in leaving:
            lane.hand_back()
            self._dispatcher.touch(lane)
        if leaving:
            log.info("lanes.handed_back", count=len(leaving))

    async def _confirm_configuration(self) -> None:
        """See which webhooks were edited, disabled or deleted since we last looked, and which lanes poked."""
        asked = self._clock.boot()
        edits = {lane: lane.edits for lane in self._lanes.values()}
        if not edits:
            return
        marks = await self._store.lane_marks([lane.webhook_id for lane in edits])
        edited = [
            lane.webhook_id
            for lane in edits
            if lane.webhook_id in marks and marks[lane.webhook_id].config_version != lane.webhook.config_version
        ]
        webhooks = await self._store.webhooks_to_serve(edited) if edited else {}
        for lane, edits_seen in edits.items():
            if webhook := webhooks.get(lane.webhook_id):
                lane.reconfigure(webhook)
            if lane.webhook_id not in marks or (lane.webhook_id in edited and webhook is None):
                lane.leave()
            else:
                lane.stay()
                lane.compare_pokes(marks[lane.webhook_id].pokes)
            lane.confirm(asked=asked, edits=edits_seen)
            if lane.buffer or lane.look_again or lane.phase is not Phase.ACTIVE:  # thousands of others have no news
                self._dispatcher.touch(lane)

    async def _sweep(self) -> None:
        if await self._store.sweep(now=self._clock.now()):
            self._lease_wanted.set()

    def _usable_until(self, asked: float) -> float:
        """Return when the last request may start under a lease that was asked for at that moment."""
        return asked + self._lease.total_seconds() * USABLE_PART

    # --- read ------------------------------------------------------------------------------------------------

    async def _read_hungry_lanes(self) -> timedelta | None:
        hungry = list(islice(self._dispatcher.hungry, LANES_AT_ONCE))
        for lane in hungry:
            del self._dispatcher.hungry[lane]
        now, boot = self._clock.now(), self._clock.boot()
        lanes = [lane for lane in hungry if lane.wants_read(boot)]
        if not lanes:
            return None
        capacity = min(READ_AHEAD, READ_AHEAD_IN_ALL // max(len(self._lanes), 1))
        asked = {lane.webhook_id: lane.begin_read(capacity) for lane in lanes}
        reads: Mapping[str, LaneRead] = {}
        try:
            reads = await self._store.read_lanes(asked, now=now)
        finally:
            for lane in lanes:
                read = reads.get(lane.webhook_id)
                look_from = _boot_moment(read.next_due_at if read else None, now, boot)
                self._dispatcher.end_read(lane, read, boot=self._clock.boot(), look_from=look_from)
        return timedelta(0) if self._dispatcher.hungry else None

    # --- release ---------------------------------------------------------------------------------------------

    async def _release_empty_lanes(self) -> None:
        empty = [(lane, release) for lane, release in self._dispatcher.empty if lane.phase is Phase.RELEASING]
        self._dispatcher.empty.clear()
        if not empty:
            return
        try:
            released = await self._store.release_lanes([release for _, release in empty])
        except StoreUnavailable:
            # They may have been given back all the same, and be leased by others before we could read them: go they
            # must, poked meanwhile or not.
            self._dispatcher.empty += [(lane, replace(release, pokes=None)) for lane, release in empty]
            raise
        for lane, release in empty:
            if lane.webhook_id in released:
                self._dispatcher.remove(lane)
            elif lane.phase is Phase.RELEASING:
                lane.release_refused(release)
                self._dispatcher.touch(lane)
        self._lease_wanted.set()  # to learn when the next of them is due

    # --- the loops -------------------------------------------------------------------------------------------

    async def _every(
        self,
        period: timedelta,
        step: Callable[[], Awaitable[timedelta | None]],
        wanted: asyncio.Event | None = None,
    ) -> None:
        """Do a step when it is wanted, when it asked to be done again, and once a period; outlive a failing store."""
        wanted = wanted or asyncio.Event()
        while True:
            wanted.clear()
            try:
                again_in = await step()
            except StoreUnavailable as error:
                log.warning("store.failed", step=step.__name__.strip("_"), reason=error.detail)
                await self._clock.sleep(PAUSE_WHEN_STORE_FAILS)
                again_in = timedelta(0)
            pause = period if again_in is None else min(again_in, period)
            if pause > timedelta(0):
                await self._clock.wait(wanted, pause)


def _boot_moment(moment_at: datetime | None, now: datetime, boot: float) -> float | None:
    return None if moment_at is None else boot + (moment_at - now).total_seconds()
