"""Every operation of the OpenAPI document, asked by everybody who must not get through: strangers, members, admins of
another group, holders of a revoked key, and people whose session has ended. They get 401, 403 or 404 as the document
says, and nothing of what is there.
"""

from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.fakes import FakeClock
from tests.integration.apis import ORIGIN, PASSWORD, Api, expect, opened_api, problem

from gatepost.domain.groups import Role
from gatepost.domain.people import IDLE

TITLE = "Only the night shift may read this"

# Who may do what, said once more and by hand: what the document says of it comes from the code.
OPEN = {"getLiveness", "getReadiness", "signIn"}
FOR_PEOPLE = {"signOut", "changePassword", "listSessions", "endSessions", "endSession", "createGroup"}
IN_NO_GROUP = {*FOR_PEOPLE, "getMe", "listGroups", "listEventTypes"}
FOR_ADMINS = {
    *("approveTask", "rejectTask", "approveSwap", "rejectSwap"),
    *("addMember", "changeMember", "listApiKeys", "createApiKey", "revokeApiKey"),
}

Headers = Mapping[str, str | bytes]


@dataclass
class Operation:
    """One operation of the document, about things that are there."""

    id: str
    method: str
    path: str
    about: dict[str, Any]

    @property
    def needs_admin(self) -> bool:
        return self.id in FOR_ADMINS or (self.path.startswith("/api/integrations") and self.id != "listEventTypes")

    @property
    def names_something(self) -> bool:
        """Whether it is about one thing of a group, named in its path."""
        return "_" in self.path.replace("/api/groups/grp_", "")

    def request(self, group_id: str | None) -> dict[str, Any]:
        """Return the body of its example and its parameters, the group given where it belongs."""
        body = self._example()
        in_query = any(each["name"] == "groupId" and each["in"] == "query" for each in self.about.get("parameters", []))
        if body is not None and not in_query and "{groupId}" not in self.path and group_id:
            body = {**body, "groupId": group_id}
        params = {"groupId": group_id} if in_query and group_id else {}
        return {"params": params} | ({} if body is None else {"json": body})

    def _example(self) -> dict[str, Any] | None:
        if "requestBody" not in self.about:
            return None
        example = dict(self.about["requestBody"]["content"]["application/json"]["example"])
        example.pop("groupId", None)
        return example


@dataclass
class Installation:
    """A group with one of everything, and another group."""

    api: Api
    clock: FakeClock
    operations: list[Operation]

    async def session(self, *roles: tuple[str, Role]) -> dict[str, str]:
        """Return what somebody's browser sends who has just signed in, and who belongs to these groups."""
        user_id = await self.api.new_person() if not roles else await _person_in(self.api, *roles)
        user = await self.api.store.user(user_id)
        assert user is not None
        await self.api.services.people.reset_password(user.email, PASSWORD, draws=self.api.services.requests.draws())
        credentials = {"email": user.email, "password": PASSWORD}
        answer = await self.api.stranger.post("/api/auth/login", credentials, headers={"Origin": ORIGIN})
        expect(answer, 200)
        cookie = answer.cookies["gatepost_session"]
        self.api.stranger.http.cookies.clear()
        return {"Cookie": f"gatepost_session={cookie}", "Origin": ORIGIN}

    async def ask(self, operation: Operation, headers: Headers, *, group_id: str | None = None) -> httpx2.Response:
        answer = await self.api.stranger(
            operation.method, operation.path, headers=dict(headers), **operation.request(group_id)
        )
        assert str(answer.status_code) in operation.about["responses"], f"{operation.id}: {answer.status_code}"
        assert TITLE not in answer.text
        return answer

    def in_groups(self) -> Iterator[Operation]:
        return (each for each in self.operations if each.id not in OPEN | IN_NO_GROUP)


async def _person_in(api: Api, *roles: tuple[str, Role]) -> str:
    user_id = await api.new_person()
    await api.store.remove_member(api.group.id, user_id, expected=Role.MEMBER)
    for group_id, role in roles:
        await api.store.add_member(group_id, user_id, role, now=api.group.created_at)
    return user_id


@pytest.fixture
async def installation(tmp_path: Path) -> AsyncIterator[Installation]:
    clock = FakeClock()
    async with opened_api(tmp_path, clock=clock) as api:
        ids = await _one_of_everything(api)
        document = expect(await api.stranger.get("/api/openapi.json"), 200)
        operations = []
        for template, methods in document["paths"].items():
            path = template
            for name, value in ids.items():
                path = path.replace(f"{{{name}}}", value)
            assert "{" not in path, f"nothing to put into {template}"
            operations += [
                Operation(about["operationId"], method.upper(), path, about) for method, about in methods.items()
            ]
        known = {each.id for each in operations}
        assert known >= OPEN | IN_NO_GROUP | FOR_ADMINS
        assert len(operations) >= 45
        yield Installation(api, clock, operations)


async def _one_of_everything(api: Api) -> dict[str, str]:
    ann, ben = [await api.new_person() for _ in range(2)]
    webhook = await api.new_webhook()
    task, other = [await api.new_task(title=TITLE, assignedTo=each) for each in (ann, ben)]
    swap = expect(await api.admin.post("/api/swaps", {"taskId": task["id"], "withTaskId": other["id"]}), 201)
    [*_, delivery] = await api.deliveries_of(webhook["id"])
    job = expect(await api.admin.post(f"/api/integrations/webhooks/{webhook['id']}/replays"), 202)
    key = expect(await api.admin.post(f"/api/groups/{api.group.id}/api-keys", {"role": "member"}), 201)
    return {
        "groupId": api.group.id,
        "userId": ann,
        "keyId": key["id"],
        "sessionId": "ses_" + "0" * 32,
        "taskId": task["id"],
        "swapId": swap["id"],
        "webhookId": webhook["id"],
        "deliveryId": delivery["id"],
        "jobId": job["id"],
        "eventId": delivery["eventId"],
    }


async def test_strangers_are_told_to_sign_in(installation: Installation) -> None:
    key = installation.api.admin.key or ""
    pretending: list[Headers] = [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": f"Basic {key}"},
        {"Authorization": f"Bearer {key[:-1]}{'0' if key[-1] != '0' else '1'}"},
        {"Cookie": f"gatepost_session={'0' * 32}.{'0' * 64}", "Origin": ORIGIN},
        {"Cookie": "gatepost_session=ä".encode(), "Origin": ORIGIN},
    ]
    for operation in installation.operations:
        for headers in pretending if operation.id not in OPEN else []:
            for group_id in (None, installation.api.group.id):
                problem(await installation.ask(operation, headers, group_id=group_id), 401, "unauthenticated")


async def test_a_revoked_key_opens_nothing(installation: Installation) -> None:
    api = installation.api
    made = expect(await api.admin.post(f"/api/groups/{api.group.id}/api-keys", {"role": "admin"}), 201)
    headers = {"Authorization": f"Bearer {made['key']}"}
    expect(await api.stranger.get("/api/tasks", headers=headers), 200)
    answer = await api.admin.delete(f"/api/groups/{api.group.id}/api-keys/{made['id']}")
    assert answer.status_code == 204
    for operation in installation.operations:
        if operation.id not in OPEN:
            problem(await installation.ask(operation, headers), 401, "unauthenticated")


@pytest.mark.parametrize("ending", ["it has run out", "it was ended", "its password was changed elsewhere"])
async def test_a_session_that_has_ended_opens_nothing(installation: Installation, ending: str) -> None:
    api = installation.api
    headers = await installation.session((api.group.id, Role.OWNER))
    me = expect(await api.stranger.get("/api/auth/me", headers=headers), 200)
    if ending == "it has run out":
        installation.clock.advance((IDLE + timedelta(seconds=1)).total_seconds())
    elif ending == "it was ended":
        answer = await api.stranger.delete("/api/auth/sessions", headers=headers)
        assert answer.status_code == 204
    else:
        draws = api.services.requests.draws()
        await api.services.people.reset_password(me["email"], "another horse", draws=draws)
    for operation in installation.operations:
        if operation.id not in OPEN:
            problem(await installation.ask(operation, headers), 401, "unauthenticated")


@pytest.mark.parametrize("by", ["key", "session"])
async def test_members_may_not_do_what_admins_do(installation: Installation, by: str) -> None:
    api = installation.api
    headers = {"Authorization": f"Bearer {api.member.key}"}
    if by == "session":
        headers = await installation.session((api.group.id, Role.MEMBER))
    refused = 0
    for operation in installation.in_groups():
        if operation.needs_admin:
            problem(await installation.ask(operation, headers, group_id=api.group.id), 403, "forbidden")
            refused += 1
    assert refused >= 25


@pytest.mark.parametrize("by", ["key", "session"])
async def test_admins_of_another_group_find_nothing_of_ours(installation: Installation, by: str) -> None:
    api = installation.api
    headers = {"Authorization": f"Bearer {api.other_admin.key}"}
    if by == "session":
        headers = await installation.session((api.other_group.id, Role.OWNER))
    for operation in installation.in_groups():
        problem(await installation.ask(operation, headers, group_id=api.group.id), 404, "not_found")
        if operation.names_something or "/api/groups/" in operation.path:
            problem(await installation.ask(operation, headers), 404, "not_found")


async def test_in_our_group_by_its_name_but_not_by_an_id_of_theirs(installation: Installation) -> None:
    """Somebody who belongs to both groups reaches a thing through its own group only."""
    api = installation.api
    headers = await installation.session((api.group.id, Role.OWNER), (api.other_group.id, Role.OWNER))
    for operation in installation.in_groups():
        if operation.names_something and "/api/groups/" not in operation.path:
            answer = await installation.ask(operation, headers, group_id=api.other_group.id)
            problem(answer, 404, "not_found")


async def test_whoever_belongs_to_several_groups_says_which(installation: Installation) -> None:
    api = installation.api
    headers = await installation.session((api.group.id, Role.OWNER), (api.other_group.id, Role.MEMBER))
    for operation in installation.in_groups():
        if "/api/groups/" not in operation.path:
            document = problem(await installation.ask(operation, headers), 422, "validation_failed")
            assert [error["loc"] for error in document["errors"]] == [["groupId"]], operation.id


async def test_keys_are_nobody_who_could_sign_out(installation: Installation) -> None:
    headers = {"Authorization": f"Bearer {installation.api.admin.key}"}
    for operation in installation.operations:
        if operation.id in FOR_PEOPLE:
            problem(await installation.ask(operation, headers), 403, "forbidden")


async def test_a_page_of_another_site_changes_nothing_by_our_cookie(installation: Installation) -> None:
    api = installation.api
    headers = await installation.session((api.group.id, Role.OWNER))
    for operation in installation.operations:
        if operation.method in ("GET", "HEAD") or operation.id in OPEN:
            continue
        for origin in ({}, {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": f"{ORIGIN}.evil"}):
            elsewhere = {**{name: value for name, value in headers.items() if name != "Origin"}, **origin}
            answer = await installation.ask(operation, elsewhere, group_id=api.group.id)
            problem(answer, 403, "origin_mismatch")
