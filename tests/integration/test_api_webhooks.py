"""Webhooks over HTTP."""

import asyncio
import base64
from pathlib import Path
from typing import Any

import pytest
from tests.fakes import FakeClock, ScriptedSender
from tests.integration.apis import Api, expect, fields_of, opened_api, problem

from gatepost.ports import Saved

WEBHOOKS = "/api/integrations/webhooks"
BODY = {"name": "Rota", "targetUrl": "https://hooks.example.com/in", "events": ["task.*"]}
SECRET = "whsec_" + base64.b64encode(bytes(range(24))).decode()


async def test_a_created_webhook_shows_its_defaults_and_its_secret_this_once(api: Api) -> None:
    created = expect(await api.admin.post(WEBHOOKS, {**BODY, "groupId": api.group.id}), 201)
    secret = created.pop("secret")
    assert secret.startswith("whsec_")
    assert len(base64.b64decode(secret.removeprefix("whsec_"))) == 32
    assert created == {
        "id": created["id"],
        "groupId": api.group.id,
        "name": "Rota",
        "targetUrl": "https://hooks.example.com/in",
        "enabled": True,
        "events": ["task.*"],
        "headers": {},
        "retryPolicy": {"schedule": [5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400]},
        "timeoutSeconds": 15,
        "maxConcurrency": 10,
        "rateLimitPerSecond": None,
        "preserveTaskOrder": False,
        "ignoreOrigins": [],
        "health": "healthy",
        "disabledReason": None,
        "createdAt": created["createdAt"],
        "updatedAt": created["createdAt"],
        "secretHint": "…" + secret.rstrip("=")[-4:],
    }
    assert expect(await api.admin.get(f"{WEBHOOKS}/{created['id']}"), 200) == created
    assert expect(await api.admin.get(WEBHOOKS), 200) == {"items": [created], "nextCursor": None}


async def test_everything_about_a_webhook_can_be_given_at_creation(api: Api) -> None:
    given = {
        "enabled": False,
        "headers": {"Authorization": "Bearer xyz", "X-Team": "night"},
        "retryPolicy": {"schedule": [0.5, 10]},
        "timeoutSeconds": 30,
        "maxConcurrency": 1,
        "rateLimitPerSecond": 1000,
        "preserveTaskOrder": False,
        "ignoreOrigins": ["ui", "inbound:jira"],
    }
    created = expect(await api.admin.post(WEBHOOKS, {**BODY, **given, "secret": SECRET}), 201)
    assert created["secret"] == SECRET
    assert created["headers"] == {"Authorization": None, "X-Team": None}
    assert (created["health"], created["disabledReason"]) == ("disabled", "admin")
    shown = {name: created[name] for name in given if name != "headers"}
    assert shown == {name: value for name, value in given.items() if name != "headers"}


async def test_attempts_and_backoff_show_as_the_schedule_they_mean(api: Api) -> None:
    webhook = await api.new_webhook(retryPolicy={"maxAttempts": 4, "backoffSeconds": 10})
    assert webhook["retryPolicy"] == {"schedule": [10, 40, 160]}


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"name": ""}, "name"),
        ({"name": " "}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"events": []}, "events"),
        ({"events": ["Task.Created"]}, "events.0"),
        ({"events": ["task.created", "task*"]}, "events.1"),
        ({"events": "task.created"}, "events"),
        ({"enabled": "yes"}, "enabled"),
        ({"enabled": None}, "enabled"),
        ({"timeoutSeconds": 31}, "timeoutSeconds"),
        ({"timeoutSeconds": 1.5}, "timeoutSeconds"),
        ({"maxConcurrency": 0}, "maxConcurrency"),
        ({"maxConcurrency": 101}, "maxConcurrency"),
        ({"rateLimitPerSecond": 1001}, "rateLimitPerSecond"),
        ({"ignoreOrigins": ["moon"]}, "ignoreOrigins.0"),
        ({"retryPolicy": {}}, "retryPolicy"),
        ({"retryPolicy": {"maxAttempts": 3}}, "retryPolicy"),
        ({"retryPolicy": {"maxAttempts": 3, "backoffSeconds": 1, "schedule": [1]}}, "retryPolicy"),
        ({"retryPolicy": {"maxAttempts": 21, "backoffSeconds": 1}}, "retryPolicy.maxAttempts"),
        ({"retryPolicy": {"schedule": [1] * 20}}, "retryPolicy.schedule"),
        ({"retryPolicy": {"schedule": [1, 0.05]}}, "retryPolicy.schedule.1"),
        ({"preserveTaskOrder": "yes"}, "preserveTaskOrder"),
        ({"headers": {"X Team": "a"}}, "headers.X Team"),
        ({"headers": {"X-Team": "a\r\nHost: b"}}, "headers.X-Team"),
        ({"headers": {"X-Team": "a\x00"}}, "headers.X-Team"),
        ({"headers": {"X-Team": "ä"}}, "headers.X-Team"),
        ({"headers": {"X-Team": ""}}, "headers.X-Team"),
        ({"headers": {"X-Team": None}}, "headers.X-Team"),
        ({"headers": {"X-Team": "x" * 4097}}, "headers.X-Team"),
        ({"headers": {f"X-{n}": "a" for n in range(21)}}, "headers"),
        ({"secret": "whsec_short"}, "secret"),
        ({"secret": "x" * 40}, "secret"),
        ({"health": "healthy"}, "health"),
        ({"targetUrl": None}, "targetUrl"),
    ],
)
async def test_a_webhook_that_is_not_right_names_its_field(api: Api, fields: dict[str, Any], wrong: str) -> None:
    answer = await api.admin.post(WEBHOOKS, {**BODY, **fields})
    assert fields_of(problem(answer, 422, "validation_failed")) == [wrong]


@pytest.mark.parametrize("name", ["Host", "x_signature", "webhook-id", "Cookie", "X-Gatepost-Hop", "Content-Type"])
async def test_a_header_that_is_gateposts_to_set_is_refused(api: Api, name: str) -> None:
    answer = await api.admin.post(WEBHOOKS, {**BODY, "headers": {name: "a"}})
    assert fields_of(problem(answer, 422, "reserved_header")) == [f"headers.{name}"]


# The rows S1, S2, S3 and S7 of the threat model; the whole table is tested beside the rules.
@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.1/",
        "http://169.254.169.254/latest/meta-data",
        "http://[::1]/",
        "http://127.0.0.1:1/",  # our own listener, in an allowed network
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0177.0.0.1/",
        "http://127.1/",
        "http://[::ffff:10.0.0.1]/",
        "http://[64:ff9b::a00:1]/",
        "http://[2002:a00:1::]/",
        "https://user:pass@hooks.example.com/",
        "https://hooks.example.com\\@10.0.0.1/",
        "https://hooks.example.com#@10.0.0.1/",
        "https://hooks.example.com/\r\nX: y",
        "https://hooks.example.com/%00".replace("%00", "\x00"),
        "https:///in",
        "https://①②⑦.0.0.1/",
        "ftp://hooks.example.com/",
        "javascript:alert(1)",
        "",
    ],
)
async def test_a_target_that_must_not_be_called_is_refused_at_create_and_at_update(api: Api, url: str) -> None:
    webhook = await api.new_webhook()
    path = f"{WEBHOOKS}/{webhook['id']}"
    for answer in (
        await api.admin.post(WEBHOOKS, {**BODY, "targetUrl": url}),
        await api.admin.put(path, {**BODY, "targetUrl": url}),
        await api.admin.patch(path, {"targetUrl": url}),
    ):
        assert answer.status_code == 422
        assert answer.json()["code"] in ("validation_failed", "target_not_allowed")
        assert fields_of(answer.json()) == ["targetUrl"]
    assert expect(await api.admin.get(path), 200)["targetUrl"] == BODY["targetUrl"]


async def test_a_literal_address_that_is_not_public_has_its_own_code(api: Api) -> None:
    problem(await api.admin.post(WEBHOOKS, {**BODY, "targetUrl": "http://10.0.0.1/"}), 422, "target_not_allowed")


async def test_a_put_sets_everything_and_the_rest_to_defaults(api: Api) -> None:
    webhook = await api.new_webhook(timeoutSeconds=5, ignoreOrigins=["ui"], headers={"X-Team": "a"}, enabled=False)
    replaced = expect(await api.admin.put(f"{WEBHOOKS}/{webhook['id']}", BODY), 200)
    assert replaced["timeoutSeconds"] == 15
    assert replaced["ignoreOrigins"] == []
    assert replaced["headers"] == {}
    assert (replaced["enabled"], replaced["health"], replaced["disabledReason"]) == (True, "healthy", None)
    assert replaced["secretHint"] == webhook["secretHint"]
    answer = await api.admin.put(f"{WEBHOOKS}/{webhook['id']}", {"name": "Rota"})
    assert fields_of(problem(answer, 422, "validation_failed")) == ["targetUrl", "events"]


async def test_a_patch_keeps_what_is_absent_and_tells_null_from_it(api: Api) -> None:
    webhook = await api.new_webhook(timeoutSeconds=5, rateLimitPerSecond=7, headers={"X-Team": "a"})
    path = f"{WEBHOOKS}/{webhook['id']}"
    changed = expect(await api.admin.patch(path, {"name": "Other"}), 200)
    assert {name for name in changed if changed[name] != webhook[name]} <= {"name", "updatedAt"}
    assert expect(await api.admin.patch(path, {"rateLimitPerSecond": None}), 200)["rateLimitPerSecond"] is None
    assert fields_of(problem(await api.admin.patch(path, {"name": None}), 422, "validation_failed")) == ["name"]
    assert api.hints.changed[-2:] == [webhook["id"]] * 2


async def stored_headers(api: Api, webhook_id: str) -> dict[str, str]:
    webhook = await api.store.webhook(api.group.id, webhook_id)
    assert webhook is not None
    return dict(webhook.headers)


async def test_header_values_are_kept_by_null_merged_by_patch_and_replaced_by_put(api: Api) -> None:
    webhook = await api.new_webhook(headers={"X-Team": "night", "X-Key": "k1"})
    path = f"{WEBHOOKS}/{webhook['id']}"
    expect(await api.admin.patch(path, {"headers": {"x-key": "k2", "X-New": "n"}}), 200)
    assert await stored_headers(api, webhook["id"]) == {"X-Team": "night", "x-key": "k2", "X-New": "n"}
    expect(await api.admin.patch(path, {"headers": {"X-New": "", "X-Team": None}}), 200)
    assert await stored_headers(api, webhook["id"]) == {"X-Team": "night", "x-key": "k2"}
    expect(await api.admin.put(path, {**BODY, "headers": {"X-Team": None, "X-More": "m"}}), 200)
    assert await stored_headers(api, webhook["id"]) == {"X-Team": "night", "X-More": "m"}
    answer = await api.admin.put(path, {**BODY, "headers": {"X-Unknown": None}})
    assert fields_of(problem(answer, 422, "validation_failed")) == ["headers.X-Unknown"]


@pytest.mark.parametrize(
    "url", ["http://hooks.example.com/in", "https://hooks.example.net/in", f"{BODY['targetUrl']}:8"]
)
async def test_header_values_stay_with_the_origin_they_were_meant_for(api: Api, url: str) -> None:
    url = url.replace("/in:8", ":8/in")
    webhook = await api.new_webhook(headers={"X-Team": "night", "X-Key": "k1"})
    path = f"{WEBHOOKS}/{webhook['id']}"
    moved = {"targetUrl": f"{BODY['targetUrl']}/elsewhere"}
    assert len(expect(await api.admin.patch(path, moved), 200)["headers"]) == 2
    answer = await api.admin.patch(path, {"targetUrl": url, "headers": {"X-Team": None}})
    assert fields_of(problem(answer, 422, "validation_failed")) == ["headers.X-Team"]
    answer = await api.admin.put(path, {**BODY, "targetUrl": url, "headers": {"X-Team": None}})
    assert fields_of(problem(answer, 422, "validation_failed")) == ["headers.X-Team"]
    expect(await api.admin.patch(path, {"targetUrl": url, "headers": {"X-Key": "k2"}}), 200)
    assert await stored_headers(api, webhook["id"]) == {"X-Key": "k2"}
    expect(await api.admin.patch(path, {"targetUrl": BODY["targetUrl"]}), 200)
    assert await stored_headers(api, webhook["id"]) == {}


async def test_a_webhook_is_disabled_and_enabled_by_its_admin(api: Api) -> None:
    path = f"{WEBHOOKS}/{(await api.new_webhook())['id']}"
    disabled = expect(await api.admin.patch(path, {"enabled": False}), 200)
    assert (disabled["health"], disabled["disabledReason"]) == ("disabled", "admin")
    enabled = expect(await api.admin.patch(path, {"enabled": True}), 200)
    assert (enabled["health"], enabled["disabledReason"]) == ("healthy", None)


async def test_edits_at_once_are_all_applied(api: Api) -> None:
    path = f"{WEBHOOKS}/{(await api.new_webhook())['id']}"
    edits = [{"name": "Other"}, {"timeoutSeconds": 3}, {"maxConcurrency": 4}]
    answers = await asyncio.gather(*(api.admin.patch(path, edit) for edit in edits))
    assert [answer.status_code for answer in answers] == [200] * 3
    webhook = expect(await api.admin.get(path), 200)
    assert (webhook["name"], webhook["timeoutSeconds"], webhook["maxConcurrency"]) == ("Other", 3, 4)


async def test_a_group_in_a_body_must_be_the_one_asked_in(api: Api) -> None:
    path = f"{WEBHOOKS}/{(await api.new_webhook())['id']}"
    expect(await api.admin.patch(path, {"groupId": api.group.id}), 200)
    answer = await api.admin.patch(path, {"groupId": api.other_group.id})
    assert fields_of(problem(answer, 422, "validation_failed")) == ["groupId"]


async def test_a_deleted_webhook_is_gone_and_gets_no_more_events(api: Api) -> None:
    webhook = await api.new_webhook()
    path = f"{WEBHOOKS}/{webhook['id']}"
    await api.new_task()
    deleted = await api.admin.delete(path)
    assert (deleted.status_code, deleted.content) == (204, b"")
    await api.new_task()
    for method, at in (("GET", path), ("DELETE", path), ("GET", f"{path}/deliveries")):
        problem(await api.admin(method, at), 404, "not_found")
    assert expect(await api.admin.get(WEBHOOKS), 200)["items"] == []
    assert len(expect(await api.admin.get("/api/integrations/deliveries"), 200)["items"]) == 1


async def test_a_group_has_a_limited_number_of_webhooks(api: Api) -> None:
    made = [await api.new_webhook() for _ in range(5)]
    problem(await api.admin.post(WEBHOOKS, BODY), 409, "quota_exceeded")
    assert (await api.admin.delete(f"{WEBHOOKS}/{made[0]['id']}")).status_code == 204
    expect(await api.admin.post(WEBHOOKS, BODY), 201)


async def test_few_webhooks_of_a_group_may_ask_for_events_about_gatepost_itself(api: Api) -> None:
    asking = {**BODY, "events": ["task.*", "delivery.dead_lettered"]}
    watchers = [expect(await api.admin.post(WEBHOOKS, asking), 201) for _ in range(3)]
    other = await api.new_webhook()

    problem(await api.admin.post(WEBHOOKS, asking), 409, "quota_exceeded")
    problem(await api.admin.patch(f"{WEBHOOKS}/{other['id']}", {"events": ["webhook.*"]}), 409, "quota_exceeded")
    expect(await api.admin.patch(f"{WEBHOOKS}/{watchers[0]['id']}", {"events": ["webhook.*"]}), 200)
    expect(await api.admin.patch(f"{WEBHOOKS}/{watchers[1]['id']}", {"events": ["*"]}), 200)
    expect(await api.admin.patch(f"{WEBHOOKS}/{other['id']}", {"events": ["webhook.*"]}), 200)


async def test_while_a_rotation_lasts_both_secrets_sign_and_then_one(tmp_path: Path) -> None:
    clock = FakeClock()
    sender = ScriptedSender(clock)
    async with opened_api(tmp_path, clock=clock, sender=sender) as api:
        webhook = await api.new_webhook()
        path = f"{WEBHOOKS}/{webhook['id']}"

        async def signatures() -> int:
            expect(await api.admin.post(f"{path}/test"), 200)
            return len(dict(sender.sent[-1].headers)["webhook-signature"].split(" "))

        rotated = expect(await api.admin.post(f"{path}/rotate-secret", {"gracePeriodSeconds": 60}), 200)
        assert rotated["secret"] != webhook["secret"]
        assert rotated == {
            "secret": rotated["secret"],
            "secretHint": "…" + rotated["secret"].rstrip("=")[-4:],
            "previousExpiresAt": "2026-11-23T12:35:56.789Z",
        }
        assert await signatures() == 2
        clock.advance(60)
        assert await signatures() == 1
        agreed = expect(await api.admin.post(f"{path}/rotate-secret", {"secret": SECRET}), 200)
        assert (agreed["secret"], agreed["previousExpiresAt"]) == (SECRET, "2026-11-24T12:35:56.789Z")
        assert await signatures() == 2
        for _ in range(2):
            finalized = expect(await api.admin.post(f"{path}/finalize-rotation"), 200)
            assert finalized == {"secretHint": agreed["secretHint"], "previousExpiresAt": None}
        assert await signatures() == 1
        at_once = expect(await api.admin.post(f"{path}/rotate-secret", {"gracePeriodSeconds": 0}), 200)
        assert at_once["previousExpiresAt"] is None


@pytest.mark.parametrize("grace", [-1, 604_801, 1.5, "60", True])
async def test_a_grace_is_at_most_seven_days(api: Api, grace: Any) -> None:
    path = f"{WEBHOOKS}/{(await api.new_webhook())['id']}"
    answer = await api.admin.post(f"{path}/rotate-secret", {"gracePeriodSeconds": grace})
    assert fields_of(problem(answer, 422, "validation_failed")) == ["gracePeriodSeconds"]


async def test_no_answer_but_create_and_rotate_holds_a_secret_and_none_a_header_value(api: Api) -> None:
    webhook = await api.new_webhook(headers={"Authorization": "Bearer hunter2"})
    path = f"{WEBHOOKS}/{webhook['id']}"
    task = await api.new_task()
    rotated = expect(await api.admin.post(f"{path}/rotate-secret"), 200)
    [delivery] = await api.deliveries_of(webhook["id"])
    answers = [
        await api.admin.get(WEBHOOKS),
        await api.admin.get(path),
        await api.admin.patch(path, {"name": "Other"}),
        await api.admin.put(path, {**BODY, "headers": {"Authorization": None}}),
        await api.admin.post(f"{path}/finalize-rotation"),
        await api.admin.get(f"{path}/deliveries"),
        await api.admin.get(f"{path}/deliveries/{delivery['id']}"),
        await api.admin.post(f"{path}/replay/{delivery['id']}"),
        await api.admin.get("/api/integrations/deliveries"),
        await api.admin.patch(path, {"headers": {"Authorization": "Bearer hunter2\n"}}),
        await api.admin.post(f"{path}/rotate-secret", {"secret": webhook["secret"] + "!"}),
        await api.admin.get(f"/api/tasks/{task['id']}"),
    ]
    for answer in answers:
        assert answer.status_code in (200, 202, 422)
        for hidden in ("hunter2", webhook["secret"], rotated["secret"], api.admin.key or ""):
            assert hidden not in answer.text


async def test_an_edit_that_always_comes_too_late_is_given_up(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    webhook = await api.new_webhook()

    async def too_late(*_: Any) -> Saved:
        return Saved.STALE

    monkeypatch.setattr(api.store, "save_webhook", too_late)
    problem(await api.admin.patch(f"{WEBHOOKS}/{webhook['id']}", {"name": "Other"}), 409, "version_conflict")
