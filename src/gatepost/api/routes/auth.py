"""/api/auth: signing in and out, one's own password and sessions."""

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request, Response

from gatepost.api.account_answers import key_profile_json, profile_json, session_json
from gatepost.api.answers import page_json, parse_cursor
from gatepost.api.auth import COOKIE, must_come_from_here
from gatepost.api.bodies import parse_body, read_body
from gatepost.api.calls import AnybodysCall, OwnCall, Services, SignedInCall, signed_in
from gatepost.api.openapi import Cursor, Limit, body_of
from gatepost.api.peers import Peers
from gatepost.api.schemas import accounts as schemas
from gatepost.api.schemas.shapes import id_pattern
from gatepost.domain.events import Json
from gatepost.domain.people import LIFETIME
from gatepost.services.people import NewSession

router = APIRouter(tags=["auth"])

SessionId = Annotated[str, Path(alias="sessionId", pattern=id_pattern("ses"), description="The session.")]
ChangePassword = Annotated[OwnCall[schemas.PasswordChange], Depends(signed_in(schemas.PasswordChange))]


async def _credentials(request: Request) -> schemas.Login:
    """Return what somebody signs in with; a page of another site may not sign a browser in, either."""
    origin = request.headers.get("origin")
    if origin is not None:
        must_come_from_here(request, origin)
    return parse_body(schemas.Login, await read_body(request))


@router.post(
    "/api/auth/login",
    operation_id="signIn",
    summary="Sign in; the session is a cookie",
    response_model=schemas.Me,
    openapi_extra={
        **body_of(schemas.Login, "unauthenticated", "origin_mismatch", "rate_limited", "store_unavailable"),
        "security": [],
    },
)
async def sign_in(
    request: Request, response: Response, credentials: Annotated[schemas.Login, Depends(_credentials)]
) -> Any:
    services: Services = request.app.state.services
    begun = await services.people.sign_in(
        credentials.email, credentials.password, address=_address(request), replaced=request.cookies.get(COOKIE)
    )
    return _begun(begun, request, response)


@router.post("/api/auth/logout", operation_id="signOut", summary="End the session", status_code=204)
async def sign_out(call: SignedInCall, request: Request, response: Response) -> None:
    await call.services.people.sign_out(call.actor_id, call.session_id)
    _clear_cookie(request, response)


@router.get(
    "/api/auth/me",
    operation_id="getMe",
    summary="Look at who is asking, and in which groups they are",
    response_model=schemas.Me,
)
async def get_me(call: AnybodysCall) -> Any:
    if call.identity.session_id is not None:
        return profile_json(await call.services.people.profile(call.actor_id))
    key = await call.services.keys.get(call.actor_id)
    return key_profile_json(key, await call.services.groups.get(key.group_id))


@router.post(
    "/api/auth/password",
    operation_id="changePassword",
    summary="Change one's password; all other sessions end, this one gets a new cookie",
    response_model=schemas.Me,
    openapi_extra=body_of(schemas.PasswordChange, "rate_limited"),
)
async def change_password(call: ChangePassword, request: Request, response: Response) -> Any:
    body = call.body
    begun = await call.services.people.change_password(
        call.actor_id, body.current_password, body.new_password, address=_address(request)
    )
    return _begun(begun, request, response)


@router.get(
    "/api/auth/sessions",
    operation_id="listSessions",
    summary="List one's sessions, newest first",
    response_model=schemas.SessionPage,
)
async def list_sessions(call: SignedInCall, limit: Limit = 50, cursor: Cursor = None) -> Any:
    page = await call.services.people.sessions(call.actor_id, limit=limit, before=parse_cursor(cursor))
    return page_json(page, partial(session_json, current_id=call.session_id))


@router.delete(
    "/api/auth/sessions",
    operation_id="endSessions",
    summary="End all of one's sessions, this one too",
    status_code=204,
)
async def end_sessions(call: SignedInCall, request: Request, response: Response) -> None:
    await call.services.people.end_sessions(call.actor_id)
    _clear_cookie(request, response)


@router.delete(
    "/api/auth/sessions/{sessionId}",
    operation_id="endSession",
    summary="End one of one's sessions",
    status_code=204,
)
async def end_session(call: SignedInCall, session_id: SessionId) -> None:
    await call.services.people.end_session(call.actor_id, session_id)


def _begun(begun: NewSession, request: Request, response: Response) -> Json:
    _set_cookie(request, response, begun.text, max_age=int(LIFETIME.total_seconds()))
    return profile_json(begun.profile)


def _clear_cookie(request: Request, response: Response) -> None:
    _set_cookie(request, response, "", max_age=0)


def _set_cookie(request: Request, response: Response, value: str, *, max_age: int) -> None:
    secure = _peers(request).is_https(request)
    response.set_cookie(COOKIE, value, max_age=max_age, path="/", secure=secure, httponly=True, samesite="lax")


def _address(request: Request) -> str:
    return str(_peers(request).address(request))


def _peers(request: Request) -> Peers:
    peers: Peers = request.app.state.peers
    return peers
