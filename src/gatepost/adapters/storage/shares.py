"""What part of the lanes each owner may have: a rule of every store that several processes can use."""

from datetime import timedelta

PROVEN_AFTER = 1 / 4  # of a lease; owners are seen every third
FORGOTTEN_AFTER = timedelta(days=1)

_MILLISECOND = timedelta(milliseconds=1)


def proven_after_ms(lease: timedelta) -> int:
    """Return how long an owner must have stayed to count; each start of one that dies at once would count for a lease.

    >>> proven_after_ms(timedelta(seconds=30))
    7500
    """
    return lease * PROVEN_AFTER // _MILLISECOND


def room_in_share(*, due: int, leased: int, own: int, others: int) -> int:
    """Return how many more lanes an owner may have beside that many others, less than none if it has too many.

    One more than a fair share: without it a lane would go to and fro whenever the numbers are off by one.

    >>> room_in_share(due=3, leased=7, own=4, others=1)
    2
    >>> room_in_share(due=0, leased=10, own=10, others=1)
    -4
    """
    return -(-(due + leased) // (others + 1)) + 1 - own


def surplus(room: int | None) -> int:
    """Return how many lanes are to be handed back; None is room without end, for an owner that is alone."""
    return 0 if room is None else max(-room, 0)
