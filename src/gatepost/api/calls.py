"""What an endpoint is called with: the services, the caller, the body. The order of checks is here.

401 without a key, 404 for a foreign group, 403 without the role; only then is what was sent judged.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Generic, TypeVar

from fastapi import Depends, Query, Request

from gatepost.api.auth import authenticate, must_be, must_belong
from gatepost.api.bodies import group_named_in, parse_body, read_body
from gatepost.api.schemas import Body
from gatepost.domain.errors import GatepostError, invalid
from gatepost.domain.groups import Caller, Role
from gatepost.services.accounts import Accounts
from gatepost.services.deliveries import Deliveries
from gatepost.services.tasks import Tasks
from gatepost.services.webhooks import Webhooks

M = TypeVar("M", bound=Body)
B = TypeVar("B")

GroupId = Annotated[str | None, Query(alias="groupId", description="The group; a key may leave it out.")]


@dataclass(frozen=True, slots=True)
class Services:
    """All that the API can ask to be done."""

    accounts: Accounts
    tasks: Tasks
    webhooks: Webhooks
    deliveries: Deliveries


@dataclass(frozen=True, slots=True)
class Call(Generic[B]):
    """One request, let in and understood."""

    services: Services
    caller: Caller
    body: B

    @property
    def group_id(self) -> str:
        return self.caller.group_id


def reading(role: Role) -> Callable[..., Awaitable[Call[None]]]:
    """Return the dependency of a route that takes no body."""

    async def enter(request: Request, group_id: GroupId = None) -> Call[None]:
        return Call(_services(request), await _let_in(request, group_id, role), None)

    return enter


def changing(model: type[M], role: Role) -> Callable[..., Awaitable[Call[M]]]:
    """Return the dependency of a route that changes something: the group in the query, the change in the body."""

    async def enter(request: Request, group_id: GroupId = None) -> Call[M]:
        caller = await _let_in(request, group_id, role)
        body = parse_body(model, await read_body(request))
        if body.group_id not in (None, caller.group_id):
            raise invalid("groupId", "give the group that this belongs to, or leave it out", code="mismatch")
        return Call(_services(request), caller, body)

    return enter


def creating(model: type[M], role: Role) -> Callable[..., Awaitable[Call[M]]]:
    """Return the dependency of a route that creates something: the group is a field of the body."""

    async def enter(request: Request) -> Call[M]:
        caller = await authenticate(request, _services(request).accounts)
        raw = b""
        try:
            raw = await read_body(request)
            body = parse_body(model, raw)
        except GatepostError:
            # A stranger to the group learns that it is not theirs, and not what a body should look like.
            must_belong(caller, group_named_in(raw))
            must_be(caller, role)
            raise
        must_belong(caller, body.group_id)
        must_be(caller, role)
        return Call(_services(request), caller, body)

    return enter


MemberCall = Annotated[Call[None], Depends(reading(Role.MEMBER))]
AdminCall = Annotated[Call[None], Depends(reading(Role.ADMIN))]


async def _let_in(request: Request, group_id: str | None, role: Role) -> Caller:
    caller = await authenticate(request, _services(request).accounts)
    must_belong(caller, group_id)
    must_be(caller, role)
    return caller


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services
