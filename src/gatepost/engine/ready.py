"""Whose turn it is: the lanes that have something to start, round robin, those that are failing apart.

Apart, since failing ones may have to wait for room that is theirs; in no other way do they come later than others.
"""

from collections import OrderedDict
from itertools import count

from gatepost.engine.lane import Lane


class ReadyLanes:
    """A queue of lanes, each in it once."""

    def __init__(self) -> None:
        self._turns = count()
        self._well: OrderedDict[Lane, int] = OrderedDict()
        self._failing: OrderedDict[Lane, int] = OrderedDict()

    def __contains__(self, lane: Lane) -> bool:
        return lane in self._well or lane in self._failing

    def add(self, lane: Lane) -> None:
        """Put a lane at the end, unless it stands where it belongs: it may have begun to fail, or be well again."""
        queue, other = (self._failing, self._well) if lane.is_failing else (self._well, self._failing)
        other.pop(lane, None)
        if lane not in queue:
            queue[lane] = next(self._turns)

    def discard(self, lane: Lane) -> None:
        self._well.pop(lane, None)
        self._failing.pop(lane, None)

    def first(self, *, room: int, room_for_failing: int) -> Lane | None:
        """Return the lane that has waited longest, of those that have less in flight than there is room left.

        So the more there is in flight, the less each lane may add, and one that comes anew always finds some room:
        receivers that are slow, and well all the same, would take all of it otherwise.
        """
        waiting = (_first(self._well, room), _first(self._failing, min(room, room_for_failing)))
        found = [each for each in waiting if each is not None]
        return min(found, key=lambda item: item[1])[0] if found else None


def _first(queue: OrderedDict[Lane, int], room: int) -> tuple[Lane, int] | None:
    """Those that are passed over go to the end: they have enough."""
    for _ in range(len(queue) if room > 0 else 0):
        lane, turn = next(iter(queue.items()))
        if lane.in_flight < room:
            return lane, turn
        queue.move_to_end(lane)
    return None
