"""A delivery as it really leaves `gatepost serve` is verified by everybody else's software, and as documented."""

import http.server
import queue
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.commands import run, server
from tests.interop.verifiers import VERIFIERS, Signed, secret_of

PAGE = Path(__file__).resolve().parents[2] / "docs" / "receiving.md"
OLD_SECRET = secret_of(bytes(range(24)))


@pytest.fixture(scope="module")
def delivered(tmp_path_factory: pytest.TempPathFactory) -> Signed:
    """Return a request that arrived while a rotation was under way, with the new secret."""
    with receiver() as (url, arrived), server(tmp_path_factory.mktemp("interop")) as serving:
        webhook = serving.webhook(url)
        path = f"/api/integrations/webhooks/{webhook['id']}/rotate-secret"
        serving.call("POST", path, {"secret": OLD_SECRET})
        secret = serving.call("POST", path)["secret"]
        run("trigger", "task.created", "--url", serving.url, "--key", serving.key, "--title", "Straße – 掃除 🧹")
        headers, body = arrived.get(timeout=30)
        assert serving.process.stop() == 0
    return Signed(secret, headers, body)


@pytest.mark.parametrize("verifier", VERIFIERS, ids=lambda each: each.__name__)
def test_a_real_delivery_is_accepted_with_either_secret_and_refused_when_touched(
    delivered: Signed, verifier: Any
) -> None:
    check = verifier()
    assert check.accepts(delivered) is True
    assert check.accepts(Signed(OLD_SECRET, delivered.headers, delivered.body)) is True
    assert check.accepts(Signed(secret_of(bytes(32)), delivered.headers, delivered.body)) is False
    assert check.accepts(delivered.with_flipped_bit()) is False


def test_a_real_delivery_has_the_headers_that_the_page_promises(delivered: Signed) -> None:
    section = PAGE.read_text().split("## The request")[1].split("\n## ")[0]
    promised = [name.lower() for name in re.findall(r"^\| `([\w-]+)` \|", section, flags=re.MULTILINE)]
    assert len(promised) == 11
    assert [name for name in promised if name not in delivered.headers] == []


def test_a_real_delivery_is_verified_on_the_command_line(delivered: Signed) -> None:
    headers = [argument for item in delivered.headers.items() for argument in ("--header", ": ".join(item))]
    done = run("verify", "--secret", delivered.secret, *headers, stdin=delivered.body)
    assert done.returncode == 0, done.stdout.decode()


@contextmanager
def receiver() -> Iterator[tuple[str, "queue.Queue[tuple[dict[str, str], bytes]]"]]:
    """Keep what arrives, byte for byte."""
    arrived: queue.Queue[tuple[dict[str, str], bytes]] = queue.Queue()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            arrived.put(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.server_port}/", arrived
    finally:
        listening.shutdown()
        thread.join()
        listening.server_close()
