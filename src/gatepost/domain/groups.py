"""Groups (the tenants) and the API keys that act in them."""

import hmac
import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from hashlib import sha256

from gatepost.domain.errors import invalid

NAME_LIMIT = 100

_KEY = re.compile(r"gp_([0-9a-f]{32})_([0-9a-f]{64})")


class Role(StrEnum):
    ADMIN = "admin"
    MEMBER = "member"


@dataclass(frozen=True, slots=True)
class Group:
    id: str
    name: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key of one group; only the SHA-256 of its secret is kept."""

    id: str
    group_id: str
    role: Role
    secret_hash: bytes
    created_at: datetime
    last_used_at: datetime | None = None
    revoked_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is asking: the group they act in and what they may do there."""

    actor_id: str
    group_id: str
    role: Role


def group_name(name: str) -> str:
    """Return a name fit for a group, trimmed.

    Raises: InvalidInput, when empty or over 100 characters.
    """
    name = name.strip()
    if not 1 <= len(name) <= NAME_LIMIT or "\x00" in name:
        raise invalid("name", f"give a name of 1 to {NAME_LIMIT} characters")
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
