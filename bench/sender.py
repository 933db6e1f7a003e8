"""CPU per request of the sender alone: signed 1 KiB POSTs to one receiver process, keep-alive, 50 in flight.

python -m bench.sender --requests 30000 --in-flight 50 --repeats 3
"""

import argparse
import asyncio
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import uvloop

from gatepost.adapters.resolver import Resolver
from gatepost.adapters.sender import CurlSender
from gatepost.adapters.system import SystemClock
from gatepost.domain.deliveries import QueuedDelivery, request_headers
from gatepost.domain.network import Target, TargetPolicy, parse_networks, parse_target
from gatepost.domain.outcomes import Accepted, Outcome
from gatepost.domain.signatures import make_secret, parse_secret
from gatepost.ports import Dropped, Outgoing

BODY = b'{"data":"' + b"x" * 1013 + b'"}'


class Drain:
    """Sends a number of requests, a fixed number at a time; a batch of outcomes is answered by a batch of requests."""

    def __init__(self, sender: CurlSender, target: Target, *, requests: int, in_flight: int) -> None:
        self._sender = sender
        self._target = target
        self._to_start = requests
        self._to_finish = requests
        self._in_flight = in_flight
        self._free = 0
        self._flush_planned = False
        self._done = asyncio.get_running_loop().create_future()
        self._clock = SystemClock()
        self._keys = [parse_secret(make_secret(bytes(32)))]
        self._delivery = QueuedDelivery(
            "dlv_0", "grp_0", "wh_0", "evt_0", "task.completed", BODY, 1, 0, self._clock.now()
        )
        self.failed = 0

    async def run(self) -> None:
        self._submit(self._in_flight)
        await self._done

    def _submit(self, count: int) -> None:
        count = min(count, self._to_start)
        self._to_start -= count
        self._sender.submit([self._outgoing() for _ in range(count)])

    def _outgoing(self) -> Outgoing:
        headers = request_headers(
            self._delivery, keys=self._keys, own_headers=(), user_agent="Gatepost/0", timestamp=int(time.time())
        )
        return Outgoing(self._target, headers, BODY, 15.0, lambda: math.inf, self._settle)

    def _settle(self, result: "Outcome | Dropped", *_times: float) -> None:
        if not isinstance(result, Accepted):
            self.failed += 1
        self._to_finish -= 1
        self._free += 1
        if not self._flush_planned:
            self._flush_planned = True
            asyncio.get_running_loop().call_soon(self._flush)
        if not self._to_finish:
            self._done.set_result(None)

    def _flush(self) -> None:
        self._flush_planned = False
        free, self._free = self._free, 0
        self._submit(free)


async def measure(url: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Return CPU µs and wall µs per request of this process, over one warm drain."""
    policy = TargetPolicy(allowed_networks=parse_networks("127.0.0.0/8, ::1/128"))
    clock = SystemClock()
    sender = CurlSender(
        policy, Resolver(clock), clock, ca_file=arguments.certificate, on_thread_death=lambda _error: os._exit(1)
    )
    target = parse_target(url)
    await Drain(sender, target, requests=1000, in_flight=arguments.in_flight).run()
    before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    drain = Drain(sender, target, requests=arguments.requests, in_flight=arguments.in_flight)
    await drain.run()
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
    await sender.close()
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    per_request = 1e6 / arguments.requests
    return {"cpu_us": cpu * per_request, "wall_us": wall * per_request, "failed": drain.failed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=30_000)
    parser.add_argument("--in-flight", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--certificate", help="a PEM file with key and certificate: use HTTPS")
    parser.add_argument("--no-pin", action="store_true", help="do not pin to core 0, nor the receiver to core 1")
    arguments = parser.parse_args()
    command = [sys.executable, str(Path(__file__).with_name("receiver.py"))]
    if arguments.certificate:
        command += ["--certificate", arguments.certificate]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as receiver:
        assert receiver.stdout
        assert receiver.stdin
        if not arguments.no_pin and (os.cpu_count() or 1) > 1:
            os.sched_setaffinity(0, {0})
            os.sched_setaffinity(receiver.pid, {1})
        scheme = "https" if arguments.certificate else "http"
        url = f"{scheme}://{arguments.host}:{int(receiver.stdout.readline())}/hook"
        runs = [uvloop.run(measure(url, arguments)) for _ in range(arguments.repeats)]
        receiver.stdin.close()
    cpu = statistics.median(run["cpu_us"] for run in runs)
    print(json.dumps({"runs": runs, "median_cpu_us": cpu, "per_second_per_core": round(1e6 / cpu)}, indent=1))


if __name__ == "__main__":
    main()
