"""The commands through the real entry point: what they print, what they refuse, how they end."""

import base64
import json
import resource
import socket
import stat
import subprocess
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.commands import Server, run, running, server

from gatepost.cli import main

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
OTHER = "whsec_" + base64.b64encode(bytes(32)).decode()


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server(tmp_path_factory.mktemp("served")) as served:
        yield served


def told(done: "subprocess.CompletedProcess[bytes]") -> str:
    """Return the one sentence on standard error; a traceback is never one."""
    text = done.stderr.decode()
    assert "Traceback" not in text
    assert text.startswith("gatepost: "), text
    return text


# --- serve and key create ------------------------------------------------------------------------------------


def test_a_key_can_be_made_while_the_server_runs_and_works_at_once(serving: Server) -> None:
    assert serving.call("GET", "/api/tasks") == {"items": [], "nextCursor": None}
    store = {"GATEPOST_STORE": f"sqlite:///{serving.store}"}
    made = run("key", "create", "--group", "Team", "--role", "member", "--json", environment=store)
    answer = json.loads(made.stdout)
    assert set(answer) == {"key", "groupId", "keyId"}
    member = Server(serving.store, serving.process, serving.url, answer["key"])
    assert member.call("POST", "/api/tasks", {"title": "Mine"})["groupId"] == answer["groupId"]
    with pytest.raises(urllib.error.HTTPError, match="403"):
        member.webhook("http://127.0.0.1:9/")


def test_a_key_for_a_group_that_is_not_there_needs_create_group(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/gatepost.db"
    refused = run("key", "create", "--group", "Nobody", "--role", "admin", "--store", store)
    assert refused.returncode == 1
    assert "--create-group" in told(refused)
    assert refused.stdout == b""
    plain = run("key", "create", "--group", "Nobody", "--create-group", "--role", "admin", "--store", store)
    assert plain.returncode == 0
    assert plain.stdout.startswith(b"gp_")
    key_file = tmp_path / "gatepost.db.key"
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600


def test_the_server_refuses_its_own_listener_as_a_target_and_says_what_is_allowed(tmp_path: Path) -> None:
    # S13, S9
    with server(tmp_path, environment={"GATEPOST_HOST": "0.0.0.0", "GATEPOST_LEASE_SECOND": "3"}) as served:
        port = served.url.rsplit(":", 1)[1]
        for host in ("127.0.0.1", "127.0.0.2", "[::ffff:127.0.0.1]"):
            with pytest.raises(urllib.error.HTTPError, match="422"):
                served.webhook(f"http://{host}:{port}/api/tasks")
        assert served.process.stop() == 0
        log = served.process.process.stderr.read()
    assert "server.stopped" in log


def test_what_an_operator_opened_or_misspelt_is_logged(tmp_path: Path) -> None:
    settings = {"GATEPOST_ALLOWED_TARGET_NETWORKS": "10.0.0.0/8", "GATEPOST_LEASE_SECOND": "3"}
    with running("serve", "--port", "0", "--store", f"sqlite:///{tmp_path}/g.db", environment=settings) as process:
        ignored = json.loads(process.until("setting.ignored", stream="stderr"))
        allowed = json.loads(process.until("targets.allowed", stream="stderr"))
        process.until("server.started", stream="stderr")
        assert process.stop() == 0
    assert (ignored["variable"], ignored["meant"]) == ("GATEPOST_LEASE_SECOND", "GATEPOST_LEASE_SECONDS")
    assert allowed["networks"] == ["10.0.0.0/8"]


def test_the_server_takes_as_many_descriptors_as_it_may(serving: Server) -> None:
    soft, hard = resource.prlimit(serving.process.process.pid, resource.RLIMIT_NOFILE)

    assert soft == hard


def test_what_cannot_be_served_is_told_in_a_sentence(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/g.db"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        refused = run("serve", "--port", port, "--store", store)
    assert refused.returncode == 1
    assert f"port {port}" in told(refused)

    (tmp_path / "text.db").write_text("this is no database, but it is long enough to be read as one " * 20)
    unreadable = run("serve", "--port", "0", "--store", f"sqlite:///{tmp_path}/text.db")
    assert unreadable.returncode == 1
    assert "text.db" in told(unreadable)

    nowhere = run("migrate", "--store", f"sqlite:///{tmp_path}/no/such/folder/g.db")
    assert nowhere.returncode == 2
    assert "no folder" in told(nowhere)

    wrong = run("serve", environment={"GATEPOST_LEASE_SECONDS": "1", "GATEPOST_STORE": "postgresql://db"})
    assert wrong.returncode == 2
    assert "GATEPOST_LEASE_SECONDS" in told(wrong)
    assert "name the database" in told(wrong)


def test_a_store_is_not_opened_with_another_key(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/g.db"
    assert run("migrate", "--store", store).returncode == 0
    other = {"GATEPOST_SECRET_KEY": base64.b64encode(bytes(32)).decode()}
    refused = run("serve", "--port", "0", "--store", store, environment=other)
    assert refused.returncode == 1
    assert "secret key" in told(refused)


# --- listen and trigger --------------------------------------------------------------------------------------


def test_a_triggered_event_is_delivered_verified_retried_and_forwarded(serving: Server) -> None:
    with (
        running("listen", "--port", "0", "--json", "--fail-every", "3") as final,
        running("listen", "--port", "0", "--forward-to", url_of(final), "--secret", SECRET) as first,
    ):
        webhook = serving.webhook(url_of(first))
        serving.call("POST", f"/api/integrations/webhooks/{webhook['id']}/rotate-secret", {"secret": SECRET})
        done = run("trigger", "task.approved", "--url", serving.url, environment={"GATEPOST_API_KEY": serving.key})
        assert done.stdout.startswith(b"task.approved: tsk_"), done.stderr
        received = [json.loads(final.until('"event"')) for _ in range(4)]
        assert "verified ✓" in first.until("task.created")
        assert final.stop() == 0
        assert first.stop() == 0
    assert [each["status"] for each in received] == [204, 204, 503, 204]
    assert {each["event"] for each in received} == {"task.created", "task.completed", "task.approved"}
    repeated = received[3]
    assert (repeated["webhookId"], repeated["attempt"]) == (received[2]["webhookId"], "2")
    assert [each["verified"] for each in received] == [None] * 4
    serving.call("PATCH", f"/api/integrations/webhooks/{webhook['id']}", {"enabled": False})


def test_a_swap_is_triggered_between_two_members(serving: Server) -> None:
    [group] = serving.call("GET", "/api/groups")["items"]
    arguments = ("trigger", "task.swapped", "--url", serving.url, "--key", serving.key)
    assert "two members" in told(run(*arguments))
    for name in ("ann", "ben"):
        body = {"email": f"{name}@example.com", "role": "member"}
        serving.call("POST", f"/api/groups/{group['id']}/members", body)
    done = run(*arguments, "--json")
    task = json.loads(done.stdout)
    assert (task["version"], task["history"][-1]["event"]) == (2, "task.swapped"), done.stderr


def test_a_receiver_with_another_secret_says_that_it_is_another(serving: Server) -> None:
    with running("listen", "--port", "0", "--secret", OTHER) as listening:
        webhook = serving.webhook(url_of(listening))
        run("trigger", "task.created", "--url", serving.url, "--key", serving.key)
        assert "REFUSED" in listening.until("task.created")
        assert "not made with this secret" in listening.until("standard:")
        serving.call("PATCH", f"/api/integrations/webhooks/{webhook['id']}", {"enabled": False})


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["trigger", "task.created"], 2, "no API key"),
        (["trigger", "task.created", "--key", "gp_x", "--url", "nowhere"], 2, "no URL to send to"),
        (["trigger", "task.created", "--key", "gp_x", "--url", "http://127.0.0.1:9"], 1, "cannot be reached"),
        (["trigger", "task.deleted", "--key", "gp_x"], 2, "task.created"),
        (["sign", "--secret", SECRET, "no-such-file"], 2, "cannot be read"),
        (["sign", "--secret", SECRET, "--id", "a b", "-"], 2, "visible ASCII"),
        (["sign"], 2, "There is no secret"),
        (["verify", "--secret", SECRET, "--header", "nonsense"], 2, "name: value"),
        (["verify", "--secret", "hunter2"], 2, "whsec_"),
        (["key", "create", "--group", "g", "--role", "owner"], 2, "member"),
        (["serve", "--engine", "maybe"], 2, "on or off"),
        (["serve", "--port", "http"], 2, "--port"),
        (["worker", "--http", "9100"], 2, "HOST:PORT"),
        (["worker", "--http", "::1:9100"], 2, "HOST:PORT"),
        (["worker", "--http", "127.0.0.1:65536"], 2, "HOST:PORT"),
        (["no-such-command"], 2, "no-such-command"),
    ],
)
def test_what_cannot_be_used_is_told_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, says: str
) -> None:
    monkeypatch.delenv("GATEPOST_API_KEY", raising=False)
    monkeypatch.setattr("sys.argv", ["gatepost", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    shown = capsys.readouterr()
    assert ended.value.code == code
    assert says in shown.err
    assert "hunter2" not in shown.err
    assert shown.out == ""


def test_a_refused_key_is_told_as_the_api_tells_it(serving: Server) -> None:
    refused = run("trigger", "task.created", "--url", serving.url, "--key", "gp_nobody")
    assert refused.returncode == 1
    assert "401" in told(refused)


def url_of(listening: object) -> str:
    line = listening.until("Listening on", stream="stderr")
    return str(line.split()[2].rstrip("."))


# --- sign and verify -----------------------------------------------------------------------------------------

BODY = '{"title":"ä"}'.encode()


def test_what_is_signed_verifies_and_a_flipped_bit_does_not(tmp_path: Path) -> None:
    (tmp_path / "body.json").write_bytes(BODY)
    signed = run("sign", "--secret", SECRET, "--secret", OTHER, str(tmp_path / "body.json"))
    headers = [argument for line in signed.stdout.decode().splitlines() for argument in ("--header", line)]
    assert len(headers) == 10
    assert run("verify", "--secret", OTHER, *headers, stdin=BODY).returncode == 0
    flipped = run("verify", "--secret", SECRET, *headers, "--json", "-", stdin=BODY.replace(b"t", b"u", 1))
    assert flipped.returncode == 1
    answer = json.loads(flipped.stdout)
    assert answer["valid"] is False
    assert [each["verdict"] for each in answer["findings"]] == ["wrong_signature", "wrong_signature"]


def test_signing_is_repeatable_with_a_given_id_and_moment() -> None:
    given = ("--secret", SECRET, "--id", "evt_1", "--timestamp", "1795437296", "--json")
    signed = json.loads(run("sign", *given, stdin=BODY).stdout)
    assert signed == json.loads(run("sign", *given, stdin=BODY).stdout)
    assert list(signed) == ["webhook-id", "webhook-timestamp", "webhook-signature", "X-Timestamp", "X-Signature"]
    plain = json.loads(run("sign", *given, "--scheme", "plain", stdin=BODY).stdout)
    headers = [argument for item in plain.items() for argument in ("--header", ": ".join(item))]
    assert run("verify", "--secret", SECRET, *headers, "--at", "1795437300", stdin=BODY).returncode == 0
    old = run("verify", "--secret", SECRET, *headers, "--at", "1795437700", stdin=BODY)
    assert old.returncode == 1
    assert "signed 404 s ago" in old.stdout.decode()


# --- demo ----------------------------------------------------------------------------------------------------


def test_the_demo_shows_a_failure_that_is_retried_until_it_is_delivered() -> None:
    done = run("demo", "--port", "0", "--seconds", "8")
    shown = done.stdout.decode()
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""
    assert "curl -X POST http://127.0.0.1:" in shown
    assert "as admin@localhost with the password" in shown
    assert "again in" in shown
    assert "verified ✓" in shown
    assert "REFUSED" not in shown
    assert any("✓ delivered" in line and "attempt 1" not in line for line in shown.splitlines())
