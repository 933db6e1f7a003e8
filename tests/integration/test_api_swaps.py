"""Swaps over HTTP."""

import asyncio
from typing import Any

import pytest
from tests.integration.apis import Api, expect, fields_of, problem

from gatepost.domain.groups import Role
from gatepost.domain.swaps import Swap
from gatepost.ports import Saved


async def two_tasks(api: Api) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return two tasks that are assigned to two people."""
    return (
        await api.new_task(title="Stairs", assignedTo=await api.new_person()),
        await api.new_task(title="Balcony", assignedTo=await api.new_person()),
    )


async def propose(api: Api, task: dict[str, Any], other: dict[str, Any], **more: Any) -> dict[str, Any]:
    body = {"taskId": task["id"], "withTaskId": other["id"], **more}
    return expect(await api.admin.post("/api/swaps", body), 201)


async def assignees(api: Api, *tasks: dict[str, Any]) -> list[str]:
    return [expect(await api.member.get(f"/api/tasks/{task['id']}"), 200)["assignedTo"] for task in tasks]


async def test_an_approved_swap_exchanges_the_assignees(api: Api) -> None:
    task, other = await two_tasks(api)
    webhook = await api.new_webhook(events=["task.swapped"])

    swap = await propose(api, task, other, reason="Ben is on holiday", groupId=api.group.id)
    assert await assignees(api, task, other) == [task["assignedTo"], other["assignedTo"]]
    approved = expect(await api.admin.post(f"/api/swaps/{swap['id']}/approve"), 200)

    key_id = swap["proposedBy"]
    assert swap == {
        "id": swap["id"],
        "groupId": api.group.id,
        "taskId": task["id"],
        "withTaskId": other["id"],
        "assignedTo": task["assignedTo"],
        "withAssignedTo": other["assignedTo"],
        "reason": "Ben is on holiday",
        "status": "pending",
        "proposedBy": key_id,
        "decidedBy": None,
        "createdAt": swap["createdAt"],
        "decidedAt": None,
    }
    assert key_id.startswith("key_")
    decided = {"status": "approved", "decidedBy": key_id, "decidedAt": approved["decidedAt"]}
    assert approved == {**swap, **decided}
    assert expect(await api.member.get(f"/api/swaps/{swap['id']}"), 200) == approved
    assert await assignees(api, task, other) == [other["assignedTo"], task["assignedTo"]]
    [delivery] = await api.deliveries_of(webhook["id"])
    assert (delivery["event"], sorted(delivery["taskIds"])) == ("task.swapped", sorted([task["id"], other["id"]]))
    entry = expect(await api.member.get(f"/api/tasks/{task['id']}"), 200)["history"][-1]
    assert (entry["version"], entry["event"], entry["actorId"]) == (2, "task.swapped", key_id)
    assert entry["changes"] == {"assignedTo": {"from": task["assignedTo"], "to": other["assignedTo"]}}


async def test_a_rejected_swap_changes_nothing_and_frees_its_tasks(api: Api) -> None:
    task, other = await two_tasks(api)
    webhook = await api.new_webhook()
    swap = await propose(api, task, other)

    rejected = expect(await api.admin.post(f"/api/swaps/{swap['id']}/reject"), 200)

    assert (rejected["status"], rejected["decidedBy"]) == ("rejected", swap["proposedBy"])
    assert await assignees(api, task, other) == [task["assignedTo"], other["assignedTo"]]
    assert await api.deliveries_of(webhook["id"]) == []
    await propose(api, other, task)


async def test_of_two_approvals_at_once_one_wins(api: Api) -> None:
    task, other = await two_tasks(api)
    webhook = await api.new_webhook(events=["task.swapped"])
    swap = await propose(api, task, other)

    answers = await asyncio.gather(*(api.admin.post(f"/api/swaps/{swap['id']}/approve") for _ in range(2)))

    assert sorted(answer.status_code for answer in answers) == [200, 409]
    problem(max(answers, key=lambda answer: answer.status_code), 409, "swap_decided")
    assert await assignees(api, task, other) == [other["assignedTo"], task["assignedTo"]]
    assert len(await api.deliveries_of(webhook["id"])) == 1


async def test_an_approval_and_a_rejection_at_once_do_not_both_win(api: Api) -> None:
    task, other = await two_tasks(api)
    swap = await propose(api, task, other)
    path = f"/api/swaps/{swap['id']}"

    answers = await asyncio.gather(api.admin.post(f"{path}/approve"), api.admin.post(f"{path}/reject"))

    assert sorted(answer.status_code for answer in answers) == [200, 409]
    problem(max(answers, key=lambda answer: answer.status_code), 409, "swap_decided")
    status = expect(await api.admin.get(path), 200)["status"]
    before = [task["assignedTo"], other["assignedTo"]]
    assert await assignees(api, task, other) == (before[::-1] if status == "approved" else before)


async def test_what_is_decided_cannot_be_decided_again(api: Api) -> None:
    swap = await propose(api, *await two_tasks(api))
    expect(await api.admin.post(f"/api/swaps/{swap['id']}/reject"), 200)
    for verb in ("approve", "reject"):
        problem(await api.admin.post(f"/api/swaps/{swap['id']}/{verb}"), 409, "swap_decided")


@pytest.mark.parametrize("change", ["started", "reassigned", "deleted"])
async def test_a_swap_whose_task_has_changed_is_stale_until_it_is_rejected(api: Api, change: str) -> None:
    task, other = await two_tasks(api)
    swap = await propose(api, task, other)
    path = f"/api/tasks/{other['id']}"
    if change == "started":
        expect(await api.member.post(f"{path}/start"), 200)
    elif change == "reassigned":
        expect(await api.member.put(path, {"assignedTo": await api.new_person()}), 200)
    else:
        assert (await api.member.delete(path)).status_code == 204

    problem(await api.admin.post(f"/api/swaps/{swap['id']}/approve"), 409, "swap_stale")

    assert expect(await api.member.get(f"/api/swaps/{swap['id']}"), 200)["status"] == "pending"
    assert await assignees(api, task) == [task["assignedTo"]]
    expect(await api.admin.post(f"/api/swaps/{swap['id']}/reject"), 200)


async def test_a_task_is_in_one_pending_swap_at_most(api: Api) -> None:
    task, other = await two_tasks(api)
    third = await api.new_task(assignedTo=await api.new_person())
    await propose(api, task, other)
    for pair in ((task, other), (other, third), (third, task)):
        body = {"taskId": pair[0]["id"], "withTaskId": pair[1]["id"]}
        assert "pending swap" in problem(await api.admin.post("/api/swaps", body), 409, "invalid_transition")["detail"]


async def test_of_two_proposals_at_once_one_wins(api: Api) -> None:
    task, other = await two_tasks(api)
    third = await api.new_task(assignedTo=await api.new_person())
    answers = await asyncio.gather(
        *(api.admin.post("/api/swaps", {"taskId": task["id"], "withTaskId": each["id"]}) for each in (other, third))
    )
    assert sorted(answer.status_code for answer in answers) == [201, 409]
    assert len(expect(await api.member.get("/api/swaps"), 200)["items"]) == 1


async def test_tasks_that_cannot_be_swapped_are_named(api: Api) -> None:
    task, other = await two_tasks(api)
    same = await api.new_task(assignedTo=task["assignedTo"])
    nobodys = await api.new_task()

    async def refused(first: dict[str, Any], second: dict[str, Any]) -> Any:
        answer = await api.admin.post("/api/swaps", {"taskId": first["id"], "withTaskId": second["id"]})
        return fields_of(problem(answer, 422, "validation_failed"))

    assert await refused(task, task) == ["withTaskId"]
    assert await refused(task, same) == ["withTaskId"]
    assert await refused(task, nobodys) == ["withTaskId"]
    assert await refused(nobodys, other) == ["taskId"]
    expect(await api.member.post(f"/api/tasks/{other['id']}/complete"), 200)
    expect(await api.admin.post(f"/api/tasks/{other['id']}/approve"), 200)
    body = {"taskId": task["id"], "withTaskId": other["id"]}
    problem(await api.admin.post("/api/swaps", body), 409, "invalid_transition")


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, ["taskId", "withTaskId"]),
        ({"taskId": "tsk_1", "withTaskId": None}, ["taskId", "withTaskId"]),
        ({"taskId": "tsk_" + "0" * 32, "withTaskId": "tsk_" + "0" * 31 + "\x00"}, ["withTaskId"]),
        ({"taskId": "tsk_" + "0" * 32, "withTaskId": "tsk_" + "1" * 32, "reason": "x" * 1001}, ["reason"]),
    ],
)
async def test_a_proposal_that_is_not_right_names_its_fields(api: Api, body: Any, fields: list[str]) -> None:
    assert fields_of(problem(await api.admin.post("/api/swaps", body), 422, "validation_failed")) == fields


async def test_a_reason_that_no_store_can_hold_is_named(api: Api) -> None:
    task, other = await two_tasks(api)
    body = {"taskId": task["id"], "withTaskId": other["id"], "reason": "a\x00b"}
    assert fields_of(problem(await api.admin.post("/api/swaps", body), 422, "validation_failed")) == ["reason"]


async def test_what_does_not_exist_is_not_found(api: Api) -> None:
    task, _ = await two_tasks(api)
    nothing = "tsk_" + "0" * 32
    for body in ({"taskId": nothing, "withTaskId": task["id"]}, {"taskId": task["id"], "withTaskId": nothing}):
        problem(await api.admin.post("/api/swaps", body), 404, "not_found")
    swap = await propose(api, *await two_tasks(api))
    for swap_id in ("swp_" + "0" * 32, "swp_x"):
        problem(await api.member.get(f"/api/swaps/{swap_id}"), 404, "not_found")
        problem(await api.admin.post(f"/api/swaps/{swap_id}/approve"), 404, "not_found")
    for verb in ("approve", "reject"):
        problem(await api.other_admin.post(f"/api/swaps/{swap['id']}/{verb}"), 404, "not_found")


async def test_an_assignee_proposes_and_an_admin_decides(api: Api) -> None:
    browser, ann = await api.signed_in(Role.MEMBER)
    another, _ = await api.signed_in(Role.MEMBER)
    mine = await api.new_task(assignedTo=ann.id)
    theirs = await api.new_task(assignedTo=await api.new_person())
    body = {"taskId": theirs["id"], "withTaskId": mine["id"]}

    problem(await another.post("/api/swaps", body), 403, "forbidden")
    problem(await api.member.post("/api/swaps", body), 403, "forbidden")
    swap = expect(await browser.post("/api/swaps", body), 201)

    assert swap["proposedBy"] == ann.id
    for verb in ("approve", "reject"):
        problem(await browser.post(f"/api/swaps/{swap['id']}/{verb}"), 403, "forbidden")
    expect(await api.admin.post(f"/api/swaps/{swap['id']}/approve"), 200)
    assert (await assignees(api, mine))[0] == theirs["assignedTo"]


async def test_what_a_browser_does_has_its_origin_in_the_event(api: Api) -> None:
    browser, ann = await api.signed_in(Role.MEMBER)
    deaf = await api.new_webhook(ignoreOrigins=["ui"])
    expect(await browser.post("/api/tasks", {"title": "Mine"}), 201)
    [event] = expect(await api.admin.get("/api/integrations/events"), 200)["items"]
    assert (event["origin"], event["actorId"]) == ("ui", ann.id)
    assert await api.deliveries_of(deaf["id"]) == []


async def test_swaps_are_listed_newest_first_by_status_in_pages(api: Api) -> None:
    made = [(await propose(api, *await two_tasks(api)))["id"] for _ in range(3)]
    expect(await api.admin.post(f"/api/swaps/{made[1]}/reject"), 200)

    async def listed(**query: Any) -> Any:
        return expect(await api.member.get("/api/swaps", params=query), 200)

    assert [item["id"] for item in (await listed())["items"]] == made[::-1]
    assert [item["id"] for item in (await listed(status="pending"))["items"]] == [made[2], made[0]]
    assert [item["id"] for item in (await listed(status="rejected"))["items"]] == [made[1]]
    first = await listed(limit=2, groupId=api.group.id)
    second = await listed(limit=2, cursor=first["nextCursor"])
    assert [item["id"] for page in (first, second) for item in page["items"]] == made[::-1]
    assert second["nextCursor"] is None
    assert expect(await api.other_admin.get("/api/swaps"), 200)["items"] == []


async def test_a_proposal_made_again_under_its_key_is_answered_as_before_whatever_has_been_decided(api: Api) -> None:
    task, other = await two_tasks(api)
    body = {"taskId": task["id"], "withTaskId": other["id"]}
    headers = {"Idempotency-Key": "swap-1"}
    lost = api.services.requests.keep  # the answer is never kept: the process died before

    async def not_kept(*_: Any) -> Any:
        raise ConnectionResetError

    api.services.requests.keep = not_kept
    problem(await api.admin.post("/api/swaps", body, headers=headers), 500, "internal")
    api.services.requests.keep = lost
    [swap] = expect(await api.admin.get("/api/swaps"), 200)["items"]
    expect(await api.admin.post(f"/api/swaps/{swap['id']}/approve"), 200)

    assert expect(await api.admin.post("/api/swaps", body, headers=headers), 201) == swap
    assert len(expect(await api.admin.get("/api/swaps"), 200)["items"]) == 1


async def test_a_proposal_of_tasks_that_keep_changing_is_given_up(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    task, other = await two_tasks(api)
    proposed: set[str] = set()

    async def too_late(_: str, swap: Swap) -> Saved:
        proposed.add(swap.id)
        return Saved.STALE

    monkeypatch.setattr(api.store, "add_swap", too_late)
    body = {"taskId": task["id"], "withTaskId": other["id"]}
    problem(await api.admin.post("/api/swaps", body), 409, "version_conflict")
    assert len(proposed) == 1


async def test_an_approval_survives_a_webhook_that_is_written_meanwhile(api: Api) -> None:
    task, other = await two_tasks(api)
    swap = await propose(api, task, other)
    webhook = await api.new_webhook(events=["task.swapped"])  # the matcher remembers the time before
    expect(await api.admin.post(f"/api/swaps/{swap['id']}/approve"), 200)
    assert len(await api.deliveries_of(webhook["id"])) == 1


async def test_who_owns_a_group_decides_on_swaps_too(api: Api) -> None:
    browser, ann = await api.signed_in(Role.OWNER)
    swap = await propose(api, *await two_tasks(api))
    decided = expect(await browser.post(f"/api/swaps/{swap['id']}/approve"), 200)
    assert decided["decidedBy"] == ann.id
