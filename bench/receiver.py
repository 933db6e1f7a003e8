"""The receiver of the benchmarks: answers every request 200 and keeps the connection; run in a process of its own.

Prints its port, then, each time a line arrives on standard input, the number of requests so far.
"""

import argparse
import asyncio
import re
import ssl
import sys

import uvloop

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Receiver(asyncio.Protocol):
    """Counts requests without parsing more of them than where they end."""

    answered = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._received = b""

    def data_received(self, data: bytes) -> None:
        self._received += data
        while end := self._end_of_request():
            self._received = self._received[end:]
            Receiver.answered += 1
            self._transport.write(ANSWER)

    def _end_of_request(self) -> int:
        """Return where the first request ends; 0 when it is not all there yet."""
        head = self._received.find(b"\r\n\r\n")
        if head < 0:
            return 0
        length = LENGTH.search(self._received, 0, head)
        end = head + 4 + (int(length[1]) if length else 0)
        return end if len(self._received) >= end else 0


async def serve(port: int, certificate: str | None) -> None:
    """Answer until standard input ends."""
    tls = None
    if certificate:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Receiver, "127.0.0.1", port, ssl=tls, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    while await loop.run_in_executor(None, sys.stdin.readline):
        print(Receiver.answered, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--certificate", help="a PEM file with key and certificate: answer HTTPS")
    arguments = parser.parse_args()
    uvloop.run(serve(arguments.port, arguments.certificate))
