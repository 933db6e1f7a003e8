"""Who is at the other end, and by what name they call us."""

from ipaddress import ip_address, ip_network

import pytest
from fastapi import Request

from gatepost.api.peers import Peers

PROXIES = Peers(tuple(ip_network(text) for text in ("10.0.0.0/8", "fd00::/8", "127.0.0.1/32")))


def request(
    peer: str | None = "10.0.0.1", *headers: tuple[str, str], scheme: str = "http", host: str = "gatepost.test"
) -> Request:
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in (("Host", host), *headers)]
    client = (peer, 1234) if peer else None
    return Request({"type": "http", "scheme": scheme, "headers": raw, "client": client})


def forwarded(*lists: str) -> tuple[tuple[str, str], ...]:
    return tuple(("X-Forwarded-For", each) for each in lists)


@pytest.mark.parametrize(
    ("peer", "lists", "address"),
    [
        ("192.0.2.1", [], "192.0.2.1"),
        ("192.0.2.1", ["198.51.100.1"], "192.0.2.1"),  # anybody can write that
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["203.0.113.9, 198.51.100.1"], "198.51.100.1"),  # the left one is what the client claimed
        ("10.0.0.1", ["198.51.100.1, 10.1.1.1"], "198.51.100.1"),
        ("10.0.0.1", ["198.51.100.1", "10.1.1.1"], "198.51.100.1"),
        ("10.0.0.1", ["203.0.113.9", "198.51.100.1,10.1.1.1"], "198.51.100.1"),
        ("10.0.0.1", ["10.1.1.1, 10.2.2.2"], "10.1.1.1"),
        ("10.0.0.1", ["198.51.100.1, unknown, 10.1.1.1"], "10.1.1.1"),
        ("10.0.0.1", ["198.51.100.1, unknown"], "10.0.0.1"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1,"], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1:4711"], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.0/24"], "10.0.0.1"),
        ("::ffff:10.0.0.1", ["::ffff:198.51.100.1"], "198.51.100.1"),
        ("::ffff:192.0.2.1", ["198.51.100.1"], "192.0.2.1"),
        ("fd00::1", ["2001:db8::1, fd00::2"], "2001:db8::1"),
    ],
)
def test_the_client_is_the_right_most_hop_that_is_no_trusted_proxy(peer: str, lists: list[str], address: str) -> None:
    assert PROXIES.address(request(peer, *forwarded(*lists))) == ip_address(address)


def test_without_trusted_proxies_the_client_is_whoever_is_connected() -> None:
    assert Peers().address(request("10.0.0.1", *forwarded("198.51.100.1"))) == ip_address("10.0.0.1")


@pytest.mark.parametrize("peer", [None, "testclient"])
def test_a_peer_may_have_no_address(peer: str | None) -> None:
    assert PROXIES.address(request(peer, *forwarded("198.51.100.1"))) is None


@pytest.mark.parametrize(
    ("peers", "peer", "told", "is_https"),
    [
        (Peers(), "10.0.0.1", "https", False),
        (PROXIES, "192.0.2.1", "https", False),
        (PROXIES, None, "https", False),
        (PROXIES, "10.0.0.1", "https", True),
        (PROXIES, "10.0.0.1", "http, HTTPS", True),
        (PROXIES, "10.0.0.1", "https, http", False),
        (PROXIES, "10.0.0.1", "gopher", False),
        (Peers(public_url="https://hooks.example.com"), "192.0.2.1", "http", True),
        (Peers(PROXIES.trusted_proxies, "http://hooks.example.com"), "10.0.0.1", "https", False),
    ],
)
def test_whether_it_came_by_https_says_the_setting_or_a_trusted_proxy(
    peers: Peers, peer: str | None, told: str, is_https: bool
) -> None:
    assert peers.is_https(request(peer, ("X-Forwarded-Proto", told))) is is_https


def test_a_connection_by_https_needs_nobodys_word() -> None:
    assert Peers().is_https(request("192.0.2.1", scheme="https"))


@pytest.mark.parametrize(
    ("origin", "is_own"),
    [
        ("http://gatepost.test", True),
        ("http://gatepost.test:80", True),
        ("HTTP://GATEPOST.test", True),
        ("https://gatepost.test", False),
        ("http://gatepost.test:8000", False),
        ("http://gatepost.test.evil.example", False),
        ("http://evil.example", False),
        ("http://gatepost.test/path", False),
        ("http://user@gatepost.test", False),
        ("http://gatepost.test:port", False),
        ("http://[", False),
        ("null", False),
        ("", False),
    ],
)
def test_our_own_origin_is_scheme_and_host_of_the_request(origin: str, is_own: bool) -> None:
    assert Peers().is_own_origin(request(), origin) is is_own


def test_with_a_public_url_our_origin_is_that_and_no_other() -> None:
    peers = Peers(public_url="https://hooks.example.com")
    assert peers.is_own_origin(request(), "https://hooks.example.com")
    assert not peers.is_own_origin(request(), "http://gatepost.test")


def test_without_a_host_nothing_is_our_origin() -> None:
    for origin in ("", "http://", "null"):
        assert not Peers().is_own_origin(request(host=""), origin)
