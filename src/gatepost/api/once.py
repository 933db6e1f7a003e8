"""Requests under an Idempotency-Key: the answer of the first is kept, and given to those after it (ADR 0010)."""

import re
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Any

from fastapi import Header, Request, Response
from fastapi.routing import APIRoute

from gatepost.api.problems import PROBLEMS, problem_of
from gatepost.domain.errors import invalid
from gatepost.ports import Draws, KeptAnswer
from gatepost.services.requests import Requests, Run, request_id

REPLAYED = "Idempotency-Replayed"
BODY = "gatepost.body"  # where the bytes of the body are once they were read
_UNDERWAY = "gatepost.underway"

Handle = Callable[[Request], Coroutine[Any, Any, Response]]

_KEY = re.compile(r"[!-~]{1,255}", re.ASCII)

# Told to readers of the document, and judged by us: who may not do this at all is told so before.
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description=f"Makes the request safe to repeat for 24 hours: the first answer comes again, with {REPLAYED}.",
        json_schema_extra={"minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
    ),
]


class _AnsweredBefore(Exception):
    """The request has its answer."""

    def __init__(self, answer: KeptAnswer) -> None:
        super().__init__()
        self.answer = answer


@dataclass(frozen=True, slots=True)
class _Underway:
    """A request with a key, while it is handled."""

    requests: Requests
    run: Run

    async def kept(self, response: Response) -> Response:
        """Return the answer that counts: this one, unless another process was quicker."""
        if response.status_code >= 500 or response.status_code == 429:
            return response
        own = tuple((name, value) for name, value in response.headers.items() if name != "content-length")
        answer = KeptAnswer(response.status_code, own, bytes(response.body))
        first = await self.requests.keep(self.run, answer)
        return response if first == answer else _again(first)


async def draws_of(request: Request, requests: Requests, actor_id: str, key: str | None) -> Draws:
    """Return what a request of an OnceRoute draws. With a key that is what it drew the first time.

    Raises: InvalidInput; IdempotencyInProgress; IdempotencyMismatch.
    """
    if key is None:
        return requests.draws()
    if len(request.headers.getlist("idempotency-key")) > 1 or not _KEY.fullmatch(key):
        raise invalid("Idempotency-Key", "give one key of 1 to 255 visible ASCII characters", code="key")
    body_hash = sha256(request.scope[BODY] + b"\n" + request.query_params.get("groupId", "").encode()).digest()
    run = await requests.begin(request_id(actor_id, request.method, request.url.path, key), body_hash)
    request.scope[_UNDERWAY] = _Underway(requests, run)
    if run.answer is not None:
        raise _AnsweredBefore(run.answer)
    return run.draws


class OnceRoute(APIRoute):
    """A route whose answers, problems too, are kept when the request has a key."""

    def get_route_handler(self) -> Handle:
        """Return what handles a request of this route: the only place that sees the bytes of every answer."""
        handle = super().get_route_handler()

        async def handle_once(request: Request) -> Response:
            request.scope[_UNDERWAY] = None
            try:
                response = await _answer(request, handle)
                underway = request.scope[_UNDERWAY]
                return await underway.kept(response) if underway else response
            except _AnsweredBefore as before:
                return _again(before.answer)
            finally:
                if underway := request.scope[_UNDERWAY]:
                    underway.requests.end(underway.run)

        return handle_once


async def _answer(request: Request, handle: Handle) -> Response:
    try:
        return await handle(request)
    except PROBLEMS as error:
        if request.scope[_UNDERWAY] is None:
            raise
        return problem_of(error)


def _again(answer: KeptAnswer) -> Response:
    return Response(answer.body, answer.status, {**dict(answer.headers), REPLAYED: "true"})
