"""How a lane looks through a long queue in order: bit by bit, since of what is due most may be waiting."""

from gatepost.ports import Position

LOOK_AT = 250  # deliveries at once
PAUSE_WITHIN_ROUND_SECONDS = 0.02  # some five times as long as one look takes


class Round:
    """A walk through the queue from its head to its end; each read covers a bit of it.

    Shape: `looked_to` is up to where the round has come, None before it begins; `goes_on` when more is to be looked at.
    """

    def __init__(self) -> None:
        self.looked_to: Position | None = None
        self.goes_on = False
        self._once_more = False

    def begin_read(self, *, something_happened: bool) -> None:
        """Begin to look; what happened since the round began may be behind it, so there is to be one more."""
        self._once_more = self.looked_to is not None and (something_happened or self._once_more)
        self.goes_on = False

    def end_read(self, looked_to: Position | None) -> None:
        self.goes_on = looked_to is not None or self._once_more
        self._once_more = self._once_more and looked_to is not None
        self.looked_to = looked_to
