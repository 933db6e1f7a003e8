"""What the OpenAPI document says of an operation, computed from its nature: examples, headers, and every problem."""

from collections.abc import Iterator
from typing import Any, get_args

from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from gatepost.api.auth import SAFE_METHODS
from gatepost.api.calls import ROLES, SignedInCall
from gatepost.api.examples import example_of
from gatepost.api.once import REPLAYED
from gatepost.api.problems import KINDS, MEDIA_TYPE
from gatepost.api.schemas.tasks import TaskDetail
from gatepost.domain.events import Json
from gatepost.domain.groups import Role

REF = "#/components/schemas/{model}"

_BODY_PROBLEMS = (
    "malformed_request",
    "payload_too_large",
    "unsupported_media_type",
    "malformed_json",
    "validation_failed",
)
_SECONDS = {
    "schema": {"type": "string", "pattern": "^[0-9]+$"},
    "description": "Seconds until it is worth trying again.",
}
_PROBLEM_HEADERS = {
    401: {"WWW-Authenticate": {"schema": {"const": "Bearer"}, "description": "How to sign in."}},
    429: {"Retry-After": _SECONDS},
    503: {"Retry-After": _SECONDS},
}
_ETAG = {"schema": {"type": "string"}, "description": "The version of the task, for If-Match.", "example": '"2"'}
_REPLAYED = {
    "schema": {"const": "true"},
    "description": "There when this is the answer to the first request of its key.",
}


def content(model: str, **more: Any) -> Json:
    """Return a JSON body of a schema, by name."""
    return {"application/json": {"schema": {"$ref": REF.format(model=model)}, **more}}


def complete(operation: Json, route: APIRoute, method: str, schemas: Json) -> None:
    """Add to an operation what the framework does not know of it."""
    own_problems = operation.pop("problems", ())
    if "requestBody" in operation:
        _add_example(operation["requestBody"], schemas)
    if _must_be_signed_in(route):
        operation["security"] = [{"session": []}]
    responses = operation["responses"]
    responses.pop("422", None)
    for answer in responses.values():
        _complete_answer(answer, operation, route, schemas)
    for code in sorted({*_problems(operation, route, method), *own_problems}, key=list(KINDS).index):
        _add_problem(responses, code)


def dependencies_of(dependant: Dependant) -> Iterator[Any]:
    """Return every function that a route depends on, however far below."""
    for each in dependant.dependencies:
        yield each.call
        yield from dependencies_of(each)


def _complete_answer(answer: Json, operation: Json, route: APIRoute, schemas: Json) -> None:
    if route.response_model is not None:
        _add_example(answer, schemas)
    headers = {"ETag": _ETAG} if route.response_model is TaskDetail else {}
    if _is_keyed(operation):
        headers[REPLAYED] = _REPLAYED
    if headers:
        answer["headers"] = {**answer.get("headers", {}), **headers}


def _add_example(body_or_answer: Json, schemas: Json) -> None:
    [described] = body_or_answer["content"].values()
    described["example"] = example_of(described["schema"]["$ref"].rpartition("/")[2], schemas)


def _problems(operation: Json, route: APIRoute, method: str) -> Iterator[str]:
    """Say with which codes an operation answers because of what it is."""
    yield "internal"
    parameters = operation.get("parameters", [])
    role = next((ROLES[call] for call in dependencies_of(route.dependant) if call in ROLES), None)
    if operation.get("security") != []:
        yield from ("unauthenticated", "store_unavailable")
        if method not in SAFE_METHODS:
            yield "origin_mismatch"
    if role is not None or any(each["in"] == "path" for each in parameters):
        yield "not_found"
    if _must_be_signed_in(route) or role not in (None, Role.MEMBER):
        yield "forbidden"
    if any(each["in"] != "path" for each in parameters):
        yield "validation_failed"
    if "requestBody" in operation:
        yield from _BODY_PROBLEMS
    if _is_keyed(operation):
        yield from ("idempotency_in_progress", "idempotency_mismatch")


def _add_problem(responses: Json, code: str) -> None:
    kind = KINDS[code]
    response = responses.setdefault(str(kind.status), {"description": "", "content": {}})
    response["description"] = "; ".join(filter(None, (response["description"], f"{kind.title} (`{code}`)")))
    described = response["content"].setdefault(
        MEDIA_TYPE, {"schema": {"$ref": REF.format(model="Problem")}, "examples": {}}
    )
    described["examples"][code] = {"$ref": f"#/components/examples/{code}"}
    if kind.status in _PROBLEM_HEADERS:
        response["headers"] = _PROBLEM_HEADERS[kind.status]


def _is_keyed(operation: Json) -> bool:
    return any(each["name"] == "Idempotency-Key" for each in operation.get("parameters", []))


def _must_be_signed_in(route: APIRoute) -> bool:
    return get_args(SignedInCall)[1].dependency in dependencies_of(route.dependant)
