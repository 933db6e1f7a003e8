"""An API and workers as processes of their own on one store: who delivers, how they end, what they tell."""

import asyncio
import base64
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.commands import KEY_OPTIONS, PATIENCE_SECONDS, Running, Server, clean_environment, run, running
from tests.contract.backends import BACKENDS
from tests.installations import migrate, serving, settings_on, working
from tests.receivers import Held, Receiver
from tests.tools import missing


@pytest.fixture(params=["sqlite", "postgres-15", "mongodb"])
async def unmigrated(request: pytest.FixtureRequest, tmp_path: Path) -> Mapping[str, str]:
    """Give the settings of an installation whose store nobody has made ready yet."""
    kind = BACKENDS[request.param]
    if lacking := kind.missing():
        missing(lacking)
    backend = kind(tmp_path)
    await backend.make()
    return settings_on(backend.url)


@pytest.fixture
def settings(unmigrated: Mapping[str, str]) -> Mapping[str, str]:
    """Give the settings of an installation that is ready to use."""
    migrate(unmigrated)
    return unmigrated


def test_a_worker_delivers_what_an_api_without_an_engine_has_taken(settings: Mapping[str, str]) -> None:
    with serving(settings) as api, running("listen", "--port", "0", "--json") as receiver:
        api.webhook(url_of(receiver))
        trigger(api)
        with working(settings) as worker:
            assert json.loads(receiver.until('"event"'))["event"] == "task.created"
            trigger(api)
            assert json.loads(receiver.until('"event"'))["event"] == "task.created"
            assert worker.stop() == 0
            log = worker.process.stderr.read()
            assert "worker.stopped" in log
            assert "engine.cut_off" not in log
        assert api.process.stop() == 0


def test_a_killed_workers_lanes_are_taken_over_by_the_next(settings: Mapping[str, str]) -> None:
    with serving(settings) as api, running("listen", "--port", "0", "--json") as receiver:
        api.webhook(url_of(receiver))
        with working(settings) as doomed:
            trigger(api)
            receiver.until('"event"')
            trigger(api)  # whether this one was sent when it died is anybody's guess
            doomed.process.kill()
            doomed.process.wait()
        trigger(api)
        with working(settings) as worker:
            wait_until_delivered(api, 3)
            assert worker.stop() == 0


async def test_a_worker_finishes_what_is_under_way_before_it_ends(settings: Mapping[str, str]) -> None:
    async with Receiver() as receiver:
        held = Held()
        receiver.answer(held)
        with serving(settings) as api, working(settings) as worker:
            await asyncio.to_thread(api.webhook, receiver.url)
            await asyncio.to_thread(trigger, api)
            await receiver.wait_for(1)
            stopping = asyncio.create_task(asyncio.to_thread(worker.stop))
            await asyncio.to_thread(worker.until, "worker.stopping", stream="stderr")
            held.given.set()
            await asyncio.to_thread(worker.until, '"status":"delivered"', stream="stderr")
            assert await stopping == 0
            assert "engine.cut_off" not in worker.process.stderr.read()
            assert len(receiver.requests) == 1


def test_a_worker_tells_how_it_is_as_the_api_does_and_nothing_else(settings: Mapping[str, str]) -> None:
    with serving(settings) as api, working(settings, "--http", "127.0.0.1:0") as worker:
        url = json.loads(worker.until("worker.started", stream="stderr"))["url"]
        for path in ("/health/live", "/health/ready"):
            assert answer_of(url + path) == answer_of(api.url + path) == (200, "application/json", {"status": "ok"})
        unknown = answer_of(url + "/api/tasks/nothing/here")
        assert unknown == answer_of(api.url + "/nothing/here")
        assert unknown[:2] == (404, "application/problem+json")
        assert answer_of(url + "/api/openapi.json")[0] == 404
        assert listening_sockets(worker) == 1
        assert worker.stop() == 0


def test_a_worker_without_an_address_listens_nowhere_and_loads_no_web_framework(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/gatepost.db"
    with running("worker", "--store", store) as worker:
        started = json.loads(worker.until("worker.started", stream="stderr"))
        assert (started["url"], started["store"]) == (None, store)
        assert listening_sockets(worker) == 0
        assert worker.stop() == 0
    script = """
import asyncio, os, signal, sys, threading
from gatepost import config, serving
threading.Timer(1, os.kill, (os.getpid(), signal.SIGTERM)).start()
asyncio.run(serving.work(config.load(), http=None))
print("fastapi" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=clean_environment({"GATEPOST_STORE": store}),
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )
    assert done.stdout.splitlines()[-1] == "False", done.stderr


def test_a_worker_is_refused_an_address_that_is_taken(tmp_path: Path) -> None:
    with running("listen", "--port", "0") as taken:
        refused = run(
            "worker", "--http", url_of(taken).removeprefix("http://"), "--store", f"sqlite:///{tmp_path}/g.db"
        )
    assert refused.returncode == 1
    assert b"Choose another port" in refused.stderr


@pytest.mark.parametrize("unmigrated", ["postgres-15", "mongodb"], indirect=True)  # a file is made ready at every start
@pytest.mark.parametrize("command", [["serve", "--port", "0"], ["worker"], ["key", "create", *KEY_OPTIONS]])
def test_a_store_on_a_server_is_refused_until_it_is_migrated(unmigrated: Mapping[str, str], command: list[str]) -> None:
    refused = run(*command, environment=unmigrated)
    assert refused.returncode == 1
    assert b"gatepost migrate" in refused.stderr
    assert b"Traceback" not in refused.stderr


def test_another_key_is_refused_and_migrating_again_changes_nothing(settings: Mapping[str, str]) -> None:
    assert run("migrate", environment=settings).returncode == 0
    other = {**settings, "GATEPOST_SECRET_KEY": base64.b64encode(bytes(31) + b"1").decode()}
    for command in ("worker", "migrate"):
        refused = run(command, environment=other)
        assert refused.returncode == 1
        assert b"secret key" in refused.stderr


@pytest.mark.parametrize(
    ("url", "driver", "extra"),
    [("postgresql://db/gatepost", "asyncpg", "postgres"), ("mongodb://db/gatepost", "pymongo", "mongodb")],
)
def test_a_driver_that_is_not_installed_is_told_with_its_extra(url: str, driver: str, extra: str) -> None:
    script = f"import sys; sys.modules[{driver!r}] = None; sys.argv = ['gatepost', 'worker']\n"
    script += "from gatepost.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=clean_environment({"GATEPOST_STORE": url, "GATEPOST_SECRET_KEY": base64.b64encode(bytes(32)).decode()}),
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 2
    assert done.stderr.endswith(f"({driver}): pip install 'gatepost[{extra}]'.\n")


@pytest.mark.parametrize("command", [["worker"], ["migrate"]])
def test_a_server_that_cannot_be_reached_is_told_in_a_sentence_without_its_password(command: list[str]) -> None:
    key = {"GATEPOST_SECRET_KEY": base64.b64encode(bytes(32)).decode()}
    for store in ("postgresql://gatepost:hunter2@127.0.0.1:1/g", "mongodb://gatepost:hunter2@127.0.0.1:1/g"):
        refused = run(*command, environment={"GATEPOST_STORE": store, **key})
        assert refused.returncode == 1, refused.stderr
        assert refused.stderr.startswith(b"gatepost: ")
        assert b"Traceback" not in refused.stderr
        assert b"hunter2" not in refused.stderr


@pytest.mark.parametrize("command", [["serve"], ["worker"], ["migrate"]])
def test_a_store_on_a_server_needs_a_key_and_its_password_is_not_shown(command: list[str]) -> None:
    store = {"GATEPOST_STORE": "postgresql://gatepost:hunter2@127.0.0.1:1/gatepost"}
    refused = run(*command, environment=store)
    assert refused.returncode == 2
    assert b"openssl rand -base64 32" in refused.stderr
    assert b"hunter2" not in refused.stderr + refused.stdout


# --- what they are asked -------------------------------------------------------------------------------------


def url_of(listening: Running) -> str:
    return listening.until("Listening on", stream="stderr").split()[2].rstrip(".")


def trigger(api: Server) -> None:
    done = run("trigger", "task.created", "--url", api.url, "--key", api.key)
    assert done.returncode == 0, done.stderr


def wait_until_delivered(api: Server, count: int) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        items = api.call("GET", "/api/integrations/deliveries")["items"]
        if [each["status"] for each in items] == ["delivered"] * count:
            return
        assert time.monotonic() < deadline, items
        time.sleep(0.1)


def answer_of(url: str) -> tuple[int, str, object]:
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as answer:
            return answer.status, answer.headers["content-type"], json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, error.headers["content-type"], json.load(error)


def listening_sockets(process: Running) -> int:
    """Count the TCP sockets that a process listens at. Source: proc(5); state 0A is LISTEN."""
    folder = Path(f"/proc/{process.process.pid}")
    lines = [line.split() for name in ("tcp", "tcp6") for line in (folder / "net" / name).read_text().splitlines()[1:]]
    listening = {f"socket:[{fields[9]}]" for fields in lines if fields[3] == "0A"}
    return sum(str(each.readlink()) in listening for each in (folder / "fd").iterdir())
