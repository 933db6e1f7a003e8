"""What a lane does about its receiver's condition, without an event loop: moments are arguments."""

from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import pytest
from tests.builders import accepted, make_delivery, make_queued, make_webhook
from tests.fakes import NOW

from gatepost.domain.deliveries import QueuedDelivery
from gatepost.domain.health import WELL, Condition
from gatepost.domain.webhooks import with_changes
from gatepost.engine.lane import LINGER_SECONDS, Lane, Phase
from gatepost.engine.round import PAUSE_WITHIN_ROUND_SECONDS
from gatepost.ports import LaneRead, LeasedLane, Position, Reading

ACCEPTED = accepted()
BEFORE = NOW - timedelta(hours=1)
SUSPENDED = Condition(streak=9, failing_since=NOW - timedelta(days=2), suspended_at=NOW - timedelta(days=1))
DRAINING = Condition(draining=True)
FAR = Position(BEFORE, "dlv_far")


def make_lane(condition: Condition = WELL, *, window: int = 4, **webhook: object) -> Lane:
    hook = make_webhook(enabled_at=BEFORE, **webhook)
    leased = LeasedLane(hook.id, token=7, pokes=0, unclean=0, window=window, condition=condition)
    return Lane(leased, hook, usable_until=24, boot=0.0, now=NOW)


def held_back() -> QueuedDelivery:
    return make_queued(make_delivery(created_at=BEFORE))


def fresh() -> QueuedDelivery:
    return make_queued(make_delivery(created_at=NOW + timedelta(seconds=1)))


def read(lane: Lane, *deliveries: QueuedDelivery) -> None:
    lane.begin_read(50)
    lane.end_read(LaneRead(7, 1, deliveries, None), boot=0.0, look_from=None)


def start_all(lane: Lane, boot: float) -> list[QueuedDelivery]:
    started = []
    while lane.may_start(boot):
        started.append(lane.start(boot))
    return started


def enabled_again(lane: Lane) -> None:
    edited = with_changes(with_changes(lane.webhook, now=NOW, enabled=False), now=NOW, enabled=True)
    lane.reconfigure(edited)


# --- suspended -----------------------------------------------------------------------------------------------


def test_a_suspended_lane_asks_for_one_probe_and_for_no_other_while_that_is_under_way() -> None:
    lane = make_lane(SUSPENDED, window=8)

    assert (lane.reads, lane.window) == (Reading.PROBE, 1)
    lane.begin_read(50)
    lane.end_read(LaneRead(7, 1, [held_back(), held_back()], None), boot=0.0, look_from=None)
    lane.start(0.0)
    lane.offer(fresh())

    assert len(lane.known) == 1

    assert not lane.wants_read(0.0)


@pytest.mark.parametrize(("minutes", "taken"), [(10, 0), (19.9, 0), (20, 1), (30, 2), (40, 0), (7 * 24 * 60, 2)])
def test_probes_take_turns_as_the_first_may_be_what_its_receiver_never_takes(minutes: float, taken: int) -> None:
    suspended_at = NOW - timedelta(minutes=minutes)
    lane = make_lane(replace(SUSPENDED, suspended_at=suspended_at))
    waiting = [held_back() for _ in range(3)]

    read(lane, *waiting)

    assert list(lane.buffer) == [waiting[taken]]


def test_a_suspended_lane_takes_nothing_past_the_store() -> None:
    lane = make_lane(SUSPENDED)
    read(lane)

    assert lane.offer(fresh())

    assert not lane.buffer
    assert lane.look_again


def test_a_lane_that_is_suspended_drops_its_queue_and_goes_when_all_is_recorded() -> None:
    lane = make_lane()
    sent, kept = fresh(), fresh()
    read(lane, sent, kept)
    lane.start(0.0)

    lane.take_condition(SUSPENDED, now=NOW)
    lane.hold(600.0, until_at=NOW + timedelta(minutes=10))

    assert (lane.phase, lane.known) == (Phase.HANDING_BACK, {sent.id})
    assert lane.held_until == NOW + timedelta(minutes=10)
    lane.recorded([sent.id], boot=0.0)
    assert lane.may_release(0.0)
    assert lane.begin_release().pokes is None


def test_a_suspension_that_an_answer_still_in_flight_ends_holds_nobody_up() -> None:
    lane = make_lane()
    lane.take_condition(SUSPENDED, now=NOW)
    lane.hold(600.0, until_at=NOW + timedelta(minutes=10))

    lane.take_condition(DRAINING, now=NOW)

    assert lane.held_until is None
    assert lane.phase is Phase.HANDING_BACK


def test_an_attempt_written_ahead_is_made_at_once_though_the_lane_is_suspended_meanwhile() -> None:
    lane = make_lane()
    presumed, other = fresh(), fresh()
    read(lane, presumed, other)
    lane.presume(lane.start(0.0))
    lane.put_back(presumed)

    lane.take_condition(SUSPENDED, now=NOW)
    lane.hold(600.0, until_at=NOW + timedelta(minutes=10))

    assert start_all(lane, 0.0) == [presumed]


# --- draining ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("max_concurrency", "rate"), [(1, 1), (4, 4)])
def test_what_was_held_back_goes_no_faster_than_max_concurrency_a_second(max_concurrency: int, rate: int) -> None:
    lane = make_lane(DRAINING, max_concurrency=max_concurrency)
    read(lane, *(held_back() for _ in range(40)))

    starts = []
    for tick in range(101):
        lane.confirmed = tick / 20
        for delivery in start_all(lane, tick / 20):
            starts.append(tick / 20)
            lane.recorded([delivery.id], boot=tick / 20)

    assert len(starts) == 5 * rate + 1
    assert all(later - earlier >= 1 / rate - 1e-9 for earlier, later in pairwise(starts))


def test_a_lower_rate_limit_of_the_webhook_holds_while_it_drains() -> None:
    lane = make_lane(DRAINING, max_concurrency=10, rate_limit_per_second=2)
    read(lane, held_back(), held_back())
    lane.start(0.0)

    assert lane.next_moment(0.0) == pytest.approx(0.5)


def test_it_drains_until_a_read_finds_nothing_from_before_it_was_well_again() -> None:
    lane = make_lane(SUSPENDED)
    probe, missed, later = held_back(), held_back(), fresh()
    read(lane, probe)
    lane.start(0.0)
    lane.take_condition(DRAINING, now=NOW)
    lane.recorded([probe.id], boot=0.0)

    read(lane, missed, later)
    assert lane.condition.draining
    lane.start(0.0)
    read(lane, missed, later)  # it is in flight, and not recorded
    assert lane.condition.draining
    lane.recorded([missed.id], boot=0.0)
    assert lane.wants_read(0.0)
    read(lane, later)

    assert not lane.condition.draining


def test_what_is_emitted_all_the_time_does_not_keep_it_draining() -> None:
    lane = make_lane(DRAINING, window=1)

    limit, *_ = lane.begin_read(2)
    lane.end_read(LaneRead(7, 1, [fresh() for _ in range(limit)], None), boot=0.0, look_from=None)

    assert not lane.condition.draining
    assert lane.look_again


def test_while_it_drains_nothing_new_overtakes_what_was_held_back() -> None:
    lane = make_lane(DRAINING)
    missed = held_back()
    read(lane, missed)

    lane.offer(fresh())

    assert list(lane.buffer) == [missed]
    assert lane.look_again


# --- Retry-After ---------------------------------------------------------------------------------------------


def test_a_lane_that_is_held_starts_nothing_until_then() -> None:
    lane = make_lane()
    read(lane, fresh())

    lane.hold(1.5, until_at=NOW + timedelta(seconds=1.5))

    assert not lane.may_start(1.4)
    assert lane.next_moment(0.0) == 1.5
    assert lane.may_start(1.5)


def test_a_shorter_wait_asked_for_later_does_not_cut_a_longer_one_short() -> None:
    lane = make_lane()
    read(lane, fresh())
    lane.hold(1.5, until_at=NOW + timedelta(seconds=1.5))

    lane.hold(1.0, until_at=NOW + timedelta(seconds=1.0))

    assert lane.held_until == NOW + timedelta(seconds=1.5)
    assert not lane.may_start(1.2)


# --- configuration -------------------------------------------------------------------------------------------


def test_a_webhook_enabled_again_is_taken_to_be_well_and_held_by_nothing() -> None:
    lane = make_lane()
    lane.take_condition(SUSPENDED, now=NOW)
    lane.hold(600.0, until_at=NOW + timedelta(minutes=10))

    enabled_again(lane)

    assert (lane.condition, lane.held_until) == (WELL, None)


def test_a_webhook_enabled_after_its_lane_was_leased_is_taken_to_be_well() -> None:
    hook = make_webhook(enabled_at=NOW + timedelta(milliseconds=5))
    leased = LeasedLane(hook.id, token=7, pokes=0, unclean=0, window=4, condition=SUSPENDED)

    lane = Lane(leased, hook, usable_until=24, boot=0.0, now=NOW)

    assert (lane.condition, lane.window) == (WELL, 4)


def test_an_edit_drops_what_was_read_before_it() -> None:
    lane = make_lane()
    sent, kept = fresh(), fresh()
    read(lane, sent, kept)
    lane.start(0.0)

    lane.reconfigure(with_changes(lane.webhook, now=NOW, max_concurrency=7))

    assert not lane.buffer
    assert lane.known == {sent.id}
    assert lane.wants_read(0.0)


def test_after_an_edit_a_lane_in_order_reads_nothing_before_what_was_under_way_is_recorded() -> None:
    lane = make_lane(preserve_task_order=True)
    sent = fresh()
    read(lane, sent)
    lane.start(0.0)

    lane.reconfigure(with_changes(lane.webhook, now=NOW, max_concurrency=7))  # it may be discarded, or have been

    assert not lane.wants_read(0.0)
    lane.recorded([sent.id], boot=0.0)
    assert lane.wants_read(0.0)


def test_a_read_from_before_an_edit_is_made_once_again() -> None:
    lane = make_lane()
    lane.begin_read(50)
    lane.reconfigure(with_changes(lane.webhook, now=NOW, preserve_task_order=True))

    lane.end_read(LaneRead(7, 1, [fresh()], None), boot=0.0, look_from=None)

    assert not lane.buffer
    assert lane.wants_read(0.0)


def test_the_same_configuration_read_again_changes_nothing() -> None:
    lane = make_lane()
    delivery = fresh()
    read(lane, delivery)

    lane.reconfigure(replace(lane.webhook))

    assert list(lane.buffer) == [delivery]


# --- order ---------------------------------------------------------------------------------------------------


def test_a_lane_in_order_takes_nothing_past_the_store() -> None:
    lane = make_lane(preserve_task_order=True)
    read(lane)

    assert lane.offer(fresh())

    assert lane.reads is Reading.IN_ORDER
    assert not lane.buffer
    assert lane.wants_read(0.0)


def test_a_lane_in_order_looks_for_what_waited_for_each_outcome() -> None:
    lane = make_lane(preserve_task_order=True)
    first = fresh()
    read(lane, first)
    lane.start(0.0)
    assert not lane.wants_read(0.0)

    lane.recorded([first.id], boot=0.0)

    assert lane.wants_read(0.0)
    assert not lane.may_release(LINGER_SECONDS)


def test_a_lane_in_order_is_kept_while_what_is_due_may_be_waiting_for_a_retry() -> None:
    waiting, done = make_lane(preserve_task_order=True), make_lane(preserve_task_order=True)
    for lane, next_due in ((waiting, 3600.0), (done, None)):
        lane.begin_read(50)
        lane.end_read(LaneRead(7, 1, [], None), boot=0.0, look_from=next_due)

    assert not waiting.may_release(LINGER_SECONDS)
    assert done.may_release(LINGER_SECONDS)
    waiting.hand_back()
    assert waiting.may_release(LINGER_SECONDS)  # to another owner


def test_through_a_long_queue_in_order_it_looks_bit_by_bit_and_not_too_fast() -> None:
    lane = make_lane(preserve_task_order=True)
    begun = lane.begin_read(50)
    lane.end_read(LaneRead(7, 1, [], None, FAR), boot=1.0, look_from=None)

    assert begun.onward_from is None
    assert not lane.wants_read(1.0)
    assert lane.next_moment(1.0) == pytest.approx(1.0 + PAUSE_WITHIN_ROUND_SECONDS)
    assert not lane.may_release(100.0)
    assert lane.wants_read(1.1)
    assert lane.begin_read(50).onward_from == FAR
    lane.end_read(LaneRead(7, 1, [], None), boot=2.0, look_from=None)
    assert not lane.wants_read(3.0)
    assert lane.may_release(100.0)


def test_what_happens_during_a_round_through_a_long_queue_makes_it_go_once_more() -> None:
    lane = make_lane(preserve_task_order=True)
    lane.begin_read(50)
    lane.end_read(LaneRead(7, 1, [], None, FAR), boot=0.0, look_from=None)
    lane.offer(fresh())  # perhaps to a place that the round has passed

    for looked_to in (FAR, None, FAR, None):
        assert lane.wants_read(1.0)
        lane.begin_read(50)
        lane.end_read(LaneRead(7, 1, [], None, looked_to), boot=0.0, look_from=None)

    assert not lane.wants_read(1.0)


def test_it_drains_until_a_round_has_come_to_the_end_of_a_long_queue() -> None:
    lane = make_lane(DRAINING, preserve_task_order=True)
    lane.begin_read(50)
    lane.end_read(LaneRead(7, 1, [], None, FAR), boot=0.0, look_from=None)
    was_draining = lane.condition.draining
    read(lane)

    assert (was_draining, lane.condition.draining) == (True, False)
