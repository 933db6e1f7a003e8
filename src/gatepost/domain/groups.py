"""Groups (the tenants), who belongs to them, and the API keys that act in them."""

import hmac
import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from hashlib import sha256

from gatepost.domain.errors import invalid

NAME_LIMIT = 100

_KEY = re.compile(r"gp_([0-9a-f]{32})_([0-9a-f]{64})")
# Controls, which terminals obey; line ends; what turns the direction of writing around; half a surrogate pair.
_UNFIT = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class Role(StrEnum):
    """What somebody may do in a group; each may do what those after it may. API keys are never owners."""

    OWNER = "owner"
    ADMIN = "admin"
    MEMBER = "member"

    def allows(self, needed: "Role") -> bool:
        """Say whether this role is enough.

        >>> Role.OWNER.allows(Role.ADMIN), Role.MEMBER.allows(Role.ADMIN)
        (True, False)
        """
        ranks = list(Role)
        return ranks.index(self) <= ranks.index(needed)


KEY_ROLES = (Role.ADMIN, Role.MEMBER)


@dataclass(frozen=True, slots=True)
class Group:
    id: str
    name: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Membership:
    """A group as one of its people sees it."""

    group: Group
    role: Role


@dataclass(frozen=True, slots=True)
class Member:
    """A person as a group of theirs sees them; `joined_at` is when they came into the group."""

    group_id: str
    user_id: str
    email: str
    name: str | None
    role: Role
    joined_at: datetime

    @property
    def id(self) -> str:
        """What lists of members are sorted and paged by."""
        return self.user_id


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key of one group; only the SHA-256 of its secret is kept."""

    id: str
    group_id: str
    role: Role
    secret_hash: bytes
    created_at: datetime
    name: str | None = None
    last_used_at: datetime | None = None
    revoked_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is asking: the group they act in and what they may do there; `origin` is that of the events they cause."""

    actor_id: str
    group_id: str
    role: Role
    origin: str = "api"

    @property
    def is_person(self) -> bool:
        return self.actor_id.startswith("usr_")

    @property
    def is_admin(self) -> bool:
        return self.role.allows(Role.ADMIN)


def group_name(name: str) -> str:
    """Return a name fit for a group, trimmed.

    Raises: InvalidInput, when empty or over 100 characters.
    """
    return fit_name("name", name)


def fit_name(field: str, name: str) -> str:
    """Return a name of something or somebody, trimmed.

    Raises: InvalidInput, when empty, over 100 characters, or with characters that would harm who reads it.
    """
    name = name.strip()
    if not 1 <= len(name) <= NAME_LIMIT:
        raise invalid(field, f"give a name of 1 to {NAME_LIMIT} characters", code="length")
    if _UNFIT.search(name):
        raise invalid(field, "leave out control characters and unpaired surrogates", code="characters")
    return name


def key_text(key_id: str, secret: bytes) -> str:
    """Return the key as its holder sends it, shown once.

    >>> key_text("key_" + "0" * 32, bytes(32))[:40]
    'gp_00000000000000000000000000000000_0000'
    """
    return f"gp_{key_id.removeprefix('key_')}_{secret.hex()}"


def parse_key(text: str) -> tuple[str, bytes] | None:
    """Return the key id and the secret's hash, or None when the text is no key."""
    match = _KEY.fullmatch(text)
    return (f"key_{match[1]}", hash_key_secret(bytes.fromhex(match[2]))) if match else None


def hash_key_secret(secret: bytes) -> bytes:
    return sha256(secret).digest()


def is_valid(key: ApiKey, secret_hash: bytes) -> bool:
    """Say whether a stored key is live and its secret is the one offered, in constant time."""
    return key.revoked_at is None and hmac.compare_digest(key.secret_hash, secret_hash)
