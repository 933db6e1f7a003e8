"""Who may do what: every route of the OpenAPI document, walked as everybody who must not get through."""

import asyncio
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.fakes import FakeClock, ScriptedSender
from tests.integration.apis import Api, Client, expect, opened_api, problem

from gatepost.domain.errors import InvalidInput, StoreUnavailable
from gatepost.domain.groups import Role, key_text
from gatepost.services import accounts

BODIES: dict[str, dict[str, Any]] = {
    "createTask": {"title": "Water the plants"},
    "rejectTask": {"reason": "Still dry"},
    "createWebhook": {"name": "Rota", "targetUrl": "https://hooks.example.com/in", "events": ["*"]},
    "replaceWebhook": {"name": "Rota", "targetUrl": "https://hooks.example.com/in", "events": ["*"]},
}
CREATORS = {"createTask", "createWebhook"}
FOR_ADMINS = {"approveTask", "rejectTask"}
OPEN = {"getLiveness", "getReadiness"}


@dataclass
class Operation:
    """One operation of the document, about things that are there."""

    id: str
    method: str
    path: str

    async def __call__(self, client: Client, *, group_id: str | None = None, body: Any = None, **request: Any) -> Any:
        body = BODIES.get(self.id, {}) if body is None else body
        if self.id in CREATORS:
            body = {**body, **({"groupId": group_id} if group_id else {})}
            return await client(self.method, self.path, json=body, **request)
        params = {"groupId": group_id} if group_id else {}
        return await client(self.method, self.path, json=body, params=params, **request)


async def operations(api: Api) -> list[Operation]:
    webhook = await api.new_webhook()
    task = await api.new_task()
    [delivery] = await api.deliveries_of(webhook["id"])
    ids = {"{taskId}": task["id"], "{webhookId}": webhook["id"], "{deliveryId}": delivery["id"]}
    document = expect(await api.stranger.get("/api/openapi.json"), 200)
    found = []
    for path, methods in document["paths"].items():
        for name, value in ids.items():
            path = path.replace(name, value)  # noqa: PLW2901
        assert "{" not in path
        found += [Operation(about["operationId"], method.upper(), path) for method, about in methods.items()]
    assert len(found) == 23
    return [operation for operation in found if operation.id not in OPEN]


def needs_admin(operation: Operation) -> bool:
    return operation.path.startswith("/api/integrations") or operation.id in FOR_ADMINS


async def test_nobody_gets_in_without_a_good_key(api: Api) -> None:
    other_secret = f"{(api.admin.key or '')[:-1]}{'0' if (api.admin.key or '')[-1] != '0' else '1'}"
    authorizations = ["", "Bearer", "Bearer x", f"Basic {api.admin.key}", f"Bearer {other_secret}", "Bearer gp_ä_ö"]
    for operation in await operations(api):
        for authorization in authorizations:
            headers = {"Authorization": authorization.encode()} if authorization else {}
            answer = await operation(api.stranger, body={"nonsense": 1}, headers=headers)
            problem(answer, 401, "unauthenticated")
            assert answer.headers["www-authenticate"] == "Bearer"


async def test_a_key_of_another_group_finds_nothing_of_ours(api: Api) -> None:
    for operation in await operations(api):
        problem(await operation(api.other_admin, group_id=api.group.id), 404, "not_found")
        problem(await operation(api.other_admin, group_id=api.group.id, body={"nonsense": 1}), 404, "not_found")
        if "_" in operation.path:
            problem(await operation(api.other_admin), 404, "not_found")
            problem(await operation(api.other_admin, group_id=api.other_group.id), 404, "not_found")


async def test_a_group_that_does_not_exist_is_like_one_of_others(api: Api) -> None:
    for operation in await operations(api):
        problem(await operation(api.admin, group_id="grp_" + "0" * 32), 404, "not_found")
        problem(await operation(api.member, group_id=api.other_group.id), 404, "not_found")


async def test_a_member_key_does_nothing_that_needs_an_admin(api: Api) -> None:
    refused = [operation for operation in await operations(api) if needs_admin(operation)]
    assert len(refused) == 15
    for operation in refused:
        problem(await operation(api.member), 403, "forbidden")
        problem(await operation(api.member, group_id=api.group.id), 403, "forbidden")
        problem(await operation(api.member, body={"nonsense": 1}), 403, "forbidden")


async def test_the_right_key_gets_through_everywhere(api: Api) -> None:
    walked = await operations(api)
    for operation in sorted(walked, key=lambda operation: operation.method == "DELETE"):
        client = api.admin if needs_admin(operation) else api.member
        answer = await operation(client, group_id=api.group.id)
        assert answer.status_code in (200, 201, 202, 204, 409), (operation, answer.text)


async def test_foreign_rows_stay_out_of_lists(api: Api) -> None:
    await api.new_webhook()
    await api.new_task()
    for path in ("/api/tasks", "/api/integrations/webhooks", "/api/integrations/deliveries"):
        assert len(expect(await api.admin.get(path), 200)["items"]) == 1
        assert expect(await api.other_admin.get(path), 200) == {"items": [], "nextCursor": None}


async def test_a_delivery_is_found_under_its_own_webhook_only(api: Api) -> None:
    webhook, other = await api.new_webhook(), await api.new_webhook(events=["task.approved"])
    await api.new_task()
    [delivery] = await api.deliveries_of(webhook["id"])
    for at in (f"deliveries/{delivery['id']}", f"replay/{delivery['id']}"):
        method = "GET" if at.startswith("d") else "POST"
        problem(await api.admin(method, f"/api/integrations/webhooks/{other['id']}/{at}"), 404, "not_found")


async def test_a_revoked_key_is_refused_within_a_second(tmp_path: Path, clock: FakeClock) -> None:
    async with opened_api(tmp_path, clock=clock, sender=ScriptedSender(clock)) as api:
        expect(await api.member.get("/api/tasks"), 200)
        await asyncio.to_thread(revoke_all, api)
        clock.advance(1)
        problem(await api.member.get("/api/tasks"), 401, "unauthenticated")


def revoke_all(api: Api) -> None:
    with closing(sqlite3.connect(api.folder / "gatepost.db")) as database, database:
        database.execute("UPDATE api_keys SET revoked_at = 1")


async def test_the_last_use_of_a_key_is_written_once_a_minute(tmp_path: Path, clock: FakeClock) -> None:
    async with opened_api(tmp_path, clock=clock, sender=ScriptedSender(clock)) as api:
        made = await api.services.accounts.create_key(api.group.id, Role.MEMBER)
        began_at = clock.now()

        async def last_used_after(seconds: float) -> timedelta | None:
            clock.advance(seconds)
            assert await api.services.accounts.authenticate(made.text)
            await api.services.accounts.close()
            key = await api.store.key(made.key.id)
            assert key
            assert key.last_used_at
            return key.last_used_at - began_at

        assert await last_used_after(0) == timedelta(0)
        assert await last_used_after(30) == timedelta(0)
        assert await last_used_after(31) == timedelta(seconds=61)


async def test_a_last_use_that_cannot_be_written_costs_nobody_anything(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unavailable(_: Any) -> None:
        raise StoreUnavailable("the disk is full")

    monkeypatch.setattr(api.store, "touch_keys", unavailable)
    expect(await api.member.get("/api/tasks"), 200)
    await api.services.accounts.close()
    expect(await api.member.get("/api/tasks"), 200)


async def test_keys_are_remembered_up_to_a_number(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "MOST_TRUSTED_KEYS", 1)
    for _ in range(2):
        for client in (api.member, api.admin):
            expect(await client.get("/api/tasks"), 200)


async def test_a_key_that_never_was_is_refused(api: Api) -> None:
    text = key_text("key_" + "0" * 32, bytes(32))
    assert await api.services.accounts.authenticate(text) is None


@pytest.mark.parametrize("name", ["", "   ", "x" * 101])
async def test_a_group_needs_a_name_of_its_own(api: Api, name: str) -> None:
    with pytest.raises(InvalidInput):
        await api.services.accounts.create_group(name)
    with pytest.raises(InvalidInput, match="taken"):
        await api.services.accounts.create_group(f" {api.group.name} ")
    assert await api.services.accounts.group_named(api.group.name) == api.group
