"""Both signature schemes of Gatepost, signing and verifying. Verifying is total: any bytes give a verdict.

Standard Webhooks: ``webhook-id``, ``webhook-timestamp``, ``webhook-signature: v1,<base64>[ v1,<base64>]``;
                   key = the bytes that follow ``whsec_`` decoded; signed content ``{id}.{timestamp}.{body}``.
Plain HMAC:        ``X-Timestamp``, ``X-Signature: sha256=<hex>[,sha256=<hex>]``;
                   key = the whole secret string as UTF-8; signed content ``{timestamp}.{body}``.
"""

import base64
import binascii
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from gatepost.domain.errors import invalid

SECRET_PREFIX = "whsec_"
SECRET_KEY_BYTES = 32
TOLERANCE_SECONDS = 300

_TIMESTAMP = re.compile(r"[0-9]{1,11}")
_HEX_SIGNATURE = re.compile(r"sha256=([0-9a-f]{64})")


class Verdict(StrEnum):
    """What verifying found; every value but `VALID` says why not."""

    VALID = "valid"
    MISSING_HEADERS = "missing_headers"
    MALFORMED_TIMESTAMP = "malformed_timestamp"
    MALFORMED_SIGNATURE = "malformed_signature"
    WRONG_SIGNATURE = "wrong_signature"
    TOO_OLD = "too_old"
    TOO_NEW = "too_new"


@dataclass(frozen=True, slots=True)
class SigningKey:
    """One secret, ready to sign with."""

    decoded: bytes  # Standard Webhooks
    literal: bytes  # plain HMAC


def make_secret(key: bytes) -> str:
    """Return the secret that carries a key.

    >>> make_secret(bytes(24))
    'whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA'
    """
    return SECRET_PREFIX + base64.b64encode(key).decode()


def parse_secret(secret: str) -> SigningKey:
    """Return the signing key of a secret.

    Shape:  ``whsec_`` + base64 of 24–64 bytes.
    Raises: InvalidInput, for any other shape.
    Source: Standard Webhooks, "Signature scheme".
    """
    try:
        decoded = base64.b64decode(secret.removeprefix(SECRET_PREFIX).encode("ascii"), validate=True)
    except (binascii.Error, ValueError):
        decoded = b""
    if not (secret.startswith(SECRET_PREFIX) and 24 <= len(decoded) <= 64):
        raise invalid("secret", "give whsec_ followed by the base64 of 24 to 64 bytes")
    return SigningKey(decoded=decoded, literal=secret.encode())


def secret_hint(secret: str) -> str:
    """Return what may be shown of a secret: its last four characters before padding.

    >>> secret_hint("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    '…LaSw'
    """
    return "…" + secret.rstrip("=")[-4:]


def sign_standard(keys: Sequence[SigningKey], message_id: str, timestamp: int, body: bytes) -> str:
    """Return the `webhook-signature` value, one signature for each key in the order given.

    Units:  `timestamp` in whole Unix seconds.
    Source: Standard Webhooks, "Signature scheme".
    """
    content = b"%b.%d.%b" % (message_id.encode(), timestamp, body)
    macs = [hmac.digest(key.decoded, content, "sha256") for key in keys]
    return " ".join(["v1," + binascii.b2a_base64(mac, newline=False).decode() for mac in macs])


def sign_plain(keys: Sequence[SigningKey], timestamp: int, body: bytes) -> str:
    """Return the `X-Signature` value, one signature for each key in the order given.

    Units: `timestamp` in whole Unix seconds.
    """
    content = b"%d.%b" % (timestamp, body)
    return ",".join(["sha256=" + hmac.digest(key.literal, content, "sha256").hex() for key in keys])


def verify_standard(
    keys: Sequence[SigningKey],
    *,
    message_id: str | None,
    timestamp: str | None,
    signature: str | None,
    body: bytes,
    now_seconds: float,
) -> Verdict:
    """Judge the three Standard Webhooks headers over the raw body; any live key will do."""
    if message_id is None or timestamp is None or signature is None:
        return Verdict.MISSING_HEADERS
    if not _TIMESTAMP.fullmatch(timestamp):
        return Verdict.MALFORMED_TIMESTAMP
    offered = [mac for part in signature.split(" ") if (mac := _decode_v1(part)) is not None]
    if not offered:
        return Verdict.MALFORMED_SIGNATURE
    content = b"%b.%b.%b" % (message_id.encode("utf-8", "replace"), timestamp.encode(), body)
    wanted = [hmac.digest(key.decoded, content, "sha256") for key in keys]
    return _judge(offered, wanted, int(timestamp), now_seconds)


def verify_plain(
    keys: Sequence[SigningKey],
    *,
    timestamp: str | None,
    signature: str | None,
    body: bytes,
    now_seconds: float,
) -> Verdict:
    """Judge `X-Timestamp` and `X-Signature` over the raw body; any live key will do."""
    if timestamp is None or signature is None:
        return Verdict.MISSING_HEADERS
    if not _TIMESTAMP.fullmatch(timestamp):
        return Verdict.MALFORMED_TIMESTAMP
    found = [_HEX_SIGNATURE.fullmatch(part) for part in signature.split(",")]
    if not all(found):
        return Verdict.MALFORMED_SIGNATURE
    offered = [bytes.fromhex(match.group(1)) for match in found if match]
    content = b"%b.%b" % (timestamp.encode(), body)
    wanted = [hmac.digest(key.literal, content, "sha256") for key in keys]
    return _judge(offered, wanted, int(timestamp), now_seconds)


def _judge(offered: list[bytes], wanted: list[bytes], timestamp: int, now_seconds: float) -> Verdict:
    # Every pair is compared, so that the time taken tells nothing about which one matched.
    matches = [hmac.compare_digest(mine, theirs) for mine in wanted for theirs in offered]
    if not any(matches):
        return Verdict.WRONG_SIGNATURE
    if timestamp < now_seconds - TOLERANCE_SECONDS:
        return Verdict.TOO_OLD
    if timestamp > now_seconds + TOLERANCE_SECONDS:
        return Verdict.TOO_NEW
    return Verdict.VALID


def _decode_v1(part: str) -> bytes | None:
    version, _, encoded = part.partition(",")
    if version != "v1":
        return None  # another version of the scheme: not ours to judge
    try:
        mac = base64.b64decode(encoded.encode("ascii"), validate=True)
    except (binascii.Error, ValueError):
        return None
    return mac if len(mac) == 32 else None
