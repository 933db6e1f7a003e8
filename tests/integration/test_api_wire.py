"""What holds for every request and answer: bodies, problems, headers, documents, health, log lines."""

import json
from typing import Any

import httpx2
import pytest
import structlog
from tests.fakes import FakeClock
from tests.integration.apis import Api, expect, problem

from gatepost.api.app import create_app
from gatepost.api.bodies import BODY_LIMIT_BYTES
from gatepost.domain.errors import StoreUnavailable

JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"not json",
        b'{"title": "T",}',
        b'{"title": NaN_}',
        b"\xff\xfe",
        b'{"title": "\\ud800"}',
        b'{"a":' * 300 + b"1" + b"}" * 300,
        '{"title": "T"}'.encode("utf-16"),
    ],
)
async def test_a_body_that_is_not_json_is_malformed(api: Api, body: bytes) -> None:
    problem(await api.member("POST", "/api/tasks", content=body, headers=JSON), 422, "malformed_json")


@pytest.mark.parametrize("body", [b"[]", b"1", b'"x"', b"null"])
async def test_a_body_that_is_no_object_is_refused(api: Api, body: bytes) -> None:
    problem(await api.member("POST", "/api/tasks", content=body, headers=JSON), 422, "validation_failed")


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""])
async def test_a_body_of_another_type_is_unsupported(api: Api, media_type: str) -> None:
    headers = {"Content-Type": media_type}
    answer = await api.member("POST", "/api/tasks", content=b'{"title": "T"}', headers=headers)
    problem(answer, 415, "unsupported_media_type")


async def test_a_compressed_body_is_unsupported(api: Api) -> None:
    headers = {**JSON, "Content-Encoding": "gzip"}
    answer = await api.member("POST", "/api/tasks", content=b'{"title": "T"}', headers=headers)
    problem(answer, 415, "unsupported_media_type")


async def test_a_charset_does_no_harm(api: Api) -> None:
    headers = {"Content-Type": "Application/JSON; charset=utf-8"}
    expect(await api.member("POST", "/api/tasks", content=b'{"title": "T"}', headers=headers), 201)


async def test_a_body_is_read_up_to_its_limit_whatever_length_it_declares(api: Api) -> None:
    def body(size: int) -> bytes:
        return b'{"title": "T"}'.ljust(size)

    async def chunks(size: int) -> Any:
        for begin in range(0, size, 65536):
            yield body(size)[begin : begin + 65536]

    limit = BODY_LIMIT_BYTES
    expect(await api.member("POST", "/api/tasks", content=body(limit), headers=JSON), 201)
    expect(await api.member("POST", "/api/tasks", content=chunks(limit), headers=JSON), 201)
    problem(await api.member("POST", "/api/tasks", content=body(limit + 1), headers=JSON), 413, "payload_too_large")
    problem(await api.member("POST", "/api/tasks", content=chunks(limit + 1), headers=JSON), 413, "payload_too_large")


async def test_a_length_that_is_no_number_is_malformed(api: Api) -> None:
    headers = {**JSON, "Content-Length": "+5"}
    problem(await api.member("POST", "/api/tasks", content=b"12345", headers=headers), 400, "malformed_request")


async def test_a_body_that_breaks_off_is_malformed(api: Api) -> None:
    messages = [{"type": "http.request", "body": b'{"title"', "more_body": True}, {"type": "http.disconnect"}]
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/api/tasks",
        "query_string": b"",
        "headers": [(b"authorization", f"Bearer {api.member.key}".encode()), (b"content-type", b"application/json")],
    }
    await api.app(scope, receive, send)
    assert (sent[0]["status"], json.loads(sent[1]["body"])["code"]) == (400, "malformed_request")


async def test_a_step_needs_no_body(api: Api) -> None:
    path = f"/api/tasks/{(await api.new_task())['id']}"
    expect(await api.member("POST", f"{path}/start"), 200)


@pytest.mark.parametrize("path", ["/", "/api", "/api/", "/api/tasks/", "/api/nothing", "/docs", "/openapi.json"])
async def test_what_is_not_there_is_not_found(api: Api, path: str) -> None:
    problem(await api.stranger.get(path), 404, "not_found")


async def test_a_method_that_a_path_does_not_have_is_named_with_those_it_has(api: Api) -> None:
    answer = await api.stranger.delete("/api/tasks")
    problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "GET, POST"


async def test_every_answer_is_safe_to_receive(api: Api) -> None:
    for path in ("/api/tasks", "/nothing", "/health/live", "/api/openapi.json", "/api/docs"):
        headers = (await api.member.get(path)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"


async def test_the_process_is_live_always_and_ready_when_it_says_so(api: Api) -> None:
    is_ready = True
    app = create_app(api.services, clock=FakeClock(), ready=lambda: is_ready)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://gatepost.test") as http:
        assert expect(await http.get("/health/ready"), 200) == {"status": "ok"}
        is_ready = False
        problem(await http.get("/health/ready"), 503, "store_unavailable")
        assert expect(await http.get("/health/live"), 200) == {"status": "ok"}


async def test_the_page_of_operations_lists_them_all_and_fetches_nothing(api: Api) -> None:
    page = await api.stranger.get("/api/docs")
    document = expect(await api.stranger.get("/api/openapi.json"), 200)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert "://" not in page.text
    assert all(f"<code>{path}</code>" in page.text for path in document["paths"])


async def test_the_openapi_document_is_whole(api: Api) -> None:
    document = expect(await api.stranger.get("/api/openapi.json"), 200)
    assert document["openapi"].startswith("3.1")
    operations = [about for methods in document["paths"].values() for about in methods.values()]
    ids = [about["operationId"] for about in operations]
    assert len(set(ids)) == len(ids)
    assert all(one.isalpha() for one in ids)
    assert set(document["webhooks"]) == {
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
    }
    assert "DeliveryDeadLetteredEvent" in document["components"]["schemas"]
    schemas = document["components"]["schemas"]
    assert not [name for name in schemas if "__" in name]
    assert "anyOf" in schemas["TaskCreate"]["properties"]["dueAt"]
    assert schemas["WebhookUpdate"]["properties"]["timeoutSeconds"].get("default") is None
    assert "required" not in schemas["WebhookUpdate"]
    assert schemas["WebhookReplace"]["required"] == ["name", "targetUrl", "events"]
    health = document["paths"]["/health/live"]["get"]
    assert (document["security"], health["security"]) == ([{"apiKey": []}, {"session": []}], [])


async def test_a_bug_of_ours_is_logged_by_its_place_and_told_to_nobody(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("whsec_oops")

    monkeypatch.setattr(api.store, "tasks", broken)
    with structlog.testing.capture_logs() as lines:
        answer = await api.member.get("/api/tasks?secret=hunter2")
    problem(answer, 500, "internal")
    assert [line["event"] for line in lines] == ["request.failed", "request.answered"]
    assert lines[0]["error"] == "ZeroDivisionError"
    assert lines[0]["at"][-1].endswith(" broken")
    for hidden in ("oops", "hunter2", api.member.key):
        assert str(hidden) not in answer.text + str(lines)


async def test_a_store_that_cannot_be_reached_is_a_503(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async def unavailable(*_: Any, **__: Any) -> Any:
        raise StoreUnavailable("the disk is full")

    monkeypatch.setattr(api.store, "save_change", unavailable)
    answer = await api.member.post("/api/tasks", {"title": "T"})
    problem(answer, 503, "store_unavailable")
    assert answer.headers["retry-after"] == "1"


async def test_a_request_leaves_one_line_with_its_route_and_its_caller(api: Api) -> None:
    task = await api.new_task()
    with structlog.testing.capture_logs() as lines:
        await api.member.get(f"/api/tasks/{task['id']}?groupId={api.group.id}")
        await api.stranger.get("/secret/path")
    known, unknown = lines
    duration_ms = known.pop("duration_ms")
    assert duration_ms >= 0
    assert known == {
        "event": "request.answered",
        "log_level": "info",
        "method": "GET",
        "route": "/api/tasks/{taskId}",
        "status": 200,
        "group_id": api.group.id,
        "actor_id": task["history"][0]["actorId"],
    }
    assert (unknown["route"], unknown["status"], unknown["group_id"]) == (None, 404, None)
