"""What arrives at the socket and is no request, or never becomes one: asked of the real server."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.commands import PATIENCE_SECONDS, Server, server

from gatepost.serving import HEAD_LIMIT_BYTES

START = b"GET /health/live HTTP/1.1\r\nHost: gatepost.test\r\n"
CHUNKED = b"POST /nowhere HTTP/1.1\r\nHost: gatepost.test\r\nTransfer-Encoding: chunked\r\n\r\n"
MORE_THAN_ENOUGH = 8 * HEAD_LIMIT_BYTES
FIELDS = b"".join(b"X-%d: y\r\n" % number for number in range(MORE_THAN_ENOUGH // 8))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder: Path = tmp_path_factory.mktemp("framing")
    with server(folder) as running:
        yield running


def answers(served: Server, sent: bytes) -> bytes:
    """Send bytes that need not end, and return all that comes back until the server hangs up."""
    url = urlsplit(served.url)
    received = b""
    with socket.create_connection((url.hostname, url.port), timeout=PATIENCE_SECONDS) as connection:
        try:
            connection.sendall(sent)
            while piece := connection.recv(65536):
                received += piece
        except ConnectionError:
            pass  # it hung up while we were still sending; what it said before that may be lost with it
    return received


def parsed(answer: bytes) -> tuple[bytes, Any]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return head, json.loads(body)


@pytest.mark.parametrize(
    "endless",
    [
        pytest.param(START + FIELDS, id="fields"),
        pytest.param(START + b"X: " + b"y" * MORE_THAN_ENOUGH, id="one field"),
        pytest.param(b"GET /" + b"y" * MORE_THAN_ENOUGH, id="target"),
        pytest.param(CHUNKED + b"0\r\n" + FIELDS, id="fields behind the body"),
        pytest.param(CHUNKED + b"5;" + b"y" * MORE_THAN_ENOUGH, id="extension of a chunk"),
    ],
)
def test_a_head_without_end_is_cut_off_before_it_fills_the_memory(served: Server, endless: bytes) -> None:
    answer = answers(served, endless)  # without a limit, this waits for more until its patience ends

    assert not answer or b" 400 " in answer or b" 404 " in answer


def test_a_head_within_the_limit_is_read_and_what_follows_a_head_does_not_count(served: Server) -> None:
    long = b"X: " + b"y" * (HEAD_LIMIT_BYTES // 2) + b"\r\n"
    body = b"z" * (2 * HEAD_LIMIT_BYTES)
    post = b"POST /nowhere HTTP/1.1\r\nHost: gatepost.test\r\nContent-Length: %d\r\n\r\n" % len(body) + body

    answer = answers(served, 3 * (START + long + b"\r\n") + post + START + b"Connection: close\r\n\r\n")

    assert answer.count(b" 200 OK") == 4
    assert answer.count(b" 404 ") == 1


@pytest.mark.parametrize(
    "sent",
    [
        b"what is this\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"POST /health/live HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /health/live HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
def test_what_is_no_http_is_answered_with_a_problem_and_the_connection_ends(served: Server, sent: bytes) -> None:
    head, problem = parsed(answers(served, sent))

    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"content-type: application/problem+json" in head
    assert (problem["code"], problem["status"]) == ("malformed_request", 400)


def test_a_websocket_is_an_ordinary_request_here(served: Server) -> None:
    asked = (
        b"Upgrade: websocket\r\nConnection: Upgrade, close\r\nSec-WebSocket-Key: eA==\r\nSec-WebSocket-Version: 13\r\n"
    )

    head, problem = parsed(answers(served, START.replace(b"/health/live", b"/api/auth/me") + asked + b"\r\n"))

    assert head.startswith(b"HTTP/1.1 401 ")
    assert problem["code"] == "unauthenticated"
