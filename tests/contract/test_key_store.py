from datetime import datetime, timedelta

from tests.builders import GROUP_ID, make_group, make_key, new_id
from tests.contract.backends import Backend, Store
from tests.contract.steps import ids
from tests.fakes import NOW

from gatepost.domain.groups import ApiKey, Role
from gatepost.ports import Saved

LATER = NOW + timedelta(milliseconds=1)


async def add_key(store: Store, group_id: str = GROUP_ID, **changes: object) -> ApiKey:
    key = make_key(group_id=group_id, **changes)
    await store.add_key(group_id, key)
    return key


async def last_uses(store: Store, *key_ids: str) -> list[datetime | None]:
    keys = [await store.key(key_id) for key_id in key_ids]
    return [key.last_used_at if key else None for key in keys]


async def test_a_key_is_found_as_it_was_added(store: Store) -> None:
    key = make_key(role=Role.MEMBER, secret_hash=bytes(range(32)), name="Rota 🌹", last_used_at=NOW)

    await store.add_key(GROUP_ID, key)

    assert await store.key(key.id) == key


async def test_a_key_needs_no_name(store: Store) -> None:
    key = await add_key(store, name=None)

    assert await store.key(key.id) == key


async def test_a_key_nobody_has_is_none(store: Store) -> None:
    assert await store.key(new_id("key")) is None


async def test_a_key_added_again_is_there_once_and_keeps_its_last_use(store: Store) -> None:
    key = await add_key(store)
    await store.touch_keys({key.id: LATER})

    await store.add_key(GROUP_ID, key)

    assert await last_uses(store, key.id) == [LATER]
    page = await store.keys(GROUP_ID, limit=10, before=None)
    assert ids(page.items) == [key.id]


async def test_a_groups_keys_are_listed_in_pages_the_newest_first(store: Store) -> None:
    elsewhere = make_group()
    await store.add_group(elsewhere)
    await add_key(store, elsewhere.id)
    added = [await add_key(store) for _ in range(3)]

    first = await store.keys(GROUP_ID, limit=2, before=None)
    second = await store.keys(GROUP_ID, limit=2, before=first.next_cursor)

    assert [*first.items, *second.items] == added[::-1]
    assert len(first.items) == 2
    assert second.next_cursor is None


# --- revoking ------------------------------------------------------------------------------------------------


async def test_a_revoked_key_is_found_but_not_listed(store: Store) -> None:
    revoked, live = await add_key(store), await add_key(store)

    saved = await store.revoke_key(GROUP_ID, revoked.id, now=LATER)

    assert saved is Saved.DONE
    found = await store.key(revoked.id)
    assert found is not None
    assert found.revoked_at == LATER
    page = await store.keys(GROUP_ID, limit=10, before=None)
    assert list(page.items) == [live]


async def test_a_key_is_revoked_once_and_for_good(store: Store) -> None:
    key = await add_key(store)
    await store.revoke_key(GROUP_ID, key.id, now=NOW)

    again = await store.revoke_key(GROUP_ID, key.id, now=LATER)
    await store.add_key(GROUP_ID, key)

    assert again is Saved.STALE
    found = await store.key(key.id)
    assert found is not None
    assert found.revoked_at == NOW


async def test_a_key_that_the_group_has_not_is_not_revoked(store: Store) -> None:
    elsewhere = make_group()
    await store.add_group(elsewhere)
    key = await add_key(store, elsewhere.id)

    saved = [await store.revoke_key(GROUP_ID, each, now=LATER) for each in (key.id, new_id("key"))]

    assert saved == [Saved.STALE, Saved.STALE]
    assert await store.key(key.id) == key


async def test_a_key_that_was_added_revoked_is_found_and_not_listed(store: Store) -> None:
    key = await add_key(store, revoked_at=LATER)

    assert await store.key(key.id) == key
    page = await store.keys(GROUP_ID, limit=10, before=None)
    assert list(page.items) == []


# --- last uses -----------------------------------------------------------------------------------------------


async def test_the_last_use_of_each_key_is_raised_to_its_own_moment(store: Store) -> None:
    never, once, untouched = await add_key(store), await add_key(store, last_used_at=NOW), await add_key(store)

    await store.touch_keys({never.id: NOW, once.id: LATER})

    assert await last_uses(store, never.id, once.id, untouched.id) == [NOW, LATER, None]


async def test_the_last_use_of_a_key_is_never_lowered(store: Store) -> None:
    key = await add_key(store, last_used_at=LATER)

    await store.touch_keys({key.id: NOW})

    assert await last_uses(store, key.id) == [LATER]


async def test_touching_a_key_nobody_has_harms_no_other(store: Store) -> None:
    key = await add_key(store)

    await store.touch_keys({new_id("key"): NOW, key.id: NOW})
    await store.touch_keys({})

    assert await last_uses(store, key.id) == [NOW]


async def test_what_was_acknowledged_is_there_after_every_process_has_stopped(backend: Backend, store: Store) -> None:
    key = await add_key(store, name="Rota")

    reopened = await backend.reopen()

    assert await reopened.key(key.id) == key
