"""Names to addresses, asked of a name server that can lie, hesitate and hang."""

import asyncio
from collections.abc import AsyncIterator
from ipaddress import IPv4Address, IPv6Address

import pytest
from tests.integration.senders import no_end
from tests.nameservers import AAAA, SERVER_FAILURE, SILENCE, A, NameServer, Records
from tests.receivers import Receiver

from gatepost.adapters.resolver import LookupFailure, Resolver
from gatepost.adapters.sender import CurlSender
from gatepost.adapters.system import SystemClock
from gatepost.domain.network import TargetPolicy, parse_networks, parse_target
from gatepost.domain.outcomes import Accepted, Blocked, ErrorClass, Unreachable
from gatepost.ports import Outgoing


class SettableClock(SystemClock):
    """A clock that is put forward by hand."""

    ahead = 0.0

    def boot(self) -> float:
        return super().boot() + self.ahead


@pytest.fixture
async def server() -> AsyncIterator[NameServer]:
    async with NameServer() as server:
        yield server


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock()


@pytest.fixture
async def resolver(server: NameServer, clock: SettableClock) -> AsyncIterator[Resolver]:
    resolver = Resolver(clock, nameservers=[server.address])
    yield resolver
    resolver.close()
    await asyncio.sleep(0)  # questions end on the next turn


async def test_all_addresses_of_both_kinds_are_returned(server: NameServer, resolver: Resolver) -> None:
    server.answers["hooks.test"] = Records(("192.0.2.1", "192.0.2.2", "2001:db8::1"), ttl=60)

    answer = await resolver.resolve("hooks.test")

    assert set(answer) == {IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2"), IPv6Address("2001:db8::1")}
    assert {kind for _, kind in server.questions} == {A, AAAA}


async def test_one_kind_alone_is_an_answer(server: NameServer, resolver: Resolver) -> None:
    server.answers["four.test"] = Records(("192.0.2.1",))
    server.answers["six.test"] = Records(("2001:db8::1",))

    assert await resolver.resolve("four.test") == (IPv4Address("192.0.2.1"),)
    assert await resolver.resolve("six.test") == (IPv6Address("2001:db8::1"),)


async def test_a_name_is_asked_for_once_at_a_time(server: NameServer, resolver: Resolver) -> None:
    server.answers["hooks.test"] = Records(("192.0.2.1",), ttl=60)

    answers = await asyncio.gather(*(resolver.resolve("hooks.test") for _ in range(50)))

    assert set(answers) == {(IPv4Address("192.0.2.1"),)}
    assert len(server.questions) == 2


@pytest.mark.parametrize(("ttl", "kept_seconds"), [(0, 1), (20, 20), (86_400, 60)])
async def test_an_answer_is_kept_for_its_ttl_but_a_minute_at_most(
    server: NameServer, resolver: Resolver, clock: SettableClock, ttl: int, kept_seconds: int
) -> None:
    server.answers["hooks.test"] = Records(("192.0.2.1",), ttl=ttl)
    await resolver.resolve("hooks.test")
    server.answers["hooks.test"] = Records(("192.0.2.9",), ttl=ttl)

    clock.ahead = kept_seconds - 0.5
    assert resolver.known("hooks.test") == (IPv4Address("192.0.2.1"),)
    assert await resolver.resolve("hooks.test") == (IPv4Address("192.0.2.1"),)
    clock.ahead = kept_seconds + 0.5
    assert resolver.known("hooks.test") is None
    assert await resolver.resolve("hooks.test") == (IPv4Address("192.0.2.9"),)


@pytest.mark.parametrize(
    "records", [None, Records(), Records(code=SERVER_FAILURE)], ids=["unknown", "empty", "failing"]
)
async def test_a_failure_says_why_and_is_not_kept(
    server: NameServer, resolver: Resolver, records: Records | None
) -> None:
    if records:
        server.answers["hooks.test"] = records
    failure = await resolver.resolve("hooks.test")
    assert isinstance(failure, LookupFailure)
    assert failure.detail

    server.answers["hooks.test"] = Records(("192.0.2.1",))
    assert await resolver.resolve("hooks.test") == (IPv4Address("192.0.2.1"),)


async def test_the_hosts_file_knows_localhost(server: NameServer, resolver: Resolver) -> None:
    answer = await resolver.resolve("localhost")

    assert not isinstance(answer, LookupFailure)
    assert all(address.is_loopback for address in answer)
    assert server.questions == []


async def test_one_who_gives_up_leaves_the_others_waiting(server: NameServer, resolver: Resolver) -> None:
    server.answers["hooks.test"] = SILENCE
    patient = asyncio.ensure_future(resolver.resolve("hooks.test"))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await resolver.resolve("hooks.test")

    await asyncio.sleep(0)
    assert not patient.done()
    resolver.close()
    assert await patient == LookupFailure("given up")


async def test_hanging_names_do_not_delay_a_healthy_one(server: NameServer, resolver: Resolver) -> None:
    hanging = [f"hanging-{number}.test" for number in range(60)]
    server.answers.update(dict.fromkeys(hanging, SILENCE))
    server.answers["healthy.test"] = Records(("192.0.2.1",))
    waiting = [asyncio.ensure_future(resolver.resolve(name)) for name in hanging]
    await asyncio.sleep(0.05)

    async with asyncio.timeout(1.5):  # less than c-ares waits before it asks again
        assert await resolver.resolve("healthy.test") == (IPv4Address("192.0.2.1"),)

    assert not any(task.done() for task in waiting)
    resolver.close()
    assert all(isinstance(answer, LookupFailure) for answer in await asyncio.gather(*waiting))


# --- with the sender -----------------------------------------------------------------------------------------


@pytest.fixture
async def sender(resolver: Resolver, clock: SettableClock) -> AsyncIterator[CurlSender]:
    policy = TargetPolicy(parse_networks("127.0.0.0/8"))
    sender = CurlSender(policy, resolver, clock, on_thread_death=lambda error: pytest.fail(repr(error)))
    yield sender
    await sender.close()


async def outcome_of(sender: CurlSender, url: str, *, timeout: float = 2.0) -> object:
    settled = asyncio.get_running_loop().create_future()
    outgoing = Outgoing(parse_target(url), (), b"{}", timeout, no_end, lambda result, *_: settled.set_result(result))
    sender.submit([outgoing])
    return await asyncio.wait_for(settled, 5)


async def test_s4_a_name_that_turns_to_a_forbidden_address_is_blocked(
    server: NameServer, sender: CurlSender, clock: SettableClock
) -> None:
    async with Receiver() as receiver:
        server.answers["hooks.test"] = Records(("127.0.0.1",))
        assert isinstance(await outcome_of(sender, receiver.url_for("hooks.test")), Accepted)

        server.answers["hooks.test"] = Records(("10.0.0.1",))
        clock.ahead = 2
        assert isinstance(await outcome_of(sender, receiver.url_for("hooks.test")), Blocked)


async def test_s4_one_forbidden_answer_among_good_ones_blocks(server: NameServer, sender: CurlSender) -> None:
    async with Receiver() as receiver:
        server.answers["hooks.test"] = Records(("127.0.0.1", "fd00:ec2::254"))

        assert isinstance(await outcome_of(sender, receiver.url_for("hooks.test")), Blocked)
        assert receiver.connections == 0


async def test_hanging_names_fail_at_their_deadline_beside_healthy_deliveries(
    server: NameServer, sender: CurlSender
) -> None:
    hanging = [f"hanging-{number}.test" for number in range(60)]
    server.answers.update(dict.fromkeys(hanging, SILENCE))
    server.answers["hooks.test"] = Records(("127.0.0.1",))
    async with Receiver() as receiver:
        waiting = [asyncio.ensure_future(outcome_of(sender, f"http://{name}/", timeout=0.3)) for name in hanging]
        await asyncio.sleep(0)

        assert isinstance(await outcome_of(sender, receiver.url_for("hooks.test")), Accepted)

    outcomes = await asyncio.gather(*waiting)
    assert {getattr(outcome, "error_class", None) for outcome in outcomes} == {ErrorClass.DNS}
    assert all(isinstance(outcome, Unreachable) for outcome in outcomes)
