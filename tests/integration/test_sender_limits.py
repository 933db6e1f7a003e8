"""What receivers can do to us by time, size and malformed answers; rows R1–R6 of the threat table."""

import asyncio
import gzip
import socket
from itertools import repeat

import pytest
from tests.integration.senders import OK, Sending
from tests.receivers import Answer, Receiver, drip, endless, hang, raw, reset, status

from gatepost.domain.outcomes import Accepted, ErrorClass, Unreachable

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
