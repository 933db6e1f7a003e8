"""Start slots: how many requests may be in their first moments at once, over all lanes.

A request holds a slot for its first 250 ms only. A thousand receivers that hang therefore cannot keep a healthy
one from starting: after a quarter of a second they count against their own lanes and the total alone.
"""

from collections import deque

START_SLOTS = 512
HELD_FOR_SECONDS = 0.25


class Slot:
    """One slot, held by one request."""

    __slots__ = ("ends", "held")

    def __init__(self, ends: float) -> None:
        self.ends = ends
        self.held = True


class StartSlots:
    """Hands slots out; moments are seconds of `Clock.boot`."""

    def __init__(self, count: int = START_SLOTS) -> None:
        self.free = count
        self._taken: deque[Slot] = deque()  # in the order in which they end

    def take(self, boot: float) -> Slot | None:
        """Return a slot, or None when all are held."""
        self._reclaim(boot)
        if self.free == 0:
            return None
        self.free -= 1
        slot = Slot(boot + HELD_FOR_SECONDS)
        self._taken.append(slot)
        return slot

    def give_back(self, slot: Slot) -> None:
        if slot.held:
            slot.held = False
            self.free += 1

    def next_free(self) -> float | None:
        """Return when the slot held longest ends; None when none is held."""
        return self._taken[0].ends if self._taken else None

    def _reclaim(self, boot: float) -> None:
        while self._taken and (not self._taken[0].held or self._taken[0].ends <= boot):
            self.give_back(self._taken.popleft())
