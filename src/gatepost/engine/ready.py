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

    def first(self, *, failing_too: bool) -> Lane | None:
        """Return the lane that has waited longest."""
        queues = [queue for queue in (self._well, self._failing) if queue and (failing_too or queue is self._well)]
        if not queues:
            return None
        lane, _ = min((next(iter(queue.items())) for queue in queues), key=lambda item: item[1])
        return lane
