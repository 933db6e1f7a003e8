"""What goes out, and what we make of the answer."""

import asyncio
from typing import Any

import pytest
from tests.integration.senders import CLOCK, OK, Make, Sending
from tests.receivers import Receiver, raw, status

from gatepost.domain.outcomes import Accepted, ErrorClass, Refused, Unreachable, retry_after

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
