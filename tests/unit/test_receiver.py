"""What a receiver is told about a signature: valid, or exactly why not."""

import base64
import json

import pytest

from gatepost.domain.signatures import (
    TOLERANCE_SECONDS,
    SigningKey,
    Verdict,
    parse_secret,
    sign_plain,
    sign_standard,
)
from gatepost.receiver import PLAIN, STANDARD, Message, Received, examine, is_valid

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
KEY = parse_secret(SECRET)
OTHER = parse_secret("whsec_" + base64.b64encode(bytes(32)).decode())
NOW = 1_795_437_296
BODY = b'{"b": 1, "a": "\xc3\xa4"}'


def message(
    body: bytes = BODY, *, keys: list[SigningKey] | None = None, at: int = NOW, **changes: str | None
) -> Message:
    """Return a request that is signed with both schemes, with some headers changed or, as None, left out."""
    keys = keys or [KEY]
    headers: dict[str, str | None] = {
        "webhook-id": "evt_1",
        "webhook-timestamp": str(at),
        "webhook-signature": sign_standard(keys, "evt_1", at, body),
        "x-timestamp": str(at),
        "x-signature": sign_plain(keys, at, body),
        **{name.replace("_", "-"): value for name, value in changes.items()},
    }
    return Message({name: value for name, value in headers.items() if value is not None}, body)


def only(scheme: str, **changes: str | None) -> dict[str, str | None]:
    others = (
        ("x-timestamp", "x-signature")
        if scheme == STANDARD
        else ("webhook-id", "webhook-timestamp", "webhook-signature")
    )
    return {**{name.replace("-", "_"): None for name in others}, **changes}


def finding(message: Message, now: float = NOW) -> tuple[Verdict, str]:
    (found,) = examine(message, [KEY], now_seconds=now)
    return found.verdict, found.reason


def test_every_scheme_that_is_there_is_judged_and_all_must_hold() -> None:
    both = examine(message(), [KEY], now_seconds=NOW)
    assert [(each.scheme, each.verdict) for each in both] == [(STANDARD, Verdict.VALID), (PLAIN, Verdict.VALID)]
    assert is_valid(both)
    half = examine(message(x_signature="sha256=" + "0" * 64), [KEY], now_seconds=NOW)
    assert [each.verdict for each in half] == [Verdict.VALID, Verdict.WRONG_SIGNATURE]
    assert not is_valid(half)


def test_without_any_header_it_says_which_are_missing() -> None:
    verdict, reason = finding(Message({}, BODY))
    assert verdict is Verdict.MISSING_HEADERS
    assert reason == "missing: webhook-id, webhook-timestamp, webhook-signature"


@pytest.mark.parametrize(
    ("changes", "verdict", "says"),
    [
        (only(PLAIN, x_timestamp=None), Verdict.MISSING_HEADERS, "missing: x-timestamp"),
        (only(STANDARD, webhook_id=None), Verdict.MISSING_HEADERS, "missing: webhook-id"),
        (only(PLAIN, x_timestamp="1e9"), Verdict.MALFORMED_TIMESTAMP, "'1e9'"),
        (only(STANDARD, webhook_timestamp="soon"), Verdict.MALFORMED_TIMESTAMP, "webhook-timestamp"),
        (only(PLAIN, x_signature="sha256=ABC"), Verdict.MALFORMED_SIGNATURE, "64 lower-case hex digits"),
        (only(STANDARD, webhook_signature="v2,abc"), Verdict.MALFORMED_SIGNATURE, "v1,<base64 of 32 bytes>"),
    ],
)
def test_what_is_missing_or_malformed_is_named(changes: dict[str, str | None], verdict: Verdict, says: str) -> None:
    found, reason = finding(message(**changes))
    assert found is verdict
    assert says in reason


@pytest.mark.parametrize("scheme", [STANDARD, PLAIN])
class TestOneScheme:
    def test_old_and_new_signatures_say_by_how_much(self, scheme: str) -> None:
        late = finding(message(**only(scheme)), NOW + TOLERANCE_SECONDS + 20)
        early = finding(message(**only(scheme)), NOW - TOLERANCE_SECONDS - 20)
        assert late[0] is Verdict.TOO_OLD
        assert "signed 320 s ago" in late[1]
        assert early[0] is Verdict.TOO_NEW
        assert "320 s in the future" in early[1]

    def test_another_secret_is_no_mistake_that_can_be_named(self, scheme: str) -> None:
        verdict, reason = finding(message(keys=[OTHER], **only(scheme)))
        assert verdict is Verdict.WRONG_SIGNATURE
        assert "not made with this secret" in reason

    def test_the_wrong_form_of_the_secret_is_recognised(self, scheme: str) -> None:
        swapped = SigningKey(decoded=KEY.literal, literal=KEY.decoded)
        verdict, reason = finding(message(keys=[swapped], **only(scheme)))
        assert verdict is Verdict.WRONG_SIGNATURE
        assert "secret; this scheme's key is" in reason

    @pytest.mark.parametrize(
        ("signed", "received", "says"),
        [
            (BODY, BODY + b"\n", "a line break too many"),
            (BODY + b"\n", BODY, "the line break at its end is gone"),
            ('{"b":1,"a":"ä"}'.encode(), BODY, "parsed and written again"),
            (json.dumps(json.loads(BODY)).encode(), BODY, "not made with this secret"),
        ],
    )
    def test_an_altered_body_is_recognised(self, scheme: str, signed: bytes, received: bytes, says: str) -> None:
        asked = message(signed, **only(scheme))
        verdict, reason = finding(Message(asked.headers, received))
        assert verdict is Verdict.WRONG_SIGNATURE
        assert says in reason

    def test_either_secret_of_a_rotation_will_do(self, scheme: str) -> None:
        asked = message(keys=[OTHER, KEY], **only(scheme))
        assert finding(asked)[0] is Verdict.VALID


def test_a_line_about_a_request_cannot_move_the_cursor() -> None:
    hostile = Message({"x-gatepost-event": "\x1b[2Jtask\n#9 verified", "webhook-id": "x" * 5000}, b"\xff\x1b[2J")
    received = Received(1, "/", hostile, examine(hostile, [KEY], now_seconds=NOW), repeated=False, status=401)
    assert "\x1b" not in received.as_line()
    assert len(received.as_line().splitlines()) == 2  # the request, and what is wrong with it
    assert len(received.as_line()) < 500
    assert json.loads(json.dumps(received.as_json()))["verified"] is False
