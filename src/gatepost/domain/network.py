"""Where a webhook may point: one strict parser for its URL, one explicit table for its address.

The standard library's notions (`is_global`, `getaddrinfo`, `urlsplit`) differ between versions and let loopback
through in a dozen spellings; nothing here rests on them.
"""

import re
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from gatepost.domain.errors import FieldError, InvalidInput, TargetNotAllowed, invalid

IpAddress = IPv4Address | IPv6Address
IpNetwork = IPv4Network | IPv6Network

URL_LIMIT_CHARACTERS = 2048
DEFAULT_PORTS = {"http": 80, "https": 443}


# --- the URL -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Target:
    """A webhook's URL, taken apart once; only the parts are used from then on.

    Shape: `url` is put together again from the parts; `host` is a lower-case name or a canonical address without
           brackets, and then `literal` is that address; `path` includes the query.
    """

    url: str
    scheme: str
    host: str
    port: int
    path: str
    literal: IpAddress | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        literal = _canonical_ipv4(self.host) or (IPv6Address(self.host) if ":" in self.host else None)
        object.__setattr__(self, "literal", literal)

    @property
    def origin(self) -> tuple[str, str, int]:
        return (self.scheme, self.host, self.port)


def parse_target(url: str, *, https_only: bool = False) -> Target:
    """Return the parts of a webhook's URL.

    >>> parse_target("HTTPS://Hooks.Example.com:443/in?x=1").url
    'https://hooks.example.com/in?x=1'
    >>> parse_target("http://[2606:4700::1111]:8080").origin
    ('http', '2606:4700::1111', 8080)

    Raises: InvalidInput for `targetUrl`. Source: RFC 3986, narrowed: no credentials, no fragment, ASCII only.
    """
    scheme, authority, path = _split(url)
    if https_only and scheme != "https":
        raise _refused("use https: this installation sends to no other scheme")
    host_text, port_text = _split_authority(authority)
    host = _parse_host(host_text)
    port = DEFAULT_PORTS[scheme] if port_text is None else _parse_port(port_text)
    shown_host = f"[{host}]" if ":" in host else host
    shown_port = "" if port == DEFAULT_PORTS[scheme] else f":{port}"
    return Target(f"{scheme}://{shown_host}{shown_port}{path}", scheme, host, port, path)


_ALLOWED_CHARACTERS = re.compile(r"[A-Za-z0-9\-._~:/?\[\]@!$&'()*+,;=%]*")
_SCHEME = re.compile(r"(https?)://", re.IGNORECASE)
_PATH = re.compile(r"(?:[A-Za-z0-9\-._~:/?@!$&'()*+,;=]|%[0-9A-Fa-f]{2})*")
_AUTHORITY = re.compile(r"(?P<host>\[[^\[\]]*\]|[^\[\]:]*)(?P<port>:.*)?")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_IPV4 = re.compile(r"(?:0|[1-9][0-9]{0,2})(?:\.(?:0|[1-9][0-9]{0,2})){3}")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


def _split(url: str) -> tuple[str, str, str]:
    if len(url) > URL_LIMIT_CHARACTERS:
        raise _refused(f"shorten the URL to {URL_LIMIT_CHARACTERS} characters")
    if "#" in url:
        raise _refused("remove the fragment: it is never sent to a server")
    if not _ALLOWED_CHARACTERS.fullmatch(url):
        raise _refused("use only the ASCII characters of a URL, and percent-encode all others")
    scheme = _SCHEME.match(url)
    if not scheme:
        raise _refused("begin with http:// or https://")
    rest = url[scheme.end() :]
    authority = re.split(r"[/?]", rest, maxsplit=1)[0]
    path = rest[len(authority) :]
    if not _PATH.fullmatch(path):
        raise _refused("percent-encode every special character of the path and the query")
    return scheme[1].lower(), authority, path if path.startswith("/") else f"/{path}"


def _split_authority(authority: str) -> tuple[str, str | None]:
    if "@" in authority:
        raise _refused("remove the user name and password: use a header instead")
    parts = _AUTHORITY.fullmatch(authority)
    if not parts or not parts["host"]:
        raise _refused("name a host")
    return parts["host"].lower(), parts["port"][1:] if parts["port"] else None


def _parse_host(text: str) -> str:
    if text.startswith("["):
        return _parse_ipv6(text[1:-1])
    labels = text.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        if not _canonical_ipv4(text):
            raise _refused("write an IPv4 address as four decimal numbers without leading zeros")
        return text
    if len(text) > 253 or not all(map(_LABEL.fullmatch, labels)):
        raise _refused("use a host name of ASCII letters, digits, hyphens and dots, without a dot at the end")
    if not re.search("[a-z]", labels[-1]):
        raise _refused("use a host name whose last part has a letter")
    return text


def _parse_ipv6(text: str) -> str:
    if "%" in text:
        raise _refused("remove the zone from the IPv6 address")
    try:
        return str(IPv6Address(text))
    except ValueError:
        raise _refused("write a valid IPv6 address between the brackets") from None


def _canonical_ipv4(text: str) -> IPv4Address | None:
    if not _IPV4.fullmatch(text):
        return None
    try:
        return IPv4Address(text)
    except ValueError:  # a number above 255
        return None


def _parse_port(text: str) -> int:
    if not _PORT.fullmatch(text) or int(text) > 65535:
        raise _refused("use a port from 1 to 65535")
    return int(text)


def _refused(msg: str) -> InvalidInput:
    return invalid("targetUrl", msg)


# --- the address ---------------------------------------------------------------------------------------------

Table = tuple[tuple[IpNetwork, str], ...]


def _table(rows: dict[str, str]) -> Table:
    return tuple((ip_network(block), reason) for block, reason in rows.items())


# Refused whatever the operator allows. Cloud providers answer with credentials at some of these.
_NEVER = _table(
    {
        "168.63.129.16/32": "cloud metadata",  # Azure
        "100.100.100.200/32": "cloud metadata",  # Alibaba
        "192.0.0.192/32": "cloud metadata",  # Oracle
        "169.254.0.0/16": "link-local or cloud metadata",  # AWS, Google, Azure, OpenStack …: .169.254, .170.2, .170.23
        "fd00:ec2::/32": "cloud metadata",  # AWS: ::254, ::23
        "fd20:ce::254/128": "cloud metadata",  # Google
        "fd00:42::42/128": "cloud metadata",  # Scaleway
        "fe80::/10": "link-local",
        "0.0.0.0/8": "this host",  # connects to loopback on Linux, past the check of own listeners
        "224.0.0.0/4": "multicast",
        "240.0.0.0/4": "reserved",  # with 255.255.255.255
        "::/128": "unspecified",
        "ff00::/8": "multicast",
        "::ffff:0:0:0/96": "IPv4 inside IPv6",  # translated, RFC 2765
        "64:ff9b:1::/48": "IPv4 inside IPv6",  # local NAT64, RFC 8215: where the IPv4 stands depends on the network
        "2001::/32": "IPv4 inside IPv6",  # Teredo
        "2002::/16": "IPv4 inside IPv6",  # 6to4
    }
)

# Refused unless the operator allows the network. Source: the IANA special-purpose address registries.
_SPECIAL = _table(
    {
        "10.0.0.0/8": "private",
        "100.64.0.0/10": "shared address space",
        "127.0.0.0/8": "loopback",
        "172.16.0.0/12": "private",
        "192.0.0.0/24": "reserved",
        "192.0.2.0/24": "documentation",
        "192.31.196.0/24": "reserved",  # AS112
        "192.52.193.0/24": "reserved",  # AMT
        "192.88.99.0/24": "reserved",  # 6to4 relay
        "192.168.0.0/16": "private",
        "192.175.48.0/24": "reserved",  # AS112
        "198.18.0.0/15": "benchmarking",
        "198.51.100.0/24": "documentation",
        "203.0.113.0/24": "documentation",
        "::1/128": "loopback",
        "fc00::/7": "private",
        "2001::/23": "reserved",
        "2001:db8::/32": "documentation",
        "2620:4f:8000::/48": "reserved",  # AS112
        "3fff::/20": "documentation",
    }
)

_GLOBAL_UNICAST = IPv6Network("2000::/3")  # the only part of IPv6 that public hosts have addresses in
_MAPPED = IPv6Network("::ffff:0:0/96")
_COMPATIBLE = IPv6Network("::/96")  # but for :: and ::1
_NAT64 = IPv6Network("64:ff9b::/96")
_LOOPBACK = _table({"127.0.0.0/8": "", "::1/128": ""})


@dataclass(frozen=True, slots=True)
class TargetPolicy:
    """Which addresses may be called: public ones, and what the operator allows besides.

    Shape: `own_listeners` are (address, port); a listener on 0.0.0.0 or :: stands for loopback and for every
           address that the other listeners name.
    """

    allowed_networks: tuple[IpNetwork, ...] = ()
    own_listeners: frozenset[tuple[str, int]] = frozenset()
    _listeners: frozenset[tuple[IpAddress, int]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        listeners = frozenset((_plain(ip_address(host)), port) for host, port in self.own_listeners)
        object.__setattr__(self, "_listeners", listeners)

    def refusal(self, address: IpAddress, port: int) -> str | None:
        """Return why an address must not be called, in a word or two; None when it may be."""
        address = _plain(address)
        if reason := self._own_listener(address, port) or _listed(address, _NEVER):
            return reason
        if isinstance(address, IPv6Address) and address in _COMPATIBLE and int(address) > 1:
            return "IPv4 inside IPv6"
        if any(address in network for network in self.allowed_networks):
            return None
        if reason := _listed(address, _SPECIAL):
            return reason
        return "reserved" if isinstance(address, IPv6Address) and address not in _GLOBAL_UNICAST else None

    def _own_listener(self, address: IpAddress, port: int) -> str | None:
        if (address, port) in self._listeners:
            return "own listener"
        ports_everywhere = {listening for host, listening in self._listeners if host.is_unspecified}
        local = _listed(address, _LOOPBACK) is not None or any(address == host for host, _ in self._listeners)
        return "own listener" if local and port in ports_everywhere else None


def parse_networks(text: str) -> tuple[IpNetwork, ...]:
    """Return comma-separated networks.

    >>> parse_networks("10.0.0.0/8, ::1")
    (IPv4Network('10.0.0.0/8'), IPv6Network('::1/128'))

    Raises: ValueError with the fix; `127.0.0.1/0` is every address there is, and nobody means that.
    """
    return tuple(_parse_network(part.strip()) for part in text.split(",") if part.strip())


def check_target(target: Target, policy: TargetPolicy) -> None:
    """Refuse a target of which its spelling tells that it must not be called; names are judged when they are resolved.

    Raises: TargetNotAllowed.
    Source: RFC 6761, section 6.3: `localhost` and all names below it are this machine.
    """
    is_localhost = target.host == "localhost" or target.host.endswith(".localhost")
    address = IPv4Address("127.0.0.1") if is_localhost else target.literal
    if address is not None and (reason := policy.refusal(address, target.port)):
        msg = f"use a public address: this one is not allowed ({reason})"
        raise TargetNotAllowed(FieldError(("targetUrl",), msg, TargetNotAllowed.code))


def _listed(address: IpAddress, table: Table) -> str | None:
    return next((reason for network, reason in table if address in network), None)


def _plain(address: IpAddress) -> IpAddress:
    """Return the address that packets would go to: an IPv4 one for mapped and NAT64, and no zone id."""
    if isinstance(address, IPv4Address):
        return address
    number = int(address)
    bare = IPv6Address(number)
    return IPv4Address(number & 0xFFFF_FFFF) if bare in _MAPPED or bare in _NAT64 else bare


def _parse_network(text: str) -> IpNetwork:
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text!r} is not a network: write it as 10.0.0.0/8 or fd00::/8") from None
    try:
        network = ip_network(text, strict=True)
    except ValueError:
        address = text.partition("/")[0]
        whole = f"{address}/{network.max_prefixlen}"
        raise ValueError(f"{text!r} names an address inside {network}: write {whole} or {network}") from None
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        return IPv4Network((int(network.network_address) & 0xFFFF_FFFF, network.prefixlen - 96))
    return network
