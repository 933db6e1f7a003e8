"""What an endpoint is called with: the services, the caller, the body. The order of checks is here.

401 without a key or a session, 404 for a foreign group, 403 without the role; only then is what was sent judged.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Depends, Path, Query, Request

from gatepost.api.auth import Identity, authenticate, let_in
from gatepost.api.bodies import group_named_in, parse_body, read_body
from gatepost.api.once import BODY, IdempotencyKey, draws_of
from gatepost.api.schemas.shapes import Body
from gatepost.domain.errors import Forbidden, GatepostError, InvalidInput, invalid
from gatepost.domain.groups import Caller, Role
from gatepost.ports import Draws
from gatepost.services.deliveries import Deliveries
from gatepost.services.events import Events
from gatepost.services.groups import Groups
from gatepost.services.keys import Keys
from gatepost.services.people import People
from gatepost.services.replays import Replays
from gatepost.services.requests import Requests
from gatepost.services.stats import Stats
from gatepost.services.swaps import Swaps
from gatepost.services.tasks import Tasks
from gatepost.services.webhooks import Webhooks

M = TypeVar("M", bound=Body)
B = TypeVar("B")

GroupId = Annotated[
    str | None, Query(alias="groupId", description="The group; whoever belongs to only one may leave it out.")
]
GroupPath = Annotated[str, Path(alias="groupId", description="The group.")]


@dataclass(frozen=True, slots=True)
class Services:
    """All that the API can ask to be done."""

    people: People
    groups: Groups
    keys: Keys
    requests: Requests
    tasks: Tasks
    swaps: Swaps
    events: Events
    webhooks: Webhooks
    deliveries: Deliveries
    stats: Stats
    replays: Replays

    async def close(self) -> None:
        """Write what is still waiting to be written."""
        await self.keys.close()
        await self.people.close()


@dataclass(frozen=True, slots=True)
class Call(Generic[B]):
    """One request, let into a group and understood."""

    services: Services
    caller: Caller
    body: B
    draws: Draws

    @property
    def actor_id(self) -> str:
        return self.caller.actor_id

    @property
    def group_id(self) -> str:
        return self.caller.group_id


@dataclass(frozen=True, slots=True)
class OwnCall(Generic[B]):
    """One request about whoever makes it, in no group."""

    services: Services
    identity: Identity
    body: B
    draws: Draws

    @property
    def actor_id(self) -> str:
        return self.identity.actor_id

    @property
    def session_id(self) -> str:
        """Raises: Forbidden, for an API key."""
        if self.identity.session_id is None:
            raise Forbidden("this is for people who are signed in, not for API keys")
        return self.identity.session_id


Enter = Callable[..., Awaitable[Call[B]]]
EnterOwn = Callable[..., Awaitable[OwnCall[B]]]
AnyCall = TypeVar("AnyCall", bound=Call[Any] | OwnCall[Any])

ROLES: dict[Callable[..., object], Role] = {}  # the role that a dependency asks for, to be told in the OpenAPI document


def _asking(role: Role, enter: Enter[B], *, keyed: bool = False) -> Enter[B]:
    """Return a dependency, noted down with the role that it asks for."""
    ROLES[enter] = role
    return _keyed(enter) if keyed else enter


# --- in a group ----------------------------------------------------------------------------------------------


def reading(role: Role) -> Enter[None]:
    """Return the dependency of a route that takes no body."""

    async def enter(request: Request, group_id: GroupId = None) -> Call[None]:
        return await _reading(request, group_id, role)

    return _asking(role, enter)


def reading_group(role: Role) -> Enter[None]:
    """Return the same for a route whose path names the group."""

    async def enter(request: Request, group_id: GroupPath) -> Call[None]:
        return await _reading(request, group_id, role)

    return _asking(role, enter)


def changing(model: type[M], role: Role, *, keyed: bool = False) -> Enter[M]:
    """Return the dependency of a route that changes something: the group in the query, the change in the body."""

    async def enter(request: Request, group_id: GroupId = None) -> Call[M]:
        return await _changing(request, group_id, model, role)

    return _asking(role, enter, keyed=keyed)


def changing_group(model: type[M], role: Role, *, keyed: bool = False) -> Enter[M]:
    """Return the same for a route whose path names the group."""

    async def enter(request: Request, group_id: GroupPath) -> Call[M]:
        return await _changing(request, group_id, model, role)

    return _asking(role, enter, keyed=keyed)


def creating(model: type[M], role: Role) -> Enter[M]:
    """Return the dependency of a route that creates something: the group is a field of the body."""

    async def enter(request: Request) -> Call[M]:
        services = _services(request)
        identity = await authenticate(request, services.keys, services.people)
        raw = b""
        try:
            raw = await _read(request)
            body = parse_body(model, raw)
        except GatepostError:
            # A stranger to the group learns that it is not theirs, and not what a body should look like.
            with suppress(InvalidInput):
                let_in(request, identity, group_named_in(raw), role)
            raise
        caller = let_in(request, identity, body.group_id, role)
        return Call(services, caller, body, services.requests.draws())

    return _asking(role, enter, keyed=True)


MemberCall = Annotated[Call[None], Depends(reading(Role.MEMBER))]
AdminCall = Annotated[Call[None], Depends(reading(Role.ADMIN))]


# --- in no group ---------------------------------------------------------------------------------------------


async def _looking(request: Request) -> OwnCall[None]:
    services = _services(request)
    identity = await authenticate(request, services.keys, services.people)
    return OwnCall(services, identity, None, services.requests.draws())


def signed_in(model: type[M], *, keyed: bool = False) -> EnterOwn[M]:
    """Return the dependency of a route that takes a body from somebody who has signed in."""

    async def enter(request: Request, call: SignedInCall) -> OwnCall[M]:
        body = parse_body(model, await _read(request))
        if body.group_id is not None:
            raise invalid("groupId", "leave it out: this belongs to no group", code="unexpected")
        return OwnCall(call.services, call.identity, body, call.draws)

    return _keyed(enter) if keyed else enter


async def _looking_signed_in(call: Annotated[OwnCall[None], Depends(_looking)]) -> OwnCall[None]:
    _ = call.session_id
    return call


AnybodysCall = Annotated[OwnCall[None], Depends(_looking)]
SignedInCall = Annotated[OwnCall[None], Depends(_looking_signed_in)]


# --- what these are made of ----------------------------------------------------------------------------------


async def _reading(request: Request, group_id: str | None, role: Role) -> Call[None]:
    services = _services(request)
    identity = await authenticate(request, services.keys, services.people)
    return Call(services, let_in(request, identity, group_id, role), None, services.requests.draws())


async def _changing(request: Request, group_id: str | None, model: type[M], role: Role) -> Call[M]:
    call = await _reading(request, group_id, role)
    body = parse_body(model, await _read(request))
    if body.group_id not in (None, call.group_id):
        raise invalid("groupId", "give the group that this belongs to, or leave it out", code="mismatch")
    return Call(call.services, call.caller, body, call.draws)


def _keyed(enter: Callable[..., Awaitable[AnyCall]]) -> Callable[..., Awaitable[AnyCall]]:
    """Return the dependency with the draws of the request's Idempotency-Key, looked at last of all."""

    async def enter_once(
        request: Request, call: Annotated[AnyCall, Depends(enter)], key: IdempotencyKey = None
    ) -> AnyCall:
        return replace(call, draws=await draws_of(request, call.services.requests, call.actor_id, key))

    return enter_once


async def _read(request: Request) -> bytes:
    raw: bytes = await read_body(request)
    request.scope[BODY] = raw
    return raw


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services
