"""Handing deliveries over to the engine of this process, without handing over what it has sent already.

On SQLite the commit's own callback hands over, before any later commit can be reported (ADR 0007). Here a delivery is
in the store from the moment it is inserted: the engine may read, send, record and forget it while the relay that
inserted it still waits for an answer. Handed over then, it would be sent again. So an emission notes what overtakes it.
"""

from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager

from gatepost.domain.deliveries import QueuedDelivery


class HandOver:
    """The emissions under way in this process."""

    def __init__(self) -> None:
        self.on_queued: Callable[[Sequence[QueuedDelivery]], object] = _ignore
        self._emissions: list[dict[str, QueuedDelivery]] = []

    @contextmanager
    def emission(self, deliveries: Sequence[QueuedDelivery]) -> Iterator[Callable[[], None]]:
        """Give what hands these deliveries over, but for those overtaken since.

        Shape: entered before anything is written, since others may pass on what is written before we hear of it.
        """
        waiting = {delivery.id: delivery for delivery in deliveries}
        self._emissions.append(waiting)
        try:
            yield lambda: self._hand_over(waiting)
        finally:
            self._emissions = [each for each in self._emissions if each is not waiting]

    def recorded(self, delivery_ids: Set[str]) -> None:
        """Note outcomes that are about to be recorded: until they are, the lane knows the deliveries anyway."""
        for waiting in self._emissions:
            for delivery_id in waiting.keys() & delivery_ids:
                del waiting[delivery_id]

    def leased(self, webhook_ids: Set[str]) -> None:
        """Note lanes that are ours from now on: another process may have served them a moment ago, and reads find the
        rest."""
        for waiting in self._emissions:
            for delivery in [each for each in waiting.values() if each.webhook_id in webhook_ids]:
                del waiting[delivery.id]

    def _hand_over(self, waiting: dict[str, QueuedDelivery]) -> None:
        if waiting:
            self.on_queued(list(waiting.values()))


def _ignore(_: Sequence[QueuedDelivery]) -> None: ...
