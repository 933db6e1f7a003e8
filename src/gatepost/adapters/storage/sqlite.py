"""The store on one SQLite file."""

import fcntl
import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

from gatepost.adapters.secretbox import SecretBox
from gatepost.adapters.storage.key_check import check_key, sealed_key_check
from gatepost.adapters.storage.scripts import Script, execute, fetch
from gatepost.adapters.storage.sql_attempts import SqlAttempts
from gatepost.adapters.storage.sql_deliveries import SqlDeliveries
from gatepost.adapters.storage.sql_events import SqlEvents
from gatepost.adapters.storage.sql_groups import SqlGroups
from gatepost.adapters.storage.sql_keys import SqlKeys
from gatepost.adapters.storage.sql_owners import FORGET, SqlOwners
from gatepost.adapters.storage.sql_people import SqlPeople
from gatepost.adapters.storage.sql_replays import SqlReplays
from gatepost.adapters.storage.sql_requests import SqlRequests
from gatepost.adapters.storage.sql_retention import SqlRetention
from gatepost.adapters.storage.sql_stats import SqlStats
from gatepost.adapters.storage.sql_swaps import SqlSwaps
from gatepost.adapters.storage.sql_tasks import SqlTasks
from gatepost.adapters.storage.sql_webhooks import SqlWebhooks
from gatepost.adapters.storage.sqlite_lanes import SqliteLanes
from gatepost.adapters.storage.sqlite_schema import migrate
from gatepost.adapters.storage.threads import Threads, connect
from gatepost.adapters.system import SystemClock
from gatepost.domain.deliveries import QueuedDelivery
from gatepost.domain.errors import StoreUnavailable
from gatepost.ports import Clock, Leased, Renewal

_CHECK_OWNERS_EVERY = timedelta(seconds=3)
_MOST_TRIES = 20  # to change a new file that others open, too

_OWNERS = "SELECT id FROM workers UNION SELECT owner FROM lanes WHERE owner <> ''"
# The owner stays: whoever takes its lanes over counts that they were not released. `<> ''` says nothing new, but lets
# the index of leased lanes find them.
_LAPSE = "UPDATE lanes SET lease_until = 0 WHERE owner = ? AND owner <> ''"


class SqliteStore(
    SqlGroups,
    SqlKeys,
    SqlPeople,
    SqlRequests,
    SqlTasks,
    SqlSwaps,
    SqlEvents,
    SqlWebhooks,
    SqlDeliveries,
    SqlReplays,
    SqliteLanes,
    SqlAttempts,
    SqlOwners,
    SqlStats,
    SqlRetention,
):
    """Implements every store of `ports`."""

    def __init__(self, path: Path, threads: Threads, box: SecretBox) -> None:
        self._database = threads
        self._threads = threads
        self._box = box
        self._owners = OwnerLocks(path)
        self._owners_checked_at: datetime | None = None
        self.on_poked: Callable[[Sequence[str]], None] = lambda _: None  # never called: the file tells nobody anything

    @classmethod
    async def migrate(cls, path: Path, *, box: SecretBox) -> None:
        """Bring a database file, made when it is missing, to this version's schema.

        Raises: StoreUnavailable, with a sentence for the operator.
        """
        prepare(path, box)

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        box: SecretBox,
        on_death: Callable[[BaseException], None] = lambda _: None,
        clock: Clock | None = None,
    ) -> "SqliteStore":
        """Open a database file, made when it is missing, and bring it to this version's schema.

        Shape:  `on_death` is called on the loop when a thread of the store has ended of a bug.
        Raises: StoreUnavailable, with a sentence for the operator.
        """
        prepare(path, box)
        return cls(path, Threads(path, boot=(clock or SystemClock()).boot, on_death=on_death), box)

    async def close(self) -> None:
        """Finish what was asked for and stop. Owners that have not left are dead to others from now on."""
        await self._threads.close()
        self._owners.close()

    @property
    def on_queued(self) -> Callable[[Sequence[QueuedDelivery]], set[str]]:
        """Called on the loop with deliveries just committed, before whoever wrote them goes on."""
        return self._threads.on_queued

    @on_queued.setter
    def on_queued(self, callback: Callable[[Sequence[QueuedDelivery]], set[str]]) -> None:
        self._threads.on_queued = callback

    # --- who is alive ----------------------------------------------------------------------------------------

    async def join(self, owner: str, *, now: datetime) -> None:
        # Locked before it is named anywhere: nobody finds the name without the lock.
        self._owners.lock(owner)
        await super().join(owner, now=now)
        await self._end_leases_of_the_dead(now)

    async def leave(self, owner: str) -> None:
        await super().leave(owner)
        self._owners.unlock(owner)

    async def lease_lanes(self, owner: str, *, limit: int, now: datetime, lease: timedelta) -> Leased:
        self._owners.lock(owner)
        return await super().lease_lanes(owner, limit=limit, now=now, lease=lease)

    async def renew_lanes(self, owner: str, tokens: Mapping[str, int], *, now: datetime, lease: timedelta) -> Renewal:
        checked_at = self._owners_checked_at
        if checked_at is None or not timedelta(0) <= now - checked_at < _CHECK_OWNERS_EVERY:
            await self._end_leases_of_the_dead(now)
        return await super().renew_lanes(owner, tokens, now=now, lease=lease)

    async def server_time(self) -> None:
        """Return nothing: the file has no clock of its own."""

    async def _end_leases_of_the_dead(self, now: datetime) -> None:
        self._owners_checked_at = now
        owners = await self._database.read_lanes(_owners())
        dead = [owner for owner in owners if self._owners.is_dead(owner)]
        if dead:
            await self._database.write(_end_leases(dead))
            self._owners.forget(dead)


def prepare(path: Path, box: SecretBox) -> None:
    """Make the file ready: present, readable, sealed with this key, of this version's schema."""
    try:
        if not path.exists():
            path.touch(mode=0o600)  # SQLite gives its log and its index the same mode
        connection = connect(path)
        try:
            if _keep_a_log(connection) != "wal":
                raise StoreUnavailable(f"{path} lies on a file system without shared memory, which SQLite needs")
            migrate(connection)
            _check_key(connection, box)
        finally:
            connection.close()
    except (OSError, sqlite3.Error) as error:
        raise StoreUnavailable(f"{path} cannot be used as a database: {error}") from error


def _keep_a_log(connection: sqlite3.Connection) -> str:
    """Have changes written to a log first, and return what the file is kept by then."""
    for _ in range(_MOST_TRIES):
        with suppress(sqlite3.OperationalError):
            return _journal_mode(connection)
        # Of many who open a new file at once, one changes it and the others are refused without a wait: a transaction
        # waits for whoever it is.
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("COMMIT")
    return _journal_mode(connection)


def _journal_mode(connection: sqlite3.Connection) -> str:
    [(mode,)] = connection.execute("PRAGMA journal_mode = WAL").fetchall()
    return str(mode)


def _check_key(connection: sqlite3.Connection, box: SecretBox) -> None:
    connection.execute(
        "INSERT INTO key_check (id, sealed) VALUES (1, ?) ON CONFLICT DO NOTHING", (sealed_key_check(box),)
    )
    [(sealed,)] = connection.execute("SELECT sealed FROM key_check").fetchall()
    check_key(sealed, box)


class OwnerLocks:
    """One locked file beside the database for each owner of this process: the kernel unlocks it when we die."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held: dict[str, int] = {}

    def lock(self, owner: str) -> None:
        if owner in self._held:
            return
        try:
            descriptor = os.open(self._file(owner), os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StoreUnavailable(f"no lock file can be made beside the database: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise StoreUnavailable(f"another process works under the name {owner}") from error
        self._held[owner] = descriptor

    def unlock(self, owner: str) -> None:
        descriptor = self._held.pop(owner, None)
        if descriptor is not None:
            with suppress(OSError):  # what is left of it is nobody's
                self._file(owner).unlink()
            os.close(descriptor)

    def is_dead(self, owner: str) -> bool:
        """Say whether nobody holds the lock of an owner."""
        if owner in self._held:
            return False
        try:
            descriptor = os.open(self._file(owner), os.O_RDWR)
        except FileNotFoundError:
            return True
        except OSError:  # out of descriptors, perhaps: no proof of death
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        finally:
            os.close(descriptor)
        return True

    def forget(self, owners: Sequence[str]) -> None:
        """Remove what the dead have left."""
        for owner in owners:
            with suppress(OSError):
                self._file(owner).unlink()

    def close(self) -> None:
        """Let go of every lock without leaving, as the end of the process would."""
        while self._held:
            os.close(self._held.popitem()[1])

    def _file(self, owner: str) -> Path:
        return self._path.with_name(f"{self._path.name}.engine-{owner}")


def _owners() -> Script[list[str]]:
    rows = yield fetch(_OWNERS)
    return [owner for (owner,) in rows]


def _end_leases(owners: Sequence[str]) -> Script[None]:
    for owner in owners:
        yield execute(_LAPSE, (owner,))
        yield execute(FORGET, (owner,))
