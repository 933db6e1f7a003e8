"""How a use of the database is written down: once, as a generator, for every driver.

A script yields statements and is sent their results. SQLite's threads and PostgreSQL's connections run it.
What the two spell differently stands here, and how PostgreSQL spells it in `postgres_dialect.py`.
"""

from collections.abc import Awaitable, Generator, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple, Protocol, TypeVar

from gatepost.domain.deliveries import QueuedDelivery
from gatepost.ports import Saved

T = TypeVar("T")


class Kind(Enum):
    FETCH = "fetch"
    EXECUTE = "execute"
    EXECUTE_MANY = "execute many"
    FETCH_MANY = "fetch many"
    POKE = "poke"


class Statement(NamedTuple):
    """One statement, its placeholders written ``?``."""

    kind: Kind
    sql: str
    params: Any
    types: str = ""


Script = Generator[Statement, Any, T]


def fetch(sql: str, params: Sequence[Any] = ()) -> Statement:
    """Ask for all rows, as a list of tuples."""
    return Statement(Kind.FETCH, sql, params)


def execute(sql: str, params: Sequence[Any] = ()) -> Statement:
    """Ask for the number of rows changed."""
    return Statement(Kind.EXECUTE, sql, params)


def execute_many(sql: str, rows: Sequence[Sequence[Any]], types: str) -> Statement:
    """Run a statement once over many rows, which stand where it says ``VALUES {rows}``; ask how many it changed.

    Shape: `types` names PostgreSQL's type of each column, with spaces between.

    One statement, not one for each row: a server is asked once, and a thread gives Python's lock away once. Two hundred
    waits to get it back from a busy event loop took a second where two take milliseconds.
    """
    return Statement(Kind.EXECUTE_MANY, sql, rows, types)


def fetch_many(sql: str, rows: Sequence[Sequence[Any]], types: str) -> Statement:
    """Run a statement as `execute_many` does, and ask for the rows it returns.

    Only of a few: for each of them SQLite's thread gives Python's lock away.
    """
    return Statement(Kind.FETCH_MANY, sql, rows, types)


def poke(moments: Mapping[str, int]) -> Statement:
    """Make lanes due at the given moments, unless they are earlier; the answer is None.

    A statement of its own kind, as its place differs: within the transaction on SQLite, whose one writer makes that
    free; after it on PostgreSQL, where a busy webhook's row would be locked by each emitter until its commit.
    """
    return Statement(Kind.POKE, "", moments)


# A list in one parameter; SQLite's driver makes JSON of it.
IN_LIST = "IN (SELECT value FROM json_each(?))"

# Row locks. To SQLite, which has one writer, they are comments.
LOCKED = "/* locked in this order */"
UNLESS_LOCKED = "/* unless others have locked it */"

LOCK_LANE = f"SELECT 1 FROM lanes WHERE webhook_id = ? {LOCKED}"

# Of what has run out, by a write that adds one: more than come in, so that few are left over; little enough for it.
FORGOTTEN_AT_ONCE = 40


def listed(ids: Iterable[str]) -> list[str]:
    """Return the parameter of `IN_LIST`."""
    return list(ids)


@dataclass(frozen=True, slots=True)
class Emitted:
    """The result of a script that may have made deliveries: those are handed over once they are committed."""

    saved: Saved
    queued: Sequence[QueuedDelivery] = ()


@dataclass(frozen=True, slots=True)
class Recorded(Emitted):
    """The result of recording: the lanes found lost, and what is owed for the events that tell of it."""

    lost: Set[str] = frozenset()


class Unstorable(ValueError):
    """The database cannot hold one of the values; nothing of this write was kept. Never leaves the adapter's methods
    that take what strangers sent; elsewhere it is a bug of ours."""


class Database(Protocol):
    """What runs scripts. Those for lanes are the engine's: they never wait behind what people ask for."""

    def read(self, script: Script[T]) -> Awaitable[T]:
        """Run a script that only fetches, on one snapshot that began after this call."""

    def read_lanes(self, script: Script[T]) -> Awaitable[T]:
        """Run a script that only fetches; each statement sees what was committed when it began."""

    def write(self, script: Script[T]) -> Awaitable[T]:
        """Run a script in a transaction: all of it is committed, or nothing.

        Raises: StoreUnavailable; Unstorable; whatever the script itself raises.
        """

    def write_lanes(self, script: Script[T]) -> Awaitable[T]:
        """Run a script as `write` does."""
