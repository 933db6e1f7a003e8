"""Who is asking, and whether they may: 401, then 404 for another group, then 403."""

from fastapi import Request

from gatepost.domain.errors import Forbidden, NotFound, Unauthenticated
from gatepost.domain.groups import Caller, Role
from gatepost.services.accounts import Accounts

CALLER = "gatepost.caller"  # where the request's log line finds who asked


async def authenticate(request: Request, accounts: Accounts) -> Caller:
    """Return the holder of the request's API key.

    Raises: Unauthenticated.
    """
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    caller = await accounts.authenticate(key.strip()) if scheme.lower() == "bearer" else None
    if caller is None:
        raise Unauthenticated("send a valid API key: Authorization: Bearer gp_…")
    request.scope[CALLER] = caller
    return caller


def must_belong(caller: Caller, group_id: str | None) -> None:
    """Let the caller act in a group; a key may leave out its own.

    Raises: NotFound, for any other group, whether there is one or not.
    """
    if group_id is not None and group_id != caller.group_id:
        raise NotFound("there is no such group for this key")


def must_be(caller: Caller, role: Role) -> None:
    """Raises: Forbidden, when the route needs an admin and the caller is none."""
    if role is Role.ADMIN and caller.role is not Role.ADMIN:
        raise Forbidden("this needs a key with the role admin")
