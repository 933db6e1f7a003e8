"""A lane that is handed back to be served by another owner, without an event loop: moments are arguments."""

from tests.builders import make_queued
from tests.unit.test_lane import ACCEPTED, make_lane, read

from gatepost.engine.lane import Lane, Phase
from gatepost.ports import LaneRead, Release


def handing_back(**options: int) -> Lane:
    lane = make_lane(**options)
    read(lane, pokes=5)
    lane.hand_back()
    return lane


def test_an_idle_lane_goes_at_once_as_it_is_without_another_read() -> None:
    lane = handing_back()

    assert not lane.wants_read(0.0)
    assert lane.may_release(0.0)
    assert lane.begin_release() == Release(lane.webhook_id, token=7, pokes=None)


def test_a_lane_that_was_never_read_goes_at_once_too() -> None:
    lane = make_lane()

    lane.hand_back()

    assert lane.may_release(0.0)


def test_it_starts_nothing_more_and_goes_when_what_is_in_flight_is_recorded() -> None:
    lane = make_lane()
    sent, kept = make_queued(), make_queued()
    read(lane, sent, kept)
    lane.start(0.0)

    lane.hand_back()

    assert lane.known == {sent.id}
    assert not lane.may_start(0.0)
    assert not lane.may_release(0.0)
    lane.adapt_window(ACCEPTED)
    lane.recorded([sent.id], boot=0.0)
    assert lane.may_release(0.0)


def test_pokes_do_not_hold_it_up() -> None:
    lane = make_lane()
    read(lane, pokes=5)
    lane.offer(make_queued())

    lane.hand_back()
    lane.compare_pokes(99)
    lane.notice(60.0)

    assert not lane.wants_read(0.0)
    assert lane.may_release(60.0)


def test_a_read_that_is_out_is_waited_for_and_not_taken_in() -> None:
    lane = make_lane()
    lane.begin_read(50)
    lane.hand_back()

    assert not lane.may_release(0.0)
    lane.end_read(LaneRead(7, 1, [make_queued()], None), boot=0.0, look_from=None)

    assert not lane.buffer
    assert lane.may_release(0.0)


def test_what_was_dropped_unsent_is_left_to_the_next_owner() -> None:
    lane = make_lane()
    delivery = make_queued()
    read(lane, delivery)
    lane.start(0.0)
    lane.hand_back()

    lane.put_back(delivery)

    assert not lane.buffer
    assert lane.may_release(0.0)


def test_an_attempt_written_ahead_is_made_before_it_goes() -> None:
    lane = make_lane(unclean=3)
    presumed, other = make_queued(), make_queued()
    read(lane, presumed, other)
    lane.presume(lane.start(0.0))
    lane.put_back(presumed)  # its lease had no time left

    lane.hand_back()

    assert list(lane.buffer) == [presumed]
    assert not lane.may_release(0.0)
    assert lane.may_start(0.0)
    assert lane.start(0.0) is presumed
    lane.recorded([presumed.id], boot=0.0)
    assert lane.may_release(0.0)


def test_a_webhook_found_enabled_does_not_call_it_back() -> None:
    lane = handing_back()

    lane.stay()

    assert lane.phase is Phase.HANDING_BACK
    assert not lane.offer(make_queued())


def test_a_webhook_disabled_and_enabled_meanwhile_does_not_call_it_back_either() -> None:
    lane = handing_back()

    lane.leave()
    lane.stay()

    assert lane.phase is Phase.HANDING_BACK


def test_a_lane_that_is_leaving_already_keeps_its_reason() -> None:
    lane = make_lane()
    read(lane)
    lane.leave()

    lane.hand_back()

    assert lane.phase is Phase.LEAVING
    lane.stay()
    assert lane.phase is Phase.ACTIVE


def test_a_lane_that_is_being_released_or_lost_is_not_handed_back() -> None:
    releasing, lost = make_lane(), make_lane()
    read(releasing)
    releasing.begin_release()
    lost.lose()

    for lane in (releasing, lost):
        lane.hand_back()

    assert (releasing.phase, lost.phase) == (Phase.RELEASING, Phase.LOST)


def test_a_lane_that_the_store_does_not_take_back_whatever_its_pokes_is_lost() -> None:
    lane = handing_back()

    lane.release_refused(lane.begin_release())

    assert lane.phase is Phase.LOST
