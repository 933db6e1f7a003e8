"""How a process is put together, and how it ends: cleanly when asked, loudly when a part of it dies."""

import asyncio
import json
import subprocess
import sys
import threading
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from tests.commands import PATIENCE_SECONDS, clean_environment, run, running, server
from tests.receivers import Held, Receiver

from gatepost import bootstrap
from gatepost.adapters.interfaces import local_addresses
from gatepost.config import load
from gatepost.domain.network import TargetPolicy

DEATHS = {
    "the engine": "gatepost.engine.engine.Engine.run",
    "the clock": "gatepost.adapters.system.FollowedClock.keep",
    "the store's writer": "gatepost.adapters.storage.threads.Threads._keep_writing",
    "the sender": "gatepost.adapters.curl_loop.CurlLoop._turn",
}


@pytest.mark.parametrize("part", DEATHS)
def test_a_part_that_dies_takes_the_process_with_it(tmp_path: Path, part: str) -> None:
    module, owner, method = DEATHS[part].rsplit(".", 2)
    dying = "async def die" if method in ("run", "keep") else "def die"
    script = f"""
import importlib, sys
{dying}(*_): raise RuntimeError("a bug of ours")
setattr(importlib.import_module({module!r}).{owner}, {method!r}, die)
from gatepost.cli import main
sys.argv = ["gatepost", "demo", "--port", "0", "--seconds", "30"]
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=clean_environment({"TMPDIR": str(tmp_path)}),
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == bootstrap.EXIT_DIED, done.stderr
    died = json.loads(next(line for line in done.stderr.splitlines() if "process.died" in line))
    assert (died["level"], died["part"]) == ("critical", part)
    assert "RuntimeError: a bug of ours" in died["exception"]


async def test_a_stop_finishes_what_is_under_way_and_repeats_nothing(tmp_path: Path) -> None:
    # N4: no duplicate after SIGTERM
    async with Receiver() as receiver:
        held = Held()
        receiver.answer(held)
        await asyncio.to_thread(_stop_in_the_middle, tmp_path, receiver, held, asyncio.get_running_loop())
        assert len(receiver.requests) == 1


def _stop_in_the_middle(folder: Path, receiver: Receiver, held: Held, loop: asyncio.AbstractEventLoop) -> None:
    with server(folder) as serving:
        serving.webhook(receiver.url)
        run("trigger", "task.created", "--url", serving.url, "--key", serving.key)
        asyncio.run_coroutine_threadsafe(receiver.wait_for(1), loop).result()
        stopping = threading.Thread(target=serving.process.stop)
        stopping.start()
        serving.process.until("server.stopping", stream="stderr")
        loop.call_soon_threadsafe(held.given.set)
        serving.process.until('"status":"delivered"', stream="stderr")
        serving.process.until("server.stopped", stream="stderr")
        stopping.join()
        assert serving.process.process.returncode == 0
        settings = {"GATEPOST_ALLOWED_TARGET_NETWORKS": "127.0.0.0/8"}
        with running("serve", "--port", "0", "--store", f"sqlite:///{serving.store}", environment=settings) as again:
            again.until("engine.started", stream="stderr")
            assert again.stop() == 0


async def test_with_the_engine_off_the_api_serves_and_nothing_is_sent(tmp_path: Path) -> None:
    with server(tmp_path) as serving:
        assert serving.process.stop() == 0
    settings = {"GATEPOST_ALLOWED_TARGET_NETWORKS": "127.0.0.0/8", "GATEPOST_STORE": f"sqlite:///{serving.store}"}
    with running("serve", "--engine", "off", "--port", "0", environment=settings) as process:
        serving.url = json.loads(process.until("server.started", stream="stderr"))["url"]
        serving.webhook("http://127.0.0.1:9/")
        run("trigger", "task.created", "--url", serving.url, "--key", serving.key)
        (delivery,) = serving.call("GET", "/api/integrations/deliveries")["items"]
        assert (delivery["status"], delivery["attemptCount"]) == ("queued", 0)
        assert process.stop() == 0


def test_a_listener_everywhere_is_refused_at_every_address_of_this_machine() -> None:
    # S13
    everywhere = bootstrap.own_addresses([("0.0.0.0", 8000)])
    policy = TargetPolicy((ip_network("0.0.0.0/0"), ip_network("::/0")), everywhere)
    assert "127.0.0.1" in local_addresses()
    for address in local_addresses():
        if not address.startswith("fe80"):
            refusal = policy.refusal(ip_address(address), 8000)
            assert refusal == "own listener", address
    assert policy.refusal(ip_address("127.0.0.1"), 8001) is None


async def test_a_key_of_the_settings_needs_no_key_file(tmp_path: Path) -> None:
    settings = load(store=f"sqlite:///{tmp_path}/g.db", secret_key="AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")
    async with bootstrap.opened_store(settings):
        pass
    assert not (tmp_path / "g.db.key").exists()
