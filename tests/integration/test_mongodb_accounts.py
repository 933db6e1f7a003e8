"""Groups, people and requests on MongoDB: wherever a writer dies, or is overtaken, what the ports promise holds."""

from collections.abc import Awaitable
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from tests.builders import GROUP_ID, make_group, make_request, make_session, make_user, make_webhook, new_id
from tests.contract.backends import MongoBackend, Store
from tests.contract.steps import HOUR, SECOND, add_member, add_user, add_webhook
from tests.fakes import NOW
from tests.integration.mongodb_rigs import documents, mongo_of, nothing
from tests.integration.taps import Standing, Tap

from gatepost.adapters.storage.mongo_driver import FEW
from gatepost.domain.errors import StoreUnavailable
from gatepost.domain.groups import Group, Membership, Role
from gatepost.domain.people import IDLE, User
from gatepost.ports import KeptAnswer, KeyedRequest, Saved

DAY = timedelta(days=1)

ADDING_A_GROUP = ["group_names.insert_many", "memberships.insert_many", "groups.insert_many"]
ENTERING = ["memberships.update_one", "groups.update_one"]
LEAVING = ["groups.update_one", "memberships.delete_one"]
FIRST = ["meta.insert_many", *ENTERING, *ENTERING, "users.insert_many", "meta.update_one"]  # there are two groups


@pytest.fixture
async def store(mongodb: MongoBackend) -> Store:
    return await mongodb.open()


@pytest.fixture
async def other_store(mongodb: MongoBackend) -> Store:
    return await mongodb.open()


@pytest.fixture(params=[False, True], ids=["before", "after"])
def is_done_first(request: pytest.FixtureRequest) -> bool:
    """Whether a writer dies after its write was made, or before."""
    return bool(request.param)


# --- a group and its name ------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", ADDING_A_GROUP)
async def test_wherever_its_writer_dies_a_group_can_be_added_again(
    store: Store, other_store: Store, write: str, is_done_first: bool
) -> None:
    ada, group = await add_user(store), make_group()
    await dies(store, ADDING_A_GROUP, write, is_done_first, store.add_group(group, owner_ids=[ada.id]))

    saved = await other_store.add_group(group, owner_ids=[ada.id])

    assert saved is Saved.DONE
    await assert_is_owned(other_store, group, ada)


@pytest.mark.parametrize("write", ADDING_A_GROUP)
async def test_wherever_its_writer_dies_a_group_that_is_found_is_whole(
    store: Store, other_store: Store, write: str, is_done_first: bool
) -> None:
    ada, group = await add_user(store), make_group()
    await dies(store, ADDING_A_GROUP, write, is_done_first, store.add_group(group, owner_ids=[ada.id]))

    listed = await other_store.groups(limit=10, before=None)
    seen = await other_store.memberships(ada.id)
    assert (group in listed.items) == (Membership(group, Role.OWNER) in seen)
    found = await other_store.group_named(group.name)

    if (write, is_done_first) == ("group_names.insert_many", False):
        assert found is None
        assert await other_store.add_group(make_group(name=group.name)) is Saved.DONE
    else:
        assert found == group
        await assert_is_owned(other_store, group, ada)
        await add_webhook(other_store, group_id=group.id)
        assert await other_store.add_group(make_group(name=group.name)) is Saved.EXISTS


async def test_a_group_that_nobody_finished_gets_the_first_person_for_owner(store: Store, other_store: Store) -> None:
    group, ada = make_group(), make_user()
    Tap(store).die_at(2, is_done_first=False)
    with pytest.raises(StoreUnavailable):
        await store.add_group(group)
    assert await other_store.group(group.id) is None

    await other_store.add_first_user(ada)

    await assert_is_owned(other_store, group, ada)


async def test_a_group_that_nobody_finished_can_be_seen_once_its_name_is_refused(
    store: Store, other_store: Store
) -> None:
    ada, group = await add_user(store), make_group()
    Tap(store).die_at(2, is_done_first=False)
    with pytest.raises(StoreUnavailable):
        await store.add_group(group, owner_ids=[ada.id])

    assert await other_store.add_group(make_group(name=group.name)) is Saved.EXISTS

    assert group in (await other_store.groups(limit=10, before=None)).items
    await assert_is_owned(other_store, group, ada)


async def test_who_makes_a_group_late_changes_nothing_about_it(store: Store, other_store: Store) -> None:
    ada, eve, group = await add_user(store), await add_user(store), make_group()

    async with Tap(store).stopped_before("groups.insert_many", store.add_group(group, owner_ids=[ada.id])):
        assert await other_store.group_named(group.name) == group
        await other_store.add_member(group.id, eve.id, Role.OWNER, now=NOW)
        await other_store.remove_member(group.id, ada.id, expected=Role.OWNER)

    await assert_is_owned(other_store, group, eve)
    assert list(await store.memberships(ada.id)) == []


# --- members -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", ENTERING)
async def test_wherever_its_writer_dies_a_new_member_is_one_or_not_and_can_be_let_in_again(
    store: Store, other_store: Store, write: str, is_done_first: bool
) -> None:
    ada = await add_user(store)
    adding = store.add_member(GROUP_ID, ada.id, Role.ADMIN, now=NOW)
    await dies(store, ENTERING, write, is_done_first, adding)

    is_member = await assert_seen_from_both_sides(other_store, ada)
    saved = await other_store.add_member(GROUP_ID, ada.id, Role.ADMIN, now=NOW)

    assert saved is (Saved.EXISTS if is_member else Saved.DONE)
    assert await assert_seen_from_both_sides(other_store, ada)


@pytest.mark.parametrize("write", LEAVING)
async def test_wherever_its_writer_dies_who_is_taken_out_is_out_or_not_and_can_be_taken_out_again(
    store: Store, other_store: Store, write: str, is_done_first: bool
) -> None:
    ada = await add_member(store, Role.ADMIN)
    leaving = store.remove_member(GROUP_ID, ada.id, expected=Role.ADMIN)
    await dies(store, LEAVING, write, is_done_first, leaving)

    is_member = await assert_seen_from_both_sides(other_store, ada)
    saved = await other_store.remove_member(GROUP_ID, ada.id, expected=Role.ADMIN)

    assert saved is (Saved.DONE if is_member else Saved.STALE)
    assert not await assert_seen_from_both_sides(other_store, ada)
    assert await other_store.add_member(GROUP_ID, ada.id, Role.MEMBER, now=NOW) is Saved.DONE
    assert await assert_seen_from_both_sides(other_store, ada)


@pytest.mark.parametrize("way", ["demote", "remove"])
async def test_wherever_its_writer_dies_a_group_keeps_an_owner(
    store: Store, other_store: Store, way: str, is_done_first: bool
) -> None:
    ada, eve = await add_member(store, Role.OWNER), await add_member(store, Role.OWNER)

    def taken_from(each: Store, user: User) -> Awaitable[Saved]:
        if way == "demote":
            return each.save_role(GROUP_ID, user.id, Role.MEMBER, expected=Role.OWNER)
        return each.remove_member(GROUP_ID, user.id, expected=Role.OWNER)

    Tap(store).die_at(1, is_done_first=is_done_first)
    with pytest.raises(StoreUnavailable):
        await taken_from(store, ada)

    saved = [await taken_from(other_store, user) for user in (ada, eve)]

    assert saved[1] is Saved.LAST_OWNER
    assert saved[0] is (Saved.STALE if is_done_first else Saved.DONE)
    assert await owners(other_store) == [eve.id]


@pytest.mark.parametrize("way", ["demote", "remove"])
async def test_an_owner_who_was_not_the_last_when_it_was_looked_at_stays_when_the_other_is_gone(
    store: Store, other_store: Store, way: str
) -> None:
    ada, eve = await add_member(store, Role.OWNER), await add_member(store, Role.OWNER)
    slow = (
        store.save_role(GROUP_ID, ada.id, Role.ADMIN, expected=Role.OWNER)
        if way == "demote"
        else store.remove_member(GROUP_ID, ada.id, expected=Role.OWNER)
    )

    async with Tap(store).stopped_before("groups.update_one", slow) as task:
        assert await other_store.remove_member(GROUP_ID, eve.id, expected=Role.OWNER) is Saved.DONE

    assert task.result() is Saved.LAST_OWNER
    assert await owners(store) == [ada.id]


async def test_who_comes_in_again_while_their_leaving_is_written_down_is_found(
    store: Store, other_store: Store
) -> None:
    ada = await add_member(store, Role.ADMIN)

    leaving = store.remove_member(GROUP_ID, ada.id, expected=Role.ADMIN)
    async with Tap(store).stopped_before("memberships.delete_one", leaving):
        assert await other_store.add_member(GROUP_ID, ada.id, Role.MEMBER, now=NOW) is Saved.DONE

    assert await assert_seen_from_both_sides(store, ada)


async def test_who_is_let_in_and_taken_out_while_somebody_slow_lets_them_in_is_found(
    store: Store, other_store: Store
) -> None:
    ada = await add_user(store)

    slow = store.add_member(GROUP_ID, ada.id, Role.ADMIN, now=NOW)
    async with Tap(store).stopped_before("groups.update_one", slow) as task:
        await other_store.add_member(GROUP_ID, ada.id, Role.MEMBER, now=NOW)
        await other_store.remove_member(GROUP_ID, ada.id, expected=Role.MEMBER)

    assert task.result() is Saved.DONE
    assert await assert_seen_from_both_sides(store, ada)


async def test_members_and_webhooks_of_a_group_that_come_at_the_same_moment_are_all_there(
    store: Store, other_store: Store
) -> None:
    ada = await add_user(store)

    async with Tap(store).stopped_before("groups.update_one", add_webhook(store)) as adding:
        assert await other_store.add_member(GROUP_ID, ada.id, Role.ADMIN, now=NOW) is Saved.DONE

    assert await store.webhook(GROUP_ID, adding.result().id) is not None
    assert await store.add_webhook(GROUP_ID, make_webhook(), quota=1) is Saved.QUOTA_EXCEEDED
    assert await assert_seen_from_both_sides(store, ada)


async def test_who_has_been_taken_out_leaves_nothing_behind(store: Store) -> None:
    ada = await add_member(store, Role.ADMIN)

    await store.remove_member(GROUP_ID, ada.id, expected=Role.ADMIN)

    assert (await documents(store))["memberships"] == []


async def test_a_group_that_is_not_there_takes_nobody_and_nothing(store: Store) -> None:
    ada = await add_user(store)
    nowhere = new_id("grp")

    assert await store.add_member(nowhere, ada.id, Role.ADMIN, now=NOW) is Saved.STALE
    assert await store.add_webhook(nowhere, make_webhook(group_id=nowhere), quota=9) is Saved.QUOTA_EXCEEDED
    assert list(await store.memberships(ada.id)) == []


async def test_who_is_overtaken_again_and_again_is_told_to_try_again(store: Store) -> None:
    ada = await add_user(store)
    mongo = mongo_of(store)
    mongo.groups = Standing(mongo.groups, update_one=overtaken)

    with pytest.raises(StoreUnavailable, match="try again"):
        await store.add_member(GROUP_ID, ada.id, Role.ADMIN, now=NOW)


# --- the first person ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("who_asks", ["the same", "another"])
@pytest.mark.parametrize("number", range(1, len(FIRST) + 1))
async def test_wherever_its_writer_dies_the_first_person_is_finished_by_whoever_asks_next(
    store: Store, other_store: Store, number: int, is_done_first: bool, who_asks: str
) -> None:
    group, first = make_group(), make_user(is_installation_owner=True)
    await store.add_group(group)
    tap = Tap(store)
    tap.die_at(number, is_done_first=is_done_first)
    with pytest.raises(StoreUnavailable):
        await store.add_first_user(first)
    assert tap.written == FIRST[:number]
    if await other_store.user(first.id) is not None:  # whoever can sign in owns the groups already
        assert len(await other_store.memberships(first.id)) == 2

    asking = first if who_asks == "the same" else make_user(is_installation_owner=True)
    saved = await other_store.add_first_user(asking)

    is_decided = number > 1 or is_done_first
    owner = first if is_decided else asking
    assert saved is (Saved.DONE if owner is asking else Saved.EXISTS)
    assert list((await store.users(limit=10, before=None)).items) == [owner]
    assert [each.group.id for each in await store.memberships(owner.id)] == [group.id, GROUP_ID]
    assert (await owners(store), await owners(store, group.id)) == ([owner.id], [owner.id])
    kept = {each["_id"]: each for each in (await documents(store))["meta"]}["first_user"]
    assert kept == {"_id": "first_user", "user_id": owner.id, "owns_groups": 1}


@pytest.mark.parametrize("write", ["meta.insert_many", "users.insert_many"])
async def test_nobody_is_added_before_the_first_person_is_finished(
    store: Store, other_store: Store, write: str, is_done_first: bool
) -> None:
    first = make_user()
    written = ["meta.insert_many", *ENTERING, "users.insert_many"]
    await dies(store, written, write, is_done_first, store.add_first_user(first))
    late = make_user(email=first.email)

    saved = await other_store.add_user(late)

    is_decided = (write, is_done_first) != ("meta.insert_many", False)
    assert saved is (Saved.EXISTS if is_decided else Saved.DONE)
    assert await store.user_with_email(first.email) == (first if is_decided else late)
    assert await owners(store) == ([first.id] if is_decided else [])


async def test_the_first_owner_is_no_member_before_they_are_a_person(store: Store, other_store: Store) -> None:
    ada = make_user()

    async with Tap(store).stopped_before("users.insert_many", store.add_first_user(ada)):
        assert await other_store.member(GROUP_ID, ada.id) is None
        assert list((await other_store.members(GROUP_ID, limit=10, before=None)).items) == []

    assert await owners(other_store) == [ada.id]


async def test_who_is_added_while_somebody_wants_to_be_first_is_first(store: Store, other_store: Store) -> None:
    ada, eve = make_user(), make_user()

    async with Tap(store).stopped_before("meta.insert_many", store.add_first_user(ada)) as task:
        assert await other_store.add_user(eve) is Saved.DONE

    assert task.result() is Saved.EXISTS
    assert list((await store.users(limit=10, before=None)).items) == [eve]
    assert await owners(store) == []


async def test_who_finishes_the_first_person_late_takes_back_nothing(store: Store, other_store: Store) -> None:
    ada = make_user()

    async with Tap(store).stopped_before("users.insert_many", store.add_first_user(ada)):
        assert await other_store.add_first_user(ada) is Saved.DONE
        await other_store.save_password(ada.id, "another hash", expected=ada.password_hash)

    assert await store.user(ada.id) == replace(ada, password_hash="another hash")


@pytest.mark.parametrize("write", ["users.insert_many", "meta.update_one"])
async def test_a_group_that_the_first_person_does_not_see_any_more_is_theirs(
    store: Store, other_store: Store, write: str
) -> None:
    ada, group = make_user(is_installation_owner=True), make_group()

    async with Tap(store).stopped_before(write, store.add_first_user(ada)):
        assert await other_store.add_group(group, owner_ids=None) is Saved.DONE

    await assert_is_owned(store, group, ada)


@pytest.mark.parametrize("write", ["group_names.insert_many", "groups.insert_many"])
async def test_wherever_the_writer_of_a_group_dies_it_is_the_first_persons(
    store: Store, other_store: Store, write: str, is_done_first: bool
) -> None:
    ada, group = make_user(is_installation_owner=True), make_group()
    writes = ["group_names.insert_many", "groups.insert_many"]  # there is nobody who could belong to it
    await dies(store, writes, write, is_done_first, store.add_group(group, owner_ids=None))

    await other_store.add_first_user(ada)

    assert await other_store.add_group(group, owner_ids=None) is Saved.DONE
    await assert_is_owned(other_store, group, ada)


# --- sessions ------------------------------------------------------------------------------------------------


async def test_sessions_that_have_run_out_go_a_few_at_a_time(store: Store) -> None:
    ada, long_ago = await add_user(store), NOW - 2 * IDLE
    for number in range(FEW + 2):
        await store.add_session(make_session(ada, created_at=long_ago, last_used_at=long_ago + number * SECOND))

    left = []
    for _ in range(2):
        await store.add_session(make_session(ada))
        left.append(len(await store.sessions(ada.id)))

    assert left == [3, 2]


async def test_a_session_that_is_used_while_it_is_about_to_be_forgotten_stays(store: Store, other_store: Store) -> None:
    ada = await add_user(store)
    used = make_session(ada, last_used_at=NOW - IDLE - SECOND)
    await store.add_session(used)

    async with Tap(store).stopped_before("sessions.delete_many", store.add_session(make_session(ada))):
        await other_store.touch_sessions({used.id: NOW})

    assert await store.session(used.id) == replace(used, last_used_at=NOW)


# --- requests ------------------------------------------------------------------------------------------------


async def test_a_forgotten_request_that_is_still_there_is_replaced_where_it_stands(store: Store) -> None:
    old, again = await remembered_among_many(store)
    await store.keep_answer(old.id, KeptAnswer(200, (), b"an old answer"))
    tap = Tap(store)

    assert await store.remember_request(again, kept_for=DAY) == again

    assert tap.written == ["requests.delete_many", "requests.insert_many", "requests.update_one"]
    assert await store.remember_request(replace(again, seed=bytes(32)), kept_for=DAY) == again


async def test_of_two_who_replace_a_forgotten_request_the_second_finds_the_firsts(
    store: Store, other_store: Store
) -> None:
    _, again = await remembered_among_many(store)
    faster = replace(again, seed=bytes([7]) * 32)

    slow = store.remember_request(again, kept_for=DAY)
    async with Tap(store).stopped_before("requests.update_one", slow) as task:
        assert await other_store.remember_request(faster, kept_for=DAY) == faster

    assert task.result() == faster


async def test_a_forgotten_request_that_goes_while_it_is_replaced_is_remembered_anew(
    store: Store, other_store: Store
) -> None:
    _, again = await remembered_among_many(store)

    slow = store.remember_request(again, kept_for=DAY)
    async with Tap(store).stopped_before("requests.update_one", slow) as task:
        await other_store.remember_request(make_request(at=again.at), kept_for=DAY)

    assert task.result() == again
    assert await store.remember_request(again, kept_for=DAY) == again


async def test_a_request_that_is_never_found_and_never_new_is_an_error_by_name(store: Store) -> None:
    request = await store.remember_request(make_request(), kept_for=DAY)
    mongo = mongo_of(store)
    mongo.requests = Standing(mongo.requests, find_one=nothing)

    with pytest.raises(StoreUnavailable, match="try again"):
        await store.remember_request(request, kept_for=DAY)


async def test_seeds_and_answers_are_sealed_in_every_document(store: Store) -> None:
    request = await store.remember_request(make_request(seed=b"a seed, a secret".ljust(32)), kept_for=DAY)
    await store.keep_answer(request.id, KeptAnswer(201, (("Location", "also-a-secret"),), b"a key shown once"))

    (kept,) = (await documents(store))["requests"]

    assert kept["body_hash"] == request.body_hash
    for sealed in (kept["seed"], kept["answer"]):
        assert sealed.startswith("v1.")
    assert "secret" not in repr(kept)
    assert "shown once" not in repr(kept)


# --- steps ---------------------------------------------------------------------------------------------------


async def dies(store: Store, writes: list[str], write: str, is_done_first: bool, doing: Awaitable[Any]) -> None:
    """Do something whose process dies at one of its writes."""
    tap, number = Tap(store), writes.index(write) + 1
    tap.die_at(number, is_done_first=is_done_first)
    with pytest.raises(StoreUnavailable):
        await doing
    assert tap.written == writes[:number]


async def assert_is_owned(store: Store, group: Group, owner: User) -> None:
    assert await store.group(group.id) == group
    assert await store.group_named(group.name) == group
    assert group in (await store.groups(limit=10, before=None)).items
    assert Membership(group, Role.OWNER) in await store.memberships(owner.id)
    assert await owners(store, group.id) == [owner.id]


async def assert_seen_from_both_sides(store: Store, user: User) -> bool:
    """Say whether somebody is a member, which the group and they agree about."""
    is_member = await store.member(GROUP_ID, user.id) is not None
    assert [each.group.id for each in await store.memberships(user.id)] == ([GROUP_ID] if is_member else [])
    return is_member


async def owners(store: Store, group_id: str = GROUP_ID) -> list[str]:
    page = await store.members(group_id, limit=10, before=None)
    return [member.user_id for member in page.items if member.role is Role.OWNER]


async def remembered_among_many(store: Store) -> tuple[KeyedRequest, KeyedRequest]:
    """Return a request that counts as forgotten, after more than go at once, and how it is made again."""
    for number in range(FEW):
        await store.remember_request(make_request(at=NOW - HOUR + number * SECOND), kept_for=DAY)
    request = await store.remember_request(make_request(), kept_for=DAY)
    return request, replace(request, seed=bytes([9]) * 32, at=NOW + 2 * DAY)


async def overtaken(*_: Any, **__: Any) -> SimpleNamespace:
    return SimpleNamespace(matched_count=0)
