"""Several processes on one store, as an installation has them: the settings they share, APIs and workers."""

import base64
import socket
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from tests.commands import PATIENCE_SECONDS, Running, Server, admin_key, run, running
from tests.contract.backends import SECRET_KEY


def settings_on(store_url: str, *, lease_seconds: float = 2.0, **others: str) -> Mapping[str, str]:
    """Return what every process on a store is told: targets on loopback are allowed, and leases short."""
    return {
        "GATEPOST_STORE": store_url,
        "GATEPOST_SECRET_KEY": base64.b64encode(SECRET_KEY).decode(),
        "GATEPOST_ALLOWED_TARGET_NETWORKS": "127.0.0.0/8",
        "GATEPOST_LEASE_SECONDS": str(lease_seconds),
        **others,
    }


def migrate(settings: Mapping[str, str]) -> None:
    migrated = run("migrate", environment=settings)
    assert migrated.returncode == 0, migrated.stderr


@contextmanager
def serving(settings: Mapping[str, str], *, engine: str = "off") -> Iterator[Server]:
    """Serve the API, with a key, however little is logged."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with running("serve", "--engine", engine, "--port", str(port), environment=settings) as process:
        url = f"http://127.0.0.1:{port}"
        _wait_until_ready(process, url)
        yield Server(Path("/nowhere"), process, url, admin_key(settings))


def working(settings: Mapping[str, str], *arguments: str) -> AbstractContextManager[Running]:
    """Run a worker, which may still be starting."""
    return running("worker", *arguments, environment=settings)


def _wait_until_ready(api: Running, url: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            urllib.request.urlopen(f"{url}/health/ready", timeout=PATIENCE_SECONDS).close()
            return
        except OSError:
            assert api.process.poll() is None, "it has ended"
            assert time.monotonic() < deadline, "it does not answer"
            time.sleep(0.05)
