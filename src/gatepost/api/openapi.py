"""The OpenAPI document, and a page that lists it without fetching anything from elsewhere."""

from html import escape
from typing import Annotated, Any

from fastapi import FastAPI, Query
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from gatepost import __version__
from gatepost.api.schemas import BODIES, EventMessage, Problem
from gatepost.domain.events import TASK_EVENTS

REF = "#/components/schemas/{model}"

Limit = Annotated[int, Query(ge=1, le=200)]
Cursor = Annotated[str | None, Query(max_length=200, description="The nextCursor of the page before.")]


def id_pattern(prefix: str) -> str:
    return f"^{prefix}_[0-9a-f]{{32}}$"


def body_of(model: type[BaseModel]) -> dict[str, Any]:
    """Return what the document says of a body that `calls` reads; required, unless all of its fields have defaults."""
    required = any(field.is_required() for field in model.model_fields.values())
    return {"requestBody": {"required": required, "content": _content(model, "application/json")}}


def document(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of all routes, with the events that receivers are sent."""
    made = get_openapi(
        title="Gatepost",
        version=__version__,
        openapi_version="3.1.0",
        description="Self-hosted webhook delivery: signed, retried, logged.",
        routes=app.routes,
    )
    problem = {"description": "A problem", "content": _content(Problem, "application/problem+json")}
    for operations in made["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)
            operation["responses"]["default"] = problem
    components = made.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    models = [(model, "validation") for model in (*BODIES, Problem, EventMessage)]
    _, definitions = models_json_schema(models, ref_template=REF)  # type: ignore[arg-type]  # mode is a Literal
    schemas.update(definitions["$defs"])
    components["securitySchemes"] = {"apiKey": {"type": "http", "scheme": "bearer"}}
    made["security"] = [{"apiKey": []}]
    made["webhooks"] = {event: {"post": _event_operation(event)} for event in TASK_EVENTS}
    return made


def docs_page(made: dict[str, Any]) -> str:
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


def _content(model: type[BaseModel], media_type: str) -> dict[str, Any]:
    return {media_type: {"schema": {"$ref": REF.format(model=model.__name__)}}}


def _event_operation(event: str) -> dict[str, Any]:
    return {
        "operationId": f"receive_{event.replace('.', '_')}",
        "summary": f"{event}: signed, and sent again until it is answered with 2xx",
        "security": [],
        "requestBody": {"required": True, "content": _content(EventMessage, "application/json")},
        "responses": {"2XX": {"description": "Received"}},
    }
