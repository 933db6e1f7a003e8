"""Who is at the other end, and by what name they call us: what proxies say counts only from those that are trusted."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import urlsplit

from fastapi import Request

from gatepost.domain.network import IpNetwork

IpAddress = IPv4Address | IPv6Address
Origin = tuple[str, str, int | None]

_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Peers:
    """What is known of proxies in front of us. Shape: `public_url` is an origin, such as ``https://hooks.example.com``."""

    trusted_proxies: Sequence[IpNetwork] = ()
    public_url: str | None = None

    def address(self, request: Request) -> IpAddress | None:
        """Return the client's address: the peer of the socket, or the right-most hop that is no trusted proxy's.

        Shape: an IPv4 address within an IPv6 one is that address; None when the socket has no address.
        """
        address = _address(request.client.host) if request.client else None
        for hop in _hops(request):
            if not self._is_trusted(address):
                break
            before = _address(hop)
            if before is None:  # nobody knows what is left of it
                break
            address = before
        return address

    def is_https(self, request: Request) -> bool:
        """Say whether the browser came by https."""
        return self._own_scheme(request) == "https"

    def is_own_origin(self, request: Request, origin: str) -> bool:
        """Say whether an `Origin` is the one that browsers reach us at."""
        own = self.public_url or f"{self._own_scheme(request)}://{request.headers.get('host', '')}"
        theirs = _parsed(origin)
        return theirs is not None and theirs == _parsed(own)

    def _own_scheme(self, request: Request) -> str:
        if self.public_url is not None:
            return urlsplit(self.public_url).scheme
        told = ",".join(request.headers.getlist("x-forwarded-proto")).rpartition(",")[2].strip().lower()
        peer = _address(request.client.host) if request.client else None
        return told if told in _DEFAULT_PORTS and self._is_trusted(peer) else str(request.scope["scheme"])

    def _is_trusted(self, address: IpAddress | None) -> bool:
        return address is not None and any(address in network for network in self.trusted_proxies)


def _hops(request: Request) -> Iterator[str]:
    """Give what proxies have written down, the nearest first; several headers are one list (RFC 9110, section 5.3)."""
    lists = request.headers.getlist("x-forwarded-for")
    return (hop.strip() for hop in reversed(",".join(lists).split(","))) if lists else iter(())


def _address(text: str) -> IpAddress | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _parsed(origin: str) -> Origin | None:
    """Return scheme, host and port, so that a default port may be left out; None when it is no origin."""
    try:
        parts = urlsplit(origin)
        port = parts.port
    except ValueError:
        return None
    rest = (parts.path, parts.query, parts.fragment, parts.username)
    if not parts.hostname or any(rest):
        return None
    return parts.scheme, parts.hostname, port or _DEFAULT_PORTS.get(parts.scheme)
