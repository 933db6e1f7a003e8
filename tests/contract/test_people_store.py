import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from tests.builders import GROUP_ID, make_group, make_session, make_user, new_id
from tests.contract.backends import Backend, Store
from tests.contract.steps import add_user
from tests.fakes import NOW

from gatepost.domain.groups import Membership, Role
from gatepost.domain.people import IDLE, LIFETIME, Session, User
from gatepost.ports import Saved

LATER = NOW + timedelta(milliseconds=1)


async def everybody(store: Store) -> list[User]:
    return list((await store.users(limit=100, before=None)).items)


async def add_session(store: Store, user: User, **changes: object) -> Session:
    session = make_session(user, **changes)
    await store.add_session(session)
    return session


# --- people --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{"name": "Ada 🌹"}, {"name": None}, {"is_installation_owner": True}])
async def test_a_person_is_found_by_id_and_by_address_as_they_were_added(
    store: Store, changes: dict[str, object]
) -> None:
    user = make_user(email="ada@example.com", **changes)

    saved = await store.add_user(user)

    assert saved is Saved.DONE
    assert await store.user(user.id) == user
    assert await store.user_with_email("ada@example.com") == user


async def test_an_id_and_an_address_that_nobody_has_lead_to_no_person(store: Store) -> None:
    assert await store.user(new_id("usr")) is None
    assert await store.user_with_email("nobody@example.com") is None


async def test_an_address_that_is_taken_is_refused_and_stays_with_its_person(store: Store) -> None:
    first, second = make_user(email="ada@example.com"), make_user(email="ada@example.com")
    await store.add_user(first)

    saved = await store.add_user(second)

    assert saved is Saved.EXISTS
    assert await everybody(store) == [first]


async def test_a_person_added_again_is_there_once_and_keeps_what_was_changed_since(store: Store) -> None:
    user = await add_user(store)
    await store.save_password(user.id, "another hash", expected=user.password_hash)

    saved = await store.add_user(user)

    assert saved is Saved.DONE
    assert [(each.id, each.password_hash) for each in await everybody(store)] == [(user.id, "another hash")]


async def test_of_two_processes_that_add_one_address_one_succeeds(store: Store, other_store: Store) -> None:
    saved = await asyncio.gather(*(each.add_user(make_user(email="ada@example.com")) for each in (store, other_store)))

    assert sorted(each.value for each in saved) == ["done", "exists"]
    assert len(await everybody(store)) == 1


async def test_a_person_added_by_two_processes_at_once_is_there_once(store: Store, other_store: Store) -> None:
    user = make_user()

    saved = await asyncio.gather(*(each.add_user(user) for each in (store, other_store) * 3))

    assert set(saved) == {Saved.DONE}
    assert await everybody(store) == [user]


async def test_people_are_listed_in_pages_the_newest_accounts_first(store: Store) -> None:
    added = [await add_user(store) for _ in range(3)]

    first = await store.users(limit=2, before=None)
    second = await store.users(limit=2, before=first.next_cursor)

    assert [*first.items, *second.items] == added[::-1]
    assert len(first.items) == 2
    assert second.next_cursor is None


async def test_a_password_is_replaced_for_one_person_only(store: Store) -> None:
    ada, eve = await add_user(store), await add_user(store)

    saved = await store.save_password(ada.id, "another hash", expected=ada.password_hash)

    assert saved is Saved.DONE
    assert [each.password_hash for each in await everybody(store)] == [eve.password_hash, "another hash"]


async def test_a_password_that_is_another_by_now_stays_and_so_does_nobodys(store: Store) -> None:
    ada = await add_user(store)

    saved = [
        await store.save_password(ada.id, "another hash", expected="a hash of before"),
        await store.save_password(new_id("usr"), "another hash", expected=ada.password_hash),
    ]

    assert saved == [Saved.STALE, Saved.STALE]
    assert await everybody(store) == [ada]


async def test_of_two_processes_that_replace_one_password_one_succeeds(store: Store, other_store: Store) -> None:
    ada = await add_user(store)

    saved = await asyncio.gather(
        *(
            each.save_password(ada.id, f"hash {number}", expected=ada.password_hash)
            for number, each in enumerate((store, other_store))
        )
    )

    assert sorted(each.value for each in saved) == ["done", "stale"]
    assert [each.password_hash for each in await everybody(store)] == [f"hash {saved.index(Saved.DONE)}"]


# --- the first person ----------------------------------------------------------------------------------------


async def test_the_first_person_owns_every_group_without_an_owner(store: Store) -> None:
    ownerless, owned = make_group(), make_group(name="owned")
    await store.add_group(ownerless)
    await store.add_group(owned, owner_ids=[new_id("usr")])
    user = make_user(is_installation_owner=True, created_at=LATER)

    saved = await store.add_first_user(user)

    assert saved is Saved.DONE
    assert await store.user(user.id) == user
    memberships = await store.memberships(user.id)
    assert memberships[0] == Membership(ownerless, Role.OWNER)
    assert [each.group.id for each in memberships] == [ownerless.id, GROUP_ID]
    member = await store.member(ownerless.id, user.id)
    assert member is not None
    assert member.joined_at == LATER


@pytest.mark.parametrize("first", ["add_user", "add_first_user"])
async def test_nobody_is_first_when_there_is_somebody_already(store: Store, first: str) -> None:
    user, late = make_user(), make_user()
    assert await getattr(store, first)(user) is Saved.DONE

    saved = await store.add_first_user(late)

    assert saved is Saved.EXISTS
    assert await everybody(store) == [user]
    assert list(await store.memberships(late.id)) == []


@pytest.mark.parametrize("added_by", ["add_user", "add_first_user"])
async def test_the_first_person_added_again_is_there_once(store: Store, other_store: Store, added_by: str) -> None:
    user, late = make_user(), make_user()
    assert await getattr(store, added_by)(user) is Saved.DONE
    assert await store.add_user(late) is Saved.DONE
    owned = await store.memberships(user.id)

    saved = [await other_store.add_first_user(each) for each in (user, late, replace(user, id=new_id("usr")))]

    assert saved == [Saved.DONE, Saved.DONE, Saved.EXISTS]
    assert await everybody(store) == [late, user]
    assert list(await store.memberships(user.id)) == list(owned)
    assert list(await store.memberships(late.id)) == []


async def test_of_many_who_want_to_be_first_at_once_one_is(store: Store, other_store: Store) -> None:
    users = [make_user() for _ in range(6)]

    saved = await asyncio.gather(
        *(each.add_first_user(user) for each, user in zip((store, other_store) * 3, users, strict=True))
    )

    assert sorted(each.value for each in saved) == ["done"] + ["exists"] * 5
    first = users[saved.index(Saved.DONE)]
    assert await everybody(store) == [first]
    page = await store.members(GROUP_ID, limit=10, before=None)
    assert [(member.user_id, member.role) for member in page.items] == [(first.id, Role.OWNER)]


# --- sessions ------------------------------------------------------------------------------------------------


async def test_a_session_is_found_as_it_was_added(store: Store) -> None:
    user = await add_user(store)

    session = await add_session(store, user, secret_hash=bytes(range(32)), last_used_at=LATER)

    assert await store.session(session.id) == session


async def test_a_session_nobody_has_is_none(store: Store) -> None:
    assert await store.session(new_id("ses")) is None


async def test_a_persons_sessions_are_listed_the_newest_first(store: Store) -> None:
    ada, eve = await add_user(store), await add_user(store)
    first, _, second = await add_session(store, ada), await add_session(store, eve), await add_session(store, ada)

    assert list(await store.sessions(ada.id)) == [second, first]


async def test_a_session_that_has_run_out_but_was_not_ended_is_found(store: Store) -> None:
    user, long_ago = await add_user(store), NOW - 2 * LIFETIME

    session = await add_session(store, user, created_at=long_ago, last_used_at=long_ago)

    assert await store.session(session.id) == session
    assert list(await store.sessions(user.id)) == [session]


@pytest.mark.parametrize(
    ("created_at", "last_used_at"), [(NOW - IDLE, NOW - IDLE), (NOW - LIFETIME, NOW - IDLE), (NOW - LIFETIME, NOW)]
)
async def test_a_new_session_ends_none_that_has_not_ended_before(
    store: Store, created_at: object, last_used_at: object
) -> None:
    user = await add_user(store)
    used = await add_session(store, user, created_at=created_at, last_used_at=last_used_at)

    new = await add_session(store, user, created_at=NOW, last_used_at=NOW)

    assert list(await store.sessions(user.id)) == [new, used]


async def test_the_last_use_of_each_session_is_raised_to_its_own_moment_and_never_lowered(store: Store) -> None:
    user = await add_user(store)
    used, lowered, untouched = [await add_session(store, user) for _ in range(3)]

    await store.touch_sessions({used.id: LATER, lowered.id: NOW - timedelta(hours=1), new_id("ses"): LATER})
    await store.touch_sessions({})

    found = {each.id: each.last_used_at for each in await store.sessions(user.id)}
    assert found == {used.id: LATER, lowered.id: NOW, untouched.id: NOW}


async def test_a_persons_sessions_end_all_at_once_and_nobody_elses(store: Store) -> None:
    ada, eve = await add_user(store), await add_user(store)
    ended, other = [await add_session(store, ada) for _ in range(2)], await add_session(store, eve)

    await store.end_sessions(ada.id)

    assert [await store.session(each.id) for each in ended] == [None, None]
    assert list(await store.sessions(ada.id)) == []
    assert list(await store.sessions(eve.id)) == [other]


async def test_some_of_a_persons_sessions_end_and_the_others_stay(store: Store) -> None:
    ada, eve = await add_user(store), await add_user(store)
    ended, kept, other = await add_session(store, ada), await add_session(store, ada), await add_session(store, eve)

    await store.end_sessions(ada.id, [ended.id, other.id])

    assert list(await store.sessions(ada.id)) == [kept]
    assert list(await store.sessions(eve.id)) == [other]


async def test_to_end_none_of_the_sessions_ends_none(store: Store) -> None:
    ada = await add_user(store)
    session = await add_session(store, ada)

    await store.end_sessions(ada.id, [])

    assert list(await store.sessions(ada.id)) == [session]


async def test_a_session_that_was_ended_is_not_brought_back_by_its_last_use(store: Store) -> None:
    ada = await add_user(store)
    session = await add_session(store, ada)
    await store.end_sessions(ada.id)

    await store.touch_sessions({session.id: LATER})

    assert await store.session(session.id) is None


async def test_what_was_acknowledged_is_there_after_every_process_has_stopped(backend: Backend, store: Store) -> None:
    user = make_user()
    await store.add_first_user(user)
    session = await add_session(store, user)

    reopened = await backend.reopen()

    assert await reopened.user_with_email(user.email) == user
    assert list(await reopened.sessions(user.id)) == [session]
    assert len(await reopened.memberships(user.id)) == 1
