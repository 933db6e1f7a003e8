"""Processes on PostgreSQL that lose time or the database: a worker that is stopped, a server that goes away."""

import asyncio
import json
import signal
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any

import asyncpg
import pytest
from tests import postgres_servers
from tests.commands import Server
from tests.installations import migrate, serving, settings_on, working
from tests.postgres_servers import PostgresServer, binaries
from tests.receivers import Held, Receiver, status
from tests.tools import missing

VERSION = 18
LEASE_SECONDS = 2
WEBHOOKS = 3
TASKS = 3
PATIENCE_SECONDS = 30.0
OUTAGE_SECONDS = 5.0
SLOWEST_ANSWER_SECONDS = 16.0


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """Give a server that a test may stop."""
    if lacking := postgres_servers.missing(VERSION):
        missing(lacking)
    folder = binaries(VERSION)
    if folder is None:
        missing("the test server has to be of this machine")
    server = PostgresServer(folder, settings={"fsync": "off"})
    try:
        yield server
    finally:
        server.remove()


@pytest.fixture
def settings(server: PostgresServer) -> Mapping[str, str]:
    settings = settings_on(server.url, lease_seconds=LEASE_SECONDS)
    migrate(settings)
    return settings


async def until(condition: Callable[[], Awaitable[Any]], *, within: float = PATIENCE_SECONDS) -> Any:
    deadline = time.monotonic() + within
    while not (found := await condition()):
        assert time.monotonic() < deadline, "it did not come about in time"
        await asyncio.sleep(0.05)
    return found


async def rows(server: PostgresServer, sql: str) -> Sequence[Any]:
    connection = await asyncpg.connect(server.url)
    try:
        found: Sequence[Any] = await connection.fetch(sql)
        return found
    finally:
        await connection.close()


async def post_tasks(api: Server, count: int) -> None:
    for number in range(count):
        await asyncio.to_thread(api.call, "POST", "/api/tasks", {"title": f"Task {number}"})


async def arrived(receiver: Receiver, count: int) -> bool:
    return len(receiver.requests) >= count


async def delivered(server: PostgresServer, count: int) -> bool:
    return await rows(server, "SELECT status FROM deliveries") == [("delivered",)] * count


# --- a worker that is stopped --------------------------------------------------------------------------------


@pytest.mark.parametrize("answered", ["while it is stopped", "after it has gone on"])
async def test_a_worker_stopped_past_its_lease_records_and_sends_nothing_of_what_others_took(
    server: PostgresServer, settings: Mapping[str, str], receiver: Receiver, answered: str
) -> None:
    held, held_too = Held(b"of the stopped"), Held(b"of the other")
    receiver.answer(held)
    with serving(settings, engine="off") as api, working(settings) as stopped:
        for _ in range(WEBHOOKS):
            await asyncio.to_thread(api.webhook, receiver.url)
        await post_tasks(api, TASKS)
        in_flight = deliveries_of(await receiver.wait_for(WEBHOOKS))  # one of each: nothing has succeeded yet

        stopped.process.send_signal(signal.SIGSTOP)
        stopped_at = await server_time(server)
        receiver.answer(held_too)
        with working(settings) as other:
            await until(lambda: arrived(receiver, 2 * WEBHOOKS))
            if answered == "while it is stopped":
                held.given.set()
            stopped.process.send_signal(signal.SIGCONT)
            for _ in range(WEBHOOKS):
                await asyncio.to_thread(stopped.until, '"lane.lost"', stream="stderr")
            if answered == "after it has gone on":
                held.given.set()
                for _ in range(WEBHOOKS):
                    await asyncio.to_thread(stopped.until, '"outcome.abandoned"', stream="stderr")
            assert await rows(server, "SELECT * FROM attempts") == []  # those that count are still under way
            held_too.given.set()
            await until(lambda: delivered(server, WEBHOOKS * TASKS))
            assert await asyncio.to_thread(other.stop) == 0

        # Now it is the only one again, and goes on to work.
        await post_tasks(api, 1)
        await until(lambda: delivered(server, WEBHOOKS * (TASKS + 1)))
        assert await asyncio.to_thread(stopped.stop) == 0

    sent = deliveries_of(receiver.requests)
    assert set(in_flight.values()) == {1}
    assert {delivery_id for delivery_id, times in sent.items() if times == 2} == set(in_flight)
    assert sum(sent.values()) == WEBHOOKS * (TASKS + 1) + WEBHOOKS
    attempts = await rows(server, "SELECT delivery_id, number, body, started_at FROM attempts")
    assert Counter(delivery_id for delivery_id, *_ in attempts) == dict.fromkeys(sent, 1)
    assert {(number, body) for _, number, body, _ in attempts} == {(1, b"of the other")}
    assert min(started_at for *_, started_at in attempts) >= stopped_at


def deliveries_of(requests: Sequence[Any]) -> Counter[str]:
    return Counter(request.headers["x-gatepost-delivery"] for request in requests)


async def server_time(server: PostgresServer) -> int:
    [(moment,)] = await rows(server, "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint")
    return int(moment)


# --- a database that goes away -------------------------------------------------------------------------------


async def test_a_database_that_goes_away_for_five_seconds_costs_refusals_and_nothing_else(
    server: PostgresServer, settings: Mapping[str, str], receiver: Receiver
) -> None:
    held = Held(b"at last")
    # Nobody reads what it says meanwhile, and a pipe that is full would hold it up.
    with serving({**settings, "GATEPOST_LOG_LEVEL": "error"}, engine="on") as api:
        await asyncio.to_thread(api.webhook, receiver.url)
        await post_tasks(api, 1)
        await until(lambda: delivered(server, 1))
        receiver.answer(held, held, status(200))
        await post_tasks(api, 2)
        await receiver.wait_for(3)
        [before] = await rows(server, "SELECT owner, token FROM lanes")

        await asyncio.to_thread(server.stop)
        gone_at = time.monotonic()
        held.given.set()  # what is in flight ends while there is nowhere to write it
        while time.monotonic() < gone_at + OUTAGE_SECONDS:
            for method, path, body in (("POST", "/api/tasks", {"title": "refused"}), ("GET", "/api/tasks", None)):
                await asyncio.to_thread(assert_refused, api, method, path, body)
            assert (await asyncio.to_thread(ask, api, "GET", "/health/live"))[0] == 200
            assert (await asyncio.to_thread(ask, api, "GET", "/health/ready"))[0] == 200  # it comes back by itself
            await asyncio.sleep(0.1)
        await asyncio.to_thread(server.start)

        await until(lambda: delivered(server, 3))
        assert await until(lambda: takes_a_task(api))
        await until(lambda: delivered(server, 4))
        [after] = await rows(server, "SELECT owner, token FROM lanes")
        assert after == before  # its lease was gone on with, not made anew
        assert await asyncio.to_thread(api.process.stop) == 0

    assert set(deliveries_of(receiver.requests).values()) == {1}
    attempts = await rows(server, "SELECT delivery_id, number, status_code FROM attempts")
    assert Counter(delivery_id for delivery_id, *_ in attempts) == deliveries_of(receiver.requests)
    assert {(number, code) for _, number, code in attempts} == {(1, 200)}


def assert_refused(api: Server, method: str, path: str, body: Mapping[str, Any] | None) -> None:
    asked_at = time.monotonic()
    code, media_type, problem = ask(api, method, path, body)
    assert (code, media_type, problem.get("code")) == (503, "application/problem+json", "store_unavailable")
    assert time.monotonic() - asked_at < SLOWEST_ANSWER_SECONDS


async def takes_a_task(api: Server) -> bool:
    return (await asyncio.to_thread(ask, api, "POST", "/api/tasks", {"title": "later"}))[0] == 201


def ask(api: Server, method: str, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, str, Any]:
    try:
        with urllib.request.urlopen(request_for(api, method, path, body), timeout=PATIENCE_SECONDS) as answer:
            return answer.status, answer.headers["content-type"], json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["content-type"], json.load(error)


def request_for(api: Server, method: str, path: str, body: Mapping[str, Any] | None) -> urllib.request.Request:
    return urllib.request.Request(
        api.url + path,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {api.key}", "Content-Type": "application/json"},
    )
