"""The receiver of `fleet.py`: notes what came when, on which connection, and what it was answered."""

import asyncio
import re
import time
from dataclasses import dataclass, field
from math import inf
from zlib import crc32

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
DELIVERY = re.compile(rb"\r\nx-gatepost-delivery: *(\S+)", re.IGNORECASE)
ATTEMPT = re.compile(rb"\r\nx-gatepost-attempt: *(\d+)", re.IGNORECASE)
EVENT = re.compile(rb"\r\nwebhook-id: *(\S+)", re.IGNORECASE)

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
FAILED = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"


@dataclass(slots=True, eq=False)
class Arrival:
    """One request. Units: moments of `time.monotonic`; those that have not come are infinitely far away."""

    delivery_id: str
    event_id: str
    number: int
    body: int  # a checksum: all arrivals of one delivery carry the same bytes
    status: int
    at: float
    answered: float = inf
    connection_ended: float = inf


@dataclass(slots=True)
class Receiver:
    """Answers after `delay` seconds: 500 to the first attempt of each delivery in `fails_first`, else 200."""

    delay: float = 0.02  # so that there is always something in flight when a worker dies
    fails_first: int = 20
    arrivals: list[Arrival] = field(default_factory=list)

    async def serve(self) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        return await loop.create_server(lambda: _Connection(self), "127.0.0.1", 0, backlog=4096)

    def status_for(self, delivery_id: str, number: int) -> int:
        return 500 if number == 1 and crc32(delivery_id.encode()) % self.fails_first == 0 else 200


class _Connection(asyncio.Protocol):
    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._received = b""
        self._arrivals: list[Arrival] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # the protocol's
        ended = time.monotonic()
        for arrival in self._arrivals:
            arrival.connection_ended = ended

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (head := self._received.find(b"\r\n\r\n")) >= 0:
            end = head + 4 + int(_found(LENGTH, self._received, head))
            if len(self._received) < end:
                return
            self._note(self._received[:end], head)
            self._received = self._received[end:]

    def _note(self, request: bytes, head: int) -> None:
        delivery_id, number = _found(DELIVERY, request, head), int(_found(ATTEMPT, request, head))
        status = self._receiver.status_for(delivery_id, number)
        event_id, body = _found(EVENT, request, head), crc32(request[head + 4 :])
        arrival = Arrival(delivery_id, event_id, number, body, status, at=time.monotonic())
        self._arrivals.append(arrival)
        self._receiver.arrivals.append(arrival)
        asyncio.get_running_loop().call_later(self._receiver.delay, self._answer, arrival)

    def _answer(self, arrival: Arrival) -> None:
        if not self._transport.is_closing():
            arrival.answered = time.monotonic()
            self._transport.write(OK if arrival.status == 200 else FAILED)


def _found(header: re.Pattern[bytes], request: bytes, head: int) -> str:
    found = header.search(request, 0, head)
    assert found is not None, request[:head]
    return found[1].decode()
