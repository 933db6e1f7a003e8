"""Groups and who belongs to them, in MongoDB.

The name is the `_id` of a document in `group_names`, as nothing else makes it unique: with it a group is added. The
group itself is a document of `groups`, made right after. Whoever dies between the two leaves a name that says all there
is to know of its group. A repeat makes the group, and so does whoever asks for the name, wants it, or looks for groups
without an owner. Nobody else has heard of it: its id was told to nobody, and lists show it once it is made. Without a
list, its owners are read when it is made.

Who belongs to a group stands in its document, `members.<user id>`, as the rule about its last owner is about several of
them: one write, which compares `rev`, changes any of them. `memberships` only says where to look for a person's groups.
An entry is there before its member is, and goes after them; one left over by whoever died in between is no membership.

Somebody may come in again while an entry is about to go. So it notes the `rev` that the group had before they came, the
highest of all who tried, and goes only when that is not after the `rev` of those who were taken out.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from gatepost.adapters.storage.mongo_driver import Document, Mongo, fetch, insert_new, parts_of
from gatepost.adapters.storage.paging import AFTER_ALL, page_of
from gatepost.adapters.storage.rows import from_ms, to_ms
from gatepost.domain.errors import StoreUnavailable
from gatepost.domain.groups import Group, Member, Membership, Role
from gatepost.ports import Page, Saved

FIRST_USER = {"_id": "first_user"}  # of `meta`; see `mongo_people.py`

# No part of `members` alone: the stand-in misnames what it finds by a path.
_GROUP_FIELDS = {"name": 1, "created_at": 1}
_NAMES_AT_ONCE = 100
_MOST_OWNERS = 1_000
_MOST_MEMBERSHIPS = 10_000
_MOST_TRIES = 100

_Members = dict[str, Document]  # each with `role` and `at`, by their ids


class MongoGroups:
    """Implements `ports.GroupStore`."""

    _mongo: Mongo

    async def add_group(self, group: Group, *, owner_ids: Sequence[str] | None = ()) -> Saved:
        return await self._mongo.write(_add(self._mongo, group, owner_ids))

    async def group(self, group_id: str) -> Group | None:
        return await self._mongo.read(_group(self._mongo, group_id))

    async def group_named(self, name: str) -> Group | None:
        return await self._mongo.read(_group_named(self._mongo, name))

    async def groups(self, *, limit: int, before: str | None) -> Page[Group]:
        return await self._mongo.read(_groups(self._mongo, limit, before))

    async def memberships(self, user_id: str) -> Sequence[Membership]:
        return await self._mongo.read(_memberships(self._mongo, user_id))

    async def members(self, group_id: str, *, limit: int, before: str | None) -> Page[Member]:
        return await self._mongo.read(_members(self._mongo, group_id, limit, before))

    async def member(self, group_id: str, user_id: str) -> Member | None:
        return await self._mongo.read(_member(self._mongo, group_id, user_id))

    async def add_member(self, group_id: str, user_id: str, role: Role, *, now: datetime) -> Saved:
        return await self._mongo.write(_add_member(self._mongo, group_id, user_id, role, to_ms(now)))

    async def save_role(self, group_id: str, user_id: str, role: Role, *, expected: Role) -> Saved:
        return await self._mongo.write(_save_role(self._mongo, group_id, user_id, role, expected))

    async def remove_member(self, group_id: str, user_id: str, *, expected: Role) -> Saved:
        return await self._mongo.write(_remove_member(self._mongo, group_id, user_id, expected))


async def group_changed(mongo: Mongo, group_id: str, rev: int, change: Mapping[str, Any]) -> bool:
    """Change a group's document, and say whether it still had the `rev` that the change was made for."""
    saved = await mongo.groups.update_one({"_id": group_id, "rev": rev}, {**change, "$inc": {"rev": 1}})
    return saved.matched_count == 1


async def own_groups_without_owner(mongo: Mongo, user_id: str, *, now: int) -> None:
    """Make somebody owner of every group that has none; done twice it does no harm."""
    last = ""
    while names := await fetch(mongo.group_names.find({"_id": {"$gt": last}}).sort("_id", 1).limit(_NAMES_AT_ONCE)):
        for named in names:
            await _make(mongo, named)
            await _own_if_nobody_does(mongo, named["group_id"], user_id, now)
        last = names[-1]["_id"]


# --- groups --------------------------------------------------------------------------------------------------


async def _add(mongo: Mongo, group: Group, owner_ids: Sequence[str] | None) -> Saved:
    named = {
        "_id": group.name,
        "group_id": group.id,
        "owner_ids": None if owner_ids is None else list(owner_ids),
        "created_at": to_ms(group.created_at),
    }
    if await insert_new(mongo.group_names, [named]):
        await _make(mongo, named)
        return Saved.DONE
    taken = await _group_named(mongo, group.name)  # whole from now on, if it was not
    return Saved.DONE if taken and taken.id == group.id else Saved.EXISTS


async def _make(mongo: Mongo, named: Document) -> None:
    """Make the group of a name, if it is not there yet."""
    group_id, owner_ids, at = named["group_id"], named["owner_ids"], named["created_at"]
    if await mongo.groups.find_one({"_id": group_id}, {"_id": 1}):
        return
    if owner_ids is None:
        owner_ids = await _installation_owners(mongo)
    entries = [{"_id": f"{group_id}/{each}", "group_id": group_id, "user_id": each, "rev": 0} for each in owner_ids]
    await insert_new(mongo.memberships, entries)
    group = {
        "_id": group_id,
        "name": named["_id"],
        "created_at": at,
        "members": {each: {"role": Role.OWNER.value, "at": at} for each in owner_ids},
        "live": {},  # its webhooks
        "webhooks_version": 0,
        "rev": 0,
    }
    await insert_new(mongo.groups, [group])


async def _installation_owners(mongo: Mongo) -> list[str]:
    """Return who owns the installation; asked when the group has its name.

    Who becomes the first person afterwards looks at all names. Who was decided on before may have looked already, and
    be no person yet.
    """
    first = await mongo.meta.find_one(FIRST_USER)
    asked = mongo.users.find({"is_installation_owner": 1}, {"user_id": 1})
    owners = [each["user_id"] for each in await fetch(asked.sort("user_id", 1).limit(_MOST_OWNERS))]
    if first and first["owns_groups"] and "user" in first and first["user_id"] not in owners:
        owners.append(first["user_id"])
    return owners


async def _group(mongo: Mongo, group_id: str) -> Group | None:
    found = await mongo.groups.find_one({"_id": group_id}, _GROUP_FIELDS)
    return _group_from(found) if found else None


async def _group_named(mongo: Mongo, name: str) -> Group | None:
    named = await mongo.group_names.find_one({"_id": name})
    if named is None:
        return None
    await _make(mongo, named)
    return Group(named["group_id"], name, from_ms(named["created_at"]))


async def _groups(mongo: Mongo, limit: int, before: str | None) -> Page[Group]:
    asked = mongo.groups.find({"_id": {"$lt": before or AFTER_ALL}}, _GROUP_FIELDS)
    found = await fetch(asked.sort("_id", -1).limit(limit + 1))
    return page_of([_group_from(each) for each in found], limit)


def _group_from(document: Document) -> Group:
    return Group(document["_id"], document["name"], from_ms(document["created_at"]))


# --- reading members -----------------------------------------------------------------------------------------


async def _memberships(mongo: Mongo, user_id: str) -> list[Membership]:
    asked = mongo.memberships.find({"user_id": user_id}, {"group_id": 1})
    entries = await fetch(asked.sort("group_id", -1).limit(_MOST_MEMBERSHIPS))
    found: list[Document] = []
    for part in parts_of(each["group_id"] for each in entries):
        found += await fetch(mongo.groups.find({"_id": {"$in": part}}, _GROUP_FIELDS | {"members": 1}))
    groups = sorted(found, key=lambda each: str(each["_id"]), reverse=True)
    return [
        Membership(_group_from(each), Role(each["members"][user_id]["role"]))
        for each in groups
        if user_id in each["members"]
    ]


async def _members(mongo: Mongo, group_id: str, limit: int, before: str | None) -> Page[Member]:
    group = await mongo.groups.find_one({"_id": group_id}, {"members": 1})
    if group is None:
        return Page([], None)
    members: _Members = group["members"]
    listed = sorted((each for each in members if before is None or each < before), reverse=True)
    shown = listed[:limit]
    people: dict[str, Document] = {}
    for part in parts_of(shown):
        people |= {each["user_id"]: each for each in await fetch(mongo.users.find({"user_id": {"$in": part}}))}
    # The first owner is one before they are a person.
    found = [_member_from(group_id, people[each], members[each]) for each in shown if each in people]
    return Page(found, shown[-1] if len(listed) > limit else None)


async def _member(mongo: Mongo, group_id: str, user_id: str) -> Member | None:
    group = await mongo.groups.find_one({"_id": group_id}, {"members": 1})
    if group is None or user_id not in group["members"]:
        return None
    person = await mongo.users.find_one({"user_id": user_id})
    return _member_from(group_id, person, group["members"][user_id]) if person else None


def _member_from(group_id: str, person: Document, member: Document) -> Member:
    return Member(
        group_id=group_id,
        user_id=person["user_id"],
        email=person["_id"],
        name=person["name"],
        role=Role(member["role"]),
        joined_at=from_ms(member["at"]),
    )


# --- changing members ----------------------------------------------------------------------------------------


async def _add_member(mongo: Mongo, group_id: str, user_id: str, role: Role, now: int) -> Saved:
    async def add(rev: int, members: _Members) -> Saved | None:
        if user_id in members:
            return Saved.EXISTS
        return await _entered(mongo, group_id, rev, user_id, role, now)

    return await _tried(mongo, group_id, add)


async def _save_role(mongo: Mongo, group_id: str, user_id: str, role: Role, expected: Role) -> Saved:
    async def save(rev: int, members: _Members) -> Saved | None:
        if not _is_a(expected, members, user_id):
            return Saved.STALE
        if role is not Role.OWNER and _owners(members) == [user_id]:
            return Saved.LAST_OWNER
        saved = await group_changed(mongo, group_id, rev, {"$set": {f"members.{user_id}.role": role.value}})
        return Saved.DONE if saved else None

    return await _tried(mongo, group_id, save)


async def _remove_member(mongo: Mongo, group_id: str, user_id: str, expected: Role) -> Saved:
    async def remove(rev: int, members: _Members) -> Saved | None:
        if not _is_a(expected, members, user_id):
            return Saved.STALE
        if _owners(members) == [user_id]:
            return Saved.LAST_OWNER
        if not await group_changed(mongo, group_id, rev, {"$unset": {f"members.{user_id}": ""}}):
            return None
        await mongo.memberships.delete_one({"_id": f"{group_id}/{user_id}", "rev": {"$lte": rev}})
        return Saved.DONE

    return await _tried(mongo, group_id, remove)


async def _own_if_nobody_does(mongo: Mongo, group_id: str, user_id: str, now: int) -> Saved:
    async def own(rev: int, members: _Members) -> Saved | None:
        if _owners(members):
            return Saved.DONE
        return await _entered(mongo, group_id, rev, user_id, Role.OWNER, now)

    return await _tried(mongo, group_id, own)


async def _tried(mongo: Mongo, group_id: str, change: Callable[[int, _Members], Awaitable[Saved | None]]) -> Saved:
    """Look at a group's members and change them, until nobody else was faster."""
    for _ in range(_MOST_TRIES):
        group = await mongo.groups.find_one({"_id": group_id}, {"rev": 1, "members": 1})
        if group is None:
            return Saved.STALE
        saved = await change(group["rev"], group["members"])
        if saved is not None:
            return saved
    raise StoreUnavailable("too many write the group's members at this moment; try again")


async def _entered(mongo: Mongo, group_id: str, rev: int, user_id: str, role: Role, now: int) -> Saved | None:
    noted = {"$max": {"rev": rev}, "$setOnInsert": {"group_id": group_id, "user_id": user_id}}
    await mongo.memberships.update_one({"_id": f"{group_id}/{user_id}"}, noted, upsert=True)
    member = {"role": role.value, "at": now}
    entered = await group_changed(mongo, group_id, rev, {"$set": {f"members.{user_id}": member}})
    return Saved.DONE if entered else None


def _is_a(role: Role, members: _Members, user_id: str) -> bool:
    return user_id in members and members[user_id]["role"] == role.value


def _owners(members: _Members) -> list[str]:
    return [user_id for user_id, member in members.items() if member["role"] == Role.OWNER.value]
