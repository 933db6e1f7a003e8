"""The outermost layer: safe headers on every answer, one log line per request, and the last handler."""

import traceback

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gatepost.api.auth import CALLER, Identity
from gatepost.api.problems import internal_problem
from gatepost.domain.groups import Caller
from gatepost.ports import Clock

log = structlog.get_logger()

SAFE_HEADERS = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]


class Edge:
    """ASGI middleware, written without a framework's: it runs for every request."""

    def __init__(self, app: ASGIApp, clock: Clock) -> None:
        self._app = app
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = self._clock.boot()
        status = 0

        async def send_safely(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *SAFE_HEADERS]
            await send(message)

        try:
            await self._app(scope, receive, send_safely)
        except Exception as error:  # noqa: BLE001  # the last handler: whatever it is, the caller gets an answer
            log.error("request.failed", error=type(error).__name__, at=_places(error))  # noqa: TRY400
            if status == 0:
                await internal_problem()(scope, receive, send_safely)
        finally:
            _log_answer(scope, status, self._clock.boot() - began)


def _log_answer(scope: Scope, status: int, seconds: float) -> None:
    caller: Identity | Caller | None = scope.get(CALLER)
    log.info(
        "request.answered",
        method=scope["method"],
        # The template and never the path: what strangers type has no place in a log.
        route=getattr(scope.get("route"), "path", None),
        status=status,
        duration_ms=round(seconds * 1000, 3),
        group_id=caller.group_id if caller else None,
        actor_id=caller.actor_id if caller else None,
    )


def _places(error: Exception) -> list[str]:
    """Return where an error came from, without its message, which may hold what it was about."""
    frames = traceback.extract_tb(error.__traceback__)[-8:]
    return [f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in frames]
