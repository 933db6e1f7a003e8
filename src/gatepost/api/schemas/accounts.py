"""Signing in, groups, members and API keys."""

from typing import Annotated, Literal

from pydantic import Field

from gatepost.api.schemas.shapes import Answer, Body, WireMoment
from gatepost.domain.groups import NAME_LIMIT, Role
from gatepost.domain.people import EMAIL_LIMIT, LONGEST_PASSWORD, SHORTEST_PASSWORD

Name = Annotated[str, Field(min_length=1, max_length=NAME_LIMIT)]
Email = Annotated[str, Field(min_length=3, max_length=EMAIL_LIMIT, examples=["ann@example.com"])]
Password = Annotated[str, Field(min_length=SHORTEST_PASSWORD, max_length=LONGEST_PASSWORD)]
Offered = Annotated[str, Field(max_length=1000)]  # a password to be judged: whatever its length, it is merely wrong

# --- signing in ----------------------------------------------------------------------------------------------


class Login(Body):
    email: Offered
    password: Offered


class PasswordChange(Body):
    current_password: Offered
    new_password: Password


class OwnGroup(Answer):
    id: str
    name: str
    role: Role


class Me(Answer):
    id: Annotated[str, Field(description="A person's, or that of the API key.")]
    email: str | None
    name: str | None
    is_installation_owner: bool
    groups: list[OwnGroup]


class Session(Answer):
    id: str
    created_at: WireMoment
    last_used_at: WireMoment
    expires_at: Annotated[WireMoment, Field(description="Unless it is used again before.")]
    current: Annotated[bool, Field(description="Whether this request was made in it.")]


class SessionPage(Answer):
    items: list[Session]
    next_cursor: str | None


# --- groups --------------------------------------------------------------------------------------------------


class GroupCreate(Body):
    name: Name


class Group(Answer):
    id: str
    name: str
    role: Annotated[Role, Field(description="The caller's.")]
    created_at: WireMoment


class GroupPage(Answer):
    items: list[Group]
    next_cursor: str | None


class MemberAdd(Body):
    """Somebody who has an account already is named by their address alone."""

    email: Email
    role: Role
    name: Name | None = None
    password: Annotated[Password | None, Field(description="Of a new account; else one is made.")] = None


class MemberChange(Body):
    role: Role


class Member(Answer):
    user_id: str
    email: str
    name: str | None
    role: Role
    joined_at: WireMoment


class MemberAdded(Member):
    password: Annotated[str | None, Field(description="The one that was made for a new account, shown this once.")]


class MemberPage(Answer):
    items: list[Member]
    next_cursor: str | None


# --- API keys ------------------------------------------------------------------------------------------------


class KeyCreate(Body):
    role: Literal["admin", "member"]
    name: Name | None = None


class ApiKey(Answer):
    id: str
    group_id: str
    name: str | None
    role: Role
    created_at: WireMoment
    last_used_at: WireMoment | None


class ApiKeyCreated(ApiKey):
    key: Annotated[str, Field(description="Shown this once.")]


class ApiKeyPage(Answer):
    items: list[ApiKey]
    next_cursor: str | None
