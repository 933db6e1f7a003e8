"""Handing deliveries over to the engine of this process, without handing over what it has sent already.

On SQLite the commit's own callback hands over, before any later commit can be reported (ADR 0007). A server lets others
see what is written before whoever wrote it hears so: our own engine may read a delivery, send it, record and forget it
meanwhile. Handed over then, it would be sent again. So an emission notes what overtakes it.
"""

from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager

from gatepost.domain.deliveries import QueuedDelivery


class HandOver:
    """The emissions under way in this process.

    Shape: `on_queued` is called with deliveries just committed, and returns the webhooks whose lanes took none.
    """

    def __init__(self) -> None:
        self.on_queued: Callable[[Sequence[QueuedDelivery]], set[str]] = _take_none
        self._emissions: list[_Emission] = []

    @contextmanager
    def emission(self, deliveries: Sequence[QueuedDelivery]) -> Iterator[Callable[[], set[str]]]:
        """Give what hands these deliveries over, but for those overtaken since, and returns as `on_queued` does.

        Shape: entered before anything is written, since others may pass on what is written before we hear of it.
        """
        emission = _Emission(deliveries)
        self._emissions.append(emission)
        try:
            yield lambda: emission.hand_over(self.on_queued)
        finally:
            self._emissions = [each for each in self._emissions if each is not emission]

    def recorded(self, delivery_ids: Set[str]) -> None:
        """Note outcomes that are about to be recorded: until they are, the lane knows the deliveries anyway."""
        for emission in self._emissions:
            for delivery_id in emission.waiting.keys() & delivery_ids:
                del emission.waiting[delivery_id]

    def leased(self, webhook_ids: Set[str]) -> None:
        """Note lanes that are ours from now on: another process may have served them a moment ago."""
        for emission in self._emissions:
            for delivery in [each for each in emission.waiting.values() if each.webhook_id in webhook_ids]:
                del emission.waiting[delivery.id]
                emission.left.add(delivery.webhook_id)  # to be found by a read


class _Emission:
    def __init__(self, deliveries: Sequence[QueuedDelivery]) -> None:
        self.waiting = {delivery.id: delivery for delivery in deliveries}
        self.left: set[str] = set()

    def hand_over(self, on_queued: Callable[[Sequence[QueuedDelivery]], set[str]]) -> set[str]:
        return self.left | (on_queued(list(self.waiting.values())) if self.waiting else set())


def _take_none(queued: Sequence[QueuedDelivery]) -> set[str]:
    return {delivery.webhook_id for delivery in queued}
