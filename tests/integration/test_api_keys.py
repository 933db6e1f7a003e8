"""API keys: made, listed and revoked over HTTP, and how long what was read of one is believed."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.fakes import FakeClock, ScriptedSender
from tests.integration.apis import Api, Client, expect, fields_of, opened_api, problem

from gatepost.adapters.storage.sqlite import SqliteStore
from gatepost.domain.errors import StoreUnavailable
from gatepost.domain.groups import Role, key_text
from gatepost.services import trust


def keys_of(api: Api, key_id: str = "") -> str:
    return f"/api/groups/{api.group.id}/api-keys" + (f"/{key_id}" if key_id else "")


async def test_a_key_is_shown_once_and_works_at_once(api: Api) -> None:
    made = expect(await api.admin.post(keys_of(api), {"role": "member", "name": " CI "}), 201)
    text = made.pop("key")
    assert made == {
        "id": made["id"],
        "groupId": api.group.id,
        "name": "CI",
        "role": "member",
        "createdAt": made["createdAt"],
        "lastUsedAt": None,
    }
    listed = expect(await api.admin.get(keys_of(api)), 200)["items"]
    assert listed[0] == made
    assert len(listed) == 3
    client = Client(api.stranger.http, text)
    assert expect(await client.get("/api/auth/me"), 200)["name"] == "CI"
    problem(await client.get(keys_of(api)), 403, "forbidden")
    await api.services.close()
    assert expect(await api.admin.get(keys_of(api)), 200)["items"][0]["lastUsedAt"] is not None


@pytest.mark.parametrize(("field", "value"), [("role", "owner"), ("role", None), ("name", ""), ("name", "x" * 101)])
async def test_a_key_is_told_of_properly(api: Api, field: str, value: str | None) -> None:
    body = {"role": "member", field: value}
    assert fields_of(problem(await api.admin.post(keys_of(api), body), 422, "validation_failed"))[0] == field


async def test_people_make_keys_too(api: Api) -> None:
    browser, _ = await api.signed_in(Role.ADMIN)
    expect(await browser.post(keys_of(api), {"role": "admin"}), 201)


async def test_a_revoked_key_is_refused_at_once_and_no_longer_listed(api: Api) -> None:
    made = expect(await api.admin.post(keys_of(api), {"role": "admin"}), 201)
    client = Client(api.stranger.http, made["key"])
    expect(await client.get("/api/tasks"), 200)
    assert (await client.delete(keys_of(api, made["id"]))).status_code == 204
    problem(await client.get("/api/tasks"), 401, "unauthenticated")
    problem(await api.admin.delete(keys_of(api, made["id"])), 404, "not_found")
    assert made["id"] not in [key["id"] for key in expect(await api.admin.get(keys_of(api)), 200)["items"]]


async def test_keys_of_other_groups_are_not_found(api: Api) -> None:
    other = expect(await api.other_admin.get("/api/auth/me"), 200)["id"]
    for key_id in (other, "key_" + "0" * 32, "key_x"):
        problem(await api.admin.delete(keys_of(api, key_id)), 404, "not_found")
    expect(await api.other_admin.get("/api/tasks"), 200)


async def test_keys_are_paged(api: Api) -> None:
    first = expect(await api.admin.get(f"{keys_of(api)}?limit=1"), 200)
    second = expect(await api.admin.get(f"{keys_of(api)}?limit=1&cursor={first['nextCursor']}"), 200)
    assert second["nextCursor"] is None
    assert first["items"][0]["id"] > second["items"][0]["id"]


async def test_a_key_that_another_process_revoked_is_refused_within_a_second(tmp_path: Path, clock: FakeClock) -> None:
    async with opened_api(tmp_path, clock=clock, sender=ScriptedSender(clock)) as api:
        key_id = expect(await api.member.get("/api/auth/me"), 200)["id"]
        await api.store.revoke_key(api.group.id, key_id, now=clock.now())
        expect(await api.member.get("/api/tasks"), 200)
        clock.advance(1)
        problem(await api.member.get("/api/tasks"), 401, "unauthenticated")


async def test_what_was_read_before_a_revocation_is_not_believed_after_it(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = expect(await api.admin.post(keys_of(api), {"role": "member"}), 201)
    client, read = Client(api.stranger.http, made["key"]), api.store.key

    async def read_and_revoked(key_id: str) -> Any:
        found = await read(key_id)
        await api.services.keys.revoke(api.group.id, key_id)
        return found

    monkeypatch.setattr(api.store, "key", read_and_revoked)
    expect(await client.get("/api/tasks"), 200)  # it was good when it was read
    monkeypatch.undo()
    problem(await client.get("/api/tasks"), 401, "unauthenticated")


async def test_the_last_use_of_a_key_is_written_once_a_minute(tmp_path: Path, clock: FakeClock) -> None:
    async with opened_api(tmp_path, clock=clock, sender=ScriptedSender(clock)) as api:
        began_at = clock.now()

        async def last_used_after(seconds: float) -> timedelta:
            clock.advance(seconds)
            key_id = expect(await api.member.get("/api/auth/me"), 200)["id"]
            await api.services.close()
            key = await api.store.key(key_id)
            assert key is not None
            assert key.last_used_at is not None
            return key.last_used_at - began_at

        assert await last_used_after(0) == timedelta(0)
        assert await last_used_after(30) == timedelta(0)
        assert await last_used_after(31) == timedelta(seconds=61)


async def test_a_last_use_that_cannot_be_written_costs_nobody_anything(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unavailable(*_: Any) -> None:
        raise StoreUnavailable("the disk is full")

    monkeypatch.setattr(SqliteStore, "touch_keys", unavailable)
    async with opened_api(tmp_path, clock=clock, sender=ScriptedSender(clock)) as api:
        expect(await api.member.get("/api/tasks"), 200)
        await api.services.close()
        clock.advance(61)
        expect(await api.member.get("/api/tasks"), 200)


async def test_keys_are_remembered_up_to_a_number(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "MOST_TRUSTED", 1)
    for _ in range(2):
        for client in (api.member, api.admin):
            expect(await client.get("/api/tasks"), 200)


async def test_a_key_that_never_was_is_refused(api: Api) -> None:
    client = Client(api.stranger.http, key_text("key_" + "0" * 32, bytes(32)))
    problem(await client.get("/api/tasks"), 401, "unauthenticated")
