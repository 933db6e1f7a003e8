"""Tasks over HTTP."""

import asyncio
import sqlite3
from contextlib import closing
from typing import Any

import pytest
from tests.builders import make_user
from tests.integration.apis import Api, expect, fields_of, problem

from gatepost.domain.groups import Role
from gatepost.domain.tasks import TaskChange
from gatepost.ports import Saved


def events_of(api: Api) -> list[str]:
    with closing(sqlite3.connect(api.folder / "gatepost.db")) as database:
        return [event for (event,) in database.execute("SELECT event FROM events ORDER BY rowid")]


async def test_a_created_task_shows_every_field_and_its_history(api: Api) -> None:
    ada = await api.new_person()
    answer = await api.member.post(
        "/api/tasks",
        {
            "groupId": api.group.id,
            "title": "Water the plants",
            "description": "Not the cactus",
            "assignedTo": ada,
            "difficulty": 3,
            "dueAt": "2026-12-01T10:00:00.5+01:00",
        },
    )
    task = expect(answer, 201)
    assert answer.headers["etag"] == '"1"'
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    created_at, actor = task["createdAt"], task["history"][0]["actorId"]
    assert actor.startswith("key_")
    changes = {
        "title": {"from": None, "to": "Water the plants"},
        "description": {"from": None, "to": "Not the cactus"},
        "assignedTo": {"from": None, "to": ada},
        "difficulty": {"from": None, "to": 3},
        "dueAt": {"from": None, "to": "2026-12-01T09:00:00.500Z"},
        "status": {"from": None, "to": "pending"},
    }
    entry = {
        "version": 1,
        "at": created_at,
        "actorId": actor,
        "event": "task.created",
        "changes": changes,
        "reason": None,
    }
    assert task == {
        "id": task["id"],
        "groupId": api.group.id,
        "title": "Water the plants",
        "description": "Not the cactus",
        "status": "pending",
        "assignedTo": ada,
        "difficulty": 3,
        "dueAt": "2026-12-01T09:00:00.500Z",
        "externalId": None,
        "source": None,
        "version": 1,
        "createdAt": created_at,
        "updatedAt": created_at,
        "completedAt": None,
        "history": [entry],
    }
    assert expect(await api.member.get(f"/api/tasks/{task['id']}"), 200) == task


async def test_a_task_goes_through_its_life_one_version_and_one_event_at_a_time(api: Api) -> None:
    path = f"/api/tasks/{(await api.new_task())['id']}"
    assert expect(await api.member.post(f"{path}/start"), 200)["status"] == "in_progress"
    completed = expect(await api.member.post(f"{path}/complete"), 200)
    assert completed["completedAt"] == completed["updatedAt"]
    rejected = expect(await api.admin.post(f"{path}/reject", {"reason": "Still dry"}), 200)
    assert rejected["history"][-1]["reason"] == "Still dry"
    expect(await api.member.post(f"{path}/complete"), 200)
    answer = await api.admin.post(f"{path}/approve")
    approved = expect(answer, 200)
    assert (approved["status"], approved["version"], answer.headers["etag"]) == ("approved", 6, '"6"')
    assert [entry["version"] for entry in approved["history"]] == [1, 2, 3, 4, 5, 6]
    assert approved == expect(await api.member.get(path), 200)
    assert events_of(api) == [
        "task.created",
        "task.updated",
        "task.completed",
        "task.rejected",
        "task.completed",
        "task.approved",
    ]


async def test_a_step_that_the_status_does_not_allow_is_a_conflict(api: Api) -> None:
    path = f"/api/tasks/{(await api.new_task())['id']}"
    problem(await api.admin.post(f"{path}/approve"), 409, "invalid_transition")
    problem(await api.admin.post(f"{path}/reject", {"reason": "No"}), 409, "invalid_transition")


async def test_an_update_sets_what_is_given_clears_null_and_keeps_the_rest(api: Api) -> None:
    task = await api.new_task(description="Not the cactus", difficulty=3)
    path = f"/api/tasks/{task['id']}"
    updated = expect(await api.member.put(path, {"title": "Water them", "description": None}), 200)
    assert (updated["title"], updated["description"], updated["difficulty"]) == ("Water them", None, 3)
    assert updated["history"][-1]["changes"] == {
        "title": {"from": "Water the plants", "to": "Water them"},
        "description": {"from": "Not the cactus", "to": None},
    }


async def test_an_update_that_changes_nothing_emits_nothing(api: Api) -> None:
    task = await api.new_task(difficulty=3)
    same = expect(await api.member.put(f"/api/tasks/{task['id']}", {"title": task["title"], "difficulty": 3}), 200)
    assert same == task
    assert events_of(api) == ["task.created"]


async def test_a_change_of_an_older_version_is_a_conflict(api: Api) -> None:
    path = f"/api/tasks/{(await api.new_task())['id']}"
    expect(await api.member.put(path, {"title": "One", "version": 1}), 200)
    problem(await api.member.put(path, {"title": "Two", "version": 1}), 409, "version_conflict")
    problem(await api.member.put(path, {"title": "Two"}, headers={"If-Match": '"1"'}), 409, "version_conflict")
    problem(await api.member.post(f"{path}/start", headers={"If-Match": '"1"'}), 409, "version_conflict")
    expect(await api.member.post(f"{path}/start", headers={"If-Match": '"2"'}), 200)
    expect(await api.member.post(f"{path}/complete", headers={"If-Match": "*"}), 200)


@pytest.mark.parametrize("if_match", ["7", 'W/"1"', '"0"', '"1", "2"', '"x"', ""])
async def test_an_if_match_that_is_no_version_is_named(api: Api, if_match: str) -> None:
    path = f"/api/tasks/{(await api.new_task())['id']}"
    answer = await api.member.put(path, {"title": "Two"}, headers={"If-Match": if_match})
    assert fields_of(problem(answer, 422, "validation_failed")) == ["If-Match"]


async def test_two_versions_that_differ_are_refused(api: Api) -> None:
    path = f"/api/tasks/{(await api.new_task())['id']}"
    answer = await api.member.put(path, {"title": "Two", "version": 2}, headers={"If-Match": '"1"'})
    assert fields_of(problem(answer, 422, "validation_failed")) == ["version"]


async def test_of_two_approvals_at_once_one_wins(api: Api) -> None:
    path = f"/api/tasks/{(await api.new_task())['id']}"
    expect(await api.member.post(f"{path}/complete"), 200)
    answers = await asyncio.gather(*(api.admin.post(f"{path}/approve") for _ in range(2)))
    assert sorted(answer.status_code for answer in answers) == [200, 409]
    assert events_of(api).count("task.approved") == 1


async def test_of_two_changes_of_one_version_at_once_one_wins(api: Api) -> None:
    path = f"/api/tasks/{(await api.new_task())['id']}"
    answers = await asyncio.gather(
        *(api.member.put(path, {"title": title}, headers={"If-Match": '"1"'}) for title in ("One", "Two"))
    )
    assert sorted(answer.status_code for answer in answers) == [200, 409]
    [refused] = [answer for answer in answers if answer.status_code == 409]
    problem(refused, 409, "version_conflict")
    assert events_of(api) == ["task.created", "task.updated"]


async def test_changes_at_once_without_a_version_are_all_applied(api: Api) -> None:
    path = f"/api/tasks/{(await api.new_task())['id']}"
    answers = await asyncio.gather(*(api.member.put(path, {"title": f"Plant {n}"}) for n in range(4)))
    assert [answer.status_code for answer in answers] == [200] * 4
    task = expect(await api.member.get(path), 200)
    assert task["version"] == 5
    assert [entry["version"] for entry in task["history"]] == [1, 2, 3, 4, 5]


async def test_tasks_are_listed_newest_first_in_pages(api: Api) -> None:
    made = [(await api.new_task(title=f"Plant {n}"))["id"] for n in range(5)]
    first = expect(await api.member.get("/api/tasks?limit=2"), 200)
    second = expect(await api.member.get("/api/tasks", params={"limit": 2, "cursor": first["nextCursor"]}), 200)
    third = expect(await api.member.get("/api/tasks", params={"limit": 2, "cursor": second["nextCursor"]}), 200)
    assert [item["id"] for page in (first, second, third) for item in page["items"]] == made[::-1]
    assert third["nextCursor"] is None
    assert "history" not in first["items"][0]


async def test_tasks_are_listed_by_status_and_assignee(api: Api) -> None:
    ann, ben = await api.new_person(), await api.new_person()
    task = await api.new_task(assignedTo=ann)
    await api.new_task(assignedTo=ben)
    expect(await api.member.post(f"/api/tasks/{task['id']}/start"), 200)

    async def listed(query: str) -> list[str]:
        return [item["assignedTo"] for item in expect(await api.member.get(f"/api/tasks?{query}"), 200)["items"]]

    assert await listed("status=in_progress") == [ann]
    assert await listed(f"assignedTo={ben}") == [ben]
    assert await listed(f"assignedTo={ben}&status=in_progress") == []


async def test_tasks_are_searched_by_what_they_say_whatever_its_case(api: Api) -> None:
    await api.new_task(title="Rosen GIESSEN", description="Am Balkon")
    await api.new_task(title="100% of the stairs_")

    async def found(text: str) -> list[str]:
        page = expect(await api.member.get("/api/tasks", params={"q": text}), 200)
        return [item["title"] for item in page["items"]]

    assert await found("gießen") == ["Rosen GIESSEN"]
    assert await found("balkon") == ["Rosen GIESSEN"]
    assert await found("0%") == ["100% of the stairs_"]
    assert await found("stairs_") == ["100% of the stairs_"]
    assert await found("cactus") == []
    for text in ("", "x" * 101, "a\x00b", "GIESSEN\nAm"):
        answer = await api.member.get("/api/tasks", params={"q": text})
        assert fields_of(problem(answer, 422, "validation_failed")) == ["q"]


async def test_a_task_is_assigned_to_members_of_its_group_only(api: Api) -> None:
    ann, stranger = await api.new_person(), make_user()
    await api.store.add_user(stranger)
    await api.store.add_member(api.other_group.id, stranger.id, Role.MEMBER, now=stranger.created_at)

    def refused(answer: Any) -> None:
        [error] = problem(answer, 422, "validation_failed")["errors"]
        assert (error["loc"], error["code"]) == (["assignedTo"], "not_a_member")

    for nobody in (stranger.id, "usr_" + "0" * 32):
        refused(await api.member.post("/api/tasks", {"title": "T", "assignedTo": nobody}))
    task = await api.new_task(assignedTo=ann)
    refused(await api.member.put(f"/api/tasks/{task['id']}", {"assignedTo": stranger.id}))
    assert events_of(api) == ["task.created"]


async def test_a_task_keeps_the_assignee_who_has_left_the_group(api: Api) -> None:
    ann = await api.new_person()
    path = f"/api/tasks/{(await api.new_task(assignedTo=ann))['id']}"
    assert await api.store.remove_member(api.group.id, ann, expected=Role.MEMBER) is Saved.DONE
    same = expect(await api.member.put(path, {"title": "Water them", "assignedTo": ann}), 200)
    assert same["assignedTo"] == ann
    expect(await api.member.post(f"{path}/complete"), 200)
    cleared = expect(await api.member.put(path, {"assignedTo": None}), 200)
    assert cleared["assignedTo"] is None


async def test_a_deleted_task_is_gone_and_nobody_is_told(api: Api) -> None:
    task = await api.new_task()
    path = f"/api/tasks/{task['id']}"
    answer = await api.member.delete(path)
    assert (answer.status_code, answer.content) == (204, b"")
    for again in (
        await api.member.get(path),
        await api.member.delete(path),
        await api.member.put(path, {"title": "Back"}),
        await api.member.post(f"{path}/start"),
    ):
        problem(again, 404, "not_found")
    assert expect(await api.member.get("/api/tasks"), 200)["items"] == []
    assert events_of(api) == ["task.created"]
    entries = await api.store.history(api.group.id, task["id"])
    assert [(entry.version, entry.event) for entry in entries] == [(1, "task.created"), (2, "task.deleted")]


async def test_a_deletion_of_an_older_version_is_a_conflict(api: Api) -> None:
    path = f"/api/tasks/{(await api.new_task())['id']}"
    expect(await api.member.post(f"{path}/start"), 200)
    problem(await api.member.delete(path, headers={"If-Match": '"1"'}), 409, "version_conflict")
    answer = await api.member.delete(path, headers={"If-Match": "2"})
    assert fields_of(problem(answer, 422, "validation_failed")) == ["If-Match"]
    assert (await api.member.delete(path, headers={"If-Match": '"2"'})).status_code == 204


async def test_a_task_that_is_changed_and_deleted_at_once_is_deleted_in_the_end(api: Api) -> None:
    path = f"/api/tasks/{(await api.new_task())['id']}"
    started, deleted = await asyncio.gather(api.member.post(f"{path}/start"), api.member.delete(path))
    assert deleted.status_code == 204
    assert started.status_code in (200, 404)
    problem(await api.member.get(path), 404, "not_found")


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, ["title"]),
        ({"title": ""}, ["title"]),
        ({"title": "   "}, ["title"]),
        ({"title": "x" * 101}, ["title"]),
        ({"title": None}, ["title"]),
        ({"title": 5}, ["title"]),
        ({"title": "a\x00b"}, ["title"]),
        ({"title": "T", "description": "x" * 1001}, ["description"]),
        ({"title": "T", "difficulty": 0}, ["difficulty"]),
        ({"title": "T", "difficulty": 11}, ["difficulty"]),
        ({"title": "T", "difficulty": True}, ["difficulty"]),
        ({"title": "T", "difficulty": "3"}, ["difficulty"]),
        ({"title": "T", "difficulty": 3.5}, ["difficulty"]),
        ({"title": "T", "dueAt": "tomorrow"}, ["dueAt"]),
        ({"title": "T", "dueAt": "2026-12-01"}, ["dueAt"]),
        ({"title": "T", "dueAt": "2026-12-01T10:00:00"}, ["dueAt"]),
        ({"title": "T", "dueAt": "0001-01-01T00:00:00+23:59"}, ["dueAt"]),
        ({"title": "T", "dueAt": 1_700_000_000}, ["dueAt"]),
        ({"title": "T", "assignedTo": "ada"}, ["assignedTo"]),
        ({"title": "T", "assignedTo": "usr_\x00"}, ["assignedTo"]),
        ({"title": "T", "status": "approved"}, ["status"]),
        ({"title": "T", "due_at": None}, ["due_at"]),
        ({"title": "", "difficulty": 99, "colour": "red"}, ["title", "difficulty", "colour"]),
    ],
)
async def test_a_task_that_is_not_right_names_its_fields(api: Api, body: dict[str, Any], fields: list[str]) -> None:
    assert fields_of(problem(await api.member.post("/api/tasks", body), 422, "validation_failed")) == fields


@pytest.mark.parametrize("query", ["limit=0", "limit=201", "limit=x", "status=done", "assignedTo=ada"])
async def test_a_parameter_that_is_not_right_is_named(api: Api, query: str) -> None:
    answer = await api.member.get(f"/api/tasks?{query}")
    assert fields_of(problem(answer, 422, "validation_failed")) == [query.partition("=")[0]]


@pytest.mark.parametrize("cursor", ["x", "%00", "dHNr", "dHNrX3g", "====", "ä"])
async def test_a_cursor_that_is_none_of_ours_is_refused(api: Api, cursor: str) -> None:
    answer = await api.member.get(f"/api/tasks?cursor={cursor}")
    assert fields_of(problem(answer, 422, "validation_failed")) == ["cursor"]


@pytest.mark.parametrize("task_id", ["tsk_" + "0" * 32, "tsk_x", "1", "%00", "wh_" + "0" * 32])
async def test_what_does_not_exist_is_not_found(api: Api, task_id: str) -> None:
    problem(await api.member.get(f"/api/tasks/{task_id}"), 404, "not_found")


async def test_a_reason_is_needed_to_reject(api: Api) -> None:
    path = f"/api/tasks/{(await api.new_task())['id']}"
    expect(await api.member.post(f"{path}/complete"), 200)
    for body in ({}, {"reason": ""}, {"reason": " "}, {"reason": "x" * 1001}):
        assert fields_of(problem(await api.admin.post(f"{path}/reject", body), 422, "validation_failed")) == ["reason"]


async def test_a_change_reaches_a_webhook_created_just_before_it(api: Api) -> None:
    # The subscriptions remembered from the first change are refused by the store and read again.
    task = await api.new_task()
    webhook = await api.new_webhook(events=["task.completed"])
    expect(await api.member.post(f"/api/tasks/{task['id']}/start"), 200)
    expect(await api.member.post(f"/api/tasks/{task['id']}/complete"), 200)
    [delivery] = await api.deliveries_of(webhook["id"])
    assert (delivery["event"], delivery["taskIds"], delivery["status"]) == ("task.completed", [task["id"]], "queued")


async def test_a_webhook_gets_no_event_while_it_is_disabled_nor_of_an_origin_it_ignores(api: Api) -> None:
    disabled = await api.new_webhook(enabled=False)
    deaf = await api.new_webhook(ignoreOrigins=["api"])
    await api.new_task()
    assert await api.deliveries_of(disabled["id"]) == []
    assert await api.deliveries_of(deaf["id"]) == []


@pytest.mark.parametrize(
    ("saved", "status", "code"),
    [(Saved.STALE, 409, "version_conflict"), (Saved.WEBHOOKS_MOVED, 503, "store_unavailable")],
)
async def test_a_change_that_always_comes_too_late_is_given_up(
    api: Api, monkeypatch: pytest.MonkeyPatch, saved: Saved, status: int, code: str
) -> None:
    path = f"/api/tasks/{(await api.new_task())['id']}"
    event_ids = set()

    async def too_late(_: str, change: TaskChange, *__: Any, **___: Any) -> Saved:
        event_ids.add(change.event.id)
        return saved

    monkeypatch.setattr(api.store, "save_change", too_late)
    problem(await api.member.post(f"{path}/start"), status, code)
    assert len(event_ids) == 1
