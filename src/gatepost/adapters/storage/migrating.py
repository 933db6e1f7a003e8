"""Schema changes: numbered files, each run once in one transaction, forward only. The drivers run them."""

from collections.abc import Sequence
from hashlib import sha256
from importlib.resources import files
from typing import NamedTuple

from gatepost.domain.errors import StoreUnavailable


class Migration(NamedTuple):
    number: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return sha256(self.sql.encode()).hexdigest()


class Applied(NamedTuple):
    """What a database says of a migration that made it."""

    number: int
    name: str
    checksum: str


def shipped(dialect: str) -> list[Migration]:
    """Return the migrations of this version, in order."""
    folder = files("gatepost.adapters.storage") / "migrations" / dialect
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return [Migration(int(name[:4]), name, (folder / name).read_text("utf-8")) for name in names]


def missing(applied: Sequence[Applied], known: Sequence[Migration]) -> list[Migration]:
    """Return what a database still needs, in order.

    Raises: StoreUnavailable, when it is newer than this version, or was made by a migration edited since.
    """
    checksums = {migration.number: migration.checksum for migration in known}
    for number, name, checksum in applied:
        if number not in checksums:
            raise StoreUnavailable(
                f"the database is newer than this Gatepost: it has migration {name}, which this version does not know;"
                " upgrade Gatepost, or restore the backup made before the upgrade"
            )
        if checksum != checksums[number]:
            raise StoreUnavailable(
                f"migration {name} is not the one that made this database: the file was edited after it ran"
            )
    done = {number for number, _, _ in applied}
    return [migration for migration in known if migration.number not in done]
