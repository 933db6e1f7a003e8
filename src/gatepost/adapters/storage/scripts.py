"""How a use of the database is written down: once, as a generator, for every driver.

A script yields statements and is sent their results. SQLite's threads run it today; nothing in it says so, so that a
driver with an asynchronous transaction can run the same script.
"""

import json
from collections.abc import Awaitable, Generator, Iterable, Sequence
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


class Statement(NamedTuple):
    """One statement, its placeholders written ``?``."""

    kind: Kind
    sql: str
    params: Sequence[Any]


Script = Generator[Statement, Any, T]


def fetch(sql: str, params: Sequence[Any] = ()) -> Statement:
    """Ask for all rows, as a list of tuples."""
    return Statement(Kind.FETCH, sql, params)


def execute(sql: str, params: Sequence[Any] = ()) -> Statement:
    """Ask for the number of rows changed."""
    return Statement(Kind.EXECUTE, sql, params)


def execute_many(sql: str, rows: Sequence[Sequence[Any]]) -> Statement:
    """Run a statement once over many rows, which stand where it says ``VALUES {rows}``; the answer is None.

    One statement, not one for each row: a thread gives Python's lock away around each of them, and waits to get it
    back while the event loop is busy. Two hundred such waits took a second where two take milliseconds.
    """
    return Statement(Kind.EXECUTE_MANY, sql, rows)


# A list in one parameter. PostgreSQL spells the function json_array_elements_text.
IN_LIST = "IN (SELECT value FROM json_each(?))"


def listed(ids: Iterable[str]) -> str:
    """Return the parameter of `IN_LIST`."""
    return json.dumps(list(ids))


@dataclass(frozen=True, slots=True)
class Emitted:
    """The result of a script that may have made deliveries: those are handed over once they are committed."""

    saved: Saved
    queued: Sequence[QueuedDelivery] = ()


class Unstorable(ValueError):
    """The database cannot hold one of the values; nothing of this write was kept. Never leaves the adapter's methods
    that take what strangers sent; elsewhere it is a bug of ours."""


class Database(Protocol):
    """What runs scripts."""

    def read(self, script: Script[T]) -> Awaitable[T]:
        """Run a script that only fetches, on one snapshot that began after this call."""

    def read_lanes(self, script: Script[T]) -> Awaitable[T]:
        """Run a script as `read` does, for the engine: never behind what people look at."""

    def write(self, script: Script[T]) -> Awaitable[T]:
        """Run a script in a transaction: all of it is committed, or nothing.

        Raises: StoreUnavailable; Unstorable; whatever the script itself raises.
        """
