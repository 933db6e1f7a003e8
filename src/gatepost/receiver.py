"""A receiver that checks what it gets, as docs/receiving.md asks of every receiver, and says what is wrong with it."""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.types import Receive, Scope, Send

from gatepost.domain.signatures import (
    TOLERANCE_SECONDS,
    SigningKey,
    Verdict,
    verify_plain,
    verify_standard,
)
from gatepost.ports import Clock

BODY_LIMIT_BYTES = 1024 * 1024  # far more than any event has

STANDARD = "standard"
PLAIN = "plain"
_HEADERS = {
    STANDARD: ("webhook-id", "webhook-timestamp", "webhook-signature"),
    PLAIN: ("x-timestamp", "x-signature"),
}


# --- what is wrong with a signature --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Finding:
    """What one scheme's headers are worth, and why, in a sentence."""

    scheme: str
    verdict: Verdict
    reason: str


@dataclass(frozen=True, slots=True)
class Message:
    """A request as it came in. Shape: names of headers in lower case; `body` the raw bytes."""

    headers: Mapping[str, str]
    body: bytes


def examine(message: Message, keys: Sequence[SigningKey], *, now_seconds: float) -> list[Finding]:
    """Judge every scheme that a request has a header of; when it has none, say what is missing."""
    schemes = [scheme for scheme in _HEADERS if any(name in message.headers for name in _HEADERS[scheme])]
    return [_finding(scheme, message, keys, now_seconds) for scheme in schemes or [STANDARD]]


def is_valid(findings: Sequence[Finding]) -> bool:
    return all(finding.verdict is Verdict.VALID for finding in findings)


def _finding(scheme: str, message: Message, keys: Sequence[SigningKey], now_seconds: float) -> Finding:
    verdict = _verdict(scheme, message, keys, now_seconds)
    return Finding(scheme, verdict, _reason(scheme, verdict, message, keys, now_seconds))


def _verdict(scheme: str, message: Message, keys: Sequence[SigningKey], now_seconds: float) -> Verdict:
    headers = message.headers
    if scheme == PLAIN:
        return verify_plain(
            keys,
            timestamp=headers.get("x-timestamp"),
            signature=headers.get("x-signature"),
            body=message.body,
            now_seconds=now_seconds,
        )
    return verify_standard(
        keys,
        message_id=headers.get("webhook-id"),
        timestamp=headers.get("webhook-timestamp"),
        signature=headers.get("webhook-signature"),
        body=message.body,
        now_seconds=now_seconds,
    )


def _reason(scheme: str, verdict: Verdict, message: Message, keys: Sequence[SigningKey], now_seconds: float) -> str:
    timestamp = message.headers.get(_HEADERS[scheme][-2], "")
    match verdict:
        case Verdict.VALID:
            return "the signature is ours, and fresh"
        case Verdict.MISSING_HEADERS:
            missing = [name for name in _HEADERS[scheme] if name not in message.headers]
            return f"missing: {', '.join(missing)}"
        case Verdict.MALFORMED_TIMESTAMP:
            return f"{_HEADERS[scheme][-2]} must be Unix seconds in 1 to 11 digits, not {timestamp[:20]!r}"
        case Verdict.MALFORMED_SIGNATURE if scheme == STANDARD:
            return "webhook-signature has no part of the form v1,<base64 of 32 bytes>"
        case Verdict.MALFORMED_SIGNATURE:
            return "x-signature must be sha256=<64 lower-case hex digits>, or several of them with commas between"
        case Verdict.WRONG_SIGNATURE:
            return _likely_cause(scheme, message, keys, now_seconds)
        case Verdict.TOO_OLD:
            age = round(now_seconds - int(timestamp))
            return f"right, but signed {age} s ago; more than {TOLERANCE_SECONDS} s may be somebody's replay"
        case Verdict.TOO_NEW:
            ahead = round(int(timestamp) - now_seconds)
            return f"right, but signed {ahead} s in the future; one of the two clocks is wrong"


def _likely_cause(scheme: str, message: Message, keys: Sequence[SigningKey], now_seconds: float) -> str:
    """Return which of the usual mistakes would explain a wrong signature."""
    swapped = [SigningKey(decoded=key.literal, literal=key.decoded) for key in keys]
    if _matches(scheme, message, swapped, now_seconds):
        return (
            "signed with the whole secret; this scheme's key is what follows whsec_, base64-decoded"
            if scheme == STANDARD
            else "signed with the decoded secret; this scheme's key is the whole secret, whsec_ included"
        )
    for body, cause in _altered(message.body):
        if _matches(scheme, Message(message.headers, body), keys, now_seconds):
            return f"the body was altered: {cause}; verify the raw bytes"
    return "not made with this secret over this id, timestamp and body; compare the secret and the body's raw bytes"


def _altered(body: bytes) -> list[tuple[bytes, str]]:
    candidates = [
        (body.rstrip(b"\r\n"), "there is a line break too many at its end"),
        (body + b"\n", "the line break at its end is gone"),
    ]
    try:
        value = json.loads(body)
        compact = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        candidates.append((compact.encode("utf-8", "surrogatepass"), "it was parsed and written again"))
    except (ValueError, RecursionError):
        pass
    return candidates


def _matches(scheme: str, message: Message, keys: Sequence[SigningKey], now_seconds: float) -> bool:
    return _verdict(scheme, message, keys, now_seconds) in (Verdict.VALID, Verdict.TOO_OLD, Verdict.TOO_NEW)


# --- receiving -----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Received:
    """One request, what was found, and what it was answered.

    Shape: `findings` is None when there was no secret to verify with.
    """

    number: int
    path: str
    message: Message
    findings: list[Finding] | None
    repeated: bool
    status: int = 0

    @property
    def verified(self) -> bool | None:
        return None if self.findings is None else is_valid(self.findings)

    def header(self, name: str) -> str:
        """Return a header fit for a terminal: whoever sent it may not move the cursor."""
        value = self.message.headers.get(name, "-")[:100]
        return "".join(character if character.isprintable() else "?" for character in value)

    def as_line(self) -> str:
        facts = [f"#{self.number}", self.header("x-gatepost-event"), self.header("webhook-id")]
        facts.append(f"attempt {self.header('x-gatepost-attempt')}")
        facts.append({None: "not verified: no --secret", True: "verified ✓", False: "REFUSED"}[self.verified])
        if self.repeated:
            facts.append("seen before")
        facts.append(f"→ {self.status}")
        wrong = [finding for finding in self.findings or () if finding.verdict is not Verdict.VALID]
        return "  ".join(facts) + "".join(f"\n    {each.scheme}: {each.reason}" for each in wrong)

    def as_json(self) -> dict[str, Any]:
        try:
            body = json.loads(self.message.body)
        except (ValueError, RecursionError):
            body = self.message.body.decode(errors="replace")
        findings = {each.scheme: each.verdict.value for each in self.findings or ()}
        return {
            "number": self.number,
            "path": self.path,
            "event": self.message.headers.get("x-gatepost-event"),
            "webhookId": self.message.headers.get("webhook-id"),
            "attempt": self.message.headers.get("x-gatepost-attempt"),
            "verified": self.verified,
            "findings": findings,
            "repeated": self.repeated,
            "status": self.status,
            "headers": dict(self.message.headers),
            "body": body,
        }


Respond = Callable[[Received], Awaitable[int]]


class Receiver:
    """An ASGI app that verifies each request, answers it, and tells what it got.

    Shape: `respond` chooses the answer to what was verified, or could not be for want of a secret;
           what is wrong is answered 401 without asking.
    """

    def __init__(
        self,
        keys: Sequence[SigningKey],
        clock: Clock,
        *,
        tell: Callable[[Received], None],
        respond: Respond,
    ) -> None:
        self._keys = keys
        self._clock = clock
        self._tell = tell
        self._respond = respond
        self._count = 0
        self._accepted: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        if scope["method"] != "POST":
            await _answer(send, 405, b"Send a POST.\n")
            return
        body = await _read(receive)
        if body is None:
            await _answer(send, 413, b"No event is that long.\n")
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        received = self._received(scope["path"], Message(headers, body))
        received.status = 401 if received.verified is False else await self._respond(received)
        if 200 <= received.status <= 299:
            self._accepted.add(headers.get("webhook-id", ""))
        self._tell(received)
        await _answer(send, received.status, b"")

    def _received(self, path: str, message: Message) -> Received:
        self._count += 1
        now_seconds = self._clock.now().timestamp()
        findings = examine(message, self._keys, now_seconds=now_seconds) if self._keys else None
        repeated = message.headers.get("webhook-id") in self._accepted
        return Received(self._count, path, message, findings, repeated)


async def not_found(_scope: Scope, _receive: Receive, send: Send) -> None:
    """Answer for paths that nobody receives at."""
    await _answer(send, 404, b"Nobody receives here.\n")


async def _read(receive: Receive) -> bytes | None:
    body = bytearray()
    while True:
        part = await receive()
        body += part.get("body", b"")
        if len(body) > BODY_LIMIT_BYTES:
            return None
        if not part.get("more_body"):
            return bytes(body)


async def _answer(send: Send, status: int, text: bytes) -> None:
    headers = [(b"content-length", str(len(text)).encode()), (b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": headers if text else headers[:1]})
    await send({"type": "http.response.body", "body": text})
