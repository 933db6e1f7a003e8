"""The HTTP API in this process, over a real store; the engine is off, so that what is queued stays queued."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import argon2
import httpx2
from tests.builders import make_user
from tests.contract.backends import BACKENDS, Store
from tests.fakes import NumberedChance
from tests.tools import missing

from gatepost.adapters.passwords import Argon2Passwords
from gatepost.adapters.resolver import Resolver
from gatepost.adapters.sender import CurlSender
from gatepost.adapters.system import SystemChance, SystemClock
from gatepost.api.app import Services, create_app
from gatepost.api.peers import Peers
from gatepost.domain.groups import Group, Role
from gatepost.domain.network import TargetPolicy
from gatepost.domain.people import User
from gatepost.ports import Clock, Passwords, Sender
from gatepost.services.deliveries import Deliveries
from gatepost.services.emitting import Emitter
from gatepost.services.events import Events
from gatepost.services.groups import Groups
from gatepost.services.keys import Keys
from gatepost.services.matcher import Matcher
from gatepost.services.people import People
from gatepost.services.replays import Replays
from gatepost.services.requests import Requests
from gatepost.services.stats import Stats
from gatepost.services.swaps import Swaps
from gatepost.services.tasks import Tasks
from gatepost.services.webhooks import Webhooks

POLICY = TargetPolicy(allowed_networks=(ip_network("127.0.0.1/32"),), own_listeners=frozenset({("127.0.0.1", 1)}))
USER_AGENT = "Gatepost/test"
CHEAP = argon2.profiles.CHEAPEST
ORIGIN = "http://gatepost.test"
PASSWORD = "correct horse battery"


class Hints:
    """Keeps what the engine would have been told."""

    def __init__(self) -> None:
        self.changed: list[str] = []

    def webhook_changed(self, webhook_id: str) -> None:
        self.changed.append(webhook_id)


@dataclass
class Client:
    """One caller: a key, a browser with its cookies, or neither."""

    http: httpx2.AsyncClient
    key: str | None = None

    async def __call__(self, method: str, path: str, **request: Any) -> httpx2.Response:
        headers = {**({"Authorization": f"Bearer {self.key}"} if self.key else {}), **request.pop("headers", {})}
        return await self.http.request(method, path, headers=headers, **request)

    async def get(self, path: str, **request: Any) -> httpx2.Response:
        return await self("GET", path, **request)

    async def post(self, path: str, json: Any = None, **request: Any) -> httpx2.Response:
        return await self("POST", path, json={} if json is None else json, **request)

    async def put(self, path: str, json: Any, **request: Any) -> httpx2.Response:
        return await self("PUT", path, json=json, **request)

    async def patch(self, path: str, json: Any, **request: Any) -> httpx2.Response:
        return await self("PATCH", path, json=json, **request)

    async def delete(self, path: str, **request: Any) -> httpx2.Response:
        return await self("DELETE", path, **request)


@dataclass
class Api:
    """An API with two groups: ours, with an admin and a member, and another."""

    app: Any
    services: Services
    store: Store
    folder: Path
    hints: Hints
    group: Group
    admin: Client
    member: Client
    stranger: Client
    other_group: Group
    other_admin: Client
    _made: int = field(default=0)

    async def new_task(self, **fields: Any) -> dict[str, Any]:
        return expect(await self.member.post("/api/tasks", {"title": "Water the plants", **fields}), 201)

    async def new_person(self, role: Role = Role.MEMBER) -> str:
        """Return the id of somebody who belongs to our group."""
        user = make_user()
        await self.store.add_user(user)
        await self.store.add_member(self.group.id, user.id, role, now=user.created_at)
        return user.id

    def browser(self, *, address: str = "127.0.0.1") -> Client:
        """Return a browser with cookies of its own that shows our pages."""
        transport = httpx2.ASGITransport(app=self.app, client=(address, 1))
        return Client(httpx2.AsyncClient(transport=transport, base_url=ORIGIN, headers={"Origin": ORIGIN}))

    async def new_account(self, *, role: Role | None = None, **fields: Any) -> User:
        """Return somebody who may sign in with PASSWORD; with a role they belong to our group."""
        self._made += 1
        fields = {"email": f"person{self._made}@example.com", "password": PASSWORD, **fields}
        made = await self.services.people.create(**fields, draws=self.services.requests.draws())
        if role is not None:
            await self.store.add_member(self.group.id, made.user.id, role, now=made.user.created_at)
        return made.user

    async def signed_in(self, role: Role | None = None, **fields: Any) -> tuple[Client, User]:
        """Return the browser of somebody who has just signed in, and who that is."""
        user, browser = await self.new_account(role=role, **fields), self.browser()
        await sign_in(browser, user.email)
        return browser, user

    async def new_webhook(self, **fields: Any) -> dict[str, Any]:
        self._made += 1
        body = {"name": f"Hook {self._made}", "targetUrl": "https://hooks.example.com/in", "events": ["*"], **fields}
        return expect(await self.admin.post("/api/integrations/webhooks", body), 201)

    async def deliveries_of(self, webhook_id: str) -> list[dict[str, Any]]:
        page = await self.admin.get(f"/api/integrations/webhooks/{webhook_id}/deliveries")
        return list(expect(page, 200)["items"])


@asynccontextmanager
async def opened_api(
    folder: Path,
    *,
    on: str = "sqlite",
    clock: Clock | None = None,
    sender: Sender | None = None,
    passwords: Passwords | None = None,
    peers: Peers | None = None,
) -> AsyncIterator[Api]:
    clock, chance, hints = clock or SystemClock(), NumberedChance(), Hints()
    if lacking := BACKENDS[on].missing():
        missing(lacking)
    backend = BACKENDS[on](folder)
    store = await backend.open()
    sender = sender or CurlSender(POLICY, Resolver(clock), clock, on_thread_death=_raise)
    emitter = Emitter(Matcher(store), chance)
    people = People(store, store, passwords or Argon2Passwords(CHEAP), clock, chance)
    services = Services(
        people=people,
        groups=Groups(store, people),
        keys=Keys(store, clock),
        requests=Requests(store, clock, SystemChance()),
        tasks=Tasks(store, store, emitter, clock, chance),
        swaps=Swaps(store, store, store, emitter, clock, chance),
        events=Events(store, emitter),
        stats=Stats(store, store, clock),
        webhooks=Webhooks(store, hints=hints, target_policy=POLICY, clock=clock, quota=5, watchers=3),
        deliveries=Deliveries(
            store,
            store,
            sender=sender,
            hints=hints,
            target_policy=POLICY,
            clock=clock,
            chance=chance,
            user_agent=USER_AGENT,
        ),
        replays=Replays(store, store, clock),
    )
    app = create_app(services, clock=clock, ready=lambda: True, peers=peers)
    transport = httpx2.ASGITransport(app=app)
    try:
        async with httpx2.AsyncClient(transport=transport, base_url=ORIGIN) as http:
            ours = await services.groups.create("Ours", draws=services.requests.draws())
            theirs = await services.groups.create("Theirs", draws=services.requests.draws())

            async def client(group: Group, role: Role) -> Client:
                made = await services.keys.create(group.id, role, draws=services.requests.draws())
                return Client(http, made.text)

            yield Api(
                app=app,
                services=services,
                store=store,
                folder=folder,
                hints=hints,
                group=ours,
                admin=await client(ours, Role.ADMIN),
                member=await client(ours, Role.MEMBER),
                stranger=Client(http),
                other_group=theirs,
                other_admin=await client(theirs, Role.ADMIN),
            )
    finally:
        await services.close()
        await sender.close()
        await backend.close()


async def sign_in(browser: Client, email: str, password: str = PASSWORD) -> dict[str, Any]:
    me: dict[str, Any] = expect(await browser.post("/api/auth/login", {"email": email, "password": password}), 200)
    return me


def expect(response: httpx2.Response, status: int) -> Any:
    assert response.status_code == status, response.text
    return response.json()


def problem(response: httpx2.Response, status: int, code: str) -> dict[str, Any]:
    """Return the problem document of an answer, its common parts checked."""
    document: dict[str, Any] = expect(response, status)
    assert response.headers["content-type"] == "application/problem+json"
    assert (document["type"], document["status"], document["code"]) == (f"/problems/{code}", status, code)
    assert document["title"]
    assert document["detail"]
    return document


def fields_of(document: dict[str, Any]) -> list[str]:
    """Return which fields a problem names."""
    return [".".join(map(str, error["loc"])) for error in document["errors"]]


def _raise(error: BaseException) -> None:
    raise error
