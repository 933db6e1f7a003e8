"""Requests that nobody thought of, made from the OpenAPI document, against the running server, about things that are
there: no 5xx, no status that the document does not tell of, no answer off its schema.
"""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.commands import PATIENCE_SECONDS, Server
from tests.installations import serving, settings_on

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)
PASSWORD = "correct horse battery"


def things_of(served: Server) -> dict[str, str]:
    """Return ids of one thing of each kind, by the name of their parameter."""
    group_id = served.call("GET", "/api/groups")["items"][0]["id"]
    people = [
        served.call("POST", f"/api/groups/{group_id}/members", {"email": email, "role": "admin", "password": PASSWORD})
        for email in ("ann@example.com", "ben@example.com")
    ]
    webhook = served.call(
        "POST",
        "/api/integrations/webhooks",
        {"name": "Rota", "targetUrl": "https://hooks.example.com/in", "events": ["*"]},
    )
    replay = served.call("POST", f"/api/integrations/webhooks/{webhook['id']}/replays", {})
    served.call("PATCH", f"/api/integrations/webhooks/{webhook['id']}", {"enabled": False})
    tasks = [
        served.call("POST", "/api/tasks", {"title": "Water the plants", "assignedTo": each["userId"]})
        for each in people
    ]
    swap = served.call("POST", "/api/swaps", {"taskId": tasks[0]["id"], "withTaskId": tasks[1]["id"]})
    event = served.call("POST", "/api/integrations/events", {"event": "billing.paid", "data": {}})
    return {
        "groupId": group_id,
        "userId": people[0]["userId"],
        "webhookId": webhook["id"],
        "jobId": replay["id"],
        "taskId": tasks[0]["id"],
        "swapId": swap["id"],
        "eventId": event["id"],
    }


def session_of(served: Server) -> Mapping[str, str]:
    """Sign in, and return what a browser sends from then on."""
    asked = urllib.request.Request(
        f"{served.url}/api/auth/login",
        data=json.dumps({"email": "ann@example.com", "password": PASSWORD}).encode(),
        headers={"Content-Type": "application/json", "Origin": served.url},
    )
    with urllib.request.urlopen(asked, timeout=PATIENCE_SECONDS) as answer:
        cookie = answer.headers["Set-Cookie"].partition(";")[0]
    return {"Cookie": cookie, "Origin": served.url}


def asked_at_random(
    served: Server, headers: Mapping[str, str], things: Mapping[str, str], *options: str, examples: int, folder: Path
) -> "subprocess.CompletedProcess[str]":
    """Ask a server whatever its document allows, and some of what it does not; end with 0 when nothing was found."""
    known = "\n".join(f'"path.{name}" = "{value}"' for name, value in things.items())
    (folder / "schemathesis.toml").write_text(f"[parameters]\n{known}\n")
    given = [part for name, value in headers.items() for part in ("-H", f"{name}: {value}")]
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{served.url}/api/openapi.json"),
        *("--checks", ",".join(CHECKS), "--max-examples", str(examples), "--generation-deterministic"),
        *("--phases", "examples,coverage,fuzzing", "--workers", "1", *given, *options),
        *("--suppress-health-check", "all"),  # what makes a test slow on a busy machine is none of ours
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, cwd=folder)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("asker", ["key", "session"])
def test_no_request_made_from_the_document_breaks_what_it_says(tmp_path: Path, asker: str) -> None:
    settings = settings_on(f"sqlite:///{tmp_path}/gatepost.db", GATEPOST_LOG_LEVEL="error")
    with serving(settings) as served:
        things = things_of(served)
        headers = {"Authorization": f"Bearer {served.key}"} if asker == "key" else session_of(served)
        alone = [] if asker == "key" else ["--include-path-regex", "^/api/(auth|groups)"]  # a key's are the same
        # What ends the session, or who may do what, would leave nothing to be found by all that comes after it.
        endings = "signOut|endSessions|changePassword|removeMember|changeMember"
        found = asked_at_random(
            *(served, headers, things, "--exclude-operation-id-regex", endings, *alone), examples=5, folder=tmp_path
        )
    assert found.returncode == 0, found.stdout
