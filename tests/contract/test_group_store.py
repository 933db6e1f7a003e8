import asyncio
from datetime import timedelta
from itertools import pairwise, permutations

import pytest
from tests.builders import GROUP_ID, make_group, make_user, new_id
from tests.contract.backends import Backend, Store
from tests.contract.steps import add_member, add_user, ids
from tests.fakes import NOW

from gatepost.domain.groups import Group, Member, Membership, Role
from gatepost.ports import Page, Saved

LATER = NOW + timedelta(milliseconds=1)


async def add_group(store: Store, *owner_ids: str, name: str | None = None) -> Group:
    group = make_group(name=name or new_id("name"))
    assert await store.add_group(group, owner_ids=owner_ids) is Saved.DONE
    return group


async def roles(store: Store, group_id: str = GROUP_ID) -> dict[str, Role]:
    page = await store.members(group_id, limit=100, before=None)
    return {member.user_id: member.role for member in page.items}


# --- groups --------------------------------------------------------------------------------------------------


async def test_a_group_is_found_by_its_id_and_by_its_name(store: Store) -> None:
    group = make_group(name="Küche 🌹")

    saved = await store.add_group(group)

    assert saved is Saved.DONE
    assert await store.group(group.id) == group
    assert await store.group_named("Küche 🌹") == group


async def test_an_id_and_a_name_that_nobody_has_lead_to_no_group(store: Store) -> None:
    assert await store.group(new_id("grp")) is None
    assert await store.group_named("nobody") is None


async def test_a_name_that_is_taken_is_refused_and_stays_with_its_group(store: Store) -> None:
    owner = await add_user(store)
    first, second = make_group(), make_group()
    await store.add_group(first)

    saved = await store.add_group(second, owner_ids=[owner.id])

    assert saved is Saved.EXISTS
    assert await store.group_named(first.name) == first
    assert await store.group(second.id) is None
    assert await roles(store, first.id) == await roles(store, second.id) == {}


async def test_a_group_added_again_is_there_once(store: Store) -> None:
    owner, group = await add_user(store), make_group()

    saved = [await store.add_group(group, owner_ids=[owner.id]) for _ in range(2)]

    assert saved == [Saved.DONE, Saved.DONE]
    assert await roles(store, group.id) == {owner.id: Role.OWNER}


async def test_a_group_added_by_two_processes_at_once_is_there_once(store: Store, other_store: Store) -> None:
    owner, group = await add_user(store), make_group()

    saved = await asyncio.gather(*(each.add_group(group, owner_ids=[owner.id]) for each in (store, other_store) * 3))

    assert set(saved) == {Saved.DONE}
    assert await roles(store, group.id) == {owner.id: Role.OWNER}


async def test_of_two_processes_that_add_one_name_one_succeeds(store: Store, other_store: Store) -> None:
    saved = await asyncio.gather(store.add_group(make_group()), other_store.add_group(make_group()))

    assert sorted(each.value for each in saved) == ["done", "exists"]


async def test_a_group_comes_with_its_owners_who_join_when_it_is_made(store: Store) -> None:
    ada, eve = await add_user(store), await add_user(store)
    group = make_group(created_at=LATER)

    await store.add_group(group, owner_ids=[ada.id, eve.id])

    page = await store.members(group.id, limit=10, before=None)
    assert [(each.user_id, each.role, each.joined_at) for each in page.items] == [
        (eve.id, Role.OWNER, LATER),
        (ada.id, Role.OWNER, LATER),
    ]


async def test_a_group_that_is_nobodys_in_particular_belongs_to_who_owns_the_installation(store: Store) -> None:
    owners = [await add_user(store, is_installation_owner=True) for _ in range(2)]
    await add_user(store)
    group = make_group()

    saved = [await store.add_group(group, owner_ids=None) for _ in range(2)]

    assert saved == [Saved.DONE, Saved.DONE]
    assert await roles(store, group.id) == {owner.id: Role.OWNER for owner in owners}


async def test_a_group_is_nobodys_while_nobody_owns_the_installation(store: Store) -> None:
    await add_user(store)
    group = make_group()

    saved = await store.add_group(group, owner_ids=None)

    assert saved is Saved.DONE
    assert await roles(store, group.id) == {}


async def test_groups_that_come_at_the_moment_of_the_first_person_are_theirs(store: Store, other_store: Store) -> None:
    groups, ada = [make_group(name=new_id("name")) for _ in range(6)], make_user(is_installation_owner=True)

    stores = (store, other_store) * 3
    adding = [each.add_group(group, owner_ids=None) for each, group in zip(stores, groups, strict=True)]
    saved = await asyncio.gather(*adding[:3], other_store.add_first_user(ada), *adding[3:])

    assert set(saved) == {Saved.DONE}
    assert [await roles(store, group.id) for group in groups] == [{ada.id: Role.OWNER}] * 6


async def test_all_groups_are_listed_in_pages_the_newest_first(store: Store) -> None:
    added = [await add_group(store) for _ in range(4)]

    first = await store.groups(limit=3, before=None)
    second = await store.groups(limit=3, before=first.next_cursor)

    assert list(first.items) == added[:0:-1]
    assert ids(second.items) == [added[0].id, GROUP_ID]
    assert second.next_cursor is None


# --- members -------------------------------------------------------------------------------------------------


async def test_a_person_sees_every_group_they_belong_to_the_newest_group_first(store: Store) -> None:
    ada, eve = await add_user(store), await add_user(store)
    older, newer, _ = await add_group(store, ada.id), await add_group(store), await add_group(store, eve.id)
    await store.add_member(newer.id, ada.id, Role.MEMBER, now=NOW)

    found = await store.memberships(ada.id)

    assert list(found) == [Membership(newer, Role.MEMBER), Membership(older, Role.OWNER)]


async def test_whoever_belongs_to_no_group_sees_none(store: Store) -> None:
    ada = await add_user(store)

    assert list(await store.memberships(ada.id)) == []


@pytest.mark.parametrize("name", ["Ada 🌹", None])
async def test_a_member_is_shown_with_their_account_and_what_they_are_in_the_group(
    store: Store, name: str | None
) -> None:
    ada = await add_user(store, name=name)

    saved = await store.add_member(GROUP_ID, ada.id, Role.ADMIN, now=LATER)

    member = Member(GROUP_ID, ada.id, ada.email, name, Role.ADMIN, joined_at=LATER)
    assert saved is Saved.DONE
    assert await store.member(GROUP_ID, ada.id) == member
    page = await store.members(GROUP_ID, limit=10, before=None)
    assert list(page.items) == [member]


async def test_whoever_is_no_member_is_none(store: Store) -> None:
    ada, elsewhere = await add_user(store), await add_group(store)
    await store.add_member(elsewhere.id, ada.id, Role.MEMBER, now=NOW)

    assert await store.member(GROUP_ID, ada.id) is None
    assert await store.member(GROUP_ID, new_id("usr")) is None


async def test_members_are_listed_in_pages_the_newest_accounts_first(store: Store) -> None:
    added = [await add_user(store) for _ in range(5)]
    for number in (3, 0, 4, 2, 1):  # in whatever order they came into the group
        await store.add_member(GROUP_ID, added[number].id, Role.MEMBER, now=NOW + timedelta(seconds=number))

    pages: list[Page[Member]] = [await store.members(GROUP_ID, limit=2, before=None)]
    while pages[-1].next_cursor is not None:
        pages.append(await store.members(GROUP_ID, limit=2, before=pages[-1].next_cursor))

    assert [len(page.items) for page in pages] == [2, 2, 1]
    assert [member.user_id for page in pages for member in page.items] == ids(added)[::-1]


@pytest.mark.parametrize("again_as", [Role.ADMIN, Role.MEMBER])
async def test_whoever_belongs_to_a_group_already_stays_what_they_are(store: Store, again_as: Role) -> None:
    ada = await add_member(store, Role.ADMIN)
    before = await store.member(GROUP_ID, ada.id)

    saved = await store.add_member(GROUP_ID, ada.id, again_as, now=LATER)

    assert saved is Saved.EXISTS
    assert await store.member(GROUP_ID, ada.id) == before


async def test_of_two_processes_that_let_one_person_in_one_succeeds(store: Store, other_store: Store) -> None:
    ada = await add_user(store)

    saved = await asyncio.gather(
        *(each.add_member(GROUP_ID, ada.id, Role.MEMBER, now=NOW) for each in (store, other_store))
    )

    assert sorted(each.value for each in saved) == ["done", "exists"]


# --- the last owner ------------------------------------------------------------------------------------------


async def test_a_member_gets_another_role_and_all_else_stays(store: Store) -> None:
    ada, eve = await add_member(store, Role.MEMBER), await add_member(store, Role.MEMBER)

    saved = [
        await store.save_role(GROUP_ID, ada.id, role, expected=expected)
        for expected, role in pairwise([Role.MEMBER, Role.ADMIN, Role.OWNER, Role.OWNER])
    ]

    assert set(saved) == {Saved.DONE}
    assert await roles(store) == {ada.id: Role.OWNER, eve.id: Role.MEMBER}
    member = await store.member(GROUP_ID, ada.id)
    assert member is not None
    assert member.joined_at == NOW


async def test_a_member_is_taken_out_of_one_group_and_keeps_account_and_other_groups(store: Store) -> None:
    ada, elsewhere = await add_member(store, Role.MEMBER), await add_group(store)
    await store.add_member(elsewhere.id, ada.id, Role.ADMIN, now=NOW)

    saved = await store.remove_member(GROUP_ID, ada.id, expected=Role.MEMBER)

    assert saved is Saved.DONE
    assert await roles(store) == {}
    assert await roles(store, elsewhere.id) == {ada.id: Role.ADMIN}
    assert await store.user(ada.id) == ada


async def test_whoever_is_no_member_gets_no_role_and_is_not_taken_out(store: Store) -> None:
    ada, owner = await add_user(store), await add_member(store, Role.OWNER)

    saved = [
        await store.save_role(GROUP_ID, ada.id, Role.ADMIN, expected=Role.MEMBER),
        await store.save_role(GROUP_ID, ada.id, Role.OWNER, expected=Role.OWNER),
        await store.remove_member(GROUP_ID, ada.id, expected=Role.OWNER),
    ]

    assert set(saved) == {Saved.STALE}
    assert await roles(store) == {owner.id: Role.OWNER}


@pytest.mark.parametrize(("actual", "expected"), list(permutations(Role, 2)))
async def test_whoever_is_not_what_they_were_expected_to_be_stays_what_they_are(
    store: Store, actual: Role, expected: Role
) -> None:
    ada, owner = await add_member(store, actual), await add_member(store, Role.OWNER)

    saved = [await store.save_role(GROUP_ID, ada.id, role, expected=expected) for role in Role]
    saved.append(await store.remove_member(GROUP_ID, ada.id, expected=expected))

    assert set(saved) == {Saved.STALE}
    assert await roles(store) == {ada.id: actual, owner.id: Role.OWNER}


async def test_of_two_who_judged_one_role_and_write_at_once_one_succeeds(store: Store, other_store: Store) -> None:
    for _ in range(5):
        ada = await add_member(store, Role.MEMBER)

        saved = await asyncio.gather(
            store.save_role(GROUP_ID, ada.id, Role.OWNER, expected=Role.MEMBER),
            other_store.remove_member(GROUP_ID, ada.id, expected=Role.MEMBER),
        )

        assert sorted(each.value for each in saved) == ["done", "stale"]
        assert (await roles(store)).get(ada.id) is (Role.OWNER if saved[0] is Saved.DONE else None)


async def test_whoever_was_taken_out_can_be_let_in_again(store: Store) -> None:
    ada = await add_member(store, Role.ADMIN)
    await store.remove_member(GROUP_ID, ada.id, expected=Role.ADMIN)

    saved = await store.add_member(GROUP_ID, ada.id, Role.MEMBER, now=LATER)

    assert saved is Saved.DONE
    assert await roles(store) == {ada.id: Role.MEMBER}


async def test_the_last_owner_of_a_group_stays_its_owner(store: Store) -> None:
    ada, admin = await add_member(store, Role.OWNER), await add_member(store, Role.ADMIN)
    await add_group(store, admin.id)  # owners of another group do not count

    saved = [
        await store.save_role(GROUP_ID, ada.id, Role.ADMIN, expected=Role.OWNER),
        await store.save_role(GROUP_ID, ada.id, Role.MEMBER, expected=Role.OWNER),
        await store.remove_member(GROUP_ID, ada.id, expected=Role.OWNER),
    ]

    assert set(saved) == {Saved.LAST_OWNER}
    assert await roles(store) == {ada.id: Role.OWNER, admin.id: Role.ADMIN}


async def test_one_of_two_owners_may_go_and_the_other_may_not(store: Store) -> None:
    ada, eve = await add_member(store, Role.OWNER), await add_member(store, Role.OWNER)

    saved = [
        await store.save_role(GROUP_ID, ada.id, Role.MEMBER, expected=Role.OWNER),
        await store.save_role(GROUP_ID, eve.id, Role.MEMBER, expected=Role.OWNER),
        await store.save_role(GROUP_ID, ada.id, Role.OWNER, expected=Role.MEMBER),
        await store.remove_member(GROUP_ID, eve.id, expected=Role.OWNER),
    ]

    assert saved == [Saved.DONE, Saved.LAST_OWNER, Saved.DONE, Saved.DONE]
    assert await roles(store) == {ada.id: Role.OWNER}


@pytest.mark.parametrize("way", ["both demote", "both remove", "one demotes, one removes"])
async def test_of_two_owners_who_take_that_from_each_other_at_once_one_stays(
    store: Store, other_store: Store, way: str
) -> None:
    for _ in range(5):
        group = await add_group(store)
        ada, eve = [await add_member(store, Role.OWNER, group.id) for _ in range(2)]
        against_ada = (
            other_store.remove_member(group.id, ada.id, expected=Role.OWNER)
            if way == "both remove"
            else other_store.save_role(group.id, ada.id, Role.MEMBER, expected=Role.OWNER)
        )
        against_eve = (
            store.save_role(group.id, eve.id, Role.MEMBER, expected=Role.OWNER)
            if way == "both demote"
            else store.remove_member(group.id, eve.id, expected=Role.OWNER)
        )

        saved = await asyncio.gather(against_ada, against_eve)

        assert sorted(each.value for each in saved) == ["done", "last_owner"]
        assert list((await roles(store, group.id)).values()).count(Role.OWNER) == 1


async def test_what_was_acknowledged_is_there_after_every_process_has_stopped(backend: Backend, store: Store) -> None:
    user, group = make_user(), make_group()
    await store.add_user(user)
    await store.add_group(group, owner_ids=[user.id])

    reopened = await backend.reopen()

    assert await reopened.group_named(group.name) == group
    assert list(await reopened.memberships(user.id)) == [Membership(group, Role.OWNER)]
