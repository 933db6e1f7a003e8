"""Which addresses are called, and which are never; rows S4–S13 of the threat table."""

import asyncio
from ipaddress import IPv4Address, IPv6Address

import pytest
from tests.integration.senders import LOOPBACK, Make, Names, later
from tests.receivers import Receiver, hang

from gatepost.adapters.resolver import LookupFailure
from gatepost.adapters.sender import CurlSender
from gatepost.domain.network import TargetPolicy
from gatepost.domain.outcomes import Accepted, Blocked, ErrorClass, Unreachable


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "10.0.0.1", "169.254.169.254"])
async def test_forbidden_literals_are_not_called(make: Make, receiver: Receiver, host: str) -> None:
    outcome = await make(TargetPolicy())(f"http://{host}:{receiver.port}/")

    assert isinstance(outcome, Blocked)
    assert outcome.error_class is ErrorClass.BLOCKED_ADDRESS
    assert receiver.connections == 0


async def test_our_own_listener_is_not_called(make: Make, receiver: Receiver) -> None:
    policy = TargetPolicy(LOOPBACK.allowed_networks, frozenset({("127.0.0.1", receiver.port)}))

    assert isinstance(await make(policy)(receiver.url), Blocked)
    assert receiver.connections == 0


async def test_a_name_is_connected_at_its_checked_address_under_its_own_name(make: Make, receiver: Receiver) -> None:
    send = make(resolver=Names(hooks=(IPv4Address("127.0.0.1"),)))

    assert isinstance(await send(receiver.url_for("hooks.test")), Accepted)
    assert receiver.requests[0].headers["host"] == f"hooks.test:{receiver.port}"


async def test_the_other_addresses_are_tried_when_one_does_not_answer(make: Make, receiver: Receiver) -> None:
    send = make(resolver=Names(hooks=(IPv6Address("::1"), IPv4Address("127.0.0.1"))))

    assert isinstance(await send(receiver.url_for("hooks.test")), Accepted)


async def test_one_forbidden_answer_blocks_the_name(make: Make, receiver: Receiver) -> None:
    send = make(resolver=Names(hooks=(IPv4Address("127.0.0.1"), IPv4Address("10.0.0.1"))))

    outcome = await send(receiver.url_for("hooks.test"))

    assert isinstance(outcome, Blocked)
    assert receiver.connections == 0


async def test_a_name_that_moves_is_followed_and_judged_again(make: Make, receiver: Receiver) -> None:
    names = Names(hooks=(IPv4Address("127.0.0.2"),))
    send = make(resolver=names)
    assert (await send(receiver.url_for("hooks.test"))).error_class is ErrorClass.CONNECT

    names.answers["hooks"] = (IPv4Address("127.0.0.1"),)
    assert isinstance(await send(receiver.url_for("hooks.test")), Accepted)
    names.answers["hooks"] = (IPv4Address("10.0.0.1"),)
    assert isinstance(await send(receiver.url_for("hooks.test")), Blocked)


async def test_the_real_address_of_every_connect_is_judged(
    make: Make, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second guard, alone: the first one is taken away."""
    monkeypatch.setattr(CurlSender, "_judge", lambda *_: True)
    send = make(TargetPolicy(), Names(hooks=(IPv6Address("::1"), IPv4Address("127.0.0.1"))))

    outcome = await send(receiver.url_for("hooks.test"))

    assert isinstance(outcome, Blocked)
    assert receiver.connections == 0


async def test_libcurl_never_resolves_a_name_itself(
    make: Make, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third guard, alone: a pin that is lost."""
    monkeypatch.setattr("gatepost.adapters.curl_loop.CurlLoop._pin", lambda *_: None)
    send = make(resolver=Names(localhost=(IPv4Address("127.0.0.1"),)))

    outcome = await send(receiver.url_for("localhost"))

    assert outcome.error_class is ErrorClass.INTERNAL_ERROR
    assert receiver.connections == 0


async def test_a_failed_look_up_is_a_failed_attempt(make: Make) -> None:
    send = make(resolver=Names(hooks=LookupFailure("Domain name not found")))

    outcome = await send("http://hooks.test/")

    assert outcome == Unreachable(ErrorClass.DNS, "Domain name not found")


async def test_the_look_up_is_inside_the_deadline(make: Make, receiver: Receiver) -> None:
    send = make(resolver=Names(never=asyncio.sleep(9), slow=later(0.1, (IPv4Address("127.0.0.1"),))))
    receiver.answer(hang())

    late = await send("http://never.test/", timeout=0.05)
    loop_time = asyncio.get_running_loop().time
    started = loop_time()
    hanging = await send(receiver.url_for("slow.test"), timeout=0.2)

    assert late.error_class is ErrorClass.DNS
    assert hanging.error_class is ErrorClass.TIMEOUT
    assert loop_time() - started < 0.29
