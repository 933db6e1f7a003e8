"""Where a store is: a URL that may hold a password, and that never shows it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from urllib.parse import SplitResult, parse_qs, urlsplit


class StoreKind(StrEnum):
    """What keeps the data."""

    SQLITE = "SQLite"
    POSTGRESQL = "PostgreSQL"
    MONGODB = "MongoDB"


_SCHEMES: Mapping[str, StoreKind] = {
    "sqlite": StoreKind.SQLITE,
    "postgresql": StoreKind.POSTGRESQL,
    "postgres": StoreKind.POSTGRESQL,
    "mongodb": StoreKind.MONGODB,
    "mongodb+srv": StoreKind.MONGODB,
}
FIX = "write it as sqlite:///PATH, postgresql://USER:PASSWORD@HOST/DATABASE or mongodb://USER:PASSWORD@HOST/DATABASE"

_FILE = re.compile(r"/(?!:memory:)[^?\x00]*[^?\x00/]")
_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[^\[\]:\s]+)(?::(?P<port>\d{1,5}))?")
_ENCODE = "write / ? # @ : and spaces in user and password as %2F %3F %23 %40 %3A %20"


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """One store.

    Shape: `secret` is the URL as it was given, for its driver only; `shown` has neither user, password nor options.
    """

    kind: StoreKind
    shown: str
    secret: str = field(repr=False)

    def __str__(self) -> str:
        return self.shown

    @property
    def is_embedded(self) -> bool:
        return self.kind is StoreKind.SQLITE

    @property
    def path(self) -> Path:
        """The file of an embedded store: three slashes are relative to the working directory, four absolute."""
        assert self.is_embedded
        return Path(self.secret.removeprefix("sqlite:///"))


def parse_store_url(text: str) -> StoreUrl:
    """Return what a URL names.

    Raises: ValueError, with how to write it; what was given is not repeated.

    >>> str(parse_store_url("postgresql://gatepost:hunter2@db1:5432,db2/gatepost?sslmode=require"))
    'postgresql://db1:5432,db2/gatepost'
    >>> str(parse_store_url("sqlite:////var/lib/gatepost.db"))
    'sqlite:////var/lib/gatepost.db'
    """
    scheme, separator, rest = text.partition("://")
    kind = _SCHEMES.get(scheme)
    if kind is None or not separator:
        raise ValueError(FIX)
    if kind is StoreKind.SQLITE:
        if not _FILE.fullmatch(rest):
            raise ValueError("name a file after the three slashes, such as sqlite:///./gatepost.db")
        return StoreUrl(kind, shown=text, secret=text)
    return StoreUrl(kind, shown=_shown(scheme, kind, text), secret=text)


def _shown(scheme: str, kind: StoreKind, text: str) -> str:
    parts = _split(text)
    options = parse_qs(parts.query)
    user, _, hosts = parts.netloc.rpartition("@")
    database = parts.path.removeprefix("/")
    if (
        kind is StoreKind.POSTGRESQL
    ):  # whose drivers take both as options, too; a folder of sockets can only be written so
        hosts = hosts or ",".join(options.get("host", []))
        database = database or options.get("dbname", [""])[0]
    # A password with a raw / or @ would have ended up in one of these two.
    if "@" in user or "@" in database or "/" in database:
        raise ValueError(_ENCODE)
    if not hosts:
        raise ValueError(f"name the host, such as {scheme}://USER:PASSWORD@HOST/gatepost")
    _check_hosts(hosts.split(","), scheme)
    if kind is StoreKind.POSTGRESQL and not database:
        raise ValueError(f"name the database after the host, such as {scheme}://USER:PASSWORD@HOST/gatepost")
    return f"{scheme}://{hosts}/{database}"


def _split(text: str) -> SplitResult:
    if re.search(r"[\s\x00-\x1f#]", text):  # which would be dropped without a word, a # with all that follows
        raise ValueError(_ENCODE)
    try:
        return urlsplit(text)
    except ValueError:
        raise ValueError(FIX) from None


def _check_hosts(hosts: Sequence[str], scheme: str) -> None:
    for host in hosts:
        if host.startswith("/"):  # a folder of sockets
            continue
        found = _HOST.fullmatch(host)
        if found is None or not 0 < int(found["port"] or 1) < 2**16:
            raise ValueError(f"write hosts as HOST or HOST:PORT, with commas between; {_ENCODE}")
        if scheme == "mongodb+srv" and (found["port"] or len(hosts) > 1):
            raise ValueError("mongodb+srv:// takes one name, without a port: its DNS record has hosts and ports")
