"""How PostgreSQL spells what the shared statements leave open."""

from functools import lru_cache
from itertools import count

from gatepost.adapters.storage.scripts import IN_LIST, LOCKED, UNLESS_LOCKED

_SPELLINGS = {
    IN_LIST: "= ANY (?::text[])",
    LOCKED: "FOR NO KEY UPDATE",
    UNLESS_LOCKED: "FOR NO KEY UPDATE OF lanes SKIP LOCKED",
}


@lru_cache(maxsize=1024)
def in_postgres(sql: str, types: str = "") -> str:
    """Return a shared statement for PostgreSQL; rows of the given types come as one array for each column.

    >>> in_postgres("INSERT INTO t (a, b) VALUES {rows}", "text bigint")
    'INSERT INTO t (a, b) SELECT * FROM unnest($1::text[], $2::bigint[])'
    >>> in_postgres("UPDATE t SET a = ? WHERE b = ?")
    'UPDATE t SET a = $1 WHERE b = $2'
    """
    for ours, theirs in _SPELLINGS.items():
        sql = sql.replace(ours, theirs)
    arrays = ", ".join(f"?::{name}[]" for name in types.split())
    sql = sql.replace("VALUES {rows}", f"SELECT * FROM unnest({arrays})")
    numbers = count(1)
    first, *rest = sql.split("?")
    return first + "".join(f"${next(numbers)}{part}" for part in rest)
