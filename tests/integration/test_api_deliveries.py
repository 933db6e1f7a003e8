"""Deliveries, replays and test sends over HTTP; test sends go through libcurl to a receiver on loopback."""

import asyncio
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from standardwebhooks.webhooks import Webhook as Verifier
from tests.builders import make_outcomes, make_response, make_settled
from tests.fakes import FakeClock, ScriptedSender
from tests.integration.apis import Api, expect, fields_of, opened_api, problem
from tests.receivers import Receiver, raw, status

from gatepost.adapters.system import SystemClock
from gatepost.domain.events import TASK_EVENTS
from gatepost.domain.operator_events import OPERATOR_EVENTS
from gatepost.domain.outcomes import Accepted, ErrorClass, Outcome, Refused, Unreachable
from gatepost.ports import Dropped, LaneAsk, Outgoing

WEBHOOKS = "/api/integrations/webhooks"
OWN_HEADERS = {"Authorization": "Bearer hunter2"}


async def record(api: Api, webhook_id: str, *outcomes: Outcome) -> None:
    """Do what the engine does: make one attempt after the other at the one delivery of a webhook."""
    now = SystemClock().now()
    for outcome in outcomes:
        now += timedelta(days=1)
        leased = await api.store.lease_lanes("eng_1", limit=9, now=now, lease=timedelta(seconds=30))
        [lane] = [lane for lane in leased.lanes if lane.webhook_id == webhook_id]
        read = (await api.store.read_lanes({webhook_id: LaneAsk(9)}, now=now))[webhook_id]
        settled = make_settled(read.deliveries[0], outcome, at=now)
        assert await api.store.record_attempts([make_outcomes(lane, [settled])]) == set()


async def test_a_queued_delivery_shows_what_will_be_sent(api: Api) -> None:
    webhook = await api.new_webhook(headers=OWN_HEADERS)
    task = await api.new_task()
    [delivery] = await api.deliveries_of(webhook["id"])
    assert delivery == {
        "id": delivery["id"],
        "groupId": api.group.id,
        "webhookId": webhook["id"],
        "eventId": delivery["eventId"],
        "event": "task.created",
        "taskIds": [task["id"]],
        "status": "queued",
        "attemptCount": 0,
        "maxAttempts": 10,
        "nextAttemptAt": delivery["createdAt"],
        "lastStatusCode": None,
        "lastErrorClass": None,
        "deadReason": None,
        "replayOf": None,
        "createdAt": task["createdAt"],
        "finishedAt": None,
    }
    detail = expect(await api.admin.get(f"{WEBHOOKS}/{webhook['id']}/deliveries/{delivery['id']}"), 200)
    request = detail.pop("request")
    body = request.pop("body")
    assert body.startswith('{"id":"' + delivery["eventId"] + '","event":"task.created"')
    assert request == {
        "method": "POST",
        "url": "https://hooks.example.com/in",
        "headers": {
            "Content-Type": "application/json",
            "User-Agent": "Gatepost/test",
            "webhook-id": delivery["eventId"],
            "X-Gatepost-Event": "task.created",
            "X-Gatepost-Delivery": delivery["id"],
            "X-Gatepost-Attempt": "1",
            "X-Gatepost-Hop": "1",
            "Authorization": "…",
        },
    }
    assert detail == {**delivery, "attempts": []}


async def test_every_attempt_is_shown_with_what_came_back(api: Api) -> None:
    webhook = await api.new_webhook()
    await api.new_task()
    hostile = make_response(503, headers=(("X-A", "1"), ("x-a", "2")), body=b"\xff\x00<b>", truncated=True)
    await record(api, webhook["id"], Unreachable(ErrorClass.DNS, "secret.internal"), Refused(hostile))
    [delivery] = await api.deliveries_of(webhook["id"])
    assert (delivery["status"], delivery["attemptCount"]) == ("failed", 2)
    assert (delivery["lastStatusCode"], delivery["lastErrorClass"]) == (503, "http_5xx")
    answer = await api.admin.get(f"{WEBHOOKS}/{webhook['id']}/deliveries/{delivery['id']}")
    detail = expect(answer, 200)
    assert "secret.internal" not in answer.text
    assert detail["request"]["headers"]["X-Gatepost-Attempt"] == "2"
    first, second = detail["attempts"]
    assert first == {
        "id": first["id"],
        "number": 1,
        "probe": False,
        "startedAt": first["startedAt"],
        "durationMs": 42,
        "outcome": "unreachable",
        "errorClass": "dns",
        "statusCode": None,
        "responseHeaders": None,
        "responseBody": None,
        "responseTruncated": False,
    }
    assert (second["outcome"], second["statusCode"], second["responseTruncated"]) == ("refused", 503, True)
    assert second["responseHeaders"]["X-A"] == "1, 2"
    assert second["responseBody"] == "\ufffd\x00<b>"


async def test_deliveries_are_listed_by_what_they_are_about(api: Api) -> None:
    webhook, other = await api.new_webhook(), await api.new_webhook(events=["task.completed"])
    first, second = await api.new_task(), await api.new_task()
    expect(await api.member.post(f"/api/tasks/{first['id']}/complete"), 200)

    async def count(path: str, **params: str) -> int:
        return len(expect(await api.admin.get(path, params=params), 200)["items"])

    own, all_of_them = f"{WEBHOOKS}/{webhook['id']}/deliveries", "/api/integrations/deliveries"
    assert (await count(own), await count(all_of_them)) == (3, 4)
    assert await count(f"{WEBHOOKS}/{other['id']}/deliveries") == 1
    for path, expected in ((own, (1, 2, 1, 0)), (all_of_them, (2, 3, 1, 0))):
        assert await count(path, event="task.completed") == expected[0]
        assert await count(path, taskId=first["id"]) == expected[1]
        assert await count(path, taskId=second["id"]) == expected[2]
        assert await count(path, status="delivered") == expected[3]
    created_at = first["createdAt"]
    later = "2999-01-01T00:00:00Z"
    assert await count(own, to=created_at) == 0
    assert await count(own, **{"from": created_at, "to": later}) == 3
    assert await count(own, **{"from": later}) == 0
    page = expect(await api.admin.get(f"{all_of_them}?limit=3"), 200)
    assert await count(all_of_them, cursor=page["nextCursor"]) == 1


@pytest.mark.parametrize(
    "query", ["status=lost", "event=Task", "taskId=1", "from=yesterday", "to=1", "limit=0", "cursor=x"]
)
async def test_a_filter_that_is_not_right_is_named(api: Api, query: str) -> None:
    answer = await api.admin.get(f"/api/integrations/deliveries?{query}")
    assert fields_of(problem(answer, 422, "validation_failed")) == [query.partition("=")[0]]


async def test_a_replay_is_a_new_delivery_of_the_same_event(api: Api) -> None:
    webhook = await api.new_webhook(retryPolicy={"schedule": [1]})
    await api.new_task()
    await record(api, webhook["id"], Accepted(make_response()))
    [delivery] = await api.deliveries_of(webhook["id"])
    replay = expect(await api.admin.post(f"{WEBHOOKS}/{webhook['id']}/replay/{delivery['id']}"), 202)
    assert replay["id"] != delivery["id"]
    assert (replay["replayOf"], replay["eventId"]) == (delivery["id"], delivery["eventId"])
    assert (replay["status"], replay["attemptCount"], replay["maxAttempts"]) == ("queued", 0, 2)
    assert [item["id"] for item in await api.deliveries_of(webhook["id"])] == [replay["id"], delivery["id"]]


async def test_a_replay_needs_an_enabled_webhook_its_own_delivery_and_a_payload_still_kept(api: Api) -> None:
    webhook, other = await api.new_webhook(), await api.new_webhook()
    await api.new_task()
    [delivery] = await api.deliveries_of(webhook["id"])
    path = f"{WEBHOOKS}/{webhook['id']}"
    problem(await api.admin.post(f"{WEBHOOKS}/{other['id']}/replay/{delivery['id']}"), 404, "not_found")
    problem(await api.admin.post(f"{path}/replay/dlv_{'0' * 32}"), 404, "not_found")
    expect(await api.admin.patch(path, {"enabled": False}), 200)
    problem(await api.admin.post(f"{path}/replay/{delivery['id']}"), 409, "webhook_disabled")
    expect(await api.admin.patch(path, {"enabled": True}), 200)
    with closing(sqlite3.connect(api.folder / "gatepost.db")) as database, database:
        database.execute("DELETE FROM events")
    problem(await api.admin.post(f"{path}/replay/{delivery['id']}"), 410, "payload_expired")
    detail = expect(await api.admin.get(f"{path}/deliveries/{delivery['id']}"), 200)
    assert detail["request"]["body"] is None


async def test_a_test_send_arrives_signed_and_is_logged_as_one_attempt(api: Api) -> None:
    async with Receiver() as receiver:
        receiver.answer(raw(b"HTTP/1.1 200 OK\r\nX-A: 1\r\nX-A: 2\r\nContent-Length: 5\r\n\r\nnoted"))
        webhook = await api.new_webhook(targetUrl=receiver.url, headers=OWN_HEADERS, enabled=False)
        result = expect(await api.admin.post(f"{WEBHOOKS}/{webhook['id']}/test"), 200)
    [received] = receiver.requests
    assert received.headers["authorization"] == "Bearer hunter2"
    assert Verifier(webhook["secret"]).verify(received.body, dict(received.headers))["event"] == "webhook.test"
    shown = {name.lower(): value for name, value in result["request"].pop("headers").items()}
    assert shown.pop("authorization") == "…"
    assert shown.items() <= received.headers.items()
    assert {"webhook-signature", "x-signature", "webhook-timestamp"} <= shown.keys()
    assert result == {
        "deliveryId": result["deliveryId"],
        "request": {"method": "POST", "url": receiver.url, "body": received.body.decode()},
        "response": {
            "statusCode": 200,
            "headers": {"X-A": "1, 2", "Content-Length": "5"},
            "body": "noted",
            "truncated": False,
        },
        "errorClass": None,
    }
    [delivery] = await api.deliveries_of(webhook["id"])
    assert (delivery["id"], delivery["event"], delivery["taskIds"]) == (result["deliveryId"], "webhook.test", [])
    assert (delivery["status"], delivery["attemptCount"], delivery["maxAttempts"]) == ("delivered", 1, 1)
    detail = expect(await api.admin.get(f"{WEBHOOKS}/{webhook['id']}/deliveries/{delivery['id']}"), 200)
    [attempt] = detail["attempts"]
    assert (attempt["number"], attempt["outcome"], attempt["responseBody"]) == (1, "accepted", "noted")


@pytest.mark.parametrize("event", [*TASK_EVENTS, *OPERATOR_EVENTS])
async def test_a_test_can_be_a_sample_of_any_event(api: Api, event: str) -> None:
    async with Receiver() as receiver:
        webhook = await api.new_webhook(targetUrl=receiver.url)
        result = expect(await api.admin.post(f"{WEBHOOKS}/{webhook['id']}/test", {"event": event}), 200)
    assert result["response"]["statusCode"] == 200
    assert f'"event":"{event}"'.encode() in receiver.requests[0].body
    assert (await api.deliveries_of(webhook["id"]))[0]["event"] == event


async def test_a_test_that_fails_says_how_and_is_not_tried_again(api: Api) -> None:
    async with Receiver() as receiver:
        receiver.answer(status(500))
        webhook = await api.new_webhook(targetUrl=receiver.url)
        path = f"{WEBHOOKS}/{webhook['id']}/test"
        assert expect(await api.admin.post(path), 200)["errorClass"] == "http_5xx"
    unreachable = expect(await api.admin.post(path), 200)
    assert (unreachable["response"], unreachable["errorClass"]) == (None, "connect")
    for delivery in await api.deliveries_of(webhook["id"]):
        assert (delivery["status"], delivery["deadReason"]) == ("dead-letter", "attempts_exhausted")
        assert delivery["nextAttemptAt"] is None


async def test_an_event_that_gatepost_does_not_have_cannot_be_tested(api: Api) -> None:
    webhook = await api.new_webhook()
    answer = await api.admin.post(f"{WEBHOOKS}/{webhook['id']}/test", {"event": "task.deleted"})
    assert fields_of(problem(answer, 422, "validation_failed")) == ["event"]


async def test_a_target_that_is_no_longer_allowed_is_refused_at_the_test_too(api: Api) -> None:
    webhook = await api.new_webhook()
    with closing(sqlite3.connect(api.folder / "gatepost.db")) as database, database:
        database.execute("UPDATE webhooks SET url = 'http://10.0.0.1/'")
    problem(await api.admin.post(f"{WEBHOOKS}/{webhook['id']}/test"), 422, "target_not_allowed")


async def test_tests_are_limited_for_each_webhook_by_itself(tmp_path: Path, clock: FakeClock) -> None:
    async with opened_api(tmp_path, clock=clock, sender=ScriptedSender(clock)) as api:
        one, other = await api.new_webhook(), await api.new_webhook()
        for _ in range(10):
            clock.advance(1)
            expect(await api.admin.post(f"{WEBHOOKS}/{one['id']}/test"), 200)
        refused = await api.admin.post(f"{WEBHOOKS}/{one['id']}/test")
        problem(refused, 429, "rate_limited")
        assert refused.headers["retry-after"] == "51"
        expect(await api.admin.post(f"{WEBHOOKS}/{other['id']}/test"), 200)
        clock.advance(51)
        expect(await api.admin.post(f"{WEBHOOKS}/{one['id']}/test"), 200)
        problem(await api.admin.post(f"{WEBHOOKS}/{one['id']}/test"), 429, "rate_limited")


class StoppedSender(ScriptedSender):
    """A sender that drops what it is given."""

    def submit(self, batch: Sequence[Outgoing]) -> None:
        for outgoing in batch:
            outgoing.settle(Dropped(), 1_000.0, 0.0)


async def test_a_test_whose_sender_drops_it_is_a_fault_of_ours(tmp_path: Path, clock: FakeClock) -> None:
    async with opened_api(tmp_path, clock=clock, sender=StoppedSender(clock)) as api:
        webhook = await api.new_webhook()
        result = expect(await api.admin.post(f"{WEBHOOKS}/{webhook['id']}/test"), 200)
        assert (result["response"], result["errorClass"]) == (None, "internal_error")


class SilentSender(ScriptedSender):
    """A sender that settles nothing."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self.hold()
        self.submitted = asyncio.Event()

    def submit(self, batch: Sequence[Outgoing]) -> None:
        super().submit(batch)
        self.submitted.set()


async def test_a_test_that_nobody_settles_ends_a_little_after_its_deadline(tmp_path: Path, clock: FakeClock) -> None:
    sender = SilentSender(clock)
    async with opened_api(tmp_path, clock=clock, sender=sender) as api:
        webhook = await api.new_webhook(timeoutSeconds=3)
        sending = asyncio.create_task(api.admin.post(f"{WEBHOOKS}/{webhook['id']}/test"))
        await sender.submitted.wait()
        assert clock.next_alarm == 8
        clock.advance(8)
        assert expect(await sending, 200)["errorClass"] == "internal_error"
        [delivery] = await api.deliveries_of(webhook["id"])
        answer = await api.admin.get(f"{WEBHOOKS}/{webhook['id']}/deliveries/{delivery['id']}")
        [attempt] = expect(answer, 200)["attempts"]
        assert (attempt["startedAt"], attempt["durationMs"]) == (delivery["createdAt"], 8000)
