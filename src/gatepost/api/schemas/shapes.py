"""What all bodies and all answers have in common, and the fields that many of them have."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def parse_moment(value: object) -> datetime:
    """Return an RFC 3339 timestamp as a moment in UTC."""
    if isinstance(value, str) and _MOMENT.fullmatch(value):
        try:
            return datetime.fromisoformat(value.upper()).astimezone(UTC)
        except (ValueError, OverflowError):
            pass
    raise PydanticCustomError("timestamp", "give an RFC 3339 time such as 2026-11-23T12:00:00Z")


_DATE_TIME = WithJsonSchema({"type": "string", "format": "date-time"})
Moment = Annotated[datetime, BeforeValidator(parse_moment), _DATE_TIME]
WireMoment = Annotated[str, _DATE_TIME]
Version = Annotated[int, Field(ge=1, description="The version last seen; 409 when it is another by now.")]


def id_pattern(prefix: str) -> str:
    """Return what our ids of one kind look like."""
    return f"^{prefix}_[0-9a-f]{{32}}$"


def without_defaults(schema: dict[str, Any]) -> None:
    """Show no defaults of a body in which what is absent stays."""
    for field in schema["properties"].values():
        field.pop("default", None)


class Body(BaseModel):
    """What every body is: strict about types and names, and silent about values when something is wrong."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        alias_generator=to_camel,
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )

    group_id: str | None = None  # type: ignore[pydantic-alias]  # bodies are only parsed, never made


class Answer(BaseModel):
    """What every answer is: all of its fields, always."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel)  # type: ignore[pydantic-alias]  # as above


class ProblemField(Answer):
    loc: list[str | int]
    msg: str
    code: str


class Problem(BaseModel):
    """What every error is answered with: RFC 9457, with a code that never changes."""

    model_config = ConfigDict(alias_generator=to_camel)

    type: Annotated[str, Field(examples=["/problems/validation_failed"])]
    title: str
    status: int
    detail: str
    code: str
    errors: Annotated[list[ProblemField], Field(description="With status 422.")] = []  # type: ignore[pydantic-alias]
