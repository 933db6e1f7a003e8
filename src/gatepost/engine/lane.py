"""One webhook's queue while we hold its lease: a state machine without I/O, clock or chance.

Every id that may be anywhere between the store and a committed outcome is in `known`; that one set answers
what to skip in a read, what to refuse twice, and whether the lane has nothing left to do.
Moments are seconds of `Clock.boot`, except where a name ends in `_at`.
"""

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from enum import Enum

from gatepost.domain.deliveries import QueuedDelivery
from gatepost.domain.health import PROBE_EVERY, WELL, Condition
from gatepost.domain.outcomes import Accepted, Outcome, slows_down
from gatepost.domain.webhooks import Webhook
from gatepost.engine.live_keys import LiveKeys
from gatepost.engine.round import LOOK_AT, PAUSE_WITHIN_ROUND_SECONDS, Round
from gatepost.ports import LaneAsk, LaneRead, LeasedLane, Reading, Release

LINGER_SECONDS = 2.0  # an empty lane is kept this long, since events come in bursts
CONFIRMED_FOR_SECONDS = 2.0  # nothing starts on configuration older than this
PRESUMED_FROM_UNCLEAN = 3
PROBES_IN_TURN = 10  # deliveries that a suspended webhook is probed with, one after the other
NEWLY_ENABLED = timedelta(seconds=1)  # more than the clocks of two workers ever differ by


class Phase(Enum):
    ACTIVE = "active"
    LEAVING = "leaving"  # starts nothing more, finishes what is in flight, then goes back to the store
    HANDING_BACK = "handing back"  # the same, to be served by another owner: it reads nothing first, and cannot stay
    RELEASING = "releasing"  # its release is on the way to the store
    LOST = "lost"  # another worker may hold it: nothing is started, nothing recorded


class Lane:
    """The queue of one webhook under one lease."""

    def __init__(
        self, leased: LeasedLane, webhook: Webhook, *, usable_until: float, boot: float, now: datetime
    ) -> None:
        """Begin a lane that was asked for at `boot`, which was `now`."""
        self.webhook_id = leased.webhook_id
        self.token = leased.token
        self.unclean = leased.unclean
        self.phase = Phase.ACTIVE
        self.usable_until = usable_until
        self.confirmed = boot
        self.edits = 0  # heard of in this process
        self._confirmed_edits = 0  # of those, seen in the configuration

        self.buffer: deque[QueuedDelivery] = deque()
        self.known: set[str] = set()
        self._presumed: set[str] = set()  # written as failed ahead of sending, see `must_presume`
        self.in_flight = 0  # started, and not yet recorded
        # Enabled just now, perhaps after the lane was leased: then what was remembered is of the time before.
        self.condition = leased.condition if webhook.enabled_at < now - NEWLY_ENABLED else WELL
        # An owner that died may have died of what it was sending: feel the way, one at a time.
        self.window = 1 if leased.unclean or self.is_suspended else leased.window
        self._probe = (now - (self.condition.suspended_at or now)) // PROBE_EVERY - 1  # which one this lease is for
        self.held_until: datetime | None = None  # nobody is to lease it before; written down with the next outcomes
        self._missed_until = now  # while it is draining: what is older was held back

        self.pokes: int | None = None  # as of the last read; None once something came by another way
        self.look_again = True
        self._settles = False  # after an edit, in order: what was in flight then is to be recorded before the next read
        self.reading = False
        self._round = Round()
        self._no_read_before = 0.0
        self.alarm: float | None = None
        self._read_limit = 0
        self._asked_for: tuple[int, Reading] | None = None  # by the read that is out: under which configuration, what
        self._forget_after_read: list[str] = []
        self._look_from: float | None = None
        self._expected_pokes = 0  # as of the last read, and one for each offer since
        self._next_start = 0.0
        self._idle_since = boot
        self._closing = False
        self.webhook = webhook
        self.reconfigure(webhook)

    # --- configuration ---------------------------------------------------------------------------------------

    def reconfigure(self, webhook: Webhook) -> None:
        if webhook.enabled_at != self.webhook.enabled_at:
            # Whoever enables a webhook again takes its receiver to be well.
            self.condition, self.held_until, self._next_start = WELL, None, 0.0
        if webhook.config_version != self.webhook.config_version:
            self._drop_buffer()  # it may be in another order now, or have been discarded
            self.look_again = True
            self._settles = webhook.preserve_task_order
        self.webhook = webhook
        self.window = min(self.window, webhook.max_concurrency)
        self.keys = LiveKeys(webhook)

    def note_edit(self) -> None:
        """Start nothing more before the configuration was read once again."""
        self.edits += 1

    def confirm(self, *, asked: float, edits: int) -> None:
        """Take the configuration for good as of the moment it was asked for, when so many edits were known."""
        self.confirmed, self._confirmed_edits = asked, edits

    def compare_pokes(self, pokes: int) -> None:
        """Look again if others have poked the lane: what they committed does not come by way of `offer`."""
        if pokes != self._expected_pokes:
            self._expected_pokes = pokes
            self.look_again = True

    def deadline(self) -> float:
        """Return until when a request may leave; asked anew for each, as leases are renewed while it waits."""
        return float("-inf") if self.phase is Phase.LOST else self.usable_until

    # --- filling ---------------------------------------------------------------------------------------------

    def offer(self, delivery: QueuedDelivery) -> bool:
        """Take a delivery that was just committed; False leaves it to the store, whose poke came with it.

        Past twice the window an offer is only a reason to read: the store keeps the queue, not our memory.
        """
        if self.phase is not Phase.ACTIVE:
            return False
        self.pokes = None
        if delivery.id in self.known:  # by a read, which saw the poke as well
            return True
        self._expected_pokes += 1
        past_the_store = self.reads is Reading.DUE and not self.condition.draining
        if not past_the_store or len(self.known) >= 2 * self.window or self.look_again or self.reading:
            self.look_again = True
            return True
        self._take_in(delivery)
        return True

    @property
    def reads(self) -> Reading:
        """What is read of the lane; all but what is simply due the store alone can tell."""
        in_order = self.webhook.preserve_task_order
        if self.is_suspended:
            return Reading.PROBE_IN_ORDER if in_order else Reading.PROBE
        return Reading.IN_ORDER if in_order else Reading.DUE

    def wants_read(self, boot: float) -> bool:
        if self.reading or boot < self._no_read_before or self.phase not in (Phase.ACTIVE, Phase.LEAVING):
            return False
        if self.phase is Phase.LEAVING:
            return not self.known and self.pokes is None
        if self.known and (self.is_suspended or (self._settles and self.in_flight)):
            return False  # one probe at a time, and nothing after what is under way, though it be discarded meanwhile
        return (self.look_again or self._round.goes_on) and len(self.buffer) <= self.window

    def begin_read(self, capacity: int) -> LaneAsk:
        """Ask for what there is room for, and for what will be skipped as known; of probes, for some to choose from."""
        self._round.begin_read(something_happened=self.look_again)
        self.reading, self.look_again, self._settles = True, False, False
        self._asked_for = (self.webhook.config_version, self.reads)
        room = PROBES_IN_TURN if self.is_suspended else max(capacity, 2 * self.window) - len(self.buffer)
        self._read_limit = max(room, 1) + len(self.known)
        return LaneAsk(self._read_limit, self.reads, LOOK_AT, self._round.looked_to)

    def end_read(self, read: LaneRead | None, *, boot: float, look_from: float | None) -> None:
        """Take in what a read brought; None when it failed or the lane is not there any more.

        What was asked for as things stood before is read once again. Only now may ids go that were recorded meanwhile:
        the read may have seen them unfinished.
        """
        self.reading = False
        if read is None or self.phase is Phase.LOST:
            self.look_again = True
        elif read.token != self.token:
            self.lose()
        else:
            self.pokes = self._expected_pokes = read.pokes
            if look_from is not None:
                self.look_not_later_than(look_from)
            if self._asked_for != (self.webhook.config_version, self.reads):
                self.look_again = True
            elif self.phase is Phase.ACTIVE:
                self._take_in_all(read)
                self._round.end_read(read.looked_to)
                self._no_read_before = boot + PAUSE_WITHIN_ROUND_SECONDS if self._round.goes_on else boot
        self.known.difference_update(self._forget_after_read)
        self._forget_after_read.clear()

    def _take_in_all(self, read: LaneRead) -> None:
        if self.is_suspended:
            self._take_in_probe(read.deliveries)
            return
        for delivery in read.deliveries:
            if delivery.id not in self.known:
                self._take_in(delivery)
        self.look_again = self.look_again or len(read.deliveries) >= self._read_limit
        # What is in flight is read as well, and the longest due comes first: so nothing older is left.
        nothing_older = all(each.created_at > self._missed_until for each in read.deliveries)
        if self.condition.draining and read.looked_to is None and nothing_older:
            self.condition = replace(self.condition, draining=False)

    def _take_in_probe(self, deliveries: Sequence[QueuedDelivery]) -> None:
        """Take another one each time: the first may be what its receiver will never take."""
        if deliveries and not self.known:
            self._take_in(deliveries[self._probe % len(deliveries)])

    def _take_in(self, delivery: QueuedDelivery) -> None:
        self.known.add(delivery.id)
        self.buffer.append(delivery)

    # --- starting --------------------------------------------------------------------------------------------

    def may_start(self, boot: float) -> bool:
        return (
            bool(self.buffer)
            and self.in_flight < self.window
            and self._still_owes(self.buffer[0])
            and boot < self.usable_until
            and boot - self.confirmed <= CONFIRMED_FOR_SECONDS
            and self._confirmed_edits == self.edits
            and boot >= self._next_start
        )

    def _still_owes(self, delivery: QueuedDelivery) -> bool:
        """Say whether an attempt is to be made here: one that is written as made, even by a lane on its way out."""
        on_its_way_out = self.phase in (Phase.LEAVING, Phase.HANDING_BACK)
        return self.phase is Phase.ACTIVE or (on_its_way_out and self.is_presumed(delivery))

    def start(self, boot: float) -> QueuedDelivery:
        """Take the delivery to send now, under the webhook's rate limit (GCRA with a burst of one)."""
        self.in_flight += 1
        if per_second := self._starts_per_second():
            self._next_start = max(boot, self._next_start) + 1 / per_second
        return self.buffer.popleft()

    def _starts_per_second(self) -> int | None:
        """Return the limit: what a receiver has missed comes no faster than it could at best take it in a second."""
        limits = [self.webhook.rate_limit_per_second, self.webhook.max_concurrency if self.condition.draining else None]
        return min((each for each in limits if each is not None), default=None)

    def must_presume(self, delivery: QueuedDelivery) -> bool:
        """Say whether an attempt is to be written as failed before it is made.

        Owner after owner died holding this lane: perhaps of this very delivery, which must not go on for ever.
        """
        return self.unclean >= PRESUMED_FROM_UNCLEAN and delivery.id not in self._presumed

    def presume(self, delivery: QueuedDelivery) -> None:
        self._presumed.add(delivery.id)

    def is_presumed(self, delivery: QueuedDelivery) -> bool:
        return delivery.id in self._presumed

    # --- settling --------------------------------------------------------------------------------------------

    def put_back(self, delivery: QueuedDelivery) -> None:
        """Take back a delivery that was started and never sent."""
        self.in_flight -= 1
        if self._still_owes(delivery):
            self.buffer.appendleft(delivery)
        else:
            self.forget([delivery.id])

    @property
    def is_failing(self) -> bool:
        return self.condition.streak > 0

    @property
    def is_suspended(self) -> bool:
        return self.condition.suspended_at is not None

    def take_condition(self, condition: Condition, *, now: datetime) -> None:
        """Go on as the receiver's condition demands: suspended, nothing more is sent before the next probe."""
        was_suspended, self.condition = self.is_suspended, condition
        if self.is_suspended:
            self.hand_back()
        elif was_suspended:
            self.held_until, self._missed_until = None, now
            self.look_again = True

    def hold(self, until: float, *, until_at: datetime) -> None:
        """Send nothing more until then, whoever has the lane."""
        self.held_until = max(self.held_until or until_at, until_at)
        if not self.is_suspended:  # which is on its way out, and owes only what it has written ahead
            self._next_start = max(self._next_start, until)

    def adapt_window(self, outcome: Outcome) -> None:
        """Make the window one larger for a success, half as large for a sign of overload."""
        if isinstance(outcome, Accepted):
            self.window = min(self.window + 1, self.webhook.max_concurrency)
        elif slows_down(outcome):
            self.window = max(self.window // 2, 1)

    def look_not_later_than(self, moment: float) -> None:
        """Remember to look when the next retry will be due."""
        if self._look_from is None or moment < self._look_from:
            self._look_from = moment

    def recorded(self, delivery_ids: Collection[str], *, boot: float) -> None:
        """Let go of deliveries whose outcomes are committed.

        Only now do they make room in the window: so a process that is killed repeats no more than a window of them.
        """
        self.in_flight -= len(delivery_ids)
        self.unclean = 0
        self.forget(delivery_ids)
        self._idle_since = boot
        if self.condition.draining or self.webhook.preserve_task_order:
            self.look_again = True  # was that the last, or what others have waited for?

    def forget(self, delivery_ids: Collection[str]) -> None:
        self._presumed.difference_update(delivery_ids)
        if self.reading:
            self._forget_after_read.extend(delivery_ids)
        else:
            self.known.difference_update(delivery_ids)

    # --- leaving ---------------------------------------------------------------------------------------------

    def leave(self) -> None:
        """Start nothing more; what was not started stays the store's."""
        self._closing = True
        if self.phase is Phase.ACTIVE:
            self.phase = Phase.LEAVING
            self.pokes = None
            self._drop_buffer()

    def hand_back(self) -> None:
        """Leave the lane to another owner: start nothing more, and give it back as it is once nothing is in flight.

        Nothing calls it back, and no poke holds it up: a lane that is emitted to all the time must get away as well.
        """
        if self.phase is Phase.ACTIVE:
            self.phase = Phase.HANDING_BACK
            self._drop_buffer()

    def stay(self) -> None:
        """Go on after all: the webhook was enabled again before the lane was given back."""
        if self.phase is Phase.LEAVING:
            self.phase = Phase.ACTIVE
            self._closing = False
            self.look_again = True
            self.pokes = None

    def lose(self) -> None:
        self.phase = Phase.LOST
        self._drop_buffer()

    def may_release(self, boot: float) -> bool:
        """Say whether nothing is left here that the store does not know as well."""
        if self.known or self.reading:
            return False
        if self.phase is Phase.HANDING_BACK:
            return True
        if self.pokes is None:
            return False
        if self.phase is Phase.ACTIVE:
            # What waits for a retry of its task is due all the while: given back, the lane would be leased at once.
            is_waiting = self.webhook.preserve_task_order and self._look_from is not None
            is_looking = self.look_again or self._round.goes_on
            return not is_looking and not is_waiting and boot >= self._idle_since + LINGER_SECONDS
        return self.phase is Phase.LEAVING

    def begin_release(self) -> Release:
        """Take nothing more in; return the release to ask the store for."""
        pokes = None if self.phase is Phase.HANDING_BACK else self.pokes
        self.phase = Phase.RELEASING
        return Release(self.webhook_id, self.token, pokes)

    def release_refused(self, release: Release) -> None:
        """Go on: the lane was poked since it was read, or lost; the next read tells which.

        One that was to be handed back whatever its pokes is lost.
        """
        if release.pokes is None:
            self.lose()
            return
        self.phase = Phase.LEAVING if self._closing else Phase.ACTIVE
        self.look_again = True
        self.pokes = None

    def _drop_buffer(self) -> None:
        kept = [each for each in self.buffer if self.phase is not Phase.LOST and self.is_presumed(each)]
        self.forget([each.id for each in self.buffer if each not in kept])
        self.buffer = deque(kept)

    # --- time ------------------------------------------------------------------------------------------------

    def notice(self, boot: float) -> None:
        """See whether time has brought a reason to read: a retry is due, or an empty lane is to be released."""
        if self._look_from is not None and boot >= self._look_from:
            self._look_from = None
            self.look_again = True
        if self.pokes is None and not self.known and boot >= self._idle_since + LINGER_SECONDS:
            self.look_again = True

    def next_moment(self, boot: float) -> float | None:
        """Return when `notice`, `may_start` or `may_release` may say something new by time alone."""
        moments = [self._no_read_before, self._next_start if self.buffer else boot]
        if self._look_from is not None:
            moments.append(self._look_from)
        if not self.known:
            moments.append(self._idle_since + LINGER_SECONDS)
        return min((moment for moment in moments if moment > boot), default=None)
