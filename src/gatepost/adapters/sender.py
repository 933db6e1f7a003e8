"""HTTP attempts: guard the address, one deadline, cap the response. The network is in `curl_loop`."""

import asyncio
import contextlib
import functools
import os
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from gatepost.adapters.curl_loop import CurlLoop, Ended
from gatepost.adapters.resolver import LookupFailure, Resolver
from gatepost.adapters.transfers import Submission
from gatepost.domain.network import IpAddress, TargetPolicy
from gatepost.domain.outcomes import Blocked, ErrorClass, Outcome, Unreachable
from gatepost.ports import Clock, Outgoing

log = structlog.get_logger()

MAX_IN_FLIGHT = 8192
JUDGED_LIMIT = 20_000  # refusals looked up in the policy's long tables, and remembered


class CurlSender:
    """The `Sender` port on libcurl. It belongs to the event loop of its first `submit`, and closes its resolver.

    Shape: `ca_file` is trusted besides the system's certificates. `on_thread_death` is called on the event loop's
           thread when libcurl's thread ends by a bug: nothing will be settled any more.
    """

    def __init__(
        self,
        policy: TargetPolicy,
        resolver: Resolver,
        clock: Clock,
        *,
        max_in_flight: int = MAX_IN_FLIGHT,
        ca_file: str | None = None,
        on_thread_death: Callable[[BaseException], None],
    ) -> None:
        self._policy = policy
        self._resolver = resolver
        self._clock = clock
        self._max_in_flight = max_in_flight
        self._trust = _Trust(ca_file)
        self._on_thread_death = on_thread_death
        self._refusal = functools.lru_cache(JUDGED_LIMIT)(policy.refusal)
        self._look_ups: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: CurlLoop | None = None
        self._closed = False

    def submit(self, batch: Sequence[Outgoing]) -> None:
        """Start the requests; every one is settled once, whatever happens. After `close`, nothing is."""
        if self._closed:
            return
        thread = self._running_thread()
        now = self._clock.boot()
        ready: list[Submission] = []
        for outgoing in batch:
            submission = Submission(outgoing, now)
            try:
                if self._admit(submission):
                    ready.append(submission)
            except Exception as error:  # noqa: BLE001 - a bug here must not cost the rest of the batch
                self._settle_soon(submission, Unreachable(ErrorClass.INTERNAL_ERROR, repr(error)))
        if ready:
            thread.put(ready)

    async def close(self) -> None:
        """Give up what is in flight, unsettled, and stop."""
        self._closed = True
        for task in self._look_ups:
            task.cancel()
        self._resolver.close()
        if self._thread:
            await asyncio.to_thread(self._thread.stop)
        self._trust.close()

    def _running_thread(self) -> CurlLoop:
        if self._thread is None:
            self._loop = asyncio.get_running_loop()
            self._thread = CurlLoop(
                self._policy,
                self._clock,
                max_in_flight=self._max_in_flight,
                ca_file=self._trust.path,
                on_ended=functools.partial(self._back_on_loop, self._settle_all),
                on_death=functools.partial(self._back_on_loop, self._on_thread_death),
            )
        return self._thread

    def _admit(self, submission: Submission) -> bool:
        """Say whether a request may go to libcurl now; if not, it is settled or its name is being looked up."""
        target = submission.outgoing.target
        if target.literal is not None:
            return self._judge(submission, (target.literal,))
        addresses = self._resolver.known(target.host)
        if addresses is None:
            self._look_up(submission)
            return False
        submission.addresses = addresses
        return self._judge(submission, addresses)

    def _judge(self, submission: Submission, addresses: tuple[IpAddress, ...]) -> bool:
        """Say whether all the addresses may be called; if not, the request is settled."""
        port = submission.outgoing.target.port
        for address in addresses:
            if reason := self._refusal(address, port):
                self._settle_soon(submission, Blocked(ErrorClass.BLOCKED_ADDRESS, reason))
                return False
        return True

    def _look_up(self, submission: Submission) -> None:
        task = asyncio.ensure_future(self._resolve(submission))
        self._look_ups.add(task)
        task.add_done_callback(self._look_ups.discard)

    async def _resolve(self, submission: Submission) -> None:
        try:
            async with asyncio.timeout(submission.outgoing.timeout):
                answer = await self._resolver.resolve(submission.outgoing.target.host)
            if isinstance(answer, LookupFailure):
                self._settle_soon(submission, Unreachable(ErrorClass.DNS, answer.detail))
                return
            submission.addresses = answer
            if self._judge(submission, answer) and self._thread:
                self._thread.put([submission])
        except TimeoutError:
            self._settle_soon(submission, Unreachable(ErrorClass.DNS, "no answer before the deadline"))
        except Exception as error:  # noqa: BLE001 - a task that died would leave its request unsettled
            self._settle_soon(submission, Unreachable(ErrorClass.INTERNAL_ERROR, repr(error)))

    def _settle_soon(self, submission: Submission, result: Outcome) -> None:
        """Settle after `submit` has returned: its caller need not expect to be called back from within."""
        started = submission.started
        ended: Ended = (submission.outgoing, result, started, self._clock.boot() - started)
        asyncio.get_running_loop().call_soon(self._settle_all, [ended])

    def _settle_all(self, batch: list[Ended]) -> None:
        for outgoing, result, started, duration in batch:
            if self._closed:
                return
            try:
                outgoing.settle(result, started, duration)
            except Exception:  # a bug in one settle must not keep the rest of the batch waiting
                log.exception("sender.settle_failed", target=outgoing.target.host)

    def _back_on_loop(self, callback: Callable[..., None], argument: object) -> None:
        if self._loop and not self._loop.is_closed():
            with contextlib.suppress(RuntimeError):  # the loop was closed in this very moment
                self._loop.call_soon_threadsafe(callback, argument)


class _Trust:
    """The certificates we trust, as one file: only then does libcurl keep them parsed between connections.

    The wheel of pycurl names a bundle that most systems do not have, so the system's is looked up as Python does.
    A file of one's own comes on top of it, joined in memory.
    """

    def __init__(self, ca_file: str | None) -> None:
        system = ssl.get_default_verify_paths().cafile
        self.path = system
        self._memory: int | None = None
        if ca_file is not None:
            parts = [Path(file).read_bytes() for file in (system, ca_file) if file]
            self._memory = os.memfd_create("gatepost-trust")
            with open(self._memory, "wb", closefd=False) as joined:
                joined.write(b"\n".join(parts))
            self.path = f"/proc/self/fd/{self._memory}"

    def close(self) -> None:
        if self._memory is not None:
            os.close(self._memory)
            self._memory = None
