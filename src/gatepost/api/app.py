"""The HTTP API as one ASGI application."""

from collections.abc import Callable
from functools import cache
from types import ModuleType

from fastapi import FastAPI, Request, Response
from starlette.responses import HTMLResponse
from starlette.routing import Route

from gatepost import __version__
from gatepost.api import openapi, problems
from gatepost.api.calls import Services
from gatepost.api.edge import Edge
from gatepost.api.peers import Peers
from gatepost.api.routes import auth, deliveries, events, groups, health, keys, replays, stats, swaps, tasks, webhooks
from gatepost.domain.events import to_json
from gatepost.ports import Clock

__all__ = ["Services", "create_app", "create_health_app"]

DOCS_POLICY = "default-src 'none'; frame-ancestors 'none'"  # framing does not fall under the default


def create_app(services: Services, *, clock: Clock, ready: Callable[[], bool], peers: Peers | None = None) -> FastAPI:
    """Return the application; `ready` says whether `/health/ready` answers 200."""
    app = _app(clock, ready, auth, groups, keys, tasks, swaps, events, webhooks, deliveries, replays, stats, health)
    app.state.services = services
    app.state.peers = peers or Peers()
    app.router.routes.extend(_documents(app))
    return app


def create_health_app(*, clock: Clock, ready: Callable[[], bool]) -> FastAPI:
    """Return what a process without an API answers: `/health/live` and `/health/ready`, the same as with one."""
    return _app(clock, ready, health)


def _app(clock: Clock, ready: Callable[[], bool], *nouns: ModuleType) -> FastAPI:
    app = FastAPI(
        title="Gatepost",
        version=__version__,
        # The framework's own documents, redirects and traces stay out: ours are below, or in the log line.
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.state.ready = ready
    for noun in nouns:
        # Flat, because an included router is matched twice for every request.
        app.router.routes.extend(noun.router.routes)
    app.add_middleware(Edge, clock=clock)
    problems.install(app)
    return app


def _documents(app: FastAPI) -> list[Route]:
    @cache
    def described() -> bytes:
        return to_json(openapi.document(app))

    @cache
    def listed() -> str:
        return openapi.docs_page(openapi.document(app))

    async def show_openapi(_: Request) -> Response:
        return Response(described(), media_type="application/json")

    async def show_docs(_: Request) -> Response:
        return HTMLResponse(listed(), headers={"Content-Security-Policy": DOCS_POLICY})

    return [Route("/api/openapi.json", show_openapi), Route("/api/docs", show_docs)]
