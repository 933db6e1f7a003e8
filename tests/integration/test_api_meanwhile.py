"""Requests made again under their Idempotency-Key after a crash, when something has happened in between."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.fakes import FakeClock, ScriptedSender
from tests.integration.apis import Api, Client, expect, opened_api, problem

from gatepost.domain.errors import StoreUnavailable
from gatepost.domain.groups import Role

KEY = {"Idempotency-Key": "order-1017"}


@pytest.fixture
async def api(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Api]:
    async with opened_api(tmp_path, clock=clock, sender=ScriptedSender(clock)) as api:
        yield api


async def done_unanswered(api: Api, client: Client, path: str, body: dict[str, Any]) -> bytes:
    """Make a request that is done and whose answer is lost; return the answer."""
    keep, answers = api.store.keep_answer, []

    async def crash(request_id: str, answer: Any) -> None:
        answers.append(answer)
        raise StoreUnavailable("the plug was pulled")

    api.store.keep_answer = crash
    problem(await client.post(path, body, headers=KEY), 503, "store_unavailable")
    api.store.keep_answer = keep
    assert 200 <= answers[0].status < 300, answers[0].body
    return bytes(answers[0].body)


async def test_a_task_stays_made_when_its_assignee_has_left_the_group(api: Api) -> None:
    person = await api.new_person()
    body = {"title": "T", "assignedTo": person}
    first = await done_unanswered(api, api.member, "/api/tasks", body)

    await api.store.remove_member(api.group.id, person, expected=Role.MEMBER)
    again = await api.member.post("/api/tasks", body, headers=KEY)

    assert (again.status_code, again.content) == (201, first)
    assert len(expect(await api.member.get("/api/tasks"), 200)["items"]) == 1
    problem(await api.member.post("/api/tasks", body), 422, "validation_failed")


async def test_a_replay_stays_queued_when_the_webhook_was_disabled(api: Api) -> None:
    webhook = await api.new_webhook()
    await api.new_task()
    [delivery] = await api.deliveries_of(webhook["id"])
    hook = f"/api/integrations/webhooks/{webhook['id']}"
    path = f"{hook}/replay/{delivery['id']}"
    first = await done_unanswered(api, api.admin, path, {})

    expect(await api.admin.patch(hook, {"enabled": False}), 200)
    again = await api.admin.post(path, headers=KEY)

    assert (again.status_code, again.content) == (202, first)
    assert len(await api.deliveries_of(webhook["id"])) == 2
    problem(await api.admin.post(path), 409, "webhook_disabled")


async def test_a_rotation_is_not_done_again_over_the_one_after_it(api: Api) -> None:
    webhook = await api.new_webhook()
    hook = f"/api/integrations/webhooks/{webhook['id']}"
    first = await done_unanswered(api, api.admin, f"{hook}/rotate-secret", {"gracePeriodSeconds": 60})

    newer = expect(await api.admin.post(f"{hook}/rotate-secret"), 200)
    again = await api.admin.post(f"{hook}/rotate-secret", {"gracePeriodSeconds": 60}, headers=KEY)

    assert (again.status_code, again.content) == (200, first)
    assert expect(await api.admin.get(hook), 200)["secretHint"] == newer["secretHint"]


async def test_a_secret_that_was_given_may_be_given_again_later(api: Api) -> None:
    webhook = await api.new_webhook(secret="whsec_" + "A" * 32)
    hook = f"/api/integrations/webhooks/{webhook['id']}"
    expect(await api.admin.post(f"{hook}/rotate-secret"), 200)

    expect(await api.admin.post(f"{hook}/rotate-secret", {"secret": "whsec_" + "A" * 32}), 200)

    assert expect(await api.admin.get(hook), 200)["secretHint"] == webhook["secretHint"]


@pytest.mark.parametrize("is_known", [False, True])
async def test_a_member_stays_let_in_when_they_were_given_another_role(
    api: Api, clock: FakeClock, is_known: bool
) -> None:
    email = (await api.new_account()).email if is_known else "new@example.com"
    members = f"/api/groups/{api.group.id}/members"
    first = json.loads(await done_unanswered(api, api.admin, members, {"email": email, "role": "member"}))

    expect(await api.admin.put(f"{members}/{first['userId']}", {"role": "admin"}), 200)
    again = expect(await api.admin.post(members, {"email": email, "role": "member"}, headers=KEY), 201)

    assert again == {**first, "role": "admin"}
    clock.advance(1)
    problem(await api.admin.post(members, {"email": email, "role": "member"}), 422, "validation_failed")
