"""`gatepost replay` against a server that delivers."""

import json
import socket
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from tests.commands import PATIENCE_SECONDS, Running, Server, run, running, server

from gatepost import client
from gatepost.cli import main, replays

WEBHOOKS = "/api/integrations/webhooks"


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server(tmp_path_factory.mktemp("served")) as served:
        # It would wait for ever to log what nobody reads.
        reading = threading.Thread(target=lambda: deque(served.process.process.stderr or (), maxlen=0))
        reading.start()
        yield served
    reading.join()


@pytest.fixture
def webhook(serving: Server) -> Iterator[dict[str, Any]]:
    with unreachable_webhook(serving, dead_letters=3) as webhook:
        yield webhook
        serving.call("PATCH", f"{WEBHOOKS}/{webhook['id']}", {"enabled": False})


@contextmanager
def unreachable_webhook(serving: Server, *, dead_letters: int) -> Iterator[dict[str, Any]]:
    """Give a webhook whose receiver never answered."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        webhook = serving.webhook(f"http://127.0.0.1:{taken.getsockname()[1]}/", schedule=())
        for _ in range(dead_letters):
            serving.call("POST", "/api/tasks", {"title": "Water the plants"})
        until_dead(serving, webhook["id"], dead_letters)
        yield webhook


def until_dead(serving: Server, webhook_id: str, count: int) -> None:
    for _ in range(5_000):
        asked = {"status": "dead-letter", "dryRun": True}
        if serving.call("POST", f"{WEBHOOKS}/{webhook_id}/replays", asked)["count"] == count:
            return
    raise AssertionError("they never died")


def test_a_dry_run_says_how_many_there_are_and_shows_them(serving: Server, webhook: dict[str, Any]) -> None:
    asked = ("replay", webhook["id"], "--dry-run", "--url", serving.url, "--key", serving.key)

    told = run(*asked, "--status", "dead-letter").stdout.decode()
    parsed = json.loads(run(*asked, "--event", "order.paid", "--json").stdout)

    assert told.startswith("3 to replay.\n  dlv_")
    assert told.count("task.created  dead-letter") == 3
    assert parsed == {"count": 0, "sample": []}
    assert serving.call("GET", f"{WEBHOOKS}/{webhook['id']}/replays")["items"] == []


def test_a_replay_is_watched_to_its_end(serving: Server, webhook: dict[str, Any]) -> None:
    asked = ("replay", webhook["id"], "--status", "dead-letter", "--url", serving.url)

    done = run(*asked, "--from", "2026-01-01T00:00:00Z", environment={"GATEPOST_API_KEY": serving.key})

    assert done.returncode == 0, done.stderr
    [job] = serving.call("GET", f"{WEBHOOKS}/{webhook['id']}/replays")["items"]
    assert done.stdout.decode() == f"{job['id']} is done: 3 of 3.\n"
    assert job["filter"] == {"status": "dead-letter", "event": None, "from": "2026-01-01T00:00:00.000Z", "to": None}
    again = run(*asked, "--to", "2026-01-01T00:00:00Z", "--key", serving.key, "--json")
    ended = json.loads(again.stdout)
    assert (again.returncode, ended["status"], ended["total"]) == (0, "done", 0)


def test_a_replay_that_is_refused_says_why(serving: Server, webhook: dict[str, Any]) -> None:
    serving.call("PATCH", f"{WEBHOOKS}/{webhook['id']}", {"enabled": False})

    refused = run("replay", webhook["id"], "--url", serving.url, "--key", serving.key)

    assert refused.returncode == 1
    assert b"disabled" in refused.stderr
    assert refused.stdout == b""
    no_last_status = run("replay", webhook["id"], "--status", "queued", "--url", serving.url, "--key", serving.key)
    assert no_last_status.returncode == 1
    assert b"status: give delivered or dead-letter" in no_last_status.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["wh_1"], 2, "no API key"),
        (["wh_1", "--key", "gp_x", "--url", "http://127.0.0.1:9"], 1, "cannot be reached"),
    ],
)
def test_what_cannot_be_replayed_is_told_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, says: str
) -> None:
    monkeypatch.delenv("GATEPOST_API_KEY", raising=False)

    assert ended_with(monkeypatch, *arguments) == code

    shown = capsys.readouterr()
    assert says in shown.err
    assert "Traceback" not in shown.err
    assert shown.out == ""


@pytest.mark.parametrize(("method", "path", "status"), [("POST", "/cancel", "cancelled"), ("DELETE", "", "failed")])
def test_a_replay_that_somebody_ended_is_no_success_and_printed_as_it_ended(
    serving: Server, method: str, path: str, status: str
) -> None:
    with unreachable_webhook(serving, dead_letters=300) as webhook, watching(serving, webhook) as command:
        job_id = command.until("rpl_", stream="stderr").partition(":")[0]
        ended_at = f"{WEBHOOKS}/{webhook['id']}" + (f"/replays/{job_id}{path}" if path else "")
        answer, _ = client.request(method, serving.url + ended_at, {"authorization": f"Bearer {serving.key}"}, None)
        out, _ = command.process.communicate(timeout=PATIENCE_SECONDS)

    ended = json.loads(out)
    assert answer in (200, 204)
    assert (command.process.returncode, ended["id"], ended["status"], ended["total"]) == (1, job_id, status, 300)
    assert ended["done"] < 300


RUNNING = {"id": "rpl_1", "status": "running", "done": 0, "total": 9}
DONE = RUNNING | {"status": "done", "done": 9}
DROPPED = None


def test_a_replay_is_watched_past_a_server_that_is_away_for_a_while(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(replays, "LOOK_EVERY", timedelta(0))
    answers = [(202, RUNNING), (503, {"detail": "the store is away"}), (502, {}), DROPPED, (200, RUNNING), (200, DONE)]

    with answering(answers) as url:
        code = ended_with(monkeypatch, "wh_1", "--key", "gp_x", "--url", url)

    assert (code, capsys.readouterr().out) == (0, "rpl_1 is done: 9 of 9.\n")


@pytest.mark.parametrize(("status", "looks"), [(503, client.LOOKS_IN_VAIN + 1), (404, 1)])
def test_a_replay_that_cannot_be_watched_any_more_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], status: int, looks: int
) -> None:
    monkeypatch.setattr(replays, "LOOK_EVERY", timedelta(0))
    answers = [(202, RUNNING), *[(status, {"detail": "no more"})] * looks]

    with answering(answers) as url:
        code = ended_with(monkeypatch, "wh_1", "--key", "gp_x", "--url", url)

    shown = capsys.readouterr()
    assert (code, shown.out, answers) == (1, "", [])
    assert shown.err.startswith("rpl_1: 9 to replay.\n")
    assert f"answered {status}: no more" in shown.err


def test_who_stops_watching_is_told_that_the_replay_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any, **__: Any) -> Iterator[dict[str, Any]]:
        yield RUNNING
        raise KeyboardInterrupt

    monkeypatch.setattr(client, "replay", interrupted)

    code = ended_with(monkeypatch, "wh_1", "--key", "gp_x")

    shown = capsys.readouterr()
    assert (code, shown.out) == (1, "")
    assert "rpl_1 goes on without this command" in shown.err


@contextmanager
def watching(serving: Server, webhook: dict[str, Any]) -> Iterator[Running]:
    with running("replay", webhook["id"], "--url", serving.url, "--key", serving.key, "--json") as command:
        yield command


@contextmanager
def answering(answers: list[tuple[int, dict[str, Any]] | None]) -> Iterator[str]:
    """Serve answers one after the other, each taken off the list; None drops the connection."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            if (answer := answers.pop(0)) is None:
                return
            self.send_response(answer[0])
            self.end_headers()
            self.wfile.write(json.dumps(answer[1]).encode())

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def ended_with(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    monkeypatch.setattr("sys.argv", ["gatepost", "replay", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code
