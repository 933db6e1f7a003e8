"""Where a webhook may point; the numbers are rows of the threat table."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepost.domain.errors import InvalidInput, TargetNotAllowed
from gatepost.domain.network import (
    Target,
    TargetPolicy,
    check_target,
    parse_networks,
    parse_target,
)

PUBLIC_ONLY = TargetPolicy()
EVERYTHING = TargetPolicy(parse_networks("0.0.0.0/0, ::/0"))


# --- the URL -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "normal", "host", "port", "path"),
    [
        ("https://example.com", "https://example.com/", "example.com", 443, "/"),
        ("HTTP://EXAMPLE.com:80/A?b=C", "http://example.com/A?b=C", "example.com", 80, "/A?b=C"),
        ("https://example.com:8443/?x", "https://example.com:8443/?x", "example.com", 8443, "/?x"),
        ("https://example.com?x=1", "https://example.com/?x=1", "example.com", 443, "/?x=1"),
        ("http://93.184.216.34/", "http://93.184.216.34/", "93.184.216.34", 80, "/"),
        ("http://[2606:4700:0:0::1111]:81/", "http://[2606:4700::1111]:81/", "2606:4700::1111", 81, "/"),
        ("http://[2606:4700::ABCD]/", "http://[2606:4700::abcd]/", "2606:4700::abcd", 80, "/"),
        ("http://localhost:9000/x", "http://localhost:9000/x", "localhost", 9000, "/x"),
        ("http://my_service/x", "http://my_service/x", "my_service", 80, "/x"),
        ("http://xn--bcher-kva.example/", "http://xn--bcher-kva.example/", "xn--bcher-kva.example", 80, "/"),
        ("http://0xg.example.c0m/", "http://0xg.example.c0m/", "0xg.example.c0m", 80, "/"),
        (
            "http://a.com/../b/./c//%2e%2E/~x;y=1,2!$&'()*+@:",
            "http://a.com/../b/./c//%2e%2E/~x;y=1,2!$&'()*+@:",
            "a.com",
            80,
            "/../b/./c//%2e%2E/~x;y=1,2!$&'()*+@:",
        ),
        (f"http://{'a' * 63}.example/", f"http://{'a' * 63}.example/", f"{'a' * 63}.example", 80, "/"),
    ],
)
def test_a_good_url_is_taken_apart_and_put_together_again(
    url: str, normal: str, host: str, port: int, path: str
) -> None:
    target = parse_target(url)

    assert target == Target(normal, normal.split(":", maxsplit=1)[0], host, port, path)
    assert target.origin == (target.scheme, host, port)
    assert parse_target(target.url) == target


@pytest.mark.parametrize(
    "host",
    [
        # S2: numbers
        "2130706433", "0x7f000001", "0X7F000001", "017700000001", "127.1", "127.0.1", "0177.0.0.1", "0x7f.0.0.1", "0",
        "127.0.0.01", "00.0.0.0", "256.0.0.1", "1.2.3.4.5", "1.2.3", "1.2.3.0x4", "127.0.0.1.", "example.123", "a.0x",
        "０", "①②⑦.0.0.1", "127。0。0。1",
        # S7: confusion
        "user@example.com", "user:pass@example.com", "@example.com", "example.com@", "a.com:80@b.com", "a%00.com",
        "a%2ecom", "exa\u00admple.com", "ex\tample.com", "exa\nmple.com", "exa\rmple.com", "exa mple.com",
        "example.com\\",
        "a.com\\@b.com", "a\\b.com", "münchen.example", "\u212aelvin.com", "example.com\x00", "a.com\x7f",
        "*.com", "a,b",
        "$a", "(a)", "a'b", "a;b", "a=b", "a&b", "a!b", "a+b", "~a", "<a>", "{a}", "a|b", "a^b", "a`b", 'a"b',
        # names
        "", ".", "a..b", ".a", "a.", "example.com.", "-a.com", "a-.com", "a" * 64, "a." * 126 + "ab", "a.-", "a.--",
        # IPv6
        "[::1", "::1]", "::1", "[]", "[:]", "[::1]]", "[[::1]]", "[::1%25eth0]", "[fe80::1%eth0]", "[::1]a", "a[::1]",
        "[1.2.3.4]", "[v1.a]", "[::12345]", "[:::]", "[1:2:3:4:5:6:7:8:9]", "[::127.0.0.01]", "[::0x7f.0.0.1]",
        "[g::]",
        # ports
        "a.com:", "a.com:0", "a.com:00", "a.com:080", "a.com:65536", "a.com:99999", "a.com:123456", "a.com:-1",
        "a.com:+1",
        "a.com:1_0", "a.com: 1", "a.com:1 ", "a.com:0x50", "a.com:80:80", "a.com:８０", "a.com:http", "[::1]:",
        "[::1]:0",
    ],
)  # fmt: skip
def test_s2_s7_an_odd_host_is_refused(host: str) -> None:
    for url in (f"http://{host}", f"http://{host}/x", f"http://{host}?x"):
        with pytest.raises(InvalidInput) as refused:
            parse_target(url)
        assert refused.value.errors[0].loc == ("targetUrl",)
        assert refused.value.code == "validation_failed"


@pytest.mark.parametrize(
    "url",
    [
        # S8: other schemes
        "", "/", "example.com", "//example.com/", "ftp://a.com/", "file:///etc/passwd", "gopher://a.com/",
        "ws://a.com/",
        "javascript:alert(1)", "data:,x", "unix:/run/x", "httpx://a.com/", "http+unix://a/", " http://a.com/",
        "\thttp://a.com/",
        # S7: missing or extra slashes, fragments, other characters
        "http:", "http:/", "http://", "http:a.com", "http:/a.com", "http:///a.com", "http:////a.com",
        "http:\\\\a.com",
        "http:/\\a.com", "http://?x", "http://a.com/#", "http://a.com#@b.com/", "http://a.com/x#y",
        "http://a.com/x y",
        "http://a.com/\\x", "http://a.com/\t", "http://a.com/x\r\nHost: b", "http://a.com/é", "http://a.com/\u202e",
        "http://a.com/%", "http://a.com/%0", "http://a.com/%zz", "http://a.com/{x}", "http://a.com/<x>",
        'http://a.com/"',
        "http://a.com/^", "http://a.com/|", "http://a.com/`", "http://a.com/[x]", "http://a.com/\x00",
        "http://a.com/\n",
        "http://a.com/" + "x" * 2036,
    ],
)  # fmt: skip
def test_s7_s8_an_odd_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput):
        parse_target(url)


def test_the_longest_url_has_2048_characters() -> None:
    assert len(parse_target("http://a.com/" + "x" * 2035).url) == 2048


def test_https_can_be_made_the_only_scheme() -> None:
    assert parse_target("https://a.com/", https_only=True).scheme == "https"
    with pytest.raises(InvalidInput, match="https"):
        parse_target("http://a.com/", https_only=True)


url_like = st.text(st.sampled_from("htps:/[]@.?#%\\0127afx-_\u00ad１ \n"), max_size=40)


@given(st.one_of(st.text(), url_like, url_like.map("http://{}".format)))
def test_any_text_is_a_target_or_an_invalid_input(text: str) -> None:
    try:
        target = parse_target(text)
    except InvalidInput:
        return
    assert parse_target(target.url) == target
    assert target.url.isascii()
    assert target.literal is None or str(target.literal) == target.host


@given(st.ip_addresses())
def test_every_canonical_address_is_a_literal(address: object) -> None:
    shown = f"[{address}]" if ":" in str(address) else str(address)

    assert parse_target(f"http://{shown}:1234/").literal == address


# --- the address ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "1.1.1.1", "8.8.8.8", "93.184.216.34", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0",
        "126.255.255.255",
        "128.0.0.0", "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0", "192.0.1.0",
        "192.0.3.0", "192.88.98.255",
        "192.88.100.0", "192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0", "198.51.99.255",
        "203.0.112.255",
        "223.255.255.255", "168.63.129.15", "2606:4700::1111", "2000::1", "2001:4860:4860::8888", "2003::1",
        "3ffe::1",
        "::ffff:8.8.8.8", "64:ff9b::808:808",
    ],
)  # fmt: skip
def test_public_addresses_may_be_called(address: str) -> None:
    assert PUBLIC_ONLY.refusal(ip_address(address), 443) is None


INSIDE_IPV6 = "{}", "::ffff:{}", "::{}", "::ffff:0:{}", "64:ff9b::{}", "64:ff9b:1::{}"
PRIVATE_IPV4 = [
    "0.0.0.0", "0.1.2.3", "10.0.0.0", "10.255.255.255", "100.64.0.1", "100.127.255.255", "127.0.0.1",
    "127.255.255.254",
    "169.254.0.1", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.0.170", "192.0.2.1", "192.88.99.1",
    "192.168.0.1",
    "192.168.255.255", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255",
    "240.0.0.1", "255.255.255.255",
]  # fmt: skip


@pytest.mark.parametrize("form", INSIDE_IPV6)
@pytest.mark.parametrize("address", PRIVATE_IPV4)
def test_s1_s3_private_ipv4_is_refused_in_every_spelling(form: str, address: str) -> None:
    assert PUBLIC_ONLY.refusal(ip_address(form.format(address)), 443)


@pytest.mark.parametrize("prefix", ["2002:{}::", "2002:{}::1", "2001::{}", "2001:0:4136:e378:8000:63bf:{}"])
def test_s3_6to4_and_teredo_are_refused_whatever_is_inside(prefix: str) -> None:
    for inside in ("7f00:1", "808:808"):
        assert EVERYTHING.refusal(ip_address(prefix.format(inside)), 443)


@pytest.mark.parametrize(
    "address",
    [
        "::", "::1", "::2", "::ffff", "100::1", "64:ff9b:1::808:808", "fc00::1", "fd12:3456::1", "fe80::1",
        "fe80::1%eth0",
        "febf::1", "fec0::1", "ff02::1", "ff0e::1", "2001:2::1", "2001:10::1", "2001:20::1", "2001:db8::1", "3fff::1",
        "3fff:fff::1", "4000::1", "5f00::1", "1fff::1", "8000::1", "e000::1", "2001:1::1", "2620:4f:8000::1",
    ],
)  # fmt: skip
def test_s1_only_global_ipv6_may_be_called(address: str) -> None:
    assert PUBLIC_ONLY.refusal(ip_address(address), 443)


METADATA = [
    "169.254.169.254", "168.63.129.16", "100.100.100.200", "192.0.0.192", "169.254.170.2", "fd00:ec2::254",
    "fd00:ec2::254%1", "fd20:ce::254",
]  # fmt: skip


@pytest.mark.parametrize("address", METADATA)
def test_s6_metadata_stays_closed_when_everything_is_allowed(address: str) -> None:
    assert PUBLIC_ONLY.refusal(ip_address(address), 80)
    assert EVERYTHING.refusal(ip_address(address), 80)
    if ":" not in address:
        for form in INSIDE_IPV6:
            assert EVERYTHING.refusal(ip_address(form.format(address)), 80)


@pytest.mark.parametrize(
    "address", ["0.0.0.0", "::", "224.0.0.1", "255.255.255.255", "ff02::1", "fe80::1", "169.254.1.1"]
)
def test_what_is_no_host_stays_closed_when_everything_is_allowed(address: str) -> None:
    assert EVERYTHING.refusal(ip_address(address), 80)


def test_s9_an_allowed_network_opens_itself_and_nothing_else() -> None:
    policy = TargetPolicy(parse_networks("10.1.0.0/16, 127.0.0.1/32, fd12::/16, 64:ff9b::/96"))

    for open_address in ("10.1.2.3", "::ffff:10.1.2.3", "127.0.0.1", "fd12::1", "8.8.8.8"):
        assert policy.refusal(ip_address(open_address), 80) is None
    for closed in ("10.2.0.1", "::ffff:10.2.0.1", "127.0.0.2", "fd13::1", "::1", "64:ff9b::7f00:2", "::127.0.0.1"):
        assert policy.refusal(ip_address(closed), 80)


def test_s13_our_own_listeners_stay_closed_when_their_network_is_allowed() -> None:
    policy = TargetPolicy(EVERYTHING.allowed_networks, frozenset({("127.0.0.1", 8000), ("10.0.0.5", 9000)}))

    assert policy.refusal(ip_address("127.0.0.1"), 8000) == "own listener"
    assert policy.refusal(ip_address("::ffff:127.0.0.1"), 8000) == "own listener"
    assert policy.refusal(ip_address("127.0.0.1"), 8001) is None
    assert policy.refusal(ip_address("127.0.0.2"), 8000) is None
    assert policy.refusal(ip_address("10.0.0.5"), 8000) is None
    assert policy.refusal(ip_address("10.0.0.5"), 9000) == "own listener"


@pytest.mark.parametrize("wildcard", ["0.0.0.0", "::"])
def test_s13_a_wildcard_listener_is_every_address_we_know_to_be_ours(wildcard: str) -> None:
    policy = TargetPolicy(EVERYTHING.allowed_networks, frozenset({(wildcard, 8000), ("10.0.0.5", 9000)}))

    for address in ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "10.0.0.5"):
        assert policy.refusal(ip_address(address), 8000) == "own listener"
    for address, port in (("10.0.0.6", 8000), ("127.0.0.1", 8001), ("10.0.0.5", 8001)):
        assert policy.refusal(ip_address(address), port) is None


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_judged_alike_when_mapped(address: object) -> None:
    for policy in (PUBLIC_ONLY, EVERYTHING):
        assert policy.refusal(ip_address(f"::ffff:{address}"), 80) == policy.refusal(ip_address(str(address)), 80)


@given(st.ip_addresses(v=6))
def test_nothing_outside_2000_may_be_called_unless_it_is_ipv4_in_disguise(address: object) -> None:
    if PUBLIC_ONLY.refusal(ip_address(str(address)), 80) is None:
        assert any(
            ip_address(str(address)) in ip_network(block) for block in ("2000::/3", "::ffff:0:0/96", "64:ff9b::/96")
        )


# --- networks and literals -----------------------------------------------------------------------------------


def test_networks_are_parsed() -> None:
    assert parse_networks("") == ()
    assert parse_networks(" 10.0.0.0/8,, fd00::/8 ") == (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))
    assert parse_networks("::ffff:127.0.0.0/104") == (ip_network("127.0.0.0/8"),)


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("127.0.0.1/0", "127.0.0.1/32 or 0.0.0.0/0"),
        ("10.0.0.1/8", "10.0.0.1/32 or 10.0.0.0/8"),
        ("fd00::1/8", "fd00::1/128 or fd00::/8"),
        ("example.com", "10.0.0.0/8"),
        ("10.0.0.0/33", "10.0.0.0/8"),
        ("10.0.0/8", "10.0.0.0/8"),
        ("010.0.0.0/8", "10.0.0.0/8"),
        ("10.0.0.0/8 127.0.0.0/8", "10.0.0.0/8"),
    ],
)
def test_s9_a_network_that_was_not_meant_is_refused_with_the_fix(text: str, fix: str) -> None:
    with pytest.raises(ValueError, match="write") as refused:
        parse_networks(f"192.168.0.0/16,{text}")
    assert fix in str(refused.value)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "10.0.0.1",
        "169.254.169.254",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[fd00::1]",
        "localhost",
        "a.localhost",
    ],
)
def test_s1_a_forbidden_literal_is_refused_at_once(host: str) -> None:
    with pytest.raises(TargetNotAllowed) as refused:
        check_target(parse_target(f"http://{host}/"), PUBLIC_ONLY)

    assert refused.value.errors[0].loc == ("targetUrl",)
    assert refused.value.code == "target_not_allowed"


@pytest.mark.parametrize("host", ["8.8.8.8", "[2606:4700::1111]", "localhost.example.com", "metadata.google.internal"])
def test_public_literals_pass_and_names_are_judged_when_they_are_resolved(host: str) -> None:
    check_target(parse_target(f"http://{host}/"), PUBLIC_ONLY)
