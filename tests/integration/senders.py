"""A real sender, and the shortest way to see what becomes of a request."""

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from gatepost.adapters.sender import CurlSender
from gatepost.adapters.system import SystemClock
from gatepost.domain.network import TargetPolicy, parse_networks, parse_target
from gatepost.ports import Outgoing

LOOPBACK = TargetPolicy(parse_networks("127.0.0.0/8, ::1/128"))
CLOCK = SystemClock()
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Names:
    """A resolver that knows what it is told."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers

    def known(self, host: str) -> Any:
        return None

    def close(self) -> None:
        pass

    async def resolve(self, host: str) -> Any:
        answer = self.answers[host.removesuffix(".test")]
        return await answer if asyncio.iscoroutine(answer) else answer


@dataclass
class Sending:
    """A sender, and the shortest way to send one request and see what became of it."""

    sender: CurlSender
    deaths: list[BaseException]

    async def first_death(self) -> BaseException:
        async with asyncio.timeout(2):
            while not self.deaths:  # noqa: ASYNC110 - told on this very thread, by nothing to wait for
                await asyncio.sleep(0.01)
        return self.deaths[0]

    async def __call__(self, url: str, **options: Any) -> Any:
        [outcome] = await self.all(url, 1, **options)
        return outcome

    async def all(
        self,
        url: str,
        count: int,
        *,
        timeout: float = 2.0,
        headers: Sequence[tuple[str, str]] = (),
        body: bytes = b"{}",
        start_before: float = math.inf,
    ) -> list[Any]:
        loop = asyncio.get_running_loop()
        settled = [loop.create_future() for _ in range(count)]

        def settle(future: asyncio.Future[Any], result: Any, started: float, duration: float) -> None:
            assert 0 <= duration < 10
            assert abs(CLOCK.boot() - started) < 10
            future.set_result(result)

        target = parse_target(url)
        self.sender.submit(
            [
                Outgoing(target, headers, body, timeout, lambda: start_before, partial(settle, future))
                for future in settled
            ]
        )
        return await asyncio.wait_for(asyncio.gather(*settled), 10)


def no_end() -> float:
    """Return a lease that never ends."""
    return math.inf


async def later(seconds: float, answer: Any) -> Any:
    """Answer a look-up after a while."""
    await asyncio.sleep(seconds)
    return answer


Make = Callable[..., Sending]
