"""The command `gatepost` as its users run it: the installed entry point, in processes of its own."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

ENTRY_POINT = Path(sys.executable).with_name("gatepost")
PATIENCE_SECONDS = 60.0
KEY_OPTIONS = ("--group", "Team", "--create-group", "--role", "admin", "--json")


def run(
    *arguments: str, stdin: bytes = b"", environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a command to its end."""
    return subprocess.run(
        [ENTRY_POINT, *arguments],
        input=stdin,
        env=clean_environment(environment),
        capture_output=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )


def clean_environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment without anybody's settings, and with those given."""
    # Without bytecode every start would compile every library anew.
    others = ("GATEPOST_", "PYTHONDONTWRITEBYTECODE")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    return {**kept, "GATEPOST_LOG_FORMAT": "json", **(more or {})}


class Running:
    """A command that goes on, read line by line."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process

    def until(self, words: str, *, stream: str = "stdout") -> str:
        """Return the first line with these words in it, reading no further."""
        pipe: IO[str] = getattr(self.process, stream)
        seen = []
        for line in pipe:  # a command that says nothing more is ended by the test's own time limit
            seen.append(line)
            if words in line:
                return line.rstrip("\n")
        raise AssertionError(f"never said {words!r}:\n{''.join(seen)}")

    def stop(self) -> int:
        """Ask it to stop as a supervisor would; return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=PATIENCE_SECONDS)


@contextmanager
def running(*arguments: str, environment: Mapping[str, str] | None = None) -> Iterator[Running]:
    with subprocess.Popen(
        [ENTRY_POINT, *arguments],
        env={**clean_environment(environment), "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Running(process)
        finally:
            if process.poll() is None:
                process.kill()


class Server:
    """`gatepost serve` on a fresh store, with an admin key."""

    def __init__(self, store: Path, process: Running, url: str, key: str) -> None:
        self.store = store
        self.process = process
        self.url = url
        self.key = key

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Return the JSON of a 2xx answer."""
        asked = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(asked, timeout=PATIENCE_SECONDS) as answer:
            return json.load(answer)

    def webhook(self, url: str, *, schedule: Sequence[float] = (0.2, 0.2, 0.2)) -> Any:
        body = {"name": "test", "targetUrl": url, "events": ["*"], "retryPolicy": {"schedule": list(schedule)}}
        return self.call("POST", "/api/integrations/webhooks", body)


@contextmanager
def server(folder: Path, *, environment: Mapping[str, str] | None = None) -> Iterator[Server]:
    """Serve on a free port, with targets on loopback allowed."""
    store = folder / "gatepost.db"
    settings = {
        "GATEPOST_STORE": f"sqlite:///{store}",
        "GATEPOST_PORT": "0",
        "GATEPOST_ALLOWED_TARGET_NETWORKS": "127.0.0.0/8",
        **(environment or {}),
    }
    with running("serve", environment=settings) as process:
        url = json.loads(process.until("server.started", stream="stderr"))["url"]
        yield Server(store, process, url, admin_key(settings))


def admin_key(settings: Mapping[str, str]) -> str:
    """Make a key of a group of its own."""
    made = run("key", "create", *KEY_OPTIONS, environment=settings)
    assert made.returncode == 0, made.stderr
    return str(json.loads(made.stdout)["key"])
