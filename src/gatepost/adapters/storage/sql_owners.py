"""Who is alive, in SQL, and what part of the lanes each owner may have."""

import socket
from collections.abc import Mapping
from datetime import datetime, timedelta

from gatepost.adapters.storage.rows import NEVER_MS, to_ms
from gatepost.adapters.storage.scripts import IN_LIST, LOCKED, Database, Script, execute, fetch, listed
from gatepost.adapters.storage.shares import FORGOTTEN_AFTER, proven_after_ms, room_in_share, surplus
from gatepost.ports import Renewal

SEEN = """
INSERT INTO workers (id, host, started_at, seen_at) VALUES (?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at
"""
# As if it had only just joined, for good.
_RETIRE = f"UPDATE workers SET started_at = {NEVER_MS} WHERE id = ?"
FORGET = "DELETE FROM workers WHERE id = ?"
_FORGET_LONG_GONE = "DELETE FROM workers WHERE seen_at < ?"
# `<> ''` says nothing new, but lets the index of leased lanes find them.
_LOCK_ALL = f"SELECT webhook_id FROM lanes WHERE owner = ? AND owner <> '' ORDER BY webhook_id {LOCKED}"
_RELEASE_ALL = "UPDATE lanes SET owner = '', lease_until = 0 WHERE owner = ? AND owner <> ''"

# Seen in the future is not alive either: the server's clock was set back.
OTHERS = """
SELECT count(*) FROM workers WHERE seen_at > ? AND seen_at <= ? AND seen_at - started_at >= ? AND id <> ?
"""
# What there is to share out, and how much of it an owner has.
WANTED = """
SELECT (SELECT count(*) FROM lanes WHERE owner = '' AND due_at <= ? AND hold_until <= ?),
       (SELECT count(*) FROM lanes WHERE owner <> ''),
       (SELECT count(*) FROM lanes WHERE owner <> '' AND owner = ?)
"""

LEASES = f"SELECT webhook_id, token, owner FROM lanes WHERE webhook_id {IN_LIST} ORDER BY webhook_id {LOCKED}"
RENEW = f"UPDATE lanes SET lease_until = ? WHERE webhook_id {IN_LIST}"


class SqlOwners:
    """Implements what `ports.LaneStore` asks about owners."""

    _database: Database

    async def join(self, owner: str, *, now: datetime) -> None:
        await self._database.write_lanes(_join(owner, now))

    async def retire(self, owner: str) -> None:
        await self._database.write_lanes(_retire(owner))

    async def leave(self, owner: str) -> None:
        await self._database.write_lanes(_leave(owner))

    async def renew_lanes(self, owner: str, tokens: Mapping[str, int], *, now: datetime, lease: timedelta) -> Renewal:
        return await self._database.write_lanes(_renew(owner, tokens, now, lease))


def room_for(owner: str, *, now: datetime, lease: timedelta) -> Script[int | None]:
    """Return how many more lanes an owner may have, less than none if it has too many; None while it is alone."""
    [(others,)] = yield fetch(OTHERS, (to_ms(now - lease), to_ms(now + lease), proven_after_ms(lease), owner))
    if not others:
        return None
    [(due, leased, own)] = yield fetch(WANTED, (to_ms(now), to_ms(now), owner))
    return room_in_share(due=due, leased=leased, own=own, others=others)


def _join(owner: str, now: datetime) -> Script[None]:
    yield execute(_FORGET_LONG_GONE, (to_ms(now - FORGOTTEN_AFTER),))
    yield execute(SEEN, _seen(owner, now))


def _retire(owner: str) -> Script[None]:
    yield execute(_RETIRE, (owner,))


def _leave(owner: str) -> Script[None]:
    yield fetch(_LOCK_ALL, (owner,))
    yield execute(_RELEASE_ALL, (owner,))
    yield execute(FORGET, (owner,))


def _renew(owner: str, tokens: Mapping[str, int], now: datetime, lease: timedelta) -> Script[Renewal]:
    yield execute(SEEN, _seen(owner, now))
    rows = yield fetch(LEASES, (listed(tokens),))
    kept = [webhook_id for webhook_id, token, by in rows if by == owner and token == tokens[webhook_id]]
    yield execute(RENEW, (to_ms(now + lease), listed(kept)))
    room = yield from room_for(owner, now=now, lease=lease)
    return Renewal(set(tokens).difference(kept), surplus(room))


def _seen(owner: str, now: datetime) -> tuple[str, str, int, int]:
    return owner, socket.gethostname(), to_ms(now), to_ms(now)
