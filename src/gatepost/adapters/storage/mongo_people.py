"""People and their sessions, in MongoDB.

The e-mail address is the `_id` of a person's document, as nothing else makes it unique.

Who the first person is, one document decides: `first_user` in `meta`, which holds all there is to know of them until
everything else is written. Nobody is added before that is done, by whoever comes next. Their own document is the last
of it: while it is missing there is nobody, so that somebody will ask again, and once it is there they own every group.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

from gatepost.adapters.storage.mongo_driver import Document, Mongo, delete_few, fetch, insert_new, parts_of, raise_each
from gatepost.adapters.storage.mongo_groups import FIRST_USER, own_groups_without_owner
from gatepost.adapters.storage.paging import AFTER_ALL, page_of
from gatepost.adapters.storage.rows import from_ms, to_ms
from gatepost.domain.people import IDLE, Session, User
from gatepost.ports import Page, Saved

_MOST_SESSIONS = 10_000


class MongoPeople:
    """Implements `ports.PeopleStore`."""

    _mongo: Mongo

    async def add_user(self, user: User) -> Saved:
        return await self._mongo.write(_add(self._mongo, user))

    async def add_first_user(self, user: User) -> Saved:
        return await self._mongo.write(_add_first(self._mongo, user))

    async def user(self, user_id: str) -> User | None:
        return await self._mongo.read(_user(self._mongo, {"user_id": user_id}))

    async def user_with_email(self, email: str) -> User | None:
        return await self._mongo.read(_user(self._mongo, {"_id": email}))

    async def users(self, *, limit: int, before: str | None) -> Page[User]:
        return await self._mongo.read(_users(self._mongo, limit, before))

    async def save_password(self, user_id: str, password_hash: str, *, expected: str) -> Saved:
        return await self._mongo.write(_save_password(self._mongo, user_id, password_hash, expected))

    async def add_session(self, session: Session) -> None:
        await self._mongo.write(_add_session(self._mongo, session))

    async def session(self, session_id: str) -> Session | None:
        return await self._mongo.read(_session(self._mongo, session_id))

    async def sessions(self, user_id: str) -> Sequence[Session]:
        return await self._mongo.read(_sessions(self._mongo, user_id))

    async def touch_sessions(self, used_at: Mapping[str, datetime]) -> None:
        if used_at:
            await self._mongo.write(raise_each(self._mongo.sessions, "last_used_at", used_at))

    async def end_sessions(self, user_id: str, session_ids: Sequence[str] | None = None) -> None:
        await self._mongo.write(_end_sessions(self._mongo, user_id, session_ids))


# --- people --------------------------------------------------------------------------------------------------


async def _add(mongo: Mongo, user: User) -> Saved:
    first = await _first(mongo, user, owns_groups=0)
    if first["user_id"] == user.id or await insert_new(mongo.users, [_document(user)]):
        return Saved.DONE
    return await _done_if_there(mongo, user)


async def _add_first(mongo: Mongo, user: User) -> Saved:
    await _first(mongo, user, owns_groups=1)
    return await _done_if_there(mongo, user)


async def _done_if_there(mongo: Mongo, user: User) -> Saved:
    same_email = await mongo.users.find_one({"_id": user.email}, {"user_id": 1})
    return Saved.DONE if same_email and same_email["user_id"] == user.id else Saved.EXISTS


async def _first(mongo: Mongo, user: User, *, owns_groups: int) -> Document:
    """Return who is the first person, all written: this one, when there is nobody."""
    first = await mongo.meta.find_one(FIRST_USER)
    if first is None:
        first = {**FIRST_USER, "user_id": user.id, "owns_groups": owns_groups, "user": _document(user)}
        if not await insert_new(mongo.meta, [first]):
            return await _first(mongo, user, owns_groups=owns_groups)
    if person := first.get("user"):
        if first["owns_groups"]:
            await own_groups_without_owner(mongo, person["user_id"], now=person["created_at"])
        await insert_new(mongo.users, [person])
        await mongo.meta.update_one(FIRST_USER, {"$unset": {"user": ""}})
    return first


async def _user(mongo: Mongo, asked: Mapping[str, str]) -> User | None:
    found = await mongo.users.find_one(asked)
    return _user_from(found) if found else None


async def _users(mongo: Mongo, limit: int, before: str | None) -> Page[User]:
    asked = mongo.users.find({"user_id": {"$lt": before or AFTER_ALL}})
    found = await fetch(asked.sort("user_id", -1).limit(limit + 1))
    return page_of([_user_from(each) for each in found], limit)


async def _save_password(mongo: Mongo, user_id: str, password_hash: str, expected: str) -> Saved:
    same = {"user_id": user_id, "password_hash": expected}
    saved = await mongo.users.update_one(same, {"$set": {"password_hash": password_hash}})
    return Saved.DONE if saved.matched_count else Saved.STALE


# --- sessions ------------------------------------------------------------------------------------------------


async def _add_session(mongo: Mongo, session: Session) -> None:
    # Those that ran out by their age are found, too: nobody could use them since, so that they are idle soon after.
    await delete_few(mongo.sessions, "last_used_at", below=to_ms(session.created_at - IDLE))
    await insert_new(mongo.sessions, [_session_document(session)])


async def _session(mongo: Mongo, session_id: str) -> Session | None:
    found = await mongo.sessions.find_one({"_id": session_id})
    return _session_from(found) if found else None


async def _sessions(mongo: Mongo, user_id: str) -> list[Session]:
    found = await fetch(mongo.sessions.find({"user_id": user_id}).sort("id", -1).limit(_MOST_SESSIONS))
    return [_session_from(each) for each in found]


async def _end_sessions(mongo: Mongo, user_id: str, session_ids: Sequence[str] | None) -> None:
    if session_ids is None:
        await mongo.sessions.delete_many({"user_id": user_id})
        return
    for part in parts_of(session_ids):
        await mongo.sessions.delete_many({"_id": {"$in": part}, "user_id": user_id})


# --- documents -----------------------------------------------------------------------------------------------


def _document(user: User) -> Document:
    return {
        "_id": user.email,
        "user_id": user.id,
        "name": user.name,
        "password_hash": user.password_hash,
        "created_at": to_ms(user.created_at),
        "is_installation_owner": int(user.is_installation_owner),
    }


def _user_from(document: Document) -> User:
    return User(
        id=document["user_id"],
        email=document["_id"],
        name=document["name"],
        password_hash=document["password_hash"],
        created_at=from_ms(document["created_at"]),
        is_installation_owner=bool(document["is_installation_owner"]),
    )


def _session_document(session: Session) -> Document:
    return {
        "_id": session.id,
        "id": session.id,
        "user_id": session.user_id,
        "secret_hash": session.secret_hash,
        "created_at": to_ms(session.created_at),
        "last_used_at": to_ms(session.last_used_at),
    }


def _session_from(document: Document) -> Session:
    return Session(
        id=document["_id"],
        user_id=document["user_id"],
        secret_hash=bytes(document["secret_hash"]),
        created_at=from_ms(document["created_at"]),
        last_used_at=from_ms(document["last_used_at"]),
    )
