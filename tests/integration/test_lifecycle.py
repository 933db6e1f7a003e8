"""A task's whole life through the real server: what its receiver is told, in which words, and by whom."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
from standardwebhooks.webhooks import Webhook as Verifier
from tests.commands import Server, server
from tests.receivers import Receiver, Request

from gatepost.domain.signatures import Verdict, parse_secret, verify_plain

FORMATS = jsonschema.Draft202012Validator.FORMAT_CHECKER


class Caller:
    """One API key, calling without holding up the receiver."""

    def __init__(self, served: Server, key: str) -> None:
        self._served = Server(served.store, served.process, served.url, key)
        self.actor_id = "key_" + key.split("_")[1]

    async def __call__(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        return await asyncio.to_thread(self._served.call, method, path, body)

    async def step(self, task: Any, verb: str, **body: Any) -> Any:
        return await self("POST", f"/api/tasks/{task['id']}/{verb}", body)


async def test_a_task_lives_and_two_are_swapped_and_the_receiver_is_told_exactly_that(
    tmp_path: Path, receiver: Receiver
) -> None:
    with server(tmp_path) as served:
        admin = Caller(served, served.key)
        [group] = (await admin("GET", "/api/groups"))["items"]
        path = f"/api/groups/{group['id']}"
        member = Caller(served, (await admin("POST", f"{path}/api-keys", {"role": "member"}))["key"])
        emails = ("ann@example.com", "ben@example.com")
        ann, ben = [
            (await admin("POST", f"{path}/members", {"email": email, "role": "member"}))["userId"] for email in emails
        ]
        webhook = {"name": "All of it", "targetUrl": receiver.url, "events": ["task.*"]}
        secret = (await admin("POST", "/api/integrations/webhooks", webhook))["secret"]

        task = await member("POST", "/api/tasks", {"title": "Water the plants", "assignedTo": ann})
        await member("PUT", f"/api/tasks/{task['id']}", {"difficulty": 3, "version": 1})
        await member.step(task, "start")
        await member.step(task, "complete")
        await admin.step(task, "reject", reason="The balcony is still dry")
        await member.step(task, "complete")
        await admin.step(task, "approve")
        one = await member("POST", "/api/tasks", {"title": "Stairs", "assignedTo": ann})
        other = await member("POST", "/api/tasks", {"title": "Balcony", "assignedTo": ben})
        swap = await admin("POST", "/api/swaps", {"taskId": one["id"], "withTaskId": other["id"]})
        await admin("POST", f"/api/swaps/{swap['id']}/approve")

        requests = await receiver.wait_for(10)
        kept = await admin("GET", "/api/integrations/events")
        types = await admin("GET", "/api/integrations/event-types")

    messages = [request.json() for request in requests]
    assert by_task(messages) == {
        task["id"]: [
            (1, "task.created", member.actor_id),
            (2, "task.updated", member.actor_id),
            (3, "task.updated", member.actor_id),
            (4, "task.completed", member.actor_id),
            (5, "task.rejected", admin.actor_id),
            (6, "task.completed", member.actor_id),
            (7, "task.approved", admin.actor_id),
        ],
        one["id"]: [(1, "task.created", member.actor_id), (2, "task.swapped", admin.actor_id)],
        other["id"]: [(1, "task.created", member.actor_id), (2, "task.swapped", admin.actor_id)],
    }
    assert len(messages) == len({message["id"] for message in messages}) == 10
    assert {(message["origin"], message["groupId"]) for message in messages} == {("api", group["id"])}
    for request in requests:
        must_be_signed(request, secret)
    must_fit(messages, types["items"])
    # What is listed is what was sent.
    for item in kept["items"]:
        item.pop("taskIds")
    assert sorted(kept["items"], key=by_id) == sorted(messages, key=by_id)
    [swapped] = [message["data"] for message in messages if message["event"] == "task.swapped"]
    assert swapped == {
        "swapId": swap["id"],
        "approvedBy": admin.actor_id,
        "tasks": [
            {"id": one["id"], "from": ann, "to": ben, "version": 2},
            {"id": other["id"], "from": ben, "to": ann, "version": 2},
        ],
    }


def by_task(messages: list[Any]) -> dict[str, list[tuple[int, str, str]]]:
    """Return the events of each task in the order of its versions, whatever order they came in."""
    told: defaultdict[str, list[tuple[int, str, str]]] = defaultdict(list)
    for message in messages:
        data = message["data"]
        for about in data.get("tasks", [data]):
            told[about["id"]].append((about["version"], message["event"], message["actorId"]))
    return {task_id: sorted(events) for task_id, events in told.items()}


def by_id(message: Any) -> str:
    return str(message["id"])


def must_be_signed(request: Request, secret: str) -> None:
    """Hold a request to both schemes, by somebody else's verifier and by our own."""
    headers = dict(request.headers)
    message = request.json()
    assert Verifier(secret).verify(request.body, headers) == message
    verdict = verify_plain(
        [parse_secret(secret)],
        timestamp=headers["x-timestamp"],
        signature=headers["x-signature"],
        body=request.body,
        now_seconds=int(headers["webhook-timestamp"]),
    )
    assert verdict is Verdict.VALID
    assert (headers["webhook-id"], headers["x-gatepost-event"]) == (message["id"], message["event"])


def must_fit(messages: list[Any], types: list[Any]) -> None:
    """Hold each message to the schema of its type, as the API gives it."""
    validators = {
        each["event"]: jsonschema.Draft202012Validator(each["schema"], format_checker=FORMATS) for each in types
    }
    for message in messages:
        validators[message["event"]].validate(message)
