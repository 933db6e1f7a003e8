"""A MongoDB server for tests: the one that GATEPOST_TEST_MONGODB_URL names, or else the wire-compatible stand-in.

The stand-in speaks MongoDB's protocol over files in a temporary folder. It is started when it is first asked for and
ended with the process. It is no proof of what only a real server has: failover, replication, sharding.
"""

import atexit
import os
import shutil
import socket
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from urllib.parse import urlsplit, urlunsplit

STARTS_WITHIN_SECONDS = 30
VARIABLE = "GATEPOST_TEST_MONGODB_URL"
OURS = "TEST_MONGODB_STANDIN_URL"  # where the processes that a test starts find the server that it started

_databases: set[str] = set()


def missing() -> str | None:
    """Say what is missing to have a server; None when nothing is."""
    has = os.environ.get(VARIABLE) or _program().exists()
    return None if has else f"the wire-compatible stand-in for MongoDB is not installed, and {VARIABLE} names no server"


def url(database: str) -> str:
    """Return the URL of a database; on a server that is not ours it is dropped when this process ends."""
    return str(urlunsplit(urlsplit(_server_url(database))._replace(path=f"/{database}")))


def _server_url(database: str) -> str:
    if theirs := os.environ.get(VARIABLE):
        if not _databases:
            atexit.register(_drop_databases, theirs)
        _databases.add(database)
        return theirs
    if OURS not in os.environ:
        os.environ[OURS] = server().url
    return os.environ[OURS]


@cache
def server() -> "StandIn":
    """Return this process's own server."""
    started = StandIn()
    atexit.register(started.remove)
    return started


class StandIn:
    """The wire-compatible stand-in on a free port of loopback."""

    def __init__(self) -> None:
        self.folder = Path(mkdtemp(prefix="gatepost-mongo-"))
        self.port = _free_port()
        self.url = f"mongodb://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        command = [_program(), "--data-dir", self.folder / "data", "-p", str(self.port)]
        command += ["--log-file", self.folder / "log", "--pid-file", self.folder / "pid"]
        with (self.folder / "output").open("ab") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=output, cwd=self.folder)
        deadline = time.monotonic() + STARTS_WITHIN_SECONDS
        while not self._listens():
            assert self.process.poll() is None, (self.folder / "output").read_text()
            assert time.monotonic() < deadline, (self.folder / "output").read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        """Kill it, as a power cut would."""
        self.process.kill()
        self.process.wait()

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True


def _program() -> Path:
    return Path(sys.executable).with_name("nx-27017")


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


def _drop_databases(server_url: str) -> None:
    from pymongo import MongoClient

    with MongoClient(server_url, serverSelectionTimeoutMS=5_000) as client:
        for database in _databases:
            client.drop_database(database)
