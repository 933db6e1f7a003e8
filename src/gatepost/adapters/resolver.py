"""Host names to addresses, on the event loop.

libcurl's own resolver is a pool of a few threads: sixty names that hang would delay every healthy one. c-ares asks
over its own sockets, so any number of names can hang at once.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address
from typing import Any

import pycares

from gatepost.domain.network import IpAddress
from gatepost.ports import Clock

LONGEST_KEPT_SECONDS = 60.0
SHORTEST_KEPT_SECONDS = 1.0  # TTL 0 at ten thousand requests a second would be as many questions
CACHE_LIMIT_HOSTS = 50_000
ASK_AGAIN_SECONDS = 2.0  # c-ares doubles it at each try
TRIES = 3


@dataclass(frozen=True, slots=True)
class LookupFailure:
    """A name has no addresses, or nobody would say; `detail` is c-ares's reason."""

    detail: str


Answer = tuple[IpAddress, ...] | LookupFailure


class Resolver:
    """Resolves names through the system's name servers and hosts file; each name is asked for once at a time.

    Shape: `nameservers` are ``host`` or ``host:port`` and replace the system's.
    """

    def __init__(self, clock: Clock, *, nameservers: Sequence[str] = ()) -> None:
        self._clock = clock
        self._nameservers = tuple(nameservers)
        self._kept: dict[str, tuple[float, tuple[IpAddress, ...]]] = {}
        self._asked: dict[str, asyncio.Future[Answer]] = {}
        self._questions: set[_Question] = set()

    def known(self, host: str) -> tuple[IpAddress, ...] | None:
        """Return the addresses of a name that was resolved a short time ago."""
        kept = self._kept.get(host)
        if kept is None or kept[0] <= self._clock.boot():
            return None
        return kept[1]

    async def resolve(self, host: str) -> Answer:
        """Return all IPv4 and IPv6 addresses of a name, or why there are none; failures are not kept."""
        if (known := self.known(host)) is not None:
            return known
        asked = self._asked.get(host)
        if asked is None:
            asked = self._asked[host] = self._ask(host)
        return await asyncio.shield(asked)  # the others still want the answer when one gives up

    def close(self) -> None:
        """Drop all questions; those who wait for an answer get a failure."""
        for question in list(self._questions):
            question.give_up()

    def _ask(self, host: str) -> asyncio.Future[Answer]:
        question = _Question(asyncio.get_running_loop(), host, self._nameservers)
        self._questions.add(question)
        asked: asyncio.Future[Answer] = asyncio.ensure_future(self._settle(host, question))
        return asked

    async def _settle(self, host: str, question: "_Question") -> Answer:
        try:
            answer, ttl = await question.answered
        finally:
            self._questions.discard(question)
            del self._asked[host]
        if not isinstance(answer, LookupFailure):
            self._keep(host, answer, ttl)
        return answer

    def _keep(self, host: str, addresses: tuple[IpAddress, ...], ttl: float) -> None:
        if len(self._kept) >= CACHE_LIMIT_HOSTS:
            self._kept.clear()
        lifetime = min(max(ttl, SHORTEST_KEPT_SECONDS), LONGEST_KEPT_SECONDS)
        self._kept[host] = (self._clock.boot() + lifetime, addresses)


class _Question:
    """One name asked for, with sockets of its own.

    A channel of c-ares keeps answers, negative ones too, for their whole TTL and cannot be told not to; so every
    question has a fresh one. Its callbacks run on the event loop, but for those at its end, which a thread of
    pycares makes: `_watch` must do nothing by then.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, host: str, nameservers: Sequence[str]) -> None:
        self.answered: asyncio.Future[tuple[Answer, float]] = loop.create_future()
        self._loop = loop
        self._watched: dict[int, tuple[bool, bool]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._ended = False
        self._channel = pycares.Channel(
            sock_state_cb=self._watch, timeout=ASK_AGAIN_SECONDS, tries=TRIES, servers=list(nameservers) or None
        )
        self._channel.getaddrinfo(host, None, callback=self._answer)
        self._set_timer()

    def give_up(self) -> None:
        self._end(LookupFailure("given up"))

    def _answer(self, result: Any, errno: int | None) -> None:
        if errno is not None:
            self._end(LookupFailure(str(pycares.errno.strerror(errno))))
            return
        texts = dict.fromkeys(node.addr[0].decode() for node in result.nodes)
        addresses = tuple(sorted(map(ip_address, texts), key=lambda address: isinstance(address, IPv4Address)))
        ttl = min((node.ttl for node in result.nodes), default=0)
        self._end(addresses or LookupFailure("no addresses"), float(ttl))

    def _end(self, answer: Answer, ttl: float = 0.0) -> None:
        if self._ended:
            return
        self._ended = True
        for fd in list(self._watched):
            self._unwatch(fd)
        if self._timer:
            self._timer.cancel()
        if not self.answered.done():
            self.answered.set_result((answer, ttl))
        self._loop.call_soon(self._channel.close)  # not from within a call of its own

    def _watch(self, fd: int, readable: bool, writable: bool) -> None:
        if self._ended:
            return
        self._unwatch(fd)
        if readable:
            self._loop.add_reader(fd, self._process, fd, pycares.ARES_SOCKET_BAD)
        if writable:
            self._loop.add_writer(fd, self._process, pycares.ARES_SOCKET_BAD, fd)
        if readable or writable:
            self._watched[fd] = (readable, writable)

    def _unwatch(self, fd: int) -> None:
        readable, writable = self._watched.pop(fd, (False, False))
        if readable:
            self._loop.remove_reader(fd)
        if writable:
            self._loop.remove_writer(fd)

    def _process(self, readable_fd: int, writable_fd: int) -> None:
        if not self._ended:
            self._channel.process_fd(readable_fd, writable_fd)
            self._set_timer()

    def _set_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
        if not self._ended:
            delay = max(self._channel.timeout(1.0), 0.001)  # type: ignore[no-untyped-call]
            self._timer = self._loop.call_later(delay, self._process, pycares.ARES_SOCKET_BAD, pycares.ARES_SOCKET_BAD)
