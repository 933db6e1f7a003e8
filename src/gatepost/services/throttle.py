"""How often somebody may guess a password."""

import math
from collections import OrderedDict, deque
from ipaddress import IPv6Address, ip_address

from gatepost.domain.errors import RateLimited
from gatepost.ports import Clock

WINDOW_SECONDS = 15 * 60
MOST_OF_ACCOUNT_AND_ADDRESS = 5
MOST_OF_ADDRESS = 50
MOST_OF_ACCOUNT = 100  # from all addresses together; so many that strangers cannot easily lock the right one out
MOST_COUNTED = 10_000  # of each kind; the longest untouched is forgotten first


class Throttle:
    """Counts guesses of passwords that were wrong, per account, per address, and per both."""

    def __init__(self, clock: Clock) -> None:
        self._pairs = _Window(clock, MOST_OF_ACCOUNT_AND_ADDRESS)
        self._addresses = _Window(clock, MOST_OF_ADDRESS)
        self._accounts = _Window(clock, MOST_OF_ACCOUNT)

    def take(self, account: str, address: str) -> None:
        """Count a guess before it is judged, so that many at once are no more than so many in turn.

        Raises: RateLimited.
        """
        counted = self._counted(account, address)
        wait = max(window.wait_seconds(name) for window, name in counted)
        if wait > 0:
            raise RateLimited(
                "too many wrong passwords; wait before the next attempt", retry_after_seconds=math.ceil(wait)
            )
        for window, name in counted:
            window.add(name)

    def give_back(self, account: str, address: str) -> None:
        """Count a guess no more, because it was not judged."""
        for window, name in self._counted(account, address):
            window.drop_newest(name)

    def clear(self, account: str, address: str) -> None:
        """Forgive an account's earlier guesses from an address, because this one was right."""
        self.give_back(account, address)
        self._pairs.clear(_pair(account, address))

    def _counted(self, account: str, address: str) -> "tuple[tuple[_Window, str], ...]":
        place = _place(address)
        return (self._pairs, _pair(account, address)), (self._addresses, place), (self._accounts, account)


class _Window:
    """Moments of the last quarter of an hour, by name."""

    def __init__(self, clock: Clock, most: int) -> None:
        self._clock = clock
        self._most = most
        self._moments: OrderedDict[str, deque[float]] = OrderedDict()

    def wait_seconds(self, name: str) -> float:
        """Return how long there is no room for one more; 0 when there is."""
        moments = self._moments.get(name)
        if moments is None or len(moments) < self._most:
            return 0.0
        return max(0.0, moments[0] + WINDOW_SECONDS - self._clock.boot())

    def add(self, name: str) -> None:
        self._moments.setdefault(name, deque(maxlen=self._most)).append(self._clock.boot())
        self._moments.move_to_end(name)
        if len(self._moments) > MOST_COUNTED:
            self._moments.popitem(last=False)

    def drop_newest(self, name: str) -> None:
        if moments := self._moments.get(name):
            moments.pop()

    def clear(self, name: str) -> None:
        self._moments.pop(name, None)


def _pair(account: str, address: str) -> str:
    return f"{_place(address)} {account}"


def _place(address: str) -> str:
    """Return what one party is likely to have to itself: an IPv4 address, or the first half of an IPv6 one."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    return str(IPv6Address(int(parsed) >> 64 << 64)) if isinstance(parsed, IPv6Address) else address
