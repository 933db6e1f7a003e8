"""People and their sessions in SQL."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from gatepost.adapters.storage.paging import AFTER_ALL, page_of
from gatepost.adapters.storage.rows import Row, from_ms, to_ms
from gatepost.adapters.storage.scripts import (
    FORGOTTEN_AT_ONCE,
    IN_LIST,
    LOCKED,
    Database,
    Script,
    execute,
    execute_many,
    fetch,
    listed,
)
from gatepost.domain.people import IDLE, Session, User
from gatepost.ports import Page, Saved

_COLUMNS = "id, email, name, password_hash, created_at, is_installation_owner"
_ADD = f"INSERT INTO users ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
USER = f"SELECT {_COLUMNS} FROM users WHERE id = ?"
USER_WITH_EMAIL = f"SELECT {_COLUMNS} FROM users WHERE email = ?"
USERS = f"SELECT {_COLUMNS} FROM users WHERE id < ? ORDER BY id DESC LIMIT ?"
INSTALLATION_OWNERS = "SELECT id FROM users WHERE is_installation_owner = 1 ORDER BY id"
SAVE_PASSWORD = "UPDATE users SET password_hash = ? WHERE id = ? AND password_hash = ?"

# The one row that every installation has: whoever wants to be its first person waits here for the others who do, and
# for those whose new group is to be theirs.
_LOCK_INSTALLATION = f"SELECT 1 FROM key_check {LOCKED}"
_ANYBODY = "SELECT 1 FROM users LIMIT 1"
_OWN_ALL = """
INSERT INTO members (group_id, user_id, role, joined_at) SELECT id, ?, 'owner', ? FROM groups
WHERE NOT EXISTS (SELECT 1 FROM members WHERE group_id = groups.id AND role = 'owner')
"""

_SESSION_COLUMNS = "id, user_id, secret_hash, created_at, last_used_at"
_ADD_SESSION = f"INSERT INTO sessions ({_SESSION_COLUMNS}) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
SESSION = f"SELECT {_SESSION_COLUMNS} FROM sessions WHERE id = ?"
SESSIONS = f"SELECT {_SESSION_COLUMNS} FROM sessions WHERE user_id = ? ORDER BY id DESC"
# Those that ran out by their age are found, too: nobody could use them since, so that they are idle soon after.
FORGET_SESSIONS = f"""
DELETE FROM sessions
WHERE id IN (SELECT id FROM sessions WHERE last_used_at < ? ORDER BY last_used_at LIMIT ? {LOCKED})
"""
# Raised, never lowered: two processes report in any order.
TOUCH_SESSIONS = """
WITH used (id, at) AS (VALUES {rows})
UPDATE sessions SET last_used_at = used.at FROM used WHERE sessions.id = used.id AND last_used_at < used.at
"""
END_ALL_SESSIONS = "DELETE FROM sessions WHERE user_id = ?"
END_SESSIONS = f"{END_ALL_SESSIONS} AND id {IN_LIST}"


class SqlPeople:
    """Implements `ports.PeopleStore`."""

    _database: Database

    async def add_user(self, user: User) -> Saved:
        return await self._database.write(_add(user))

    async def add_first_user(self, user: User) -> Saved:
        return await self._database.write(_add_first(user))

    async def user(self, user_id: str) -> User | None:
        return await self._database.read(_user(USER, user_id))

    async def user_with_email(self, email: str) -> User | None:
        return await self._database.read(_user(USER_WITH_EMAIL, email))

    async def users(self, *, limit: int, before: str | None) -> Page[User]:
        return await self._database.read(_users(limit, before))

    async def save_password(self, user_id: str, password_hash: str, *, expected: str) -> Saved:
        return await self._database.write(_save_password(user_id, password_hash, expected))

    async def add_session(self, session: Session) -> None:
        await self._database.write(_add_session(session))

    async def session(self, session_id: str) -> Session | None:
        found = await self._database.read(_sessions(SESSION, session_id))
        return found[0] if found else None

    async def sessions(self, user_id: str) -> Sequence[Session]:
        return await self._database.read(_sessions(SESSIONS, user_id))

    async def touch_sessions(self, used_at: Mapping[str, datetime]) -> None:
        if used_at:
            await self._database.write(_touch_sessions(used_at))

    async def end_sessions(self, user_id: str, session_ids: Sequence[str] | None = None) -> None:
        if session_ids is None:
            await self._database.write(_change(END_ALL_SESSIONS, user_id))
        else:
            await self._database.write(_change(END_SESSIONS, user_id, listed(session_ids)))


def installation_owners_locked() -> Script[list[str]]:
    """Return who owns the installation, and let nobody be its first person before the transaction ends."""
    yield fetch(_LOCK_INSTALLATION)
    rows = yield fetch(INSTALLATION_OWNERS)
    return [user_id for (user_id,) in rows]


def _add(user: User) -> Script[Saved]:
    added = yield execute(_ADD, _row(user))
    if added:
        return Saved.DONE
    return (yield from _done_if_there(user))


def _add_first(user: User) -> Script[Saved]:
    yield fetch(_LOCK_INSTALLATION)
    if (yield fetch(_ANYBODY)):
        return (yield from _done_if_there(user))
    added = yield execute(_ADD, _row(user))
    if not added:  # somebody else came in by another door
        return Saved.EXISTS
    yield execute(_OWN_ALL, (user.id, to_ms(user.created_at)))
    return Saved.DONE


def _done_if_there(user: User) -> Script[Saved]:
    same_email = yield from _user(USER_WITH_EMAIL, user.email)
    return Saved.DONE if same_email and same_email.id == user.id else Saved.EXISTS


def _user(sql: str, sought: str) -> Script[User | None]:
    rows = yield fetch(sql, (sought,))
    return _user_from(rows[0]) if rows else None


def _users(limit: int, before: str | None) -> Script[Page[User]]:
    rows = yield fetch(USERS, (before or AFTER_ALL, limit + 1))
    return page_of([_user_from(row) for row in rows], limit)


def _save_password(user_id: str, password_hash: str, expected: str) -> Script[Saved]:
    saved = yield execute(SAVE_PASSWORD, (password_hash, user_id, expected))
    return Saved.DONE if saved else Saved.STALE


def _add_session(session: Session) -> Script[None]:
    yield execute(FORGET_SESSIONS, (to_ms(session.created_at - IDLE), FORGOTTEN_AT_ONCE))
    yield execute(_ADD_SESSION, _session_row(session))


def _sessions(sql: str, sought: str) -> Script[list[Session]]:
    rows = yield fetch(sql, (sought,))
    return [_session_from(row) for row in rows]


def _touch_sessions(used_at: Mapping[str, datetime]) -> Script[None]:
    rows = [(session_id, to_ms(moment)) for session_id, moment in sorted(used_at.items())]
    yield execute_many(TOUCH_SESSIONS, rows, "text bigint")


def _change(sql: str, *params: object) -> Script[None]:
    yield execute(sql, params)


# --- rows ----------------------------------------------------------------------------------------------------


def _row(user: User) -> Row:
    created_at, is_installation_owner = to_ms(user.created_at), int(user.is_installation_owner)
    return user.id, user.email, user.name, user.password_hash, created_at, is_installation_owner


def _user_from(row: Row) -> User:
    user_id, email, name, password_hash, created_at, is_installation_owner = row
    return User(user_id, email, name, password_hash, from_ms(created_at), bool(is_installation_owner))


def _session_row(session: Session) -> Row:
    created_at, last_used_at = to_ms(session.created_at), to_ms(session.last_used_at)
    return session.id, session.user_id, session.secret_hash, created_at, last_used_at


def _session_from(row: Row) -> Session:
    session_id, user_id, secret_hash, created_at, last_used_at = row
    return Session(session_id, user_id, secret_hash, from_ms(created_at), from_ms(last_used_at))
