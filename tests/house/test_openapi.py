"""The OpenAPI document: what holds for every operation, present and to come."""

import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest
from tests.fakes import FakeClock

from gatepost.api import openapi
from gatepost.api.app import create_app
from gatepost.api.calls import ROLES
from gatepost.api.operations import dependencies_of
from gatepost.api.problems import KINDS
from gatepost.domain.events import TASK_EVENTS
from gatepost.domain.groups import Role
from gatepost.domain.operator_events import OPERATOR_EVENTS

APP = create_app(SimpleNamespace(), clock=FakeClock(), ready=lambda: True)  # it is asked nothing
DOCUMENT = openapi.document(APP)
OPERATIONS = {
    operation["operationId"]: (method, path, operation)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
}
PROBLEM = "application/problem+json"
each_operation = pytest.mark.parametrize(("method", "path", "operation"), OPERATIONS.values(), ids=OPERATIONS)


def nodes(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        yield tree
        tree = list(tree.values())
    if isinstance(tree, list):
        for child in tree:
            yield from nodes(child)


def resolved(reference: str) -> Any:
    node: Any = DOCUMENT
    for part in reference.removeprefix("#/").split("/"):
        node = node[part]
    return node


def must_be_valid(example: Any, schema: Any) -> None:
    whole = {**schema, "components": DOCUMENT["components"]}
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    jsonschema.Draft202012Validator(whole, format_checker=checker).validate(example)


def codes(operation: Any, status: int) -> set[str]:
    answer = operation["responses"].get(str(status), {"content": {}})
    return set(answer["content"].get(PROBLEM, {"examples": {}})["examples"])


def test_the_document_is_of_every_route() -> None:
    described = {(method.upper(), path) for method, path, _ in OPERATIONS.values()}
    served = {
        (method, route.path) for route in APP.routes if getattr(route, "operation_id", None) for method in route.methods
    }
    assert described == served
    assert len(OPERATIONS) > 45
    assert DOCUMENT["openapi"] == "3.1.0"


def test_every_reference_leads_somewhere_and_every_schema_is_referred_to() -> None:
    references = {node["$ref"] for node in nodes(DOCUMENT) if isinstance(node.get("$ref"), str)}
    assert all(resolved(reference) for reference in references)
    unused = {name for name in DOCUMENT["components"]["schemas"] if f"#/components/schemas/{name}" not in references}
    assert unused == set()


@each_operation
def test_an_operation_is_named_described_and_filed(method: str, path: str, operation: Any) -> None:
    assert re.fullmatch(r"[a-z]+[A-Za-z]+", operation["operationId"])
    assert operation["summary"]
    [tag] = operation["tags"]
    assert tag in {each["name"] for each in DOCUMENT["tags"] if each["description"]}


@each_operation
def test_every_parameter_is_described(method: str, path: str, operation: Any) -> None:
    for parameter in operation.get("parameters", []):
        assert parameter.get("description"), parameter["name"]
    in_path = {each["name"] for each in operation.get("parameters", []) if each["in"] == "path"}
    assert in_path == set(re.findall(r"{(\w+)}", path))


@each_operation
def test_bodies_and_answers_have_examples_that_fit_their_schemas(method: str, path: str, operation: Any) -> None:
    described = [operation["requestBody"]] if "requestBody" in operation else []
    described += [answer for status, answer in operation["responses"].items() if int(status) < 400 and status != "204"]
    assert described or method == "delete" or path == "/api/auth/logout"
    for each in described:
        [(media_type, content)] = each["content"].items()
        assert media_type == "application/json"
        must_be_valid(content["example"], content["schema"])


@each_operation
def test_every_problem_is_one_of_ours_with_an_example_under_its_status(method: str, path: str, operation: Any) -> None:
    for status, answer in operation["responses"].items():
        if int(status) < 400:
            continue
        content = answer["content"][PROBLEM]
        assert content["schema"] == {"$ref": "#/components/schemas/Problem"}
        for code, example in content["examples"].items():
            problem = resolved(example["$ref"])["value"]
            assert (problem["code"], problem["status"]) == (code, int(status))
            assert KINDS[code].status == int(status)
            assert f"`{code}`" in answer["description"]
            must_be_valid(problem, content["schema"])
        assert (int(status) in (429, 503)) == ("Retry-After" in answer.get("headers", {}))


@each_operation
def test_an_operation_tells_every_status_that_its_nature_brings(method: str, path: str, operation: Any) -> None:
    assert codes(operation, 500) == {"internal"}
    is_open = operation.get("security") == []
    assert is_open == (path.startswith("/health/") or path == "/api/auth/login")
    if not is_open:
        assert codes(operation, 401) == {"unauthenticated"}
        assert codes(operation, 503) == {"store_unavailable"}
        assert ("origin_mismatch" in codes(operation, 403)) == (method != "get")
    if "{" in path:
        assert codes(operation, 404) == {"not_found"}
    if "requestBody" in operation:
        assert codes(operation, 400) == {"malformed_request"}
        assert codes(operation, 413) == {"payload_too_large"}
        assert codes(operation, 415) == {"unsupported_media_type"}
        assert codes(operation, 422) >= {"malformed_json", "validation_failed"}
    if any(each["in"] == "query" for each in operation.get("parameters", [])):
        assert "validation_failed" in codes(operation, 422)


def test_what_needs_more_than_a_member_can_be_forbidden() -> None:
    for route in APP.routes:
        if (operation_id := getattr(route, "operation_id", None)) is None:
            continue
        asked = {ROLES[call] for call in dependencies_of(route.dependant) if call in ROLES}
        assert len(asked) <= 1
        if asked - {Role.MEMBER}:
            assert "forbidden" in codes(OPERATIONS[operation_id][2], 403), operation_id


def test_whatever_creates_replays_or_rotates_can_be_repeated_under_a_key() -> None:
    keyed = {
        name
        for name, (_, _, operation) in OPERATIONS.items()
        if any(each["name"] == "Idempotency-Key" for each in operation.get("parameters", []))
    }
    created = {name for name, (_, _, operation) in OPERATIONS.items() if {"201", "202"} & set(operation["responses"])}
    assert keyed == created | {"rotateWebhookSecret"}
    for name in keyed:
        operation = OPERATIONS[name][2]
        answers = [answer for status, answer in operation["responses"].items() if int(status) < 400]
        assert all("Idempotency-Replayed" in answer["headers"] for answer in answers)
        assert "idempotency_in_progress" in codes(operation, 409)
        assert "idempotency_mismatch" in codes(operation, 422)


def test_a_task_that_is_answered_whole_has_its_version_in_a_header() -> None:
    answers = {
        name: answer.get("headers", {})
        for name, (_, _, operation) in OPERATIONS.items()
        for answer in operation["responses"].values()
        for content in answer.get("content", {}).values()
        if content["schema"].get("$ref", "").endswith("/TaskDetail")
    }
    assert len(answers) == 7
    assert all("ETag" in headers for headers in answers.values())


def test_callers_prove_who_they_are_by_a_key_or_by_a_session() -> None:
    schemes = DOCUMENT["components"]["securitySchemes"]
    assert (schemes["apiKey"]["type"], schemes["apiKey"]["scheme"]) == ("http", "bearer")
    assert (schemes["session"]["in"], schemes["session"]["name"]) == ("cookie", "gatepost_session")
    assert DOCUMENT["security"] == [{"apiKey": []}, {"session": []}]
    only_people = {name for name, (*_, each) in OPERATIONS.items() if each.get("security") == [{"session": []}]}
    assert {"signOut", "changePassword", "listSessions"} <= only_people


def test_every_event_but_the_test_is_a_webhook_with_its_schema_and_an_example() -> None:
    assert list(DOCUMENT["webhooks"]) == [*TASK_EVENTS, *OPERATOR_EVENTS]
    for event, item in DOCUMENT["webhooks"].items():
        [content] = item["post"]["requestBody"]["content"].values()
        assert content["example"]["event"] == event
        must_be_valid(content["example"], content["schema"])
        assert item["post"]["security"] == []
