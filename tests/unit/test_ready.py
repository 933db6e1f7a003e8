"""Whose turn it is among the lanes that have something to start."""

from tests.unit.test_lane import make_lane

from gatepost.domain.health import WELL, Condition
from gatepost.engine.lane import Lane
from gatepost.engine.ready import ReadyLanes

FAILING = Condition(streak=1)


def lanes(*conditions: Condition) -> list[Lane]:
    made = [make_lane() for _ in conditions]
    for lane, condition in zip(made, conditions, strict=True):
        lane.condition = condition
    return made


def queue_of(*waiting: Lane) -> ReadyLanes:
    ready = ReadyLanes()
    for lane in waiting:
        ready.add(lane)
    return ready


def take_all(ready: ReadyLanes, *, failing_too: bool = True, room: int = 99) -> list[Lane]:
    taken = []
    while lane := ready.first(room=room, room_for_failing=99 if failing_too else 0):
        ready.discard(lane)
        taken.append(lane)
    return taken


def test_the_lane_that_has_waited_longest_is_the_first_failing_or_not() -> None:
    waiting = lanes(WELL, FAILING, FAILING, WELL, FAILING)

    assert take_all(queue_of(*waiting), failing_too=True) == waiting


def test_while_failing_lanes_have_no_room_the_others_pass_them_by_and_they_keep_their_turn() -> None:
    failing, well, other, late = lanes(FAILING, WELL, FAILING, WELL)
    ready = queue_of(failing, well, other)

    assert take_all(ready, failing_too=False) == [well]
    ready.add(late)
    assert take_all(ready, failing_too=True) == [failing, other, late]


def test_a_lane_stands_in_the_queue_once() -> None:
    first, second = lanes(WELL, WELL)
    ready = queue_of(first, second)

    ready.add(first)

    assert take_all(ready, failing_too=True) == [first, second]


def test_a_lane_that_is_well_again_does_not_wait_with_those_that_fail() -> None:
    [lane] = lanes(FAILING)
    ready = queue_of(lane)

    lane.condition = WELL
    ready.add(lane)

    assert take_all(ready, failing_too=False) == [lane]
    assert lane not in ready


def test_a_lane_that_begins_to_fail_stands_with_those_that_do_and_nowhere_else() -> None:
    [lane] = lanes(WELL)
    ready = queue_of(lane)

    lane.condition = FAILING
    ready.add(lane)

    assert ready.first(room=99, room_for_failing=0) is None
    assert take_all(ready, failing_too=True) == [lane]


def test_a_lane_that_left_is_nobodys_turn() -> None:
    lost, waiting = lanes(FAILING, FAILING)
    ready = queue_of(lost, waiting)

    ready.discard(lost)

    assert lost not in ready
    assert take_all(ready, failing_too=True) == [waiting]


def test_a_lane_starts_no_more_than_there_is_room_left_for() -> None:
    greedy, modest, new = lanes(WELL, FAILING, WELL)
    greedy.in_flight, modest.in_flight = 5, 2
    ready = queue_of(greedy, modest, new)

    assert take_all(ready, room=0) == []
    assert take_all(ready, room=2) == [new]
    assert take_all(ready, room=5) == [modest]
    assert take_all(ready, room=6) == [greedy]
