"""A receiver on loopback that answers as badly as it is told to; nothing between its script and the socket.

async with Receiver() as receiver:
    receiver.answer(status(503), raw(b"HTTP/1.1 2"), status(200))  # one each; the last one ever after
    …
    assert receiver.requests[0].json()["event"] == "task.completed"
"""

import asyncio
import contextlib
import datetime as dt
import ipaddress
import json
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Request:
    """What arrived. Shape: the names in `headers` are lower-case. Units: `at` is a moment of `time.monotonic`."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    at: float = field(default_factory=time.monotonic)

    def json(self) -> Any:
        return json.loads(self.body)


class Conversation:
    """One connection, in the hands of an answer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def hang(self) -> None:
        """Stay silent until the other side hangs up."""
        while await self._reader.read(65536):
            pass

    def reset(self) -> None:
        """End with RST instead of FIN."""
        self._writer.transport.abort()

    def close(self) -> None:
        self._writer.close()

    @property
    def is_closing(self) -> bool:
        return self._writer.is_closing()

    async def read_request(self) -> Request | None:
        """Return the next request; None when there is none."""
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        request_line, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
        method, path, _ = request_line.split(" ")
        pairs = (line.split(":", 1) for line in lines)
        headers = {name.lower(): value.strip() for name, value in pairs}
        body = await self._reader.readexactly(int(headers.get("content-length", "0")))
        return Request(method, path, headers, body)


Answer = Callable[[Conversation], Awaitable[None]]


class Receiver:
    """Listens on loopback, records the requests, and answers them by its script.

    Shape: `connections` counts those accepted so far, `open_connections` those that are open now.
    """

    def __init__(self, *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> None:
        self._host = host
        self._tls = tls
        self._script: list[Answer] = [status(200)]
        self._tasks: set[asyncio.Task[None]] = set()
        self.requests: list[Request] = []
        self.connections = 0
        self.port = 0

    @property
    def url(self) -> str:
        return self.url_for(f"[{self._host}]" if ":" in self._host else self._host)

    @property
    def open_connections(self) -> int:
        return len(self._tasks)

    def url_for(self, name: str) -> str:
        """Return the URL under another name of the same machine."""
        return f"{'https' if self._tls else 'http'}://{name}:{self.port}/hook"

    def answer(self, *answers: Answer) -> None:
        """Set the script: one answer for each request from now on, the last one for all that follow."""
        self._script = list(answers)

    async def wait_for(self, count: int) -> list[Request]:
        """Return the requests as soon as there are so many."""
        async with asyncio.timeout(5):
            while len(self.requests) < count:  # noqa: ASYNC110 - simpler than an event for each count
                await asyncio.sleep(0.005)
        return self.requests

    async def __aenter__(self) -> "Receiver":
        self._server = await asyncio.start_server(self._serve, self._host, 0, ssl=self._tls, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        try:
            await self._converse(Conversation(reader, writer))
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the other side went away, or the test is over
        finally:
            writer.transport.abort() if task.cancelling() else writer.close()
            self._tasks.discard(task)

    async def _converse(self, conversation: Conversation) -> None:
        while not conversation.is_closing:
            request = await conversation.read_request()
            if request is None:
                return
            self.requests.append(request)
            answer = self._script.pop(0) if len(self._script) > 1 else self._script[0]
            await answer(conversation)


# --- answers -------------------------------------------------------------------------------------------------


def status(
    code: int, *, headers: Mapping[str, str] | None = None, body: bytes = b"ok", delay_seconds: float = 0
) -> Answer:
    """Answer as a decent server does, perhaps late."""
    fields = {"Content-Length": str(len(body)), **(headers or {})}
    head = f"HTTP/1.1 {code} Status\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items())

    async def answer(conversation: Conversation) -> None:
        await asyncio.sleep(delay_seconds)
        await conversation.send(head.encode("latin-1") + b"\r\n" + body)

    return answer


class Held:
    """Answer 200 as soon as `given` is set."""

    def __init__(self, body: bytes = b"ok") -> None:
        self.given = asyncio.Event()
        self._answer = status(200, body=body)

    async def __call__(self, conversation: Conversation) -> None:
        await self.given.wait()
        await self._answer(conversation)


def raw(*parts: bytes, then: str = "close", pause_seconds: float = 0) -> Answer:
    """Send these bytes, with pauses between the parts. Shape: `then` is close, keep, hang or reset."""

    async def answer(conversation: Conversation) -> None:
        await conversation.send(parts[0] if parts else b"")
        for part in parts[1:]:
            await asyncio.sleep(pause_seconds)
            await conversation.send(part)
        await _go_on(conversation, then)

    return answer


def drip(data: bytes, *, pause_seconds: float, then: str = "hang") -> Answer:
    """Send byte by byte."""
    return raw(*(bytes([byte]) for byte in data), then=then, pause_seconds=pause_seconds)


def endless(start: bytes, parts: Iterable[bytes]) -> Answer:
    """Send one part after another for as long as the other side listens."""

    async def answer(conversation: Conversation) -> None:
        await conversation.send(start)
        for part in parts:
            await conversation.send(part)
            await asyncio.sleep(0)

    return answer


def hang() -> Answer:
    """Read the request and never answer."""
    return raw(then="hang")


def reset() -> Answer:
    """Read the request and reset the connection."""
    return raw(then="reset")


async def _go_on(conversation: Conversation, then: str) -> None:
    match then:
        case "close":
            conversation.close()
        case "reset":
            conversation.reset()
        case "hang":
            await conversation.hang()
        case _:
            assert then == "keep", then


# --- certificates --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Authority:
    """A certificate authority of one's own; `ca_file` is its certificate."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate
    ca_file: Path

    @classmethod
    def make(cls, folder: Path) -> "Authority":
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name("Test Authority")
        certificate = (
            _unsigned(name, name, key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(key, hashes.SHA256())
        )
        ca_file = folder / "authority.pem"
        ca_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return cls(key, certificate, ca_file)

    def server(self, *names: str, expired: bool = False, self_signed: bool = False) -> ssl.SSLContext:
        """Return what a server needs to speak TLS under names or addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(names[0])
        issuer = subject if self_signed else self.certificate.subject
        certificate = (
            _unsigned(subject, issuer, key.public_key(), expired=expired)
            .add_extension(x509.SubjectAlternativeName([_alternative(name) for name in names]), critical=False)
            .sign(key if self_signed else self.key, hashes.SHA256())
        )
        return self._context(key, certificate)

    def _context(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> ssl.SSLContext:
        file = self.ca_file.with_name(f"server-{certificate.serial_number}.pem")
        file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _alternative(name: str) -> x509.GeneralName:
    with contextlib.suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(name))
    return x509.DNSName(name)


def _unsigned(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, *, expired: bool = False
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    until = now - dt.timedelta(days=1) if expired else now + dt.timedelta(days=1)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=2))
        .not_valid_after(until)
    )
