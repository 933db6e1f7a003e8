"""The addresses of this machine, which a listener on 0.0.0.0 or :: answers at."""

import re
import socket
from ipaddress import IPv6Address
from pathlib import Path

_LOCAL_IPV4 = re.compile(r"\|-- (\d+\.\d+\.\d+\.\d+)\n +/32 host LOCAL")


def local_addresses() -> frozenset[str]:
    """Return every address of every interface, as far as the system tells.

    Source: Linux's own tables; elsewhere what the host's name resolves to.
    """
    try:
        return _from_linux(Path("/proc/net/fib_trie").read_text(), _read_if_any(Path("/proc/net/if_inet6")))
    except OSError:
        return _from_host_name()


def _from_linux(fib_trie: str, if_inet6: str) -> frozenset[str]:
    ipv6 = (str(IPv6Address(int(line.split()[0], 16))) for line in if_inet6.splitlines())
    return frozenset([*_LOCAL_IPV4.findall(fib_trie), *ipv6])


def _from_host_name() -> frozenset[str]:
    try:
        found = socket.getaddrinfo(socket.gethostname(), None)
    except OSError:
        return frozenset()
    return frozenset(str(sockaddr[0]).split("%")[0] for *_, sockaddr in found)


def _read_if_any(path: Path) -> str:
    return path.read_text() if path.exists() else ""
