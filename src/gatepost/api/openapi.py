"""The OpenAPI document, and a page that lists it without fetching anything from elsewhere."""

import re
from collections.abc import Iterable
from html import escape
from typing import Annotated

from fastapi import FastAPI, Query
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from gatepost import __version__
from gatepost.api.auth import COOKIE
from gatepost.api.event_types import EventType, event_types
from gatepost.api.operations import REF, complete, content
from gatepost.api.problems import KINDS, problem_example
from gatepost.api.schemas.shapes import Problem, id_pattern
from gatepost.domain.events import EVENT_TYPE_LIMIT, EVENT_TYPE_PATTERN, TEST_EVENT, Json

Limit = Annotated[int, Query(ge=1, le=200, description="How many at most.")]
Cursor = Annotated[str | None, Query(max_length=200, description="The nextCursor of the page before.")]
EventFilter = Annotated[
    str | None,
    Query(pattern=f"^{EVENT_TYPE_PATTERN}$", max_length=EVENT_TYPE_LIMIT, description="Those of this type only."),
]
TaskFilter = Annotated[
    str | None, Query(alias="taskId", pattern=id_pattern("tsk"), description="Those about this task only.")
]

_bodies: dict[str, type[BaseModel]] = {}  # that routes take, noted as the routes are written down

_TAGS = {
    "auth": "Signing in and out, and one's own account",
    "groups": "Groups and their members",
    "api-keys": "What programs call the API with",
    "tasks": "Tasks and their lifecycle: where events come from",
    "swaps": "Two tasks exchange their assignees, once an admin agrees",
    "events": "What happened, who was told of it, and what can happen",
    "webhooks": "Who is told of which events, and how",
    "deliveries": "What was sent, what came of it, and sending it again",
    "health": "For load balancers and supervisors",
}


def document(app: FastAPI) -> Json:
    """Return the OpenAPI 3.1 document of all routes, with the events that receivers are sent."""
    routes = [route for route in app.routes if isinstance(route, APIRoute)]
    made = get_openapi(
        title="Gatepost",
        version=__version__,
        openapi_version="3.1.0",
        description="Self-hosted webhook delivery: signed, retried, logged.",
        routes=app.routes,
        tags=[{"name": name, "description": text} for name, text in _TAGS.items() if _is_used(name, routes)],
    )
    types = [each for each in event_types() if each.event != TEST_EVENT]
    schemas = _schemas(made, types)
    made["components"] = {
        "schemas": schemas,
        "examples": {code: {"value": problem_example(code)} for code in KINDS},
        "securitySchemes": {
            "apiKey": {"type": "http", "scheme": "bearer", "description": "An API key of one group, `gp_…`."},
            "session": {"type": "apiKey", "in": "cookie", "name": COOKIE, "description": "From signing in."},
        },
    }
    made["security"] = [{"apiKey": []}, {"session": []}]
    made["webhooks"] = {each.event: {"post": _event_operation(each)} for each in types}
    for route in routes:
        for method in route.methods or ():
            complete(made["paths"][route.path_format][method.lower()], route, method, schemas)
    return made


def body_of(model: type[BaseModel], *problems: str) -> Json:
    """Return what the document says of a body that `calls` reads; required, unless all of its fields have defaults.

    Shape: `problems` as in `problems_of`.
    """
    _bodies[model.__name__] = model
    required = any(field.is_required() for field in model.model_fields.values())
    return {"requestBody": {"required": required, "content": content(model.__name__)}, **problems_of(*problems)}


def problems_of(*problems: str) -> Json:
    """Return what the document says of the codes that a route answers with and not every route of its nature."""
    return {"problems": problems}


def docs_page(made: Json) -> str:
    """Return a plain page that lists every operation."""
    rows = "".join(
        f"<tr><td>{escape(method.upper())}</td><td><code>{escape(path)}</code></td>"
        f"<td>{escape(operation.get('summary', ''))}</td></tr>"
        for path, operations in made["paths"].items()
        for method, operation in operations.items()
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Gatepost API</title>'
        '<meta name="viewport" content="width=device-width"><h1>Gatepost API</h1>'
        '<p>The whole description, for machines: <a href="openapi.json">openapi.json</a>.</p>'
        f"<table><thead><tr><th>Method<th>Path<th>What it does</thead><tbody>{rows}</tbody></table></html>"
    )


def _is_used(tag: str, routes: Iterable[APIRoute]) -> bool:
    return any(tag in route.tags for route in routes)


def _schemas(made: Json, types: Iterable[EventType]) -> Json:
    """Return the schemas of all answers, bodies and events."""
    schemas: Json = made["components"]["schemas"]
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    models = [(model, "validation") for model in (Problem, *_bodies.values())]
    _, definitions = models_json_schema(models, ref_template=REF)  # type: ignore[arg-type]  # mode is a Literal
    events = {_schema_name(each.event): {**each.schema, "description": each.description} for each in types}
    return {**schemas, **definitions["$defs"], **events}


def _schema_name(event: str) -> str:
    return "".join(word.capitalize() for word in re.split(r"[._]", event)) + "Event"


def _event_operation(each: EventType) -> Json:
    return {
        "operationId": f"receive_{each.event.replace('.', '_')}",
        "summary": f"{each.event}: signed, and sent again until it is answered with 2xx",
        "description": each.description,
        "tags": ["events"],
        "security": [],
        "requestBody": {"required": True, "content": content(_schema_name(each.event), example=each.example)},
        "responses": {"2XX": {"description": "Received"}},
    }
