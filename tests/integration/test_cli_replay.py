"""`gatepost replay` against a server that delivers."""

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from tests.commands import Server, run, server

from gatepost import client
from gatepost.cli import main

WEBHOOKS = "/api/integrations/webhooks"


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server(tmp_path_factory.mktemp("served")) as served:
        yield served


@pytest.fixture
def webhook(serving: Server) -> Iterator[dict[str, Any]]:
    """A webhook whose receiver never answered: three dead letters."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        made = serving.webhook(f"http://127.0.0.1:{taken.getsockname()[1]}/", schedule=())
        for _ in range(3):
            serving.call("POST", "/api/tasks", {"title": "Water the plants"})
        until_dead(serving, made["id"], 3)
        yield made
    serving.call("PATCH", f"{WEBHOOKS}/{made['id']}", {"enabled": False})


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


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["wh_1"], 2, "no API key"),
        (["wh_1", "--key", "gp_x", "--status", "queued"], 2, "dead-letter"),
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


@pytest.mark.parametrize("status", ["cancelled", "failed"])
def test_a_replay_that_somebody_ended_is_no_success(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], status: str
) -> None:
    running = {"id": "rpl_1", "status": "running", "done": 0, "total": 9}
    monkeypatch.setattr(client, "replay", lambda *_, **__: iter([running, {**running, "status": status, "done": 4}]))

    code = ended_with(monkeypatch, "wh_1", "--key", "gp_x")

    assert (code, capsys.readouterr().out) == (1, f"rpl_1 is {status}: 4 of 9.\n")


def test_who_stops_watching_is_told_that_the_replay_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any, **__: Any) -> Iterator[dict[str, Any]]:
        yield {"id": "rpl_1", "status": "running", "done": 0, "total": 9}
        raise KeyboardInterrupt

    monkeypatch.setattr(client, "replay", interrupted)

    code = ended_with(monkeypatch, "wh_1", "--key", "gp_x")

    shown = capsys.readouterr()
    assert (code, shown.out) == (1, "")
    assert "rpl_1 goes on without this command" in shown.err


def ended_with(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    monkeypatch.setattr("sys.argv", ["gatepost", "replay", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code
