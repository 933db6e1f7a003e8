"""The rules of a lane, without an event loop: moments are arguments."""

from datetime import timedelta

import pytest
from tests.builders import make_queued, make_webhook
from tests.fakes import NOW

from gatepost.domain.outcomes import Accepted, Refused, Response
from gatepost.domain.signatures import make_secret
from gatepost.domain.webhooks import Secret
from gatepost.engine.lane import CONFIRMED_FOR_SECONDS, LINGER_SECONDS, Lane, Phase
from gatepost.ports import LaneRead, LeasedLane

ACCEPTED = Accepted(Response(200, (), b""))
OVERLOADED = Refused(Response(503, (), b""))


def make_lane(*, unclean: int = 0, window: int = 4, boot: float = 0.0, **webhook: object) -> Lane:
    hook = make_webhook(**webhook)
    leased = LeasedLane(hook.id, token=7, pokes=0, unclean=unclean, window=window)
    return Lane(leased, hook, usable_until=boot + 24, boot=boot, now=NOW)


def read(lane: Lane, *deliveries: object, capacity: int = 50, token: int = 7, pokes: int = 1) -> None:
    lane.begin_read(capacity)
    lane.end_read(LaneRead(token, pokes, deliveries, None), boot=0.0, look_from=None)


def test_a_new_lane_looks_before_anything_else() -> None:
    lane = make_lane()

    assert lane.wants_read(0.0)
    assert not lane.may_start(0.0)


def test_what_was_read_is_started_in_order_up_to_the_window() -> None:
    lane = make_lane(window=2)
    first, second, third = (make_queued() for _ in range(3))
    read(lane, first, second, third)

    started = []
    while lane.may_start(0.0):
        started.append(lane.start(0.0))

    assert started == [first, second]


def test_a_known_delivery_is_taken_once_whichever_way_it_comes_again() -> None:
    lane = make_lane()
    delivery = make_queued()
    read(lane, delivery)

    read(lane, delivery)
    lane.offer(delivery)

    assert list(lane.buffer) == [delivery]


def test_an_id_recorded_during_a_read_is_not_taken_from_that_read() -> None:
    lane = make_lane()
    delivery = make_queued()
    read(lane, delivery)
    lane.start(0.0)
    lane.begin_read(50)
    lane.adapt_window(ACCEPTED)

    lane.recorded([delivery.id], boot=0.0)
    saw_it_before = LaneRead(7, 1, [delivery], None)
    lane.end_read(saw_it_before, boot=0.0, look_from=None)

    assert not lane.buffer
    assert not lane.known


def test_a_read_asks_for_room_and_for_what_it_will_skip() -> None:
    lane = make_lane(window=2)
    deliveries = [make_queued() for _ in range(3)]
    read(lane, *deliveries, capacity=50)
    lane.start(0.0)

    limit, *_ = lane.begin_read(50)

    assert limit == (50 - 2) + 3


def test_a_full_read_is_followed_by_another_a_short_one_is_not() -> None:
    full, short = make_lane(window=1), make_lane(window=1)
    limit, *_ = full.begin_read(2)
    full.end_read(LaneRead(7, 1, [make_queued() for _ in range(limit)], None), boot=0.0, look_from=None)

    read(short, make_queued(), capacity=2)

    assert full.look_again
    assert not short.look_again


def test_a_reason_to_look_that_came_during_a_read_is_kept() -> None:
    lane = make_lane(window=1)
    lane.begin_read(50)
    for _ in range(3):
        lane.offer(make_queued())  # the third is past twice the window

    lane.end_read(LaneRead(7, 1, [], None), boot=0.0, look_from=None)

    assert lane.look_again


def test_past_twice_the_window_an_offer_is_only_a_reason_to_read() -> None:
    lane = make_lane(window=2)
    read(lane)

    taken = [lane.offer(make_queued()) for _ in range(6)]

    assert all(taken)
    assert len(lane.buffer) == 4
    assert lane.look_again


@pytest.mark.parametrize("phase", [Phase.LEAVING, Phase.HANDING_BACK, Phase.RELEASING, Phase.LOST])
def test_a_lane_that_is_on_its_way_out_refuses_offers(phase: Phase) -> None:
    lane = make_lane()
    read(lane)
    lane.phase = phase

    assert not lane.offer(make_queued())


def test_a_read_under_another_token_means_the_lane_is_lost() -> None:
    lane = make_lane()

    read(lane, make_queued(), token=8)

    assert lane.phase is Phase.LOST
    assert not lane.may_start(0.0)


def test_a_failed_read_leaves_a_reason_to_read() -> None:
    lane = make_lane()
    lane.begin_read(50)

    lane.end_read(None, boot=0.0, look_from=None)

    assert lane.wants_read(0.0)


def test_the_window_grows_by_one_halves_under_load_and_stays_within_its_limits() -> None:
    lane = make_lane(window=8, max_concurrency=10)
    windows = []
    for outcome in (ACCEPTED, ACCEPTED, ACCEPTED, OVERLOADED, OVERLOADED, OVERLOADED, OVERLOADED):
        lane.in_flight += 1
        lane.adapt_window(outcome)
        windows.append(lane.window)

    assert windows == [9, 10, 10, 5, 2, 1, 1]


def test_a_failure_that_is_no_sign_of_overload_leaves_the_window_alone() -> None:
    lane = make_lane(window=8)
    lane.in_flight = 1

    lane.adapt_window(Refused(Response(404, (), b"")))

    assert lane.window == 8


def test_after_an_owner_died_deliveries_go_one_at_a_time_until_one_is_recorded() -> None:
    lane = make_lane(unclean=1, window=8)
    read(lane, make_queued(), make_queued())
    delivery = lane.start(0.0)

    assert not lane.may_start(0.0)
    assert not lane.must_presume(delivery)


def test_from_the_third_owner_that_died_an_attempt_is_presumed_failed_first() -> None:
    lane = make_lane(unclean=3)
    delivery = make_queued()

    assert lane.must_presume(delivery)
    lane.presume(delivery)
    assert not lane.must_presume(delivery)


def test_nothing_starts_once_the_lease_is_nearly_over() -> None:
    lane = make_lane()
    read(lane, make_queued())
    lane.confirmed = 24.0

    assert not lane.may_start(24.0)


def test_nothing_starts_on_configuration_that_is_too_old_or_known_to_be_edited() -> None:
    lane = make_lane()
    read(lane, make_queued())

    assert not lane.may_start(CONFIRMED_FOR_SECONDS + 0.1)
    lane.note_edit()
    assert not lane.may_start(0.0)


def test_a_rate_limit_spaces_starts_evenly() -> None:
    lane = make_lane(rate_limit_per_second=10)
    read(lane, make_queued(), make_queued())
    lane.start(1.0)

    assert not lane.may_start(1.05)
    assert lane.next_moment(1.05) == pytest.approx(1.1)
    assert lane.may_start(1.1)


def test_an_empty_lane_lingers_and_may_then_be_released() -> None:
    lane = make_lane()
    read(lane)

    assert not lane.may_release(0.0)
    assert lane.next_moment(0.0) == LINGER_SECONDS
    assert lane.may_release(LINGER_SECONDS)


def test_a_lane_that_holds_an_unrecorded_delivery_is_not_released() -> None:
    lane = make_lane()
    read(lane, make_queued())
    lane.start(0.0)
    lane.adapt_window(ACCEPTED)

    assert not lane.may_release(LINGER_SECONDS)


def test_after_an_offer_a_lane_reads_once_more_before_it_is_released() -> None:
    lane = make_lane()
    read(lane)
    delivery = make_queued()
    lane.offer(delivery)
    lane.start(0.0)
    lane.adapt_window(ACCEPTED)
    lane.recorded([delivery.id], boot=0.0)

    assert not lane.may_release(LINGER_SECONDS)  # its poke counter is older than the offer's poke
    lane.notice(LINGER_SECONDS)
    assert lane.wants_read(0.0)
    read(lane, pokes=2)
    assert lane.may_release(LINGER_SECONDS)


def test_a_refused_release_means_reading_again() -> None:
    lane = make_lane()
    read(lane, pokes=5)

    release = lane.begin_release()
    assert (release.token, release.pokes) == (7, 5)
    lane.release_refused(release)

    assert lane.phase is Phase.ACTIVE
    assert lane.wants_read(0.0)


def test_a_leaving_lane_drops_what_it_did_not_start_and_goes_when_the_rest_is_recorded() -> None:
    lane = make_lane()
    sent, kept = make_queued(), make_queued()
    read(lane, sent, kept)
    lane.start(0.0)

    lane.leave()

    assert lane.known == {sent.id}
    assert not lane.wants_read(0.0)
    lane.adapt_window(ACCEPTED)
    lane.recorded([sent.id], boot=0.0)
    assert lane.wants_read(0.0)  # for the poke counter
    read(lane, kept, pokes=9)
    assert not lane.buffer
    assert lane.may_release(0.0)


def test_a_refused_release_of_a_leaving_lane_does_not_bring_it_back_to_work() -> None:
    lane = make_lane()
    lane.leave()
    read(lane)

    lane.release_refused(lane.begin_release())

    assert lane.phase is Phase.LEAVING


def test_a_delivery_that_was_dropped_unsent_is_the_first_to_go_next() -> None:
    lane = make_lane()
    first, second = make_queued(), make_queued()
    read(lane, first, second)

    lane.put_back(lane.start(0.0))

    assert list(lane.buffer) == [first, second]
    assert lane.in_flight == 0


def test_a_retry_that_falls_due_is_a_reason_to_read() -> None:
    lane = make_lane()
    read(lane)
    lane.look_not_later_than(1.5)

    lane.notice(1.4)
    assert not lane.wants_read(0.0)
    lane.notice(1.5)
    assert lane.wants_read(0.0)


def test_both_secrets_sign_until_the_grace_ends() -> None:
    new, old = make_secret(b"n" * 32), make_secret(b"o" * 32)
    ends = NOW + timedelta(hours=1)
    lane = make_lane(secrets=(Secret(new), Secret(old, expires_at=ends)))

    assert len(lane.keys.at(NOW)) == 2
    assert [key.decoded for key in lane.keys.at(ends)] == [b"n" * 32]


def test_a_poke_that_a_read_has_seen_is_not_expected_once_more_by_its_offer() -> None:
    lane = make_lane()
    delivery = make_queued()
    read(lane, delivery, pokes=5)  # it overtook the offer of the same delivery
    lane.offer(delivery)

    lane.compare_pokes(6)  # so this poke is somebody else's

    assert lane.look_again


def test_an_attempt_written_ahead_and_then_dropped_unsent_is_made_even_by_a_leaving_lane() -> None:
    lane = make_lane(unclean=3)
    presumed, other = make_queued(), make_queued()
    read(lane, presumed, other)
    lane.presume(lane.start(0.0))
    lane.put_back(presumed)  # its lease had no time left

    lane.leave()

    assert list(lane.buffer) == [presumed]
    assert lane.may_start(0.0)
    assert lane.start(0.0) is presumed
    lane.put_back(presumed)
    assert lane.may_start(0.0)
    lane.lose()
    assert not lane.buffer
