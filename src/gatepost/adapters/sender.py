"""HTTP attempts: guard the address, one deadline, cap the response. The network is in `curl_loop`."""

import asyncio
import contextlib
import functools
import os
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import structlog

from gatepost.adapters.curl_loop import CurlLoop, Settled
from gatepost.adapters.resolver import LookupFailure, Resolver
from gatepost.adapters.transfers import Job
from gatepost.domain.deliveries import Blocked, ErrorClass, Outcome, Unreachable
from gatepost.domain.network import IpAddress, TargetPolicy
from gatepost.ports import Clock, Outgoing

log = structlog.get_logger()

MAX_IN_FLIGHT = 8192
JUDGED_LIMIT = 20_000


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
        self._judged: dict[tuple[str, int], _Judged] = {}
        self._look_ups: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: CurlLoop | None = None
        self._closed = False

    def submit(self, batch: Sequence[Outgoing]) -> None:
        """Start the requests; every one is settled once, whatever happens. After `close`, nothing is."""
        if self._closed:
            return
        thread = self._started()
        now = self._clock.boot()
        ready: list[Job] = []
        for outgoing in batch:
            job = Job(outgoing, now)
            try:
                if self._admit(job):
                    ready.append(job)
            except Exception as error:  # noqa: BLE001 - a bug here must not cost the rest of the batch
                self._settle_soon(job, Unreachable(ErrorClass.INTERNAL_ERROR, repr(error)))
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

    def _started(self) -> CurlLoop:
        if self._thread is None:
            self._loop = asyncio.get_running_loop()
            self._thread = CurlLoop(
                self._policy,
                self._clock,
                max_in_flight=self._max_in_flight,
                ca_file=self._trust.path,
                on_settled=functools.partial(self._back_on_loop, self._settle_all),
                on_death=functools.partial(self._back_on_loop, self._on_thread_death),
            )
        return self._thread

    def _admit(self, job: Job) -> bool:
        """Say whether a request may go to libcurl now; if not, it is settled or its name is being looked up."""
        target = job.outgoing.target
        place = (target.host, target.port)
        judged = self._judged.get(place) or self._judge_literal(place, target.literal)
        if judged.is_name:
            addresses = self._resolver.known(target.host)
            if addresses is None:
                self._look_up(job)
                return False
            return self._admit_at(job, addresses)
        return self._settle_if_refused(job, judged)

    def _admit_at(self, job: Job, addresses: tuple[IpAddress, ...]) -> bool:
        """Say whether a request may go to the addresses of its name; one that may not be called blocks them all."""
        target = job.outgoing.target
        place = (target.host, target.port)
        judged = self._judged.get(place)
        if judged is None or judged.addresses is not addresses:
            judged = self._judge(place, addresses, is_name=True)
        job.addresses = addresses
        return self._settle_if_refused(job, judged)

    def _settle_if_refused(self, job: Job, judged: "_Judged") -> bool:
        if judged.refusal:
            self._settle_soon(job, Blocked(ErrorClass.BLOCKED_ADDRESS, judged.refusal))
        return not judged.refusal

    def _judge_literal(self, place: tuple[str, int], literal: IpAddress | None) -> "_Judged":
        return self._judge(place, () if literal is None else (literal,), is_name=literal is None)

    def _judge(self, place: tuple[str, int], addresses: tuple[IpAddress, ...], *, is_name: bool) -> "_Judged":
        """Return the policy's word on all the addresses of a host, and remember it: the tables are long."""
        refusals = (self._policy.refusal(address, place[1]) for address in addresses)
        if len(self._judged) >= JUDGED_LIMIT:
            self._judged.clear()
        judged = self._judged[place] = _Judged(is_name, addresses, next(filter(None, refusals), None))
        return judged

    def _look_up(self, job: Job) -> None:
        task = asyncio.ensure_future(self._resolve(job))
        self._look_ups.add(task)
        task.add_done_callback(self._look_ups.discard)

    async def _resolve(self, job: Job) -> None:
        try:
            async with asyncio.timeout(job.outgoing.timeout):
                answer = await self._resolver.resolve(job.outgoing.target.host)
            if isinstance(answer, LookupFailure):
                self._settle_soon(job, Unreachable(ErrorClass.DNS, answer.detail))
            elif self._admit_at(job, answer) and self._thread:
                self._thread.put([job])
        except TimeoutError:
            self._settle_soon(job, Unreachable(ErrorClass.DNS, "no answer before the deadline"))
        except Exception as error:  # noqa: BLE001 - every request is settled, whatever happens
            self._settle_soon(job, Unreachable(ErrorClass.INTERNAL_ERROR, repr(error)))

    def _settle_soon(self, job: Job, result: Outcome) -> None:
        """Settle after `submit` has returned: its caller need not expect to be called back from within."""
        settled: Settled = (job.outgoing, result, job.started_at, self._clock.boot() - job.started_at)
        asyncio.get_running_loop().call_soon(self._settle_all, [settled])

    def _settle_all(self, batch: list[Settled]) -> None:
        for outgoing, result, started_at, duration in batch:
            if self._closed:
                return
            try:
                outgoing.settle(result, started_at, duration)
            except Exception:
                log.exception("sender.settle_failed", target=outgoing.target.host)

    def _back_on_loop(self, callback: Callable[..., None], argument: object) -> None:
        if self._loop and not self._loop.is_closed():
            with contextlib.suppress(RuntimeError):  # the loop was closed in this very moment
                self._loop.call_soon_threadsafe(callback, argument)


class _Judged(NamedTuple):
    is_name: bool
    addresses: tuple[IpAddress, ...]
    refusal: str | None


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
