"""Errors as RFC 9457 problem documents: the one place where a code meets an HTTP status."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Route

from gatepost.domain.errors import (
    FieldError,
    GatepostError,
    InvalidInput,
    MalformedRequest,
    NotFound,
    RateLimited,
    StoreUnavailable,
    Unauthenticated,
)
from gatepost.domain.events import to_json

MEDIA_TYPE = "application/problem+json"
STORE_RETRY_SECONDS = 1
PROBLEMS = (GatepostError, RequestValidationError)  # what `problem_of` answers; all else is a bug, or the framework's


@dataclass(frozen=True, slots=True)
class Kind:
    """What a code means over HTTP."""

    status: int
    title: str


# Each is explained in docs/problems.md.
KINDS: Mapping[str, Kind] = {
    "malformed_request": Kind(400, "The request is malformed"),
    "unauthenticated": Kind(401, "Sign in first"),
    "forbidden": Kind(403, "Not allowed"),
    "origin_mismatch": Kind(403, "The request comes from another site"),
    "not_found": Kind(404, "Not found"),
    "method_not_allowed": Kind(405, "Method not allowed"),
    "invalid_transition": Kind(409, "The task's status does not allow this"),
    "version_conflict": Kind(409, "Changed in the meantime"),
    "swap_decided": Kind(409, "The swap is decided already"),
    "swap_stale": Kind(409, "The swap's tasks have changed"),
    "last_owner": Kind(409, "A group needs an owner"),
    "quota_exceeded": Kind(409, "Too many of these"),
    "webhook_disabled": Kind(409, "The webhook is disabled"),
    "idempotency_in_progress": Kind(409, "The first request of this key is still running"),
    "payload_expired": Kind(410, "The payload is no longer kept"),
    "payload_too_large": Kind(413, "Too large"),
    "unsupported_media_type": Kind(415, "Unsupported media type"),
    "malformed_json": Kind(422, "The body is not JSON"),
    "validation_failed": Kind(422, "Some fields are not right"),
    "target_not_allowed": Kind(422, "The target is not allowed"),
    "reserved_header": Kind(422, "The header is reserved"),
    "idempotency_mismatch": Kind(422, "The key was used for another request"),
    "rate_limited": Kind(429, "Too many requests"),
    "internal": Kind(500, "Something broke on our side"),
    "store_unavailable": Kind(503, "The store cannot be reached"),
}


def install(app: FastAPI) -> None:
    """Answer every error of this application with a problem document."""
    app.add_exception_handler(GatepostError, _answer_own)
    app.add_exception_handler(RequestValidationError, _answer_invalid_parameters)
    app.add_exception_handler(HTTPException, _answer_framework)
    app.add_exception_handler(ClientDisconnect, _answer_broken_off)


def problem_response(error: GatepostError) -> Response:
    """Return the answer that says what went wrong."""
    document: dict[str, Any] = _document(error.code, error.detail)
    if isinstance(error, InvalidInput):
        document["errors"] = [{"loc": list(field.loc), "msg": field.msg, "code": field.code} for field in error.errors]
    return _response(document, _headers(error))


def problem_of(error: GatepostError | RequestValidationError) -> Response:
    """Return the answer to what a caller has done wrong, or should come back for."""
    return problem_response(error) if isinstance(error, GatepostError) else _invalid_parameters(error)


def internal_problem() -> Response:
    """Return the answer for a bug of ours; it says nothing about it."""
    return _response(_document("internal", "The request failed; the operator's log says why."), {})


def problem_example(code: str) -> dict[str, Any]:
    """Return a problem document as one with this code may look."""
    if KINDS[code].status != 422 or code == "malformed_json":
        return _document(code, f"{KINDS[code].title}.")
    error = {"loc": ["title"], "msg": "give 1 to 100 characters", "code": "length"}
    return {**_document(code, "title: give 1 to 100 characters"), "errors": [error]}


def _document(code: str, detail: str) -> dict[str, Any]:
    kind = KINDS[code]
    return {
        "type": f"/problems/{code}",
        "title": kind.title,
        "status": kind.status,
        "detail": detail,
        "code": code,
    }


def _headers(error: GatepostError) -> dict[str, str]:
    if isinstance(error, Unauthenticated):
        return {"WWW-Authenticate": "Bearer"}
    if isinstance(error, RateLimited):
        return {"Retry-After": str(error.retry_after_seconds)}
    if isinstance(error, StoreUnavailable):
        return {"Retry-After": str(STORE_RETRY_SECONDS)}
    return {}


def _response(document: Mapping[str, Any], headers: Mapping[str, str]) -> Response:
    return Response(to_json(document), document["status"], dict(headers), media_type=MEDIA_TYPE)


async def _answer_own(_: Request, error: Exception) -> Response:
    assert isinstance(error, GatepostError)
    return problem_response(error)


async def _answer_invalid_parameters(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return _invalid_parameters(error)


def _invalid_parameters(error: RequestValidationError) -> Response:
    """A path that cannot be an id names nothing; all else is a parameter to correct."""
    fields = [FieldError(tuple(one["loc"][1:]), str(one["msg"]), str(one["type"])) for one in error.errors()]
    if any(one["loc"][0] == "path" for one in error.errors()):
        return problem_response(NotFound("there is nothing here"))
    return problem_response(InvalidInput(*fields))


async def _answer_framework(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return problem_response(NotFound("there is nothing here"))
    if error.status_code == 405:
        allowed = _methods_here(request)
        return _response(_document("method_not_allowed", f"use {allowed}"), {"Allow": allowed})
    return problem_response(MalformedRequest(str(error.detail)))


def _methods_here(request: Request) -> str:
    """Return every method of this path: the framework names those of one route only."""
    path = request.scope["path"]
    here = (route for route in request.app.routes if isinstance(route, Route) and route.path_regex.match(path))
    return ", ".join(sorted({method for route in here for method in route.methods or ()}))


async def _answer_broken_off(_: Request, error: Exception) -> Response:
    assert isinstance(error, ClientDisconnect)
    return problem_response(MalformedRequest("the request broke off before its end"))
