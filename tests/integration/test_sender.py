"""What receivers can do to us, and what we make of it; rows R1–R11 and S4–S13 of the threat table."""

import asyncio
import gzip
import math
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest
from tests.receivers import Answer, Authority, Receiver, drip, endless, hang, raw, reset, status

from gatepost.adapters.resolver import LookupFailure, Resolver
from gatepost.adapters.sender import CurlSender
from gatepost.adapters.system import SystemClock
from gatepost.adapters.transfers import Transfer
from gatepost.domain.deliveries import Accepted, Blocked, ErrorClass, Refused, Unreachable, retry_after
from gatepost.domain.network import TargetPolicy, parse_networks, parse_target
from gatepost.ports import Dropped, Outgoing

LOOPBACK = TargetPolicy(parse_networks("127.0.0.0/8, ::1/128"))
CLOCK = SystemClock()
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Names:
    """A resolver that knows what it is told."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers

    def known(self, host: str) -> Any:
        return None

    def close(self) -> None:
        pass

    async def resolve(self, host: str) -> Any:
        answer = self.answers[host.removesuffix(".test")]
        return await answer if asyncio.iscoroutine(answer) else answer


@dataclass
class Sending:
    """A sender, and the shortest way to send one request and see what became of it."""

    sender: CurlSender
    deaths: list[BaseException]

    async def first_death(self) -> BaseException:
        async with asyncio.timeout(2):
            while not self.deaths:  # noqa: ASYNC110 - told on this very thread, by nothing to wait for
                await asyncio.sleep(0.01)
        return self.deaths[0]

    async def __call__(self, url: str, **options: Any) -> Any:
        [outcome] = await self.all(url, 1, **options)
        return outcome

    async def all(
        self,
        url: str,
        count: int,
        *,
        timeout: float = 2.0,
        headers: Sequence[tuple[str, str]] = (),
        body: bytes = b"{}",
        start_before: float = math.inf,
    ) -> list[Any]:
        loop = asyncio.get_running_loop()
        settled = [loop.create_future() for _ in range(count)]

        def settle(outgoing: Outgoing, result: Any, started_at: float, duration: float) -> None:
            assert 0 <= duration < 10
            assert abs(CLOCK.boot() - started_at) < 10
            outgoing.context.set_result(result)

        target = parse_target(url)
        self.sender.submit(
            [Outgoing(target, headers, body, timeout, start_before, settle, future) for future in settled]
        )
        return await asyncio.wait_for(asyncio.gather(*settled), 10)


Make = Callable[..., Sending]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    made: list[Sending] = []

    def _make(policy: TargetPolicy = LOOPBACK, resolver: Any = None, **options: Any) -> Sending:
        deaths: list[BaseException] = []
        sender = CurlSender(policy, resolver or Resolver(CLOCK), CLOCK, on_thread_death=deaths.append, **options)
        made.append(Sending(sender, deaths))
        return made[-1]

    yield _make
    for sending in made:
        await sending.sender.close()
        assert sending.deaths == []


@pytest.fixture
def send(make: Make) -> Sending:
    return make()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        yield receiver


# --- the request ---------------------------------------------------------------------------------------------


async def test_the_request_arrives_as_it_was_given_and_nothing_else(send: Sending, receiver: Receiver) -> None:
    headers = [("Content-Type", "application/json"), ("User-Agent", "Gatepost/1"), ("X-Empty", ""), ("X-Two", "a  b")]

    outcome = await send(receiver.url + "?a=%2F../b", headers=headers, body=b'{"a":"\x00\xff"}')

    assert isinstance(outcome, Accepted)
    [request] = receiver.requests
    assert (request.method, request.path, request.body) == ("POST", "/hook?a=%2F../b", b'{"a":"\x00\xff"}')
    assert dict(request.headers) == {
        "host": f"127.0.0.1:{receiver.port}",
        "accept": "*/*",
        "accept-encoding": "identity",
        "content-length": "10",
        "content-type": "application/json",
        "user-agent": "Gatepost/1",
        "x-empty": "",
        "x-two": "a  b",
    }


async def test_a_large_body_is_sent_without_asking_for_leave(send: Sending, receiver: Receiver) -> None:
    assert isinstance(await send(receiver.url, body=b"x" * 3_000_000), Accepted)
    assert "expect" not in receiver.requests[0].headers


async def test_connections_are_kept_and_used_again(send: Sending, receiver: Receiver) -> None:
    for _ in range(5):
        await send(receiver.url)

    assert len(receiver.requests) == 5
    assert receiver.connections == 1


async def test_many_at_once_each_get_their_own_answer(send: Sending, receiver: Receiver) -> None:
    async def echo(conversation: Any) -> None:
        body = receiver.requests[-1].headers["x-number"].encode()
        await conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    receiver.answer(echo)

    outcomes = await asyncio.gather(*(send(receiver.url, headers=[("X-Number", str(n))]) for n in range(200)))

    assert [outcome.response.body for outcome in outcomes] == [str(n).encode() for n in range(200)]


async def test_an_environment_proxy_is_ignored(make: Make, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")

    assert isinstance(await make()(receiver.url), Accepted)


async def test_cookies_are_not_sent_back(send: Sending, receiver: Receiver) -> None:
    receiver.answer(
        status(200, headers={"Set-Cookie": "a=1", "Alt-Svc": 'h2=":1"', "Strict-Transport-Security": "max-age=9"})
    )

    await send(receiver.url)
    await send(receiver.url)

    assert "cookie" not in receiver.requests[1].headers


async def test_a_header_with_a_line_break_is_our_own_error(send: Sending, receiver: Receiver) -> None:
    outcome = await send(receiver.url, headers=[("X-A", "1\r\nX-B: 2")])

    assert isinstance(outcome, Unreachable)
    assert outcome.error_class is ErrorClass.INTERNAL_ERROR
    assert receiver.requests == []
    assert isinstance(await send(receiver.url), Accepted)


# --- the answer ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [200, 201, 202, 204, 299])
async def test_2xx_is_accepted(send: Sending, receiver: Receiver, code: int) -> None:
    receiver.answer(status(code, body=b"" if code == 204 else b"ok"))

    outcome = await send(receiver.url)

    assert isinstance(outcome, Accepted)
    assert outcome.response.status_code == code
    assert not outcome.response.truncated


@pytest.mark.parametrize("code", [300, 304, 400, 401, 404, 410, 429, 500, 503, 599, 999])
async def test_all_else_is_refused(send: Sending, receiver: Receiver, code: int) -> None:
    receiver.answer(status(code, headers={"WWW-Authenticate": "Basic"}, body=b""))

    outcome = await send(receiver.url)

    assert isinstance(outcome, Refused)
    assert outcome.response.status_code == code


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(send: Sending, receiver: Receiver, code: int) -> None:
    receiver.answer(status(code, headers={"Location": receiver.url}))

    assert isinstance(await send(receiver.url), Refused)
    assert len(receiver.requests) == 1


async def test_headers_come_back_as_they_were(send: Sending, receiver: Receiver) -> None:
    head = b"HTTP/1.1 503 No\r\nRetry-After: 7\r\nX-Odd:\xfc\r\nX-Odd: \x1b[2J \r\nContent-Length: 0\r\n\r\n"
    receiver.answer(raw(head, then="keep"))

    outcome = await send(receiver.url)

    assert outcome.response.headers == (
        ("Retry-After", "7"),
        ("X-Odd", "\xfc"),
        ("X-Odd", "\x1b[2J"),
        ("Content-Length", "0"),
    )
    assert retry_after(outcome, now=CLOCK.now()).total_seconds() == 7


async def test_interim_answers_are_skipped(send: Sending, receiver: Receiver) -> None:
    receiver.answer(
        raw(b"HTTP/1.1 100 Continue\r\n\r\n" * 10 + b"HTTP/1.1 103 Hints\r\nLink: a\r\n\r\n" * 10 + OK, then="keep")
    )

    outcome = await send(receiver.url)

    assert isinstance(outcome, Accepted)
    assert outcome.response.headers == (("Content-Length", "2"),)


async def test_a_trailer_is_not_a_header(send: Sending, receiver: Receiver) -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nHTTP/1.1 500 No\r\nX-T: 1\r\n\r\n"
    receiver.answer(raw(chunked, then="keep"))

    outcome = await send(receiver.url)

    assert isinstance(outcome, Accepted)
    assert outcome.response.body == b"ok"
    assert outcome.response.headers == (("Transfer-Encoding", "chunked"),)


# --- R1: time ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        hang(),
        raw(b"HTTP/1.1 200 OK\r\n", then="hang"),
        drip(OK, pause_seconds=0.03),
        raw(*repeat(b"HTTP/1.1 100 Continue\r\n\r\n", 15), pause_seconds=0.03, then="hang"),
    ],
    ids=["silence", "half a head", "slow head", "slow interim answers"],
)
async def test_one_deadline_ends_them_all(send: Sending, receiver: Receiver, answer: Answer) -> None:
    receiver.answer(answer)

    outcome = await send(receiver.url, timeout=0.15)

    assert isinstance(outcome, Unreachable)
    assert outcome.error_class is ErrorClass.TIMEOUT


async def test_a_receiver_that_never_reads_ends_at_the_deadline(send: Sending) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:  # the kernel accepts; nobody reads
        port = listener.getsockname()[1]

        outcome = await send(f"http://127.0.0.1:{port}/", body=b"x" * 20_000_000, timeout=0.15)

    assert outcome.error_class is ErrorClass.TIMEOUT


async def test_a_2xx_head_counts_though_its_body_is_late(send: Sending, receiver: Receiver) -> None:
    receiver.answer(raw(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", then="hang"), status(200))

    outcome = await send(receiver.url, timeout=0.1)

    assert isinstance(outcome, Accepted)
    assert (outcome.response.body, outcome.response.truncated) == (b"abc", True)
    await send(receiver.url)
    assert receiver.connections == 2


# --- R2, R3: size --------------------------------------------------------------------------------------------


async def test_an_endless_body_is_cut(send: Sending, receiver: Receiver) -> None:
    receiver.answer(endless(b"HTTP/1.1 200 OK\r\n\r\n", repeat(b"x" * 8192)))

    outcome = await send(receiver.url)

    assert isinstance(outcome, Accepted)
    assert outcome.response.truncated
    assert outcome.response.body == b"x" * 16 * 1024


@pytest.mark.parametrize(("size", "truncated"), [(16 * 1024, False), (16 * 1024 + 1, True), (64 * 1024, True)])
async def test_a_body_within_the_limit_keeps_the_connection(
    send: Sending, receiver: Receiver, size: int, truncated: bool
) -> None:
    receiver.answer(status(200, body=b"x" * size))

    outcome = await send(receiver.url)
    await send(receiver.url)

    assert outcome.response.truncated is truncated
    assert receiver.connections == 1


async def test_a_gzip_bomb_stays_packed(send: Sending, receiver: Receiver) -> None:
    packed = gzip.compress(bytes(10_000_000))
    receiver.answer(status(200, headers={"Content-Encoding": "gzip"}, body=packed))

    outcome = await send(receiver.url)

    assert outcome.response.body == packed[: 16 * 1024]


# --- R4, R5: heads -------------------------------------------------------------------------------------------


def lines(count: int, size: int = 10) -> bytes:
    return b"".join(b"X-%d: %s\r\n" % (number, b"a" * size) for number in range(count))


@pytest.mark.parametrize(
    "answer",
    [
        raw(b"HTTP/1.1 200 OK\r\n" + lines(101) + b"\r\n"),
        raw(b"HTTP/1.1 200 OK\r\n" + lines(33, 1024) + b"\r\n"),
        raw(b"HTTP/1.1 200 " + b"a" * 40_000 + b"\r\n\r\n"),
        raw(b"HTTP/1.1 100 Continue\r\n\r\n" * 21 + OK),
        raw(
            b"HTTP/1.1 103 Hints\r\n" + lines(50, 100) + b"\r\n",
            *repeat(b"HTTP/1.1 103 Hints\r\n" + lines(50, 100) + b"\r\n", 10),
        ),
        endless(b"", repeat(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)),
        endless(b"HTTP/1.1 200 OK\r\n", repeat(b"X-A: " + b"a" * 1000 + b"\r\n")),
        endless(b"HTTP/1.1 200 OK\r\nX-A: ", repeat(b"a" * 8000)),
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"),
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok"),
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok"),
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\nok"),
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nokk"),
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n"),
        raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
        raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n"),
        raw(b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n"),
        raw(b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok"),
        raw(b"HTTP/1.1 200 OK\r\nX-A: \x00\r\nContent-Length: 2\r\n\r\nok"),
        raw(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n", then="hang"),
        raw(b"HTTP/1.1 099 Early\r\n\r\n"),
        raw(b"HTTP/1.1 2000 Much\r\n\r\n"),
        raw(b"HTTP/2 200 OK\r\n\r\n"),
        raw(b"HTTP/1.1 200 OK\r\nContent-Le"),
        raw(b"hello, I am HTTP/0.9"),
        raw(b"\x16\x03\x01\x00\xff" * 100),
        raw(b"SSH-2.0-OpenSSH_9.2\r\n", then="hang"),
        raw(b"\r\n" * 100),
    ],
)
async def test_a_fault_in_the_head_is_an_invalid_response(send: Sending, receiver: Receiver, answer: Answer) -> None:
    receiver.answer(answer, status(200))

    outcome = await send(receiver.url)

    assert isinstance(outcome, Unreachable), outcome
    assert outcome.error_class is ErrorClass.INVALID_RESPONSE, outcome
    assert isinstance(await send(receiver.url), Accepted)
    assert receiver.connections == 2


@pytest.mark.parametrize(
    "answer",
    [
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"),
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", then="reset"),
        raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n"),
        raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n-1\r\n"),
        raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcdef"),
        raw(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n",
            *repeat(b"X-T: " + b"a" * 9000 + b"\r\n", 9),
        ),
    ],
    ids=["short", "reset", "bad chunk size", "negative chunk size", "no end of chunk", "endless trailer"],
)
async def test_a_fault_in_the_body_leaves_the_head_its_word(send: Sending, receiver: Receiver, answer: Answer) -> None:
    receiver.answer(answer, status(200))

    outcome = await send(receiver.url)

    assert isinstance(outcome, Accepted), outcome
    assert outcome.response.truncated
    assert outcome.response.body == b"abc"
    assert isinstance(await send(receiver.url), Accepted)
    assert receiver.connections == 2


@pytest.mark.parametrize("answer", [reset(), raw(), raw(b"HTTP/1.1 2")], ids=["reset", "closed", "broken off"])
async def test_a_connection_that_ends_before_an_answer_is_a_connect_failure(
    send: Sending, receiver: Receiver, answer: Answer
) -> None:
    receiver.answer(answer)

    outcome = await send(receiver.url)

    assert outcome.error_class is ErrorClass.CONNECT
    assert len(receiver.requests) == 1


@pytest.mark.parametrize("answer", [reset(), raw()], ids=["reset", "closed"])
async def test_a_kept_connection_that_dies_is_not_a_reason_to_send_again(
    send: Sending, receiver: Receiver, answer: Answer
) -> None:
    receiver.answer(status(200), answer, status(200))
    await send(receiver.url)

    outcome = await send(receiver.url)

    assert isinstance(outcome, Unreachable)
    assert outcome.error_class is ErrorClass.CONNECT
    assert len(receiver.requests) == 2


async def test_nothing_listening_is_a_connect_failure(send: Sending) -> None:
    async with Receiver() as gone:
        url = gone.url

    outcome = await send(url)

    assert outcome.error_class is ErrorClass.CONNECT
    assert outcome.detail


# --- R6: leftovers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pause", [0.0, 0.03], ids=["with the answer", "after the answer"])
async def test_leftover_bytes_are_never_the_next_answer(send: Sending, receiver: Receiver, pause: float) -> None:
    stray = b"HTTP/1.1 500 Stray\r\nContent-Length: 0\r\n\r\n"
    receiver.answer(
        raw(OK + stray, then="keep") if not pause else raw(OK, stray, pause_seconds=pause, then="keep"), status(201)
    )

    first = await send(receiver.url)
    await asyncio.sleep(pause * 2)
    second = await send(receiver.url)

    assert first.response.status_code == 200
    assert second.response.status_code == 201
    assert receiver.connections == 2


async def test_a_body_that_must_not_be_is_never_the_next_answer(send: Sending, receiver: Receiver) -> None:
    receiver.answer(raw(b"HTTP/1.1 204 None\r\nContent-Length: 3\r\n\r\nabc", then="keep"), status(201))

    first = await send(receiver.url)
    second = await send(receiver.url)

    assert (first.response.status_code, second.response.status_code) == (204, 201)


async def test_a_receiver_that_hangs_up_after_each_answer_gets_every_request(send: Sending, receiver: Receiver) -> None:
    receiver.answer(raw(OK, then="close"))

    for pause in [0.0, 0.01] * 10:  # descriptors are given out again and again
        assert isinstance(await send(receiver.url), Accepted)
        await asyncio.sleep(pause)

    assert len(receiver.requests) == 20


# --- addresses -----------------------------------------------------------------------------------------------


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
    monkeypatch.setattr(CurlSender, "_settle_if_refused", lambda self, job, judged: True)
    send = make(TargetPolicy(), Names(hooks=(IPv6Address("::1"), IPv4Address("127.0.0.1"))))

    outcome = await send(receiver.url_for("hooks.test"))

    assert isinstance(outcome, Blocked)
    assert receiver.connections == 0


async def test_libcurl_never_resolves_a_name_itself(
    make: Make, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third guard, alone: a pin that is lost."""
    monkeypatch.setattr("gatepost.adapters.curl_loop.CurlLoop._pin", lambda self, job: None)
    send = make(resolver=Names(localhost=(IPv4Address("127.0.0.1"),)))

    outcome = await send(receiver.url_for("localhost"))

    assert outcome.error_class is ErrorClass.INTERNAL_ERROR
    assert receiver.connections == 0


async def test_a_failed_look_up_is_a_failed_attempt(make: Make) -> None:
    send = make(resolver=Names(hooks=LookupFailure("Domain name not found")))

    outcome = await send("http://hooks.test/")

    assert outcome == Unreachable(ErrorClass.DNS, "Domain name not found")


async def test_the_look_up_is_inside_the_deadline(make: Make, receiver: Receiver) -> None:
    send = make(resolver=Names(never=asyncio.sleep(9), slow=_later(0.1, (IPv4Address("127.0.0.1"),))))
    receiver.answer(hang())

    late = await send("http://never.test/", timeout=0.05)
    loop_time = asyncio.get_running_loop().time
    started = loop_time()
    hanging = await send(receiver.url_for("slow.test"), timeout=0.2)

    assert late.error_class is ErrorClass.DNS
    assert hanging.error_class is ErrorClass.TIMEOUT
    assert loop_time() - started < 0.29


async def _later(seconds: float, answer: Any) -> Any:
    await asyncio.sleep(seconds)
    return answer


# --- leases and the end --------------------------------------------------------------------------------------


async def test_a_request_past_its_lease_is_dropped_unsent(send: Sending, receiver: Receiver) -> None:
    assert await send(receiver.url, start_before=CLOCK.boot() - 0.001) == Dropped()
    assert receiver.connections == 0


async def test_a_request_whose_lease_ends_while_its_name_is_looked_up_is_dropped(
    make: Make, receiver: Receiver
) -> None:
    send = make(resolver=Names(slow=_later(0.05, (IPv4Address("127.0.0.1"),))))

    assert await send(receiver.url_for("slow.test"), start_before=CLOCK.boot() + 0.01) == Dropped()
    assert receiver.requests == []


async def test_a_request_whose_lease_ends_while_it_connects_is_dropped(
    send: Sending, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after SIGSTOP and SIGCONT: the last look at the clock is just before the request leaves."""
    prepare = Transfer.prepare

    def stand_still(transfer: Transfer, job: Any, **options: Any) -> None:
        prepare(transfer, job, **options)
        job.outgoing.start_before = CLOCK.boot() - 0.001

    monkeypatch.setattr(Transfer, "prepare", stand_still)

    assert await send(receiver.url, start_before=CLOCK.boot() + 60) == Dropped()
    assert receiver.requests == []


async def test_a_settle_that_raises_does_not_keep_the_others_waiting(send: Sending, receiver: Receiver) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("in settle")

    send.sender.submit([Outgoing(parse_target(receiver.url), (), b"", 1, math.inf, broken)] * 3)

    assert isinstance(await send(receiver.url), Accepted)


async def test_nothing_is_settled_after_close(make: Make, receiver: Receiver) -> None:
    send = make()
    receiver.answer(hang())
    settled: list[Any] = []
    outgoing = Outgoing(parse_target(receiver.url), (), b"", 0.05, math.inf, lambda *args: settled.append(args))
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
    send.sender.submit([Outgoing(parse_target(receiver.url), (), b"", 1, math.inf, bug)])

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
