"""Which deliveries are on their way from a commit to the engine of the same process."""

from collections.abc import Iterable, Sequence

from gatepost.domain.deliveries import QueuedDelivery


class HandOvers:
    """Keeps a delivery from being handed over after its outcome was recorded.

    A server makes a commit visible before it says so. In between, our own engine may read a delivery, send it, record
    the outcome and forget it; handed over after that, it would be sent a second time.
    """

    def __init__(self) -> None:
        self._recorded: dict[str, bool] = {}

    def begin(self, queued: Iterable[QueuedDelivery]) -> None:
        """Before the commit."""
        for delivery in queued:
            self._recorded[delivery.id] = False

    def recorded(self, delivery_ids: Iterable[str]) -> None:
        """Before whoever recorded these outcomes goes on."""
        if self._recorded:
            for delivery_id in delivery_ids:
                if delivery_id in self._recorded:
                    self._recorded[delivery_id] = True

    def end(self, queued: Sequence[QueuedDelivery]) -> list[QueuedDelivery]:
        """After the commit; return those that are still to be handed over."""
        return [delivery for delivery in queued if not self._recorded.pop(delivery.id, False)]
