"""People: their accounts, their passwords and the sessions of their browsers."""

import base64
import hmac
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256

from gatepost.domain.errors import invalid

IDLE = timedelta(hours=12)
LIFETIME = timedelta(days=14)

EMAIL_LIMIT = 254  # RFC 5321, section 4.5.3.1.3, less its brackets
SHORTEST_PASSWORD = 8
LONGEST_PASSWORD = 200
GENERATED_PASSWORD_BYTES = 15  # 120 bits, 24 characters

_EMAIL = re.compile(r"[!-?A-~]+@[!-?A-~]+", re.ASCII)
_SESSION = re.compile(r"([0-9a-f]{32})\.([0-9a-f]{64})", re.ASCII)


@dataclass(frozen=True, slots=True)
class User:
    """One person. `email` is in lower case, and nobody else's; an owner of the installation sees its processes."""

    id: str
    email: str
    name: str | None
    password_hash: str
    created_at: datetime
    is_installation_owner: bool = False


@dataclass(frozen=True, slots=True)
class Session:
    """One browser that somebody has signed in with; only the SHA-256 of its secret is kept."""

    id: str
    user_id: str
    secret_hash: bytes
    created_at: datetime
    last_used_at: datetime

    @property
    def expires_at(self) -> datetime:
        """When it ends, unless it is used again before."""
        return min(self.last_used_at + IDLE, self.created_at + LIFETIME)


def is_live(session: Session, secret_hash: bytes, *, now: datetime) -> bool:
    """Say whether a session has not ended and its secret is the one offered, in constant time."""
    return hmac.compare_digest(session.secret_hash, secret_hash) and now < session.expires_at


def session_text(session_id: str, secret: bytes) -> str:
    """Return the session as its cookie has it."""
    return f"{session_id.removeprefix('ses_')}.{secret.hex()}"


def parse_session(text: str) -> tuple[str, bytes] | None:
    """Return the session's id and its secret's hash, or None when the text is no session."""
    match = _SESSION.fullmatch(text)
    return (f"ses_{match[1]}", sha256(bytes.fromhex(match[2])).digest()) if match else None


def email_address(text: str) -> str:
    """Return an address as it is compared: trimmed, in lower case.

    >>> email_address(" Ann@Example.com ")
    'ann@example.com'

    Raises: InvalidInput, when it cannot be one.
    """
    email = text.strip().lower()
    if len(email) > EMAIL_LIMIT or not _EMAIL.fullmatch(email):
        raise invalid("email", "give an e-mail address, such as ann@example.com", code="email")
    return email


def fit_password(password: str, *, field: str = "password") -> str:
    """Return a password that may be set.

    Raises: InvalidInput, when it is too short or too long.
    """
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
        raise invalid(field, f"give {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters", code="length")
    if any("\ud800" <= character <= "\udfff" for character in password):
        raise invalid(field, "leave out unpaired surrogates", code="characters")
    return password


def generated_password(entropy: bytes) -> str:
    """Return a password that is easy to copy.

    >>> generated_password(bytes(15))
    'aaaa-aaaa-aaaa-aaaa-aaaa-aaaa'
    """
    text = base64.b32encode(entropy).decode().lower()
    return "-".join(text[start : start + 4] for start in range(0, len(text), 4))
