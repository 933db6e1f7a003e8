import asyncio
from datetime import timedelta

from tests.builders import GROUP_ID, make_group, make_key
from tests.contract.backends import Backend, Store
from tests.fakes import NOW

from gatepost.domain.groups import Role
from gatepost.ports import Saved

LATER = NOW + timedelta(milliseconds=1)


async def test_a_group_is_found_by_its_name(store: Store) -> None:
    group = make_group(name="Küche 🌹")

    saved = await store.add_group(group)

    assert saved is Saved.DONE
    assert await store.group_named("Küche 🌹") == group


async def test_a_name_nobody_has_leads_to_no_group(store: Store) -> None:
    assert await store.group_named("nobody") is None


async def test_a_name_that_is_taken_is_refused_and_stays_with_its_group(store: Store) -> None:
    first, second = make_group(), make_group()
    await store.add_group(first)

    saved = await store.add_group(second)

    assert saved is Saved.EXISTS
    assert await store.group_named(first.name) == first


async def test_of_two_processes_that_add_one_name_one_succeeds(store: Store, other_store: Store) -> None:
    saved = await asyncio.gather(store.add_group(make_group()), other_store.add_group(make_group()))

    assert sorted(each.value for each in saved) == ["done", "exists"]


async def test_a_key_is_found_as_it_was_added(store: Store) -> None:
    key = make_key(role=Role.MEMBER, secret_hash=bytes(range(32)), last_used_at=NOW)

    await store.add_key(GROUP_ID, key)

    assert await store.key(key.id) == key


async def test_a_revoked_key_is_found_too(store: Store) -> None:
    key = make_key(revoked_at=LATER)

    await store.add_key(GROUP_ID, key)

    assert await store.key(key.id) == key


async def test_a_key_nobody_has_is_none(store: Store) -> None:
    assert await store.key(make_key().id) is None


async def test_the_last_use_of_each_key_is_raised_to_its_own_moment(store: Store) -> None:
    never, once, untouched = make_key(), make_key(last_used_at=NOW), make_key(last_used_at=NOW)
    for key in (never, once, untouched):
        await store.add_key(GROUP_ID, key)

    await store.touch_keys({never.id: NOW, once.id: LATER})

    assert await last_uses(store, never.id, once.id, untouched.id) == [NOW, LATER, NOW]


async def test_the_last_use_of_a_key_is_never_lowered(store: Store) -> None:
    key = make_key(last_used_at=LATER)
    await store.add_key(GROUP_ID, key)

    await store.touch_keys({key.id: NOW})

    assert await last_uses(store, key.id) == [LATER]


async def test_touching_a_key_nobody_has_harms_no_other(store: Store) -> None:
    key = make_key()
    await store.add_key(GROUP_ID, key)

    await store.touch_keys({make_key().id: NOW, key.id: NOW})
    await store.touch_keys({})

    assert await last_uses(store, key.id) == [NOW]


async def test_what_was_acknowledged_is_there_after_every_process_has_stopped(backend: Backend, store: Store) -> None:
    group, key = make_group(), make_key()
    await store.add_group(group)
    await store.add_key(GROUP_ID, key)

    reopened = await backend.reopen()

    assert await reopened.group_named(group.name) == group
    assert await reopened.key(key.id) == key


async def last_uses(store: Store, *key_ids: str) -> list[object]:
    keys = [await store.key(key_id) for key_id in key_ids]
    return [key.last_used_at if key else None for key in keys]
