"""Serving over HTTP, or working without: the sockets, the signals, and an end without loose ends."""

import asyncio
import resource
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

import structlog
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gatepost.bootstrap import running, working
from gatepost.config import Settings
from gatepost.domain.errors import MalformedRequest
from gatepost.services.people import NewUser

HEAD_LIMIT_BYTES = 64 * 1024  # of a request; it is held in memory before anybody knows who sends it

log = structlog.get_logger()


class CannotListen(Exception):
    """An address that cannot be listened at; the text says why, and what to do."""


def raise_descriptor_limit() -> None:
    """Take as many descriptors as we may: each request under way needs one, and the usual soft limit is 1,024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def bind(host: str, port: int) -> socket.socket:
    """Return a socket bound to an address, not yet listening; port 0 takes a free one.

    Raises: CannotListen.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise CannotListen(f"Cannot listen on {host}: {error.strerror or error}.") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise CannotListen(
            f"Cannot listen on {host} port {port}: {error.strerror}. Choose another port, or stop what has it."
        ) from None
    return listener


def url_of(listener: socket.socket) -> str:
    """Return the URL that a browser on this machine would use."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def serve(settings: Settings, *, with_engine: bool) -> None:
    """Run Gatepost until a signal asks it to stop; then finish what is under way.

    Raises: CannotListen, InvalidSettings, StoreUnavailable.
    """
    listener = bind(settings.host, settings.port)
    try:
        with until_signal() as stopped:
            async with (
                running(settings, listeners=[_address(listener)], with_engine=with_engine) as gatepost,
                listening(gatepost.app, listener, grace_seconds=settings.shutdown_seconds),
            ):
                if gatepost.first_owner:
                    _introduce(gatepost.first_owner)
                log.info("server.started", url=url_of(listener), store=str(settings.store), engine=with_engine)
                await stopped.wait()
                log.info("server.stopping")
                gatepost.stop()
    finally:
        listener.close()
    log.info("server.stopped")


async def work(settings: Settings, *, http: tuple[str, int] | None) -> None:
    """Run an engine alone until a signal asks it to stop; with an address, tell there how it is.

    Raises: CannotListen, InvalidSettings, StoreUnavailable.
    """
    async with AsyncExitStack() as stack:
        listener = stack.enter_context(bind(*http)) if http else None
        stopped = stack.enter_context(until_signal())
        own = [_address(listener)] if listener else []
        worker = await stack.enter_async_context(working(settings, listeners=own))
        if listener:
            app = await asyncio.to_thread(worker.health_app)
            await stack.enter_async_context(listening(app, listener, grace_seconds=settings.shutdown_seconds))
        log.info("worker.started", url=url_of(listener) if listener else None, store=str(settings.store))
        await stopped.wait()
        log.info("worker.stopping")
        worker.stop()
    log.info("worker.stopped")


def _introduce(owner: NewUser) -> None:
    """Show the first account, this once; not as a log line, because logs are kept and read by many."""
    if owner.password is not None:
        sys.stdout.write(f"The first account: sign in as {owner.user.email} with the password {owner.password}\n")
        sys.stdout.flush()


def _address(listener: socket.socket) -> tuple[str, int]:
    host, port = listener.getsockname()[:2]
    return str(host), int(port)


@asynccontextmanager
async def listening(app: ASGIApp, listener: socket.socket, *, grace_seconds: float) -> AsyncIterator[None]:
    """Serve an app at a bound socket; on leaving, accept nothing more and finish the requests under way."""
    server = _Server(
        uvicorn.Config(
            app,
            http=_Http,
            ws="none",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,  # api/peers.py judges them; not even loopback is believed here
            server_header=False,
            date_header=False,
            lifespan="off",
            timeout_graceful_shutdown=max(1, round(grace_seconds)),
        )
    )
    task = asyncio.create_task(server.serve(sockets=[listener]), name="http")
    listens = asyncio.create_task(server.listens.wait())
    try:
        await asyncio.wait([task, listens], return_when=asyncio.FIRST_COMPLETED)
        yield
    finally:
        listens.cancel()
        server.should_exit = True
        await task


class _Http(HttpToolsProtocol):
    """uvicorn's HTTP, with an end to how long a head may be, and problem documents for what is no HTTP."""

    _unread = 0  # bytes since the last head or piece of a body: of a head, or of what follows a chunked body

    def data_received(self, data: bytes) -> None:
        self._unread += len(data)
        super().data_received(data)
        if self._unread > HEAD_LIMIT_BYTES and not self.transport.is_closing():
            self.send_400_response("the head is too long")

    def on_headers_complete(self) -> None:
        self._unread = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unread = 0
        super().on_body(body)

    def send_400_response(self, msg: str) -> None:
        from gatepost.api.problems import problem_response  # only now: no command is to wait for the web framework

        answer = problem_response(MalformedRequest(msg))
        headers = [*answer.raw_headers, (b"connection", b"close")]
        head = b"".join(b"%b: %b\r\n" % header for header in headers)
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\n" + head + b"\r\n" + bytes(answer.body))
        self.transport.close()


class _Server(uvicorn.Server):
    """uvicorn that says when it listens, and leaves signals to us: it would end by the signal after a clean stop."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listens = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listens.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextmanager
def until_signal() -> Iterator[asyncio.Event]:
    """Give an event that SIGTERM and SIGINT set; the second signal ends the process at once."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    signals = (signal.SIGTERM, signal.SIGINT)

    def stop() -> None:
        stopped.set()
        for number in signals:
            loop.remove_signal_handler(number)

    for number in signals:
        loop.add_signal_handler(number, stop)
    try:
        yield stopped
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
