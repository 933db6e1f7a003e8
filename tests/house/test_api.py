"""The rules of the HTTP API that hold for every route, present and to come."""

import re
from pathlib import Path

from fastapi.dependencies.models import Dependant

from gatepost.api.once import OnceRoute
from gatepost.api.problems import KINDS
from gatepost.api.routes import auth, deliveries, events, groups, health, keys, replays, stats, swaps, tasks, webhooks

ROOT = Path(__file__).resolve().parents[2]
NOUNS = (auth, groups, keys, tasks, swaps, events, webhooks, deliveries, replays, stats, health)
ROUTES = [route for noun in NOUNS for route in noun.router.routes]
ROW = re.compile(r"^\| `(?P<code>[a-z_]+)` \| (?P<status>\d{3}) \| [^|]+ \| [^|]+ \|$", re.MULTILINE)


def test_every_problem_is_explained_with_its_status() -> None:
    rows = ROW.findall((ROOT / "docs" / "problems.md").read_text())
    assert rows == [(code, str(kind.status)) for code, kind in KINDS.items()]


def test_every_route_is_named_and_says_what_it_does() -> None:
    assert len(ROUTES) > 20
    for route in ROUTES:
        assert re.fullmatch(r"[a-z]+[A-Za-z]+", route.operation_id or ""), route
        assert route.summary, route
        assert not route.summary.endswith("."), route


def test_every_route_that_answers_something_says_what() -> None:
    silent = {route.operation_id for route in ROUTES if route.response_model is None}
    assert silent == {route.operation_id for route in ROUTES if route.status_code == 204}


def test_whatever_creates_may_be_asked_again_and_keeps_its_answer() -> None:
    keyed = {route.operation_id for route in ROUTES if "Idempotency-Key" in headers_read_by(route.dependant)}
    creators = {route.operation_id for route in ROUTES if route.status_code in (201, 202)}
    assert keyed == creators | {"rotateWebhookSecret"}
    assert all(isinstance(route, OnceRoute) for route in ROUTES if route.operation_id in keyed)


def headers_read_by(dependant: Dependant) -> set[str]:
    own = {field.alias for field in dependant.header_params}
    return own.union(*(headers_read_by(each) for each in dependant.dependencies))


def test_every_folder_of_routes_is_served() -> None:
    files = {path.stem for path in (ROOT / "src" / "gatepost" / "api" / "routes").glob("[a-z]*.py")}
    assert files == {noun.__name__.rpartition(".")[2] for noun in NOUNS}
