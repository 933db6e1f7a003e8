"""Reading a request's body: its size, its type, its JSON, its fields. Nothing of it is echoed."""

from typing import TypeVar

from fastapi import Request
from pydantic import ValidationError
from pydantic_core import from_json

from gatepost.api.schemas.shapes import Body
from gatepost.domain.errors import (
    FieldError,
    InvalidInput,
    MalformedJson,
    MalformedRequest,
    PayloadTooLarge,
    UnsupportedMediaType,
)

BODY_LIMIT_BYTES = 1024 * 1024

M = TypeVar("M", bound=Body)


async def read_body(request: Request) -> bytes:
    """Return the bytes of a JSON body; none is as good as an empty object.

    Raises: PayloadTooLarge, before more than the limit is read; UnsupportedMediaType; MalformedRequest.
    """
    declared = request.headers.get("content-length", "0")
    if not (declared.isascii() and declared.isdigit()):
        raise MalformedRequest("send a Content-Length of digits")
    if int(declared[:20]) > BODY_LIMIT_BYTES:
        raise _too_large()
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > BODY_LIMIT_BYTES:
            raise _too_large()
        chunks.append(chunk)
    if not size:
        return b"{}"
    _must_be_json(request)
    return b"".join(chunks)


def parse_body(model: type[M], raw: bytes) -> M:
    """Return the body as the model has it.

    Raises: MalformedJson; InvalidInput, naming every field that is wrong.
    """
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
    if found[0]["type"] == "json_invalid":
        raise MalformedJson(found[0]["msg"])
    raise InvalidInput(*(FieldError(one["loc"], one["msg"], one["type"]) for one in found))


def group_named_in(raw: bytes) -> str | None:
    """Return the group that a body names, however wrong the rest of it may be."""
    try:
        body = from_json(raw)
    except ValueError:
        return None
    group_id = body.get("groupId") if isinstance(body, dict) else None
    return group_id if isinstance(group_id, str) else None


def _must_be_json(request: Request) -> None:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" or "content-encoding" in request.headers:
        raise UnsupportedMediaType("send the body as it is, with Content-Type: application/json")


def _too_large() -> PayloadTooLarge:
    return PayloadTooLarge(f"a body may have at most {BODY_LIMIT_BYTES} bytes")
