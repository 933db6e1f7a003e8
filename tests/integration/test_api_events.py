"""Published events, the list of events, their routing and their types, over HTTP."""

import base64
import json
from typing import Any

import jsonschema
import pytest
from tests.builders import make_operator_event
from tests.integration.apis import Api, expect, fields_of, problem

from gatepost.domain.operator_events import owed_to
from gatepost.ports import Saved

EVENTS = "/api/integrations/events"
PAID = {"event": "order.paid", "data": {"orderId": "A-1017", "total": 49.9}}


async def published(api: Api, **body: Any) -> str:
    return str(expect(await api.admin.post(EVENTS, {**PAID, **body}), 202)["id"])


async def listed(api: Api, **query: Any) -> list[Any]:
    return list(expect(await api.admin.get(EVENTS, params=query), 200)["items"])


async def routing_of(api: Api, event_id: str) -> dict[str, str]:
    """Return the verdict on each webhook, by its name."""
    items = expect(await api.admin.get(f"{EVENTS}/{event_id}/routing"), 200)["items"]
    return {item["name"]: item["verdict"] for item in items}


# --- publishing ----------------------------------------------------------------------------------------------


async def test_a_published_event_is_queued_for_those_who_want_it_and_listed(api: Api) -> None:
    wanting, other = await api.new_webhook(events=["order.*"]), await api.new_webhook(events=["task.*"])

    event_id = await published(api, groupId=api.group.id, id="order-A-1017")

    [delivery] = await api.deliveries_of(wanting["id"])
    assert (delivery["eventId"], delivery["event"], delivery["taskIds"]) == ("order-A-1017", "order.paid", [])
    assert await api.deliveries_of(other["id"]) == []
    detail = await api.admin.get(f"/api/integrations/webhooks/{wanting['id']}/deliveries/{delivery['id']}")
    message = json.loads(expect(detail, 200)["request"]["body"])
    assert message == {
        "id": event_id,
        "event": "order.paid",
        "groupId": api.group.id,
        "timestamp": message["timestamp"],
        "actorId": message["actorId"],
        "origin": "api",
        "data": PAID["data"],
    }
    assert message["actorId"].startswith("key_")
    assert await listed(api) == [{**message, "taskIds": []}]


async def test_an_event_without_an_id_gets_one(api: Api) -> None:
    event_id = await published(api)
    assert event_id.startswith("evt_")
    assert [event["id"] for event in await listed(api)] == [event_id]


async def test_an_id_is_published_once_whatever_comes_under_it_later(api: Api) -> None:
    webhook = await api.new_webhook()
    first = await published(api, id="A-1")
    again = await published(api, id="A-1", event="order.refunded", data={"another": True})
    assert (first, again) == ("A-1", "A-1")
    [event] = await listed(api)
    assert (event["event"], event["data"]) == ("order.paid", PAID["data"])
    assert len(await api.deliveries_of(webhook["id"])) == 1


async def test_two_groups_may_use_one_id(api: Api) -> None:
    await published(api, id="A-1")
    expect(await api.other_admin.post(EVENTS, {**PAID, "id": "A-1"}), 202)
    theirs = expect(await api.other_admin.get(EVENTS), 200)["items"]
    assert [event["groupId"] for event in (*await listed(api), *theirs)] == [api.group.id, api.other_group.id]


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"event": "order"}, ["event"]),
        ({"event": "Order.paid"}, ["event"]),
        ({"event": "order.paid\n"}, ["event"]),
        ({"event": "a." + "b" * 99}, ["event"]),
        ({"event": "task.created"}, ["event"]),
        ({"event": "webhook.test"}, ["event"]),
        ({"event": "delivery.dead_lettered"}, ["event"]),
        ({"event": None}, ["event"]),
        ({"id": ""}, ["id"]),
        ({"id": "x" * 65}, ["id"]),
        ({"id": "a.b"}, ["id"]),
        ({"id": "a\n"}, ["id"]),
        ({"id": 7}, ["id"]),
        ({"data": None}, ["data"]),
        ({"data": []}, ["data"]),
        ({"data": "text"}, ["data"]),
        ({"more": 1}, ["more"]),
    ],
)
async def test_an_event_that_is_not_right_names_its_fields(api: Api, body: Any, fields: list[str]) -> None:
    assert fields_of(problem(await api.admin.post(EVENTS, {**PAID, **body}), 422, "validation_failed")) == fields
    assert await listed(api) == []


@pytest.mark.parametrize(
    "data",
    [
        '{"a": NaN}',
        '{"a": [Infinity]}',
        '{"a": {"b": -Infinity}}',
        '{"a": 1e999}',
        '{"a": ' + "9" * 5000 + "}",
        '{"a": "\\ud800"}',
        '{"a": ' + "[" * 5000 + "]" * 5000 + "}",
        '{"a": ' + '{"a":' * 3000 + "1" + "}" * 3000 + "}",
    ],
    ids=["nan", "infinity", "deep infinity", "overflow", "digits", "surrogate", "arrays", "objects"],
)
async def test_data_that_is_no_json_for_everybody_is_refused(api: Api, data: str) -> None:
    answer = await api.admin(
        "POST", EVENTS, content=f'{{"event":"a.b","data":{data}}}', headers={"Content-Type": "application/json"}
    )
    assert expect(answer, 422)["code"] in ("validation_failed", "malformed_json")
    assert await listed(api) == []


async def test_large_numbers_and_odd_characters_come_through(api: Api) -> None:
    data = {"big": 2**80, "small": 1e-300, "text": "\x00 \u2028 🌹", "": None, "nested": [[{"a": True}]]}
    await published(api, data=data)
    assert (await listed(api))[0]["data"] == data


async def test_an_event_over_64_kib_is_too_large_and_one_of_64_kib_is_not(api: Api) -> None:
    await published(api, id="A-1", data={"text": ""})
    [event] = await listed(api)
    event.pop("taskIds")
    room = 64 * 1024 - len(json.dumps(event, separators=(",", ":")))
    problem(
        await api.admin.post(EVENTS, {**PAID, "id": "A-2", "data": {"text": "x" * (room + 1)}}),
        413,
        "payload_too_large",
    )
    await published(api, id="A-3", data={"text": "x" * room})
    assert [event["id"] for event in await listed(api)] == ["A-3", "A-1"]


async def test_only_admins_publish_look_and_ask(api: Api) -> None:
    event_id = await published(api)
    for answer in (
        await api.member.post(EVENTS, PAID),
        await api.member.get(EVENTS),
        await api.member.get(f"{EVENTS}/{event_id}/routing"),
    ):
        problem(answer, 403, "forbidden")


# --- the list ------------------------------------------------------------------------------------------------


async def test_events_are_listed_as_receivers_get_them_with_their_tasks(api: Api) -> None:
    task = await api.new_task()
    [event] = await listed(api)
    history = task.pop("history")
    assert event == {
        "id": event["id"],
        "event": "task.created",
        "groupId": api.group.id,
        "timestamp": task["createdAt"],
        "actorId": history[0]["actorId"],
        "origin": "api",
        "data": {**task, "changes": history[0]["changes"]},
        "taskIds": [task["id"]],
    }


async def test_events_are_listed_by_type_and_by_task(api: Api) -> None:
    task, other = await api.new_task(), await api.new_task()
    expect(await api.member.post(f"/api/tasks/{task['id']}/complete"), 200)
    await published(api)

    async def found(**query: Any) -> list[tuple[str, list[str]]]:
        return [(event["event"], event["taskIds"]) for event in await listed(api, **query)]

    ours, theirs = [task["id"]], [other["id"]]
    assert sorted(await found(event="task.created")) == sorted([("task.created", ours), ("task.created", theirs)])
    assert sorted(await found(taskId=task["id"])) == [("task.completed", ours), ("task.created", ours)]
    assert await found(taskId=task["id"], event="task.completed") == [("task.completed", ours)]
    assert await found(event="order.paid", groupId=api.group.id) == [("order.paid", [])]
    assert await found(taskId="tsk_" + "0" * 32) == []


async def test_events_are_listed_newest_first_in_pages_whatever_their_ids(api: Api) -> None:
    for event_id in ("m", "a", "z", "-", "B"):
        await published(api, id=event_id)
    seen, cursor = [], None
    while True:
        page = expect(await api.admin.get(EVENTS, params={"limit": 2} | ({"cursor": cursor} if cursor else {})), 200)
        seen += [(event["timestamp"], event["id"]) for event in page["items"]]
        cursor = page["nextCursor"]
        if cursor is None:
            break
    assert len(seen) == 5
    assert seen == sorted(seen, reverse=True)


@pytest.mark.parametrize(
    "cursor",
    ["x", "%00", "dHNr", "====", "ä", *(base64.urlsafe_b64encode(text).decode() for text in (b"1", b"1.\x00", b"a.b"))],
)
async def test_a_cursor_that_is_none_of_ours_is_refused(api: Api, cursor: str) -> None:
    answer = await api.admin.get(f"{EVENTS}?cursor={cursor}")
    assert fields_of(problem(answer, 422, "validation_failed")) == ["cursor"]


@pytest.mark.parametrize("query", ["event=task", "event=*", "taskId=1", "limit=0"])
async def test_a_parameter_that_is_not_right_is_named(api: Api, query: str) -> None:
    answer = await api.admin.get(f"{EVENTS}?{query}")
    assert fields_of(problem(answer, 422, "validation_failed")) == [query.partition("=")[0]]


# --- routing -------------------------------------------------------------------------------------------------


async def test_every_webhook_of_the_group_says_why_it_did_or_did_not_get_an_event(api: Api) -> None:
    wanting = await api.new_webhook(name="wanting", events=["task.*"])
    await api.new_webhook(name="another", events=["order.*"])
    await api.new_webhook(name="deaf", ignoreOrigins=["api"])
    await api.new_webhook(name="off", enabled=False)
    task = await api.new_task()
    await api.new_webhook(name="later")

    [event] = await listed(api)
    answer = expect(await api.admin.get(f"{EVENTS}/{event['id']}/routing"), 200)

    [delivery] = await api.deliveries_of(wanting["id"])
    assert delivery["taskIds"] == [task["id"]]
    assert {name: answer[name] for name in ("eventId", "event", "origin")} == {
        "eventId": event["id"],
        "event": "task.created",
        "origin": "api",
    }
    assert [(item["name"], item["verdict"], item["deliveryId"]) for item in answer["items"]] == [
        ("later", "created_later", None),
        ("off", "disabled", None),
        ("deaf", "origin_ignored", None),
        ("another", "not_selected", None),
        ("wanting", "queued", delivery["id"]),
    ]
    assert answer["items"][-1]["webhookId"] == wanting["id"]


async def test_the_routing_of_an_event_is_of_then_and_not_of_now(api: Api) -> None:
    hook = await api.new_webhook(name="hook", events=["order.*"])
    path = f"/api/integrations/webhooks/{hook['id']}"
    await published(api, id="wanted")
    expect(await api.admin.patch(path, {"events": ["task.*"]}), 200)
    await published(api, id="unwanted")
    expect(await api.admin.patch(path, {"enabled": False}), 200)
    await published(api, id="while-off")
    assert [await routing_of(api, event_id) for event_id in ("wanted", "unwanted", "while-off")] == [
        {"hook": "queued"},
        {"hook": "not_selected"},
        {"hook": "disabled"},
    ]


async def test_a_webhook_that_asks_to_be_told_of_itself_is_told_why_it_was_not(api: Api) -> None:
    failing = await api.new_webhook(name="failing", events=["webhook.*"])
    await api.new_webhook(name="hearing", events=["webhook.degraded"])
    webhook = await api.store.webhook(api.group.id, failing["id"])
    assert webhook is not None
    event, subscriptions = make_operator_event(webhook), await api.store.subscriptions(api.group.id)

    owed = owed_to(subscriptions.items, event, about=webhook.id)
    saved = await api.store.publish(api.group.id, event, owed, webhooks_version=subscriptions.version)

    assert saved is Saved.DONE
    assert await routing_of(api, event.id) == {"hearing": "queued", "failing": "about_itself"}


async def test_an_event_that_does_not_exist_has_no_routing(api: Api) -> None:
    await published(api, id="A-1")
    for event_id in ("A-2", "x" * 65, "a.b", "%00"):
        problem(await api.admin.get(f"{EVENTS}/{event_id}/routing"), 404, "not_found")
    problem(await api.other_admin.get(f"{EVENTS}/A-1/routing"), 404, "not_found")


# --- types ---------------------------------------------------------------------------------------------------


async def test_anybody_signed_in_may_read_what_can_be_sent(api: Api) -> None:
    answer = expect(await api.member.get("/api/integrations/event-types"), 200)
    assert answer["nextCursor"] is None
    assert [each["event"] for each in answer["items"]] == [
        "task.created",
        "task.updated",
        "task.completed",
        "task.approved",
        "task.rejected",
        "task.swapped",
        "webhook.degraded",
        "webhook.suspended",
        "webhook.disabled",
        "webhook.recovered",
        "delivery.dead_lettered",
        "webhook.test",
    ]
    for each in answer["items"]:
        assert each["description"]
        jsonschema.Draft202012Validator.check_schema(each["schema"])
        checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
        jsonschema.Draft202012Validator(each["schema"], format_checker=checker).validate(each["example"])
    assert answer == expect(await api.other_admin.get("/api/integrations/event-types"), 200)
    problem(await api.stranger.get("/api/integrations/event-types"), 401, "unauthenticated")
