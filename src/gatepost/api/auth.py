"""Who is asking, and whether they may: 401, then 404 for a group that is not theirs, then 403."""

from collections.abc import Mapping
from dataclasses import dataclass

from fastapi import Request

from gatepost.api.peers import Peers
from gatepost.domain.errors import Forbidden, NotFound, OriginMismatch, Unauthenticated, invalid
from gatepost.domain.groups import Caller, Role
from gatepost.services.keys import Keys
from gatepost.services.people import People

CALLER = "gatepost.caller"  # where the request's log line finds who asked, an Identity or a Caller
COOKIE = "gatepost_session"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class Identity:
    """Somebody who has proven who they are. Shape: `session_id` is None for an API key."""

    actor_id: str
    memberships: Mapping[str, Role]
    session_id: str | None = None

    @property
    def origin(self) -> str:
        """What the events that they cause are told to come from."""
        return "api" if self.session_id is None else "ui"

    @property
    def group_id(self) -> str | None:
        """The group that goes without saying: their only one."""
        return next(iter(self.memberships)) if len(self.memberships) == 1 else None

    def in_group(self, group_id: str | None) -> Caller:
        """Return them as they act in a group.

        Raises: NotFound, for a group that is not theirs, whether there is one or not; InvalidInput, when none is given
                and it does not go without saying.
        """
        group_id = self.group_id if group_id is None else group_id
        if group_id is None:
            raise invalid("groupId", "give the group", code="missing")
        role = self.memberships.get(group_id)
        if role is None:
            raise NotFound("you belong to no such group")
        return Caller(self.actor_id, group_id, role, self.origin)


async def authenticate(request: Request, keys: Keys, people: People) -> Identity:
    """Return who holds the request's API key or session; a key goes before a session.

    Raises: Unauthenticated; OriginMismatch, when a page of another site would change something by our cookie.
    """
    authorization = request.headers.get("authorization")
    identity = await (_of_session(request, people) if authorization is None else _of_key(authorization, keys))
    if identity is None:
        raise Unauthenticated("sign in, or send a valid API key: Authorization: Bearer gp_…")
    request.scope[CALLER] = identity
    if identity.session_id is not None and request.method not in SAFE_METHODS:
        must_come_from_here(request, request.headers.get("origin", ""))
    return identity


def let_in(request: Request, identity: Identity, group_id: str | None, role: Role) -> Caller:
    """Let somebody act in a group, with at least this role.

    Raises: NotFound; InvalidInput, when the group is to be given; Forbidden.
    """
    caller = identity.in_group(group_id)
    request.scope[CALLER] = caller
    if not caller.role.allows(role):
        raise Forbidden(f"this needs the role {role}")
    return caller


def must_come_from_here(request: Request, origin: str) -> None:
    """Raises: OriginMismatch, unless it is the origin of our own pages."""
    peers: Peers = request.app.state.peers
    if not peers.is_own_origin(request, origin):
        raise OriginMismatch("a browser must send this from a page of this site; set GATEPOST_PUBLIC_URL if it did")


async def _of_key(authorization: str, keys: Keys) -> Identity | None:
    scheme, _, text = authorization.partition(" ")
    key = await keys.authenticate(text.strip()) if scheme.lower() == "bearer" else None
    return Identity(key.id, {key.group_id: key.role}) if key else None


async def _of_session(request: Request, people: People) -> Identity | None:
    signed_in = await people.authenticate(request.cookies.get(COOKIE, ""))
    if signed_in is None:
        return None
    roles = {membership.group.id: membership.role for membership in signed_in.memberships}
    return Identity(signed_in.session.user_id, roles, signed_in.session.id)
