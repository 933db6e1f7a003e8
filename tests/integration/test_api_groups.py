"""Groups and the people in them."""

from typing import Any

import pytest
from tests.integration.apis import PASSWORD, Api, expect, fields_of, problem, sign_in

from gatepost.domain.groups import Role
from gatepost.ports import Saved


def members_of(api: Api, user_id: str = "") -> str:
    return f"/api/groups/{api.group.id}/members" + (f"/{user_id}" if user_id else "")


async def role_of(api: Api, user_id: str) -> Role | None:
    member = await api.store.member(api.group.id, user_id)
    return member.role if member else None


async def test_whoever_makes_a_group_owns_it(api: Api) -> None:
    browser, user = await api.signed_in()
    assert expect(await browser.get("/api/groups"), 200) == {"items": [], "nextCursor": None}
    made = expect(await browser.post("/api/groups", {"name": " Day shift "}), 201)
    assert made == {"id": made["id"], "name": "Day shift", "role": "owner", "createdAt": made["createdAt"]}
    assert expect(await browser.get("/api/groups"), 200)["items"] == [made]
    [member] = expect(await browser.get(f"/api/groups/{made['id']}/members"), 200)["items"]
    assert (member["userId"], member["role"], member["joinedAt"]) == (user.id, "owner", made["createdAt"])
    expect(await browser.post("/api/tasks", {"title": "T"}), 201)  # it is their only group: it goes without saying


@pytest.mark.parametrize("name", ["", "   ", "x" * 101, "a\nb", " Ours "])
async def test_a_group_needs_a_name_of_its_own(api: Api, name: str) -> None:
    browser, _ = await api.signed_in()
    assert fields_of(problem(await browser.post("/api/groups", {"name": name}), 422, "validation_failed")) == ["name"]


async def test_groups_are_made_by_people(api: Api) -> None:
    problem(await api.admin.post("/api/groups", {"name": "Day shift"}), 403, "forbidden")
    browser, _ = await api.signed_in()
    body = {"name": "Day shift", "groupId": api.group.id}
    assert fields_of(problem(await browser.post("/api/groups", body), 422, "validation_failed")) == ["groupId"]


async def test_groups_are_listed_newest_first_with_ones_role(api: Api) -> None:
    browser, _ = await api.signed_in(Role.MEMBER)
    made = [expect(await browser.post("/api/groups", {"name": f"G{number}"}), 201) for number in range(3)]
    found: list[Any] = []
    cursor: str | None = ""
    while cursor is not None:
        page = expect(await browser.get(f"/api/groups?limit=2{cursor and '&cursor='}{cursor}"), 200)
        found += page["items"]
        cursor = page["nextCursor"]
    assert [group["id"] for group in found] == [*(group["id"] for group in reversed(made)), api.group.id]
    assert [group["role"] for group in found] == ["owner"] * 3 + ["member"]


async def test_a_key_lists_its_one_group(api: Api) -> None:
    page = expect(await api.member.get("/api/groups"), 200)
    [group] = page["items"]
    assert (group["id"], group["name"], group["role"], page["nextCursor"]) == (api.group.id, "Ours", "member", None)


# --- letting somebody in -------------------------------------------------------------------------------------


async def test_a_new_member_gets_an_account_and_a_password_that_is_shown_once(api: Api) -> None:
    browser, _ = await api.signed_in(Role.ADMIN)
    body = {"email": " Ben@Example.com", "role": "member", "name": "Ben"}
    added = expect(await browser.post(members_of(api), body), 201)
    password = added.pop("password")
    assert (added["email"], added["name"], added["role"]) == ("ben@example.com", "Ben", "member")
    page = expect(await browser.get(members_of(api)), 200)
    assert page["items"][0] == added
    me = await sign_in(api.browser(), "ben@example.com", password)
    assert me["groups"] == [{"id": api.group.id, "name": "Ours", "role": "member"}]


async def test_a_password_that_was_given_is_not_shown(api: Api) -> None:
    body = {"email": "ben@example.com", "role": "admin", "password": PASSWORD}
    assert expect(await api.admin.post(members_of(api), body), 201)["password"] is None
    await sign_in(api.browser(), "ben@example.com")


async def test_who_has_an_account_is_let_in_as_they_are(api: Api) -> None:
    user = await api.new_account(name="Ben")
    for field, value in (("name", "Benjamin"), ("password", "another horse")):
        body = {"email": user.email, "role": "member", field: value}
        document = problem(await api.admin.post(members_of(api), body), 422, "validation_failed")
        assert fields_of(document) == [field]
        assert "has an account already" in document["detail"]
    added = expect(await api.admin.post(members_of(api), {"email": user.email, "role": "member"}), 201)
    assert (added["userId"], added["name"], added["password"]) == (user.id, "Ben", None)
    again = problem(
        await api.admin.post(members_of(api), {"email": user.email, "role": "admin"}), 422, "validation_failed"
    )
    assert again["errors"][0]["loc"] == ["email"]
    assert again["errors"][0]["code"] == "taken"
    assert await role_of(api, user.id) is Role.MEMBER


@pytest.mark.parametrize(
    ("field", "value"),
    [("email", "nobody"), ("email", "a b@c"), ("role", "boss"), ("name", ""), ("password", "short"), ("groupId", "x")],
)
async def test_who_is_let_in_is_told_of_properly(api: Api, field: str, value: str) -> None:
    body = {"email": "ben@example.com", "role": "member", field: value}
    assert fields_of(problem(await api.admin.post(members_of(api), body), 422, "validation_failed")) == [field]
    assert expect(await api.admin.get(members_of(api)), 200)["items"] == []


# --- roles ---------------------------------------------------------------------------------------------------


async def test_only_an_owner_gives_or_takes_the_role_owner(api: Api) -> None:
    owner, owner_user = await api.signed_in(Role.OWNER)
    admin, admin_user = await api.signed_in(Role.ADMIN)
    someone = await api.new_account(role=Role.MEMBER)
    for client in (admin, api.admin):
        problem(await client.put(members_of(api, someone.id), {"role": "owner"}), 403, "forbidden")
        problem(await client.put(members_of(api, owner_user.id), {"role": "member"}), 403, "forbidden")
        problem(await client.delete(members_of(api, owner_user.id)), 403, "forbidden")
        body = {"email": "new@example.com", "role": "owner"}
        problem(await client.post(members_of(api), body), 403, "forbidden")
        expect(await client.put(members_of(api, someone.id), {"role": "admin"}), 200)
        expect(await client.put(members_of(api, someone.id), {"role": "member"}), 200)
    assert expect(await owner.put(members_of(api, admin_user.id), {"role": "owner"}), 200)["role"] == "owner"
    assert (await owner.delete(members_of(api, admin_user.id))).status_code == 204
    assert await role_of(api, admin_user.id) is None


@pytest.mark.parametrize("method", ["save_role", "remove_member"])
async def test_an_admin_takes_nothing_from_who_has_become_an_owner_meanwhile(
    api: Api, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    someone = await api.new_account(role=Role.MEMBER)
    await api.new_account(role=Role.OWNER)
    write, save_role = getattr(api.store, method), api.store.save_role

    async def promoted_before(*args: Any, **kwargs: Any) -> Saved:
        await save_role(api.group.id, someone.id, Role.OWNER, expected=Role.MEMBER)
        return Saved(await write(*args, **kwargs))

    monkeypatch.setattr(api.store, method, promoted_before)
    path = members_of(api, someone.id)
    asked = api.admin.put(path, {"role": "admin"}) if method == "save_role" else api.admin.delete(path)
    problem(await asked, 403, "forbidden")
    assert await role_of(api, someone.id) is Role.OWNER


async def test_whose_role_never_stays_the_same_cannot_be_written(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    someone = await api.new_account(role=Role.MEMBER)

    async def stale(*_: object, **__: object) -> Saved:
        return Saved.STALE

    monkeypatch.setattr(api.store, "save_role", stale)
    problem(await api.admin.put(members_of(api, someone.id), {"role": "admin"}), 503, "store_unavailable")
    assert await role_of(api, someone.id) is Role.MEMBER


async def test_a_group_keeps_an_owner(api: Api) -> None:
    owner, user = await api.signed_in(Role.OWNER)
    problem(await owner.put(members_of(api, user.id), {"role": "admin"}), 409, "last_owner")
    problem(await owner.delete(members_of(api, user.id)), 409, "last_owner")
    other = await api.new_account(role=Role.OWNER)
    assert (await owner.delete(members_of(api, user.id))).status_code == 204
    assert await role_of(api, other.id) is Role.OWNER


async def test_anybody_may_leave_and_see_who_is_there(api: Api) -> None:
    member, user = await api.signed_in(Role.MEMBER)
    other = await api.new_account(role=Role.MEMBER)
    assert len(expect(await member.get(members_of(api)), 200)["items"]) == 2
    problem(await member.delete(members_of(api, other.id)), 403, "forbidden")
    problem(await member.delete(members_of(api, "usr_" + "0" * 32)), 403, "forbidden")
    assert (await member.delete(members_of(api, user.id))).status_code == 204
    problem(await member.get(members_of(api)), 404, "not_found")


async def test_who_has_left_is_given_no_task_by_a_swap(api: Api) -> None:
    leaving, staying = await api.new_person(), await api.new_person()
    theirs, other = await api.new_task(assignedTo=leaving), await api.new_task(assignedTo=staying)
    body = {"taskId": theirs["id"], "withTaskId": other["id"]}
    swap = expect(await api.admin.post("/api/swaps", body), 201)
    assert (await api.admin.delete(members_of(api, leaving))).status_code == 204

    problem(await api.admin.post(f"/api/swaps/{swap['id']}/approve"), 409, "swap_stale")

    assert expect(await api.member.get(f"/api/tasks/{other['id']}"), 200)["assignedTo"] == staying
    expect(await api.admin.post(f"/api/swaps/{swap['id']}/reject"), 200)
    for one, another, field in ((theirs, other, "taskId"), (other, theirs, "withTaskId")):
        answer = await api.admin.post("/api/swaps", {"taskId": one["id"], "withTaskId": another["id"]})
        assert fields_of(problem(answer, 422, "validation_failed")) == [field]


async def test_members_of_other_groups_are_not_found(api: Api) -> None:
    stranger = await api.new_account()
    for user_id in (stranger.id, "usr_" + "0" * 32, "usr_x"):
        problem(await api.admin.put(members_of(api, user_id), {"role": "member"}), 404, "not_found")
        problem(await api.admin.delete(members_of(api, user_id)), 404, "not_found")


async def test_what_somebody_may_do_changes_at_once(api: Api) -> None:
    owner, _ = await api.signed_in(Role.OWNER)
    browser, user = await api.signed_in(Role.MEMBER)

    async def may() -> list[int]:
        paths = ("/api/tasks", "/api/integrations/webhooks")
        return [(await browser.get(f"{path}?groupId={api.group.id}")).status_code for path in paths]

    assert await may() == [200, 403]
    expect(await owner.put(members_of(api, user.id), {"role": "admin"}), 200)
    assert await may() == [200, 200]
    expect(await owner.put(members_of(api, user.id), {"role": "member"}), 200)
    assert await may() == [200, 403]
    assert (await owner.delete(members_of(api, user.id))).status_code == 204
    assert await may() == [404, 404]
    expect(await owner.post(members_of(api), {"email": user.email, "role": "member"}), 201)
    assert await may() == [200, 403]


async def test_members_are_paged(api: Api) -> None:
    users = [await api.new_account(role=Role.MEMBER) for _ in range(3)]
    first = expect(await api.admin.get(f"{members_of(api)}?limit=2"), 200)
    second = expect(await api.admin.get(f"{members_of(api)}?limit=2&cursor={first['nextCursor']}"), 200)
    found = [member["userId"] for page in (first, second) for member in page["items"]]
    assert found == [user.id for user in reversed(users)]
    assert second["nextCursor"] is None


async def test_the_path_says_whose_members_they_are(api: Api) -> None:
    await api.new_account(role=Role.MEMBER)
    assert len(expect(await api.admin.get(f"{members_of(api)}?groupId={api.other_group.id}"), 200)["items"]) == 1
    body = {"email": "new@example.com", "role": "member", "groupId": api.other_group.id}
    assert fields_of(problem(await api.admin.post(members_of(api), body), 422, "validation_failed")) == ["groupId"]
