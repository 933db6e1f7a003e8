"""The thread that drives libcurl: requests come in by batches, outcomes go out by batches."""

import contextlib
import os
import select
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import pycurl

from gatepost.adapters.transfers import Connections, Submission, Transfer, pin_of
from gatepost.domain.network import IpAddress, Target, TargetPolicy
from gatepost.domain.outcomes import ErrorClass, Outcome, Unreachable
from gatepost.ports import Clock, Dropped, Outgoing

Ended = tuple[Outgoing, "Outcome | Dropped", float, float]

EVENTS_PER_TURN = 128  # what is touched in a turn still fits the caches at its end
IDLE_HANDLES_KEPT = 512
PINS_LIMIT = 20_000


class CurlLoop:
    """One thread, one CurlMulti, one epoll: `select` ends at 1,024 descriptors.

    Shape: `on_ended` and `on_death` are called on this thread, `on_ended` at most once a turn.
    """

    def __init__(
        self,
        policy: TargetPolicy,
        clock: Clock,
        *,
        max_in_flight: int,
        ca_file: str | None,
        on_ended: Callable[[list[Ended]], None],
        on_death: Callable[[BaseException], None],
    ) -> None:
        self._policy = policy
        self._clock = clock
        self._max_in_flight = max_in_flight
        self._ca_file = ca_file
        self._on_ended = on_ended
        self._on_death = on_death
        self._waiting: deque[Submission] = deque()
        self._woken = False
        self._stopping = False
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._running: dict[Any, Transfer] = {}
        self._idle: list[Transfer] = []
        self._ended: list[Ended] = []
        self._pins: dict[tuple[str, int], tuple[IpAddress, ...]] = {}
        self._due: float | None = None  # when libcurl wants to be called, a moment of the clock
        self._watched: dict[int, int] = {}
        self._idle_fds: dict[int, int] = {}  # and how many sockets had been opened when they became idle
        self._connections = Connections()
        self._thread = threading.Thread(target=self._run, name="gatepost-sender", daemon=True)
        self._thread.start()

    def put(self, submissions: Sequence[Submission]) -> None:
        """Hand requests over; safe from any thread."""
        self._waiting.extend(submissions)
        self._ring()

    def stop(self) -> None:
        """Give up everything in flight and end the thread; returns when it has ended."""
        self._stopping = True
        self._ring()
        self._thread.join()
        if self._bell >= 0:
            os.close(self._bell)
            self._bell = -1

    def _ring(self) -> None:
        if not self._woken and self._bell >= 0:
            self._woken = True
            os.eventfd_write(self._bell, 1)

    # --- the thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._open()
            try:
                while not self._stopping:
                    self._turn()
            finally:
                self._shut()
        except BaseException as error:  # noqa: BLE001 - whatever it is, the process must not go on without us
            self._on_death(error)

    def _open(self) -> None:
        self._epoll = select.epoll()
        self._epoll.register(self._bell, select.EPOLLIN)
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._on_interest)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._on_timer)
        self._multi.setopt(pycurl.M_MAXCONNECTS, self._max_in_flight)

    def _turn(self) -> None:
        for fd, events in self._epoll.poll(self._patience(), EVENTS_PER_TURN):
            if fd == self._bell:
                os.eventfd_read(fd)
                self._woken = False  # before the submissions are taken, so that a later one rings again
            elif fd in self._idle_fds:
                self._spoil(fd)
            else:
                self._multi.socket_action(fd, _CURL_EVENTS[events & _EPOLL_ALL])
        self._start_waiting()
        if self._due is not None and self._due <= self._clock.boot():
            self._due = None
            self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
        self._collect()
        if self._ended:
            ended, self._ended = self._ended, []
            self._on_ended(ended)

    def _patience(self) -> float:
        if self._waiting:
            return 0
        if self._due is None:
            return -1
        return max(0.0, self._due - self._clock.boot())

    def _start_waiting(self) -> None:
        waiting = self._waiting
        now = self._clock.boot() if waiting else 0.0
        while waiting:
            submission = waiting.popleft()
            try:
                self._start(submission, now)
            except Exception as error:  # noqa: BLE001 - one request that cannot be made must not stop the others
                self._settle(submission, Unreachable(ErrorClass.INTERNAL_ERROR, repr(error)), now)

    def _start(self, submission: Submission, now: float) -> None:
        """Give a request to libcurl; whether its lease still holds is asked again just before it leaves."""
        outgoing = submission.outgoing
        remaining = submission.started + outgoing.timeout - now
        if now > outgoing.start_before():
            self._settle(submission, Dropped(), now)
        elif remaining <= 0:
            self._settle(submission, Unreachable(ErrorClass.TIMEOUT, "the deadline passed before connecting"), now)
        else:
            self._start_within(submission, remaining)

    def _start_within(self, submission: Submission, remaining: float) -> None:
        transfer = self._idle.pop() if self._idle else self._new_transfer()
        curl = transfer.curl
        self._running[curl] = transfer
        try:
            transfer.prepare(submission, remaining=remaining, pin=self._pin(submission))
            self._multi.add_handle(curl)
        except Exception:
            del self._running[curl]
            self._retire(transfer)
            raise

    def _new_transfer(self) -> Transfer:
        return Transfer(self._policy, self._clock, self._connections, self._ca_file)

    def _pin(self, submission: Submission) -> str | None:
        """Return the entry that libcurl must learn first; None when it knows these addresses, or needs none.

        One cache of names serves all handles of the multi. Entries without a ``+`` never run out, and a new one
        replaces the old: whichever entry a connect meets, all its addresses were checked. A kept connection is
        found by host and port whatever its address was; it was checked when it was opened, at most five minutes
        ago (MAXLIFETIME_CONN).
        """
        if submission.addresses is None:
            return None
        target = submission.outgoing.target
        learnt = self._pins.get((target.host, target.port))
        return None if learnt == submission.addresses else pin_of(target.host, target.port, submission.addresses)

    def _remember_pin(self, target: Target, addresses: tuple[IpAddress, ...], *, learnt: bool) -> None:
        place = (target.host, target.port)
        if len(self._pins) >= PINS_LIMIT or not learnt:
            self._pins.pop(place, None)
        else:
            self._pins[place] = addresses

    def _collect(self) -> None:
        _queued, done, failed = self._multi.info_read()
        now = self._clock.boot() if done or failed else 0.0
        for curl in done:
            self._finish(curl, 0, "", now)
        for curl, errno, detail in failed:
            self._finish(curl, errno, detail, now)

    def _finish(self, curl: Any, errno: int, detail: str, now: float) -> None:
        self._multi.remove_handle(curl)
        transfer = self._running.pop(curl)
        submission, is_unused = transfer.submission, transfer.is_unused
        try:
            result = transfer.finish(errno, detail)
        except Exception as error:  # noqa: BLE001 - an answer that we fail to read must not stop the others
            result = Unreachable(ErrorClass.INTERNAL_ERROR, repr(error))
        self._retire(transfer)
        if submission.addresses is not None:
            self._remember_pin(submission.outgoing.target, submission.addresses, learnt=not errno)
        if is_unused:
            self._waiting.append(submission)
        else:
            self._settle(submission, result, now)

    def _settle(self, submission: Submission, result: "Outcome | Dropped", now: float) -> None:
        self._ended.append((submission.outgoing, result, submission.started, now - submission.started))

    def _retire(self, transfer: Transfer) -> None:
        if len(self._idle) < IDLE_HANDLES_KEPT:
            self._idle.append(transfer)
        else:
            transfer.curl.close()

    def _shut(self) -> None:
        for curl in list(self._running):
            self._multi.remove_handle(curl)
        self._multi.close()
        for transfer in (*self._running.values(), *self._idle):
            transfer.curl.close()
        self._running.clear()
        self._idle.clear()
        self._epoll.close()

    # --- libcurl calls ---------------------------------------------------------------------------------------

    def _on_timer(self, milliseconds: int) -> None:
        if milliseconds <= 0:  # 0 is at once: the clock need not be read
            self._due = None if milliseconds else 0.0
        else:
            self._due = self._clock.boot() + milliseconds / 1000

    def _on_interest(self, what: int, fd: int, _multi: object, _data: object) -> None:
        """Watch a socket as libcurl wants, and go on watching it when libcurl does not: see `_spoil`.

        The kernel itself takes a descriptor out of the epoll when it is closed; then an idle one may be another
        connection by now, unless no socket was opened since.
        """
        opened = self._connections.opened
        idle = what == pycurl.POLL_REMOVE
        wanted = select.EPOLLIN if idle else _EPOLL_EVENTS[what]
        if self._watched.get(fd) != wanted or self._idle_fds.pop(fd, opened) != opened:
            self._watch(fd, wanted)
        if idle:
            self._idle_fds[fd] = opened
        else:
            self._idle_fds.pop(fd, None)

    def _watch(self, fd: int, wanted: int) -> None:
        try:
            self._epoll.modify(fd, wanted)
        except FileNotFoundError:  # a new connection; an older one of this number is closed
            self._connections.forget(fd)
            self._epoll.register(fd, wanted)
        self._watched[fd] = wanted

    def _spoil(self, fd: int) -> None:
        """Mark an idle connection on which something happened: it must not carry another request.

        It has ended, or holds bytes that would be read as the next answer. libcurl does not look when it used the
        connection less than a second ago, and sends. A transfer that was given such a connection gives it back
        unused (`Transfer.on_send`), and is started again.
        """
        del self._idle_fds[fd]
        self._watched.pop(fd, None)
        with contextlib.suppress(OSError):  # closed a moment ago, in this very turn
            self._connections.spoil(fd)
            self._epoll.unregister(fd)


_EPOLL_ALL = select.EPOLLIN | select.EPOLLOUT | select.EPOLLERR | select.EPOLLHUP
_EPOLL_EVENTS = {
    pycurl.POLL_NONE: 0,
    pycurl.POLL_IN: select.EPOLLIN,
    pycurl.POLL_OUT: select.EPOLLOUT,
    pycurl.POLL_INOUT: select.EPOLLIN | select.EPOLLOUT,
}


def _curl_events(events: int) -> int:
    readable = pycurl.CSELECT_IN if events & (select.EPOLLIN | select.EPOLLHUP) else 0
    writable = pycurl.CSELECT_OUT if events & select.EPOLLOUT else 0
    return readable | writable | (pycurl.CSELECT_ERR if events & select.EPOLLERR else 0)


_CURL_EVENTS = {events: _curl_events(events) for events in range(_EPOLL_ALL + 1)}
