"""Requests made again under their Idempotency-Key: one effect, one answer, whatever happened in between (ADR 0010)."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.fakes import FakeClock, ScriptedSender
from tests.integration.apis import Api, Client, expect, fields_of, opened_api, problem

from gatepost.domain.errors import StoreUnavailable
from gatepost.domain.groups import Role
from gatepost.services.requests import KEPT_FOR

KEY = {"Idempotency-Key": "order-1017"}
REPLAYED = "idempotency-replayed"


@dataclass
class Creation:
    """A request that creates something, and how to count what there is of it."""

    client: Client
    path: str
    body: dict[str, Any]
    count: Callable[[], Awaitable[int]]

    async def __call__(self, headers: dict[str, str] = KEY, **more: Any) -> httpx2.Response:
        return await self.client.post(self.path, {**self.body, **more}, headers=headers)


async def creations(api: Api) -> dict[str, Creation]:
    """Return one of each kind, about things that are there."""
    owner, user = await api.signed_in(Role.OWNER)
    known = await api.new_account()
    webhook = await api.new_webhook()
    tasks = [await api.new_task(assignedTo=each) for each in (user.id, await api.new_person())]
    [*_, delivery] = await api.deliveries_of(webhook["id"])
    hook, group = f"/api/integrations/webhooks/{webhook['id']}", f"/api/groups/{api.group.id}"

    def listed(path: str) -> Callable[[], Awaitable[int]]:
        async def count() -> int:
            return len(expect(await (owner if path == "/api/groups" else api.admin).get(path), 200)["items"])

        return count

    async def secrets() -> int:
        stored = await api.store.webhook(api.group.id, webhook["id"])
        return stored.config_version if stored else 0

    hooks, members = "/api/integrations/webhooks", f"{group}/members"
    new_hook = {"name": "Rota", "targetUrl": "https://hooks.example.com/in", "events": ["*"]}
    swap = {"taskId": tasks[0]["id"], "withTaskId": tasks[1]["id"]}
    published = {"event": "order.paid", "data": {"total": 49.9}}
    newcomer, acquaintance = {"email": "new@example.com", "role": "member"}, {"email": known.email, "role": "admin"}
    return {
        "a task": Creation(api.member, "/api/tasks", {"title": "T"}, listed("/api/tasks")),
        "a swap": Creation(api.admin, "/api/swaps", swap, listed("/api/swaps")),
        "an event": Creation(api.admin, "/api/integrations/events", published, listed("/api/integrations/events")),
        "a webhook": Creation(api.admin, hooks, new_hook, listed(hooks)),
        "a rotation": Creation(api.admin, f"{hook}/rotate-secret", {"gracePeriodSeconds": 60}, secrets),
        "a replay": Creation(api.admin, f"{hook}/replay/{delivery['id']}", {}, listed(f"{hook}/deliveries")),
        "a group": Creation(owner, "/api/groups", {"name": "Day shift"}, listed("/api/groups")),
        "a member with a new account": Creation(api.admin, members, newcomer, listed(members)),
        "a member with an account": Creation(api.admin, members, acquaintance, listed(members)),
        "a key": Creation(api.admin, f"{group}/api-keys", {"role": "member"}, listed(f"{group}/api-keys")),
    }


KINDS = (
    "a task",
    "a swap",
    "an event",
    "a webhook",
    "a rotation",
    "a replay",
    "a group",
    "a member with a new account",
    "a member with an account",
    "a key",
)


@pytest.fixture
async def api(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Api]:
    async with opened_api(tmp_path, clock=clock, sender=ScriptedSender(clock)) as api:
        yield api


@pytest.fixture(params=KINDS)
async def creation(request: pytest.FixtureRequest, api: Api) -> Creation:
    made = await creations(api)
    assert tuple(made) == KINDS
    return made[request.param]


@pytest.fixture
def new_task(api: Api) -> Creation:
    async def count() -> int:
        return len(expect(await api.admin.get("/api/tasks"), 200)["items"])

    return Creation(api.member, "/api/tasks", {"title": "T"}, count)


def answered(answer: httpx2.Response) -> tuple[int, bytes, dict[str, str]]:
    assert 200 <= answer.status_code < 300, answer.text
    return answer.status_code, answer.content, {k: v for k, v in answer.headers.items() if k != REPLAYED}


async def test_the_second_request_gets_the_answer_of_the_first_and_has_no_effect(
    creation: Creation, clock: FakeClock
) -> None:
    before = await creation.count()
    first = await creation()
    clock.advance(60)
    second = await creation()
    assert answered(first) == answered(second)
    assert (REPLAYED in first.headers, second.headers[REPLAYED]) == (False, "true")
    assert await creation.count() == before + 1


async def test_without_a_key_it_is_another_request_each_time(new_task: Creation) -> None:
    first, second = await new_task({}), await new_task({})
    assert first.content != second.content
    assert await new_task.count() == 2


async def test_a_request_whose_answer_was_lost_in_a_crash_is_the_same_write_again(
    api: Api, creation: Creation, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts: list[tuple[int, bytes]] = []

    async def crash(_: str, answer: Any) -> None:
        attempts.append((answer.status, answer.body))
        raise StoreUnavailable("the plug was pulled")

    before = await creation.count()
    with monkeypatch.context() as patch:
        patch.setattr(api.store, "keep_answer", crash)
        problem(await creation(), 503, "store_unavailable")
        clock.advance(3600)
        problem(await creation(), 503, "store_unavailable")
    third = await creation()
    assert [(third.status_code, third.content)] * 2 == attempts
    assert REPLAYED not in third.headers
    assert await creation.count() == before + 1


async def test_two_processes_at_once_have_one_effect_and_give_one_answer(
    api: Api, creation: Creation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other process has begun and ended between our beginning and our end."""
    keep = api.store.keep_answer
    others: list[Any] = []

    async def keep_theirs_first(request_id: str, answer: Any) -> Any:
        others.append(await keep(request_id, type(answer)(answer.status, answer.headers, answer.body + b" ")))
        return await keep(request_id, answer)

    before = await creation.count()
    monkeypatch.setattr(api.store, "keep_answer", keep_theirs_first)
    answer = await creation()
    assert answer.content == others[0].body
    assert answer.headers[REPLAYED] == "true"
    assert await creation.count() == before + 1


async def test_another_body_under_the_same_key_is_refused(api: Api, new_task: Creation) -> None:
    expect(await new_task(), 201)
    document = problem(await new_task(title="Another"), 422, "idempotency_mismatch")
    assert fields_of(document) == ["Idempotency-Key"]
    raw = b'{"title": "T" }'
    headers = {**KEY, "Content-Type": "application/json"}
    problem(await api.member("POST", "/api/tasks", content=raw, headers=headers), 422, "idempotency_mismatch")
    assert await new_task.count() == 1


async def test_the_group_in_the_query_is_a_part_of_the_request(api: Api) -> None:
    webhook = await api.new_webhook()
    path = f"/api/integrations/webhooks/{webhook['id']}/rotate-secret"
    expect(await api.admin.post(path, headers=KEY), 200)
    problem(await api.admin.post(f"{path}?groupId={api.group.id}", headers=KEY), 422, "idempotency_mismatch")


async def test_a_key_is_its_callers_and_its_paths_own(api: Api, new_task: Creation) -> None:
    expect(await new_task(), 201)
    for client in (api.admin, api.other_admin):
        assert REPLAYED not in (await client.post("/api/tasks", {"title": "T"}, headers=KEY)).headers
    webhook = await api.new_webhook()
    path = f"/api/integrations/webhooks/{webhook['id']}/rotate-secret"
    for client in (api.admin, api.admin):
        expect(await client.post(path, headers=KEY), 200)
    assert await new_task.count() == 2


@pytest.mark.parametrize("key", [b"", b"a b", b"\xc3\xa4", b"x" * 256, b"a\tb"])
async def test_a_key_is_visible_ascii(new_task: Creation, key: bytes) -> None:
    document = problem(await new_task({"Idempotency-Key": key}), 422, "validation_failed")
    assert fields_of(document) == ["Idempotency-Key"]
    assert await new_task.count() == 0


async def test_the_longest_key_will_do_and_two_will_not(api: Api, new_task: Creation) -> None:
    expect(await new_task({"Idempotency-Key": "~" * 255}), 201)
    headers = [("Authorization", f"Bearer {api.member.key}"), ("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    answer = await api.stranger.http.request("POST", "/api/tasks", json={"title": "T"}, headers=headers)
    problem(answer, 422, "validation_failed")


async def test_while_the_first_is_under_way_the_second_waits_for_another_time(
    api: Api, new_task: Creation, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, goes_on, save = asyncio.Event(), asyncio.Event(), api.store.save_change

    async def slow(*arguments: Any, **more: Any) -> Any:
        begun.set()
        await goes_on.wait()
        return await save(*arguments, **more)

    monkeypatch.setattr(api.store, "save_change", slow)
    first = asyncio.create_task(new_task())
    await begun.wait()
    problem(await new_task(), 409, "idempotency_in_progress")
    goes_on.set()
    assert answered(await first) == answered(await new_task())


async def test_whoever_hangs_up_leaves_the_way_free(
    api: Api, new_task: Creation, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = asyncio.Event()

    async def never(*_: Any, **__: Any) -> None:
        begun.set()
        await asyncio.Event().wait()

    for method in ("remember_request", "save_change", "keep_answer"):
        begun.clear()
        with monkeypatch.context() as patch:
            patch.setattr(api.store, method, never)
            request = asyncio.create_task(new_task())
            await begun.wait()
            request.cancel()
            with pytest.raises(asyncio.CancelledError):
                await request
    expect(await new_task(), 201)
    assert await new_task.count() == 1


async def test_a_problem_is_an_answer_too(api: Api) -> None:
    browser, _ = await api.signed_in()
    first = problem(await browser.post("/api/groups", {"name": "Theirs"}, headers=KEY), 422, "validation_failed")
    again = await browser.post("/api/groups", {"name": "Theirs"}, headers=KEY)
    assert problem(again, 422, "validation_failed") == first
    assert again.headers[REPLAYED] == "true"
    for webhook_id in ("wh_" + "0" * 32, "wh_x"):
        path = f"/api/integrations/webhooks/{webhook_id}/rotate-secret"
        first = problem(await api.admin.post(path, headers=KEY), 404, "not_found")
        again = await api.admin.post(path, headers=KEY)
        assert problem(again, 404, "not_found") == first
        assert again.headers[REPLAYED] == "true"


async def test_what_went_wrong_on_our_side_is_no_answer(
    api: Api, new_task: Creation, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error, status, code in [
        (StoreUnavailable("the disk is full"), 503, "store_unavailable"),
        (ZeroDivisionError(), 500, "internal"),
    ]:

        async def fails(*_: Any, error: Exception = error, **__: Any) -> None:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(api.store, "save_change", fails)
            problem(await new_task(), status, code)
    expect(await new_task(), 201)


async def test_who_may_not_do_it_is_told_so_each_time_and_nothing_is_kept(api: Api) -> None:
    body = {"name": "Rota", "targetUrl": "https://hooks.example.com/in", "events": ["*"]}
    for _ in range(2):
        answer = await api.member.post("/api/integrations/webhooks", body, headers={"Idempotency-Key": "a b"})
        problem(answer, 403, "forbidden")
        answer = await api.stranger.post("/api/integrations/webhooks", body, headers=KEY)
        problem(answer, 401, "unauthenticated")
        assert REPLAYED not in answer.headers


async def test_a_body_that_is_wrong_may_be_put_right_under_the_same_key(new_task: Creation) -> None:
    """It was refused before the key was looked at: nothing was remembered."""
    problem(await new_task(title=""), 422, "validation_failed")
    expect(await new_task(), 201)


async def test_after_a_day_the_key_is_free(new_task: Creation, clock: FakeClock) -> None:
    first = await new_task()
    clock.advance(KEPT_FOR.total_seconds() - 1)
    assert (await new_task()).content == first.content
    clock.advance(2)
    second = await new_task()
    assert REPLAYED not in second.headers
    assert await new_task.count() == 2
