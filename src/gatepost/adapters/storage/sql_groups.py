"""Groups and who belongs to them, in SQL."""

from collections.abc import Sequence
from datetime import datetime

from gatepost.adapters.storage.paging import AFTER_ALL, page_of
from gatepost.adapters.storage.rows import Row, from_ms, to_ms
from gatepost.adapters.storage.scripts import LOCKED, Database, Script, execute, execute_many, fetch
from gatepost.adapters.storage.sql_people import installation_owners_locked
from gatepost.domain.groups import Group, Member, Membership, Role
from gatepost.ports import Page, Saved

_COLUMNS = "id, name, created_at"
_ADD = f"INSERT INTO groups ({_COLUMNS}) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
_ADD_OWNERS = "INSERT INTO members (group_id, user_id, role, joined_at) VALUES {rows}"
_OWNERS_TYPES = "text text text bigint"
GROUP = f"SELECT {_COLUMNS} FROM groups WHERE id = ?"
GROUP_NAMED = f"SELECT {_COLUMNS} FROM groups WHERE name = ?"
GROUPS = f"SELECT {_COLUMNS} FROM groups WHERE id < ? ORDER BY id DESC LIMIT ?"

MEMBERSHIPS = """
SELECT groups.id, groups.name, groups.created_at, members.role
FROM members JOIN groups ON groups.id = members.group_id WHERE members.user_id = ? ORDER BY members.group_id DESC
"""
_MEMBERS = """
SELECT members.group_id, members.user_id, users.email, users.name, members.role, members.joined_at
FROM members JOIN users ON users.id = members.user_id WHERE members.group_id = ?
"""
MEMBERS = f"{_MEMBERS} AND members.user_id < ? ORDER BY members.user_id DESC LIMIT ?"
MEMBER = f"{_MEMBERS} AND members.user_id = ?"
_ADD_MEMBER = "INSERT INTO members (group_id, user_id, role, joined_at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"
# Whoever may take an owner away locks the group: of two who leave it at once, the second is to see the first gone.
_LOCK_GROUP = f"SELECT 1 FROM groups WHERE id = ? {LOCKED}"
OWNERS = "SELECT user_id FROM members WHERE group_id = ? AND role = 'owner' LIMIT 2"
SAVE_ROLE = "UPDATE members SET role = ? WHERE group_id = ? AND user_id = ? AND role = ?"
REMOVE_MEMBER = "DELETE FROM members WHERE group_id = ? AND user_id = ? AND role = ?"


class SqlGroups:
    """Implements `ports.GroupStore`."""

    _database: Database

    async def add_group(self, group: Group, *, owner_ids: Sequence[str] | None = ()) -> Saved:
        return await self._database.write(_add(group, owner_ids))

    async def group(self, group_id: str) -> Group | None:
        return await self._database.read(_group(GROUP, group_id))

    async def group_named(self, name: str) -> Group | None:
        return await self._database.read(_group(GROUP_NAMED, name))

    async def groups(self, *, limit: int, before: str | None) -> Page[Group]:
        return await self._database.read(_groups(limit, before))

    async def memberships(self, user_id: str) -> Sequence[Membership]:
        return await self._database.read(_memberships(user_id))

    async def members(self, group_id: str, *, limit: int, before: str | None) -> Page[Member]:
        return await self._database.read(_members(group_id, limit, before))

    async def member(self, group_id: str, user_id: str) -> Member | None:
        return await self._database.read(_member(group_id, user_id))

    async def add_member(self, group_id: str, user_id: str, role: Role, *, now: datetime) -> Saved:
        return await self._database.write(_add_member(group_id, user_id, role, to_ms(now)))

    async def save_role(self, group_id: str, user_id: str, role: Role, *, expected: Role) -> Saved:
        return await self._database.write(_save_role(group_id, user_id, role, expected))

    async def remove_member(self, group_id: str, user_id: str, *, expected: Role) -> Saved:
        return await self._database.write(_remove_member(group_id, user_id, expected))


def _add(group: Group, owner_ids: Sequence[str] | None) -> Script[Saved]:
    if owner_ids is None:
        owner_ids = yield from installation_owners_locked()
    created_at = to_ms(group.created_at)
    added = yield execute(_ADD, (group.id, group.name, created_at))
    if not added:
        same_name = yield from _group(GROUP_NAMED, group.name)
        return Saved.DONE if same_name and same_name.id == group.id else Saved.EXISTS
    rows = [(group.id, user_id, Role.OWNER.value, created_at) for user_id in owner_ids]
    if rows:
        yield execute_many(_ADD_OWNERS, rows, _OWNERS_TYPES)
    return Saved.DONE


def _group(sql: str, sought: str) -> Script[Group | None]:
    rows = yield fetch(sql, (sought,))
    return _group_from(rows[0]) if rows else None


def _groups(limit: int, before: str | None) -> Script[Page[Group]]:
    rows = yield fetch(GROUPS, (before or AFTER_ALL, limit + 1))
    return page_of([_group_from(row) for row in rows], limit)


def _memberships(user_id: str) -> Script[Sequence[Membership]]:
    rows = yield fetch(MEMBERSHIPS, (user_id,))
    return [Membership(_group_from(group), Role(role)) for *group, role in rows]


def _members(group_id: str, limit: int, before: str | None) -> Script[Page[Member]]:
    rows = yield fetch(MEMBERS, (group_id, before or AFTER_ALL, limit + 1))
    return page_of([_member_from(row) for row in rows], limit)


def _member(group_id: str, user_id: str) -> Script[Member | None]:
    rows = yield fetch(MEMBER, (group_id, user_id))
    return _member_from(rows[0]) if rows else None


def _add_member(group_id: str, user_id: str, role: Role, now: int) -> Script[Saved]:
    added = yield execute(_ADD_MEMBER, (group_id, user_id, role.value, now))
    return Saved.DONE if added else Saved.EXISTS


def _save_role(group_id: str, user_id: str, role: Role, expected: Role) -> Script[Saved]:
    if expected is Role.OWNER and role is not Role.OWNER and (yield from _is_last_owner(group_id, user_id)):
        return Saved.LAST_OWNER
    saved = yield execute(SAVE_ROLE, (role.value, group_id, user_id, expected.value))
    return Saved.DONE if saved else Saved.STALE


def _remove_member(group_id: str, user_id: str, expected: Role) -> Script[Saved]:
    if expected is Role.OWNER and (yield from _is_last_owner(group_id, user_id)):
        return Saved.LAST_OWNER
    removed = yield execute(REMOVE_MEMBER, (group_id, user_id, expected.value))
    return Saved.DONE if removed else Saved.STALE


def _is_last_owner(group_id: str, user_id: str) -> Script[bool]:
    """Say whether this one is the group's only owner, and let nobody change that before the transaction ends."""
    yield fetch(_LOCK_GROUP, (group_id,))
    owners = yield fetch(OWNERS, (group_id,))
    return [owner for (owner,) in owners] == [user_id]


# --- rows ----------------------------------------------------------------------------------------------------


def _group_from(row: Row) -> Group:
    group_id, name, created_at = row
    return Group(group_id, name, from_ms(created_at))


def _member_from(row: Row) -> Member:
    group_id, user_id, email, name, role, joined_at = row
    return Member(group_id, user_id, email, name, Role(role), from_ms(joined_at))
