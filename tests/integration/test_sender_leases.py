"""A request whose lease is over, the end of the sender, and whom it trusts; row R11 of the threat table."""

import asyncio
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from tests.integration.senders import CLOCK, Make, Names, Sending, later, no_end
from tests.receivers import Authority, Receiver, hang

from gatepost.adapters.transfers import Transfer
from gatepost.domain.network import parse_target
from gatepost.domain.outcomes import Accepted, ErrorClass
from gatepost.ports import Dropped, Outgoing

# --- leases and the end --------------------------------------------------------------------------------------


async def test_a_request_past_its_lease_is_dropped_unsent(send: Sending, receiver: Receiver) -> None:
    assert await send(receiver.url, start_before=CLOCK.boot() - 0.001) == Dropped()
    assert receiver.connections == 0


async def test_a_request_whose_lease_ends_while_its_name_is_looked_up_is_dropped(
    make: Make, receiver: Receiver
) -> None:
    send = make(resolver=Names(slow=later(0.05, (IPv4Address("127.0.0.1"),))))

    assert await send(receiver.url_for("slow.test"), start_before=CLOCK.boot() + 0.01) == Dropped()
    assert receiver.requests == []


async def test_a_request_whose_lease_ends_while_it_connects_is_dropped(
    send: Sending, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after SIGSTOP and SIGCONT: the last look at the clock is just before the request leaves."""
    prepare = Transfer.prepare

    def stand_still(transfer: Transfer, submission: Any, **options: Any) -> None:
        prepare(transfer, submission, **options)
        submission.outgoing.start_before = lambda: CLOCK.boot() - 0.001

    monkeypatch.setattr(Transfer, "prepare", stand_still)

    assert await send(receiver.url, start_before=CLOCK.boot() + 60) == Dropped()
    assert receiver.requests == []


async def test_a_settle_that_raises_does_not_keep_the_others_waiting(send: Sending, receiver: Receiver) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("in settle")

    send.sender.submit([Outgoing(parse_target(receiver.url), (), b"", 1, no_end, broken)] * 3)

    assert isinstance(await send(receiver.url), Accepted)


async def test_nothing_is_settled_after_close(make: Make, receiver: Receiver) -> None:
    send = make()
    receiver.answer(hang())
    settled: list[Any] = []
    outgoing = Outgoing(parse_target(receiver.url), (), b"", 0.05, no_end, lambda *args: settled.append(args))
    send.sender.submit([outgoing] * 3)
    await receiver.wait_for(3)

    await send.sender.close()
    send.sender.submit([outgoing])
    await asyncio.sleep(0.1)

    assert settled == []


async def test_the_death_of_the_thread_is_told(make: Make, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("gatepost.adapters.curl_loop.CurlLoop._collect", bug)
    send = make()
    send.sender.submit([Outgoing(parse_target(receiver.url), (), b"", 1, no_end, bug)])

    assert isinstance(await send.first_death(), ZeroDivisionError)
    send.deaths.clear()


# --- R11: TLS ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("tls"))


async def test_a_certificate_of_ones_own_authority_is_trusted(make: Make, authority: Authority) -> None:
    send = make(ca_file=str(authority.ca_file))
    async with Receiver(tls=authority.server("127.0.0.1")) as receiver:
        assert isinstance(await send(receiver.url), Accepted)
        assert isinstance(await send(receiver.url), Accepted)
        assert receiver.connections == 1


async def test_the_name_of_a_pinned_address_is_what_the_certificate_must_show(make: Make, authority: Authority) -> None:
    send = make(resolver=Names(hooks=(IPv4Address("127.0.0.1"),)), ca_file=str(authority.ca_file))
    async with Receiver(tls=authority.server("hooks.test")) as receiver:
        assert isinstance(await send(receiver.url_for("hooks.test")), Accepted)


@pytest.mark.parametrize(
    ("names", "options", "words"),
    [
        (["127.0.0.1"], {"expired": True}, "expired"),
        (["127.0.0.1"], {"self_signed": True}, "self-signed"),
        (["elsewhere.test"], {}, "127.0.0.1"),
    ],
    ids=["expired", "self-signed", "wrong name"],
)
async def test_a_certificate_that_proves_nothing_is_a_tls_failure_that_says_why(
    make: Make, authority: Authority, names: list[str], options: dict[str, Any], words: str
) -> None:
    send = make(ca_file=str(authority.ca_file))
    async with Receiver(tls=authority.server(*names, **options)) as receiver:
        outcome = await send(receiver.url)

    assert outcome.error_class is ErrorClass.TLS
    assert words in outcome.detail
    assert receiver.requests == []


async def test_an_unknown_authority_is_not_trusted(send: Sending, authority: Authority) -> None:
    async with Receiver(tls=authority.server("127.0.0.1")) as receiver:
        assert (await send(receiver.url)).error_class is ErrorClass.TLS


async def test_a_port_without_tls_is_a_tls_failure(send: Sending, receiver: Receiver) -> None:
    outcome = await send(f"https://127.0.0.1:{receiver.port}/", timeout=0.3)

    assert outcome.error_class in (ErrorClass.TLS, ErrorClass.TIMEOUT)


def test_the_system_trusts_somebody() -> None:
    """Else every HTTPS delivery would fail: the bundle that pycurl's wheel names does not exist on most systems."""
    from gatepost.adapters.sender import _Trust

    path = _Trust(None).path
    assert path
    assert b"BEGIN CERTIFICATE" in Path(path).read_bytes()
