"""Groups, people, and how they prove who they are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from gatepost.domain.groups import ApiKey, Group, Member, Membership, Role
from gatepost.domain.people import Session, User
from gatepost.ports.results import Page, Saved


class GroupStore(Protocol):
    """Groups and who belongs to them."""

    async def add_group(self, group: Group, *, owner_ids: Sequence[str] | None = ()) -> Saved:
        """Add a group with its owners: DONE, also when this very group is there already; EXISTS when the name is
        taken.

        Without a list, its owners are those who own the installation, and the first person when they come at the same
        moment.
        """

    async def group(self, group_id: str) -> Group | None:
        """Return a group."""

    async def group_named(self, name: str) -> Group | None:
        """Return the group of that name."""

    async def groups(self, *, limit: int, before: str | None) -> Page[Group]:
        """Return all groups of the installation, newest first."""

    async def memberships(self, user_id: str) -> Sequence[Membership]:
        """Return every group that a person belongs to, newest group first."""

    async def members(self, group_id: str, *, limit: int, before: str | None) -> Page[Member]:
        """Return who belongs to a group, the newest accounts first."""

    async def member(self, group_id: str, user_id: str) -> Member | None:
        """Return one member of a group."""

    async def add_member(self, group_id: str, user_id: str, role: Role, *, now: datetime) -> Saved:
        """Let a person into a group: DONE, or EXISTS when they belong to it already, in whatever role."""

    async def save_role(self, group_id: str, user_id: str, role: Role, *, expected: Role) -> Saved:
        """Give a member of the role expected another one: DONE; STALE when there is no such member; LAST_OWNER when
        the group would have no owner left."""

    async def remove_member(self, group_id: str, user_id: str, *, expected: Role) -> Saved:
        """Take a member of the role expected out of a group: DONE; STALE when there is no such member; LAST_OWNER when
        the group would have no owner left."""


class KeyStore(Protocol):
    """API keys."""

    async def add_key(self, group_id: str, key: ApiKey) -> None:
        """Add an API key to a group; nothing happens when it is there already."""

    async def key(self, key_id: str) -> ApiKey | None:
        """Return a key, revoked or not."""

    async def keys(self, group_id: str, *, limit: int, before: str | None) -> Page[ApiKey]:
        """Return the group's keys that are not revoked, newest first."""

    async def revoke_key(self, group_id: str, key_id: str, *, now: datetime) -> Saved:
        """Revoke a key of a group for good: DONE, or STALE when there is no such key that is not revoked."""

    async def touch_keys(self, used_at: Mapping[str, datetime]) -> None:
        """Raise the last use of each key to the moment given; never lower it."""


class PeopleStore(Protocol):
    """People and their sessions."""

    async def add_user(self, user: User) -> Saved:
        """Add a person: DONE, also when this very one is there already; EXISTS when the e-mail address is taken."""

    async def add_first_user(self, user: User) -> Saved:
        """Add the first person of the installation and make them owner of every group without one.

        DONE, also when this very one is there already; EXISTS when there is anybody else. Of many who ask at once, one
        is told DONE.
        """

    async def user(self, user_id: str) -> User | None:
        """Return a person."""

    async def user_with_email(self, email: str) -> User | None:
        """Return the person of that address, given as `people.email_address` makes it."""

    async def users(self, *, limit: int, before: str | None) -> Page[User]:
        """Return everybody, the newest accounts first."""

    async def save_password(self, user_id: str, password_hash: str, *, expected: str) -> Saved:
        """Replace a person's password hash: DONE, or STALE when it is not the one expected."""

    async def add_session(self, session: Session) -> None:
        """Add a session. Sessions that ended before it began may be forgotten on this occasion."""

    async def session(self, session_id: str) -> Session | None:
        """Return a session that nobody has ended; it may have run out."""

    async def sessions(self, user_id: str) -> Sequence[Session]:
        """Return a person's sessions that nobody has ended, newest first; they may have run out."""

    async def touch_sessions(self, used_at: Mapping[str, datetime]) -> None:
        """Raise the last use of each session to the moment given; never lower it."""

    async def end_sessions(self, user_id: str, session_ids: Sequence[str] | None = None) -> None:
        """End those of a person's sessions, or all of them."""


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """What a request was answered with.

    Shape: `headers` are those that belong to this answer, such as ``("ETag", …)``, not those of every answer.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


@dataclass(frozen=True, slots=True)
class KeyedRequest:
    """A request made under an Idempotency-Key.

    Shape: `id` is the SHA-256, in hex, of who asked, for what path, under which key; everything that it draws comes of
           `seed` and `at`, so that done again it is the same write; `answer` is None until it has one.
    """

    id: str
    body_hash: bytes
    seed: bytes
    at: datetime
    answer: KeptAnswer | None = None


class RequestStore(Protocol):
    """Requests that may be made again, and their first answers. Seeds and answers, which hold secrets, are sealed."""

    async def remember_request(self, request: KeyedRequest, *, kept_for: timedelta) -> KeyedRequest:
        """Remember a request and return it; or return the one that is remembered under its id already.

        What is older than `kept_for` counts as forgotten. Some of that is removed on this occasion.
        """

    async def keep_answer(self, request_id: str, answer: KeptAnswer) -> KeptAnswer:
        """Keep a request's answer, and return the first that was kept for it."""
