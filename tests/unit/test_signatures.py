import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
import standardwebhooks
from hypothesis import given
from hypothesis import strategies as st
from tests.tools import need

from gatepost.domain.errors import InvalidInput
from gatepost.domain.signatures import (
    SigningKey,
    Verdict,
    make_secret,
    parse_secret,
    secret_hint,
    sign_plain,
    sign_standard,
    verify_plain,
    verify_standard,
)

SECRET = make_secret(bytes(range(32)))
KEY = parse_secret(SECRET)
OTHER_KEY = parse_secret(make_secret(bytes(32)))
BODY = '{"title":"Rosen gießen","emoji":"🌹"}'.encode()
SENT_AT = 1_795_437_296

bodies = st.binary(max_size=200)
texts = st.text(st.characters(), max_size=80) | st.none()  # surrogates too
keys = st.binary(min_size=24, max_size=64).map(make_secret).map(parse_secret)


def standard_verdict(signature: str | None, *, keys: Sequence[SigningKey] = (KEY,), **changes: object) -> Verdict:
    given: dict[str, object] = {"message_id": "evt_1", "timestamp": str(SENT_AT), "body": BODY, "now_seconds": SENT_AT}
    return verify_standard(keys, signature=signature, **{**given, **changes})


def plain_verdict(signature: str | None, *, keys: Sequence[SigningKey] = (KEY,), **changes: object) -> Verdict:
    given: dict[str, object] = {"timestamp": str(SENT_AT), "body": BODY, "now_seconds": SENT_AT}
    return verify_plain(keys, signature=signature, **{**given, **changes})


# --- secrets -------------------------------------------------------------------------------------------------


@given(st.binary(min_size=24, max_size=64))
def test_a_secret_gives_back_the_key_it_carries(key: bytes) -> None:
    parsed = parse_secret(make_secret(key))

    assert parsed.decoded == key
    assert parsed.literal == make_secret(key).encode()


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "whsec_",
        SECRET.removeprefix("whsec_"),
        "WHSEC_" + SECRET.removeprefix("whsec_"),
        make_secret(bytes(23)),
        make_secret(bytes(65)),
        SECRET[:-1],
        SECRET + "\n",
        " " + SECRET,
        SECRET.replace("A", "-"),
        SECRET.replace("A", "Ä"),
        SECRET.replace("A", "\ud800"),
    ],
)
def test_a_secret_of_any_other_shape_is_refused_and_not_repeated(secret: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        parse_secret(secret)

    assert refusal.value.errors[0].loc == ("secret",)
    assert len(secret) < 8 or secret.strip() not in refusal.value.detail


def test_of_a_secret_only_the_last_four_characters_are_shown() -> None:
    assert secret_hint(make_secret(bytes(32))) == "…AAAA"
    assert secret_hint("whsec_abcdWXYZ==") == "…WXYZ"


# --- signing and verifying -----------------------------------------------------------------------------------


@given(keys, st.text(st.characters(codec="utf-8"), max_size=40), st.integers(0, 99_999_999_999), bodies)
def test_what_is_signed_verifies(key: SigningKey, message_id: str, timestamp: int, body: bytes) -> None:
    same = {"timestamp": str(timestamp), "body": body, "now_seconds": timestamp}

    standard = sign_standard([key], message_id, timestamp, body)
    plain = sign_plain([key], timestamp, body)

    assert standard_verdict(standard, keys=[key], message_id=message_id, **same) is Verdict.VALID
    assert plain_verdict(plain, keys=[key], **same) is Verdict.VALID


@given(bodies.filter(bool), st.data())
def test_one_flipped_bit_of_the_body_is_a_wrong_signature(body: bytes, data: st.DataObject) -> None:
    bit = data.draw(st.integers(0, len(body) * 8 - 1))
    flipped = flip(body, bit)

    standard = standard_verdict(sign_standard([KEY], "evt_1", SENT_AT, body), body=flipped)
    plain = plain_verdict(sign_plain([KEY], SENT_AT, body), body=flipped)

    assert standard is Verdict.WRONG_SIGNATURE
    assert plain is Verdict.WRONG_SIGNATURE


@given(st.integers(0, 255))
def test_one_flipped_bit_of_the_signature_is_a_wrong_signature(bit: int) -> None:
    mac = bytes.fromhex(sign_plain([KEY], SENT_AT, BODY).removeprefix("sha256="))

    verdict = plain_verdict("sha256=" + flip(mac, bit).hex())

    assert verdict is Verdict.WRONG_SIGNATURE


@given(st.integers(0, 255))
def test_one_flipped_bit_of_the_key_is_a_wrong_signature(bit: int) -> None:
    near = parse_secret(make_secret(flip(KEY.decoded, bit)))

    assert standard_verdict(sign_standard([near], "evt_1", SENT_AT, BODY)) is Verdict.WRONG_SIGNATURE
    assert plain_verdict(sign_plain([near], SENT_AT, BODY)) is Verdict.WRONG_SIGNATURE


def test_the_id_and_the_timestamp_are_part_of_what_is_signed() -> None:
    standard = sign_standard([KEY], "evt_1", SENT_AT, BODY)
    plain = sign_plain([KEY], SENT_AT, BODY)

    assert standard_verdict(standard, message_id="evt_2") is Verdict.WRONG_SIGNATURE
    assert standard_verdict(standard, timestamp=str(SENT_AT + 1)) is Verdict.WRONG_SIGNATURE
    assert standard_verdict(standard, timestamp=f"0{SENT_AT}") is Verdict.WRONG_SIGNATURE
    assert plain_verdict(plain, timestamp=str(SENT_AT + 1)) is Verdict.WRONG_SIGNATURE
    assert plain_verdict(plain, timestamp=f"0{SENT_AT}") is Verdict.WRONG_SIGNATURE


def test_two_keys_sign_in_their_order_and_either_one_verifies() -> None:
    standard = sign_standard([KEY, OTHER_KEY], "evt_1", SENT_AT, BODY)
    plain = sign_plain([KEY, OTHER_KEY], SENT_AT, BODY)

    assert standard.split(" ") == [sign_standard([key], "evt_1", SENT_AT, BODY) for key in (KEY, OTHER_KEY)]
    assert plain.split(",") == [sign_plain([key], SENT_AT, BODY) for key in (KEY, OTHER_KEY)]
    for key in (KEY, OTHER_KEY):
        assert standard_verdict(standard, keys=[key]) is Verdict.VALID
        assert plain_verdict(plain, keys=[key]) is Verdict.VALID


def test_a_receiver_with_two_live_keys_takes_a_signature_by_either() -> None:
    for key in (KEY, OTHER_KEY):
        standard = sign_standard([key], "evt_1", SENT_AT, BODY)
        plain = sign_plain([key], SENT_AT, BODY)

        assert standard_verdict(standard, keys=[OTHER_KEY, KEY]) is Verdict.VALID
        assert plain_verdict(plain, keys=[OTHER_KEY, KEY]) is Verdict.VALID


def test_without_a_live_key_nothing_is_valid() -> None:
    assert standard_verdict(sign_standard([KEY], "evt_1", SENT_AT, BODY), keys=[]) is Verdict.WRONG_SIGNATURE
    assert plain_verdict(sign_plain([KEY], SENT_AT, BODY), keys=[]) is Verdict.WRONG_SIGNATURE


@pytest.mark.parametrize(
    ("seconds_later", "verdict"),
    [
        (300, Verdict.VALID),
        (300.5, Verdict.TOO_OLD),
        (-300, Verdict.VALID),
        (-300.5, Verdict.TOO_NEW),
        (0, Verdict.VALID),
    ],
)
def test_a_clock_may_be_off_by_five_minutes_either_way(seconds_later: float, verdict: Verdict) -> None:
    now = SENT_AT + seconds_later

    assert standard_verdict(sign_standard([KEY], "evt_1", SENT_AT, BODY), now_seconds=now) is verdict
    assert plain_verdict(sign_plain([KEY], SENT_AT, BODY), now_seconds=now) is verdict


def test_a_stranger_learns_nothing_about_the_clock() -> None:
    forged = sign_plain([OTHER_KEY], SENT_AT, BODY)

    assert plain_verdict(forged, now_seconds=SENT_AT + 10_000) is Verdict.WRONG_SIGNATURE


@pytest.mark.parametrize("timestamp", ["", " 1", "1 ", "-1", "+1", "1.0", "1e9", "0x1", "1" * 12, "١", "1\n"])
def test_a_timestamp_is_one_to_eleven_digits(timestamp: str) -> None:
    standard = sign_standard([KEY], "evt_1", SENT_AT, BODY)

    assert standard_verdict(standard, timestamp=timestamp) is Verdict.MALFORMED_TIMESTAMP
    assert plain_verdict(sign_plain([KEY], SENT_AT, BODY), timestamp=timestamp) is Verdict.MALFORMED_TIMESTAMP


PLAIN = sign_plain([KEY], SENT_AT, BODY)


@pytest.mark.parametrize(
    "signature",
    ["", "sha256=", PLAIN.upper(), PLAIN[7:], PLAIN + " ", PLAIN + ",", PLAIN[:-1], PLAIN + "0", "sha1=" + "0" * 40],
)
def test_a_plain_signature_of_another_shape_is_malformed(signature: str) -> None:
    assert plain_verdict(signature) is Verdict.MALFORMED_SIGNATURE


@pytest.mark.parametrize("signature", ["", "v1", "v1,", "v1,AAAA", "v1,Ä", "v1,\ud800", "v2," + "A" * 43 + "=", ","])
def test_a_standard_signature_of_another_shape_is_malformed(signature: str) -> None:
    assert standard_verdict(signature) is Verdict.MALFORMED_SIGNATURE


def test_signatures_of_versions_to_come_are_passed_over() -> None:
    signature = "v1a,c29tZXRoaW5n " + sign_standard([KEY], "evt_1", SENT_AT, BODY) + " v9,?"

    assert standard_verdict(signature) is Verdict.VALID


@pytest.mark.parametrize("missing", ["message_id", "timestamp", "signature"])
def test_a_standard_header_that_is_missing_is_said_to_be(missing: str) -> None:
    headers: dict[str, object] = {"signature": sign_standard([KEY], "evt_1", SENT_AT, BODY), missing: None}

    assert standard_verdict(**headers) is Verdict.MISSING_HEADERS


@pytest.mark.parametrize("missing", ["timestamp", "signature"])
def test_a_plain_header_that_is_missing_is_said_to_be(missing: str) -> None:
    headers: dict[str, object] = {"signature": PLAIN, missing: None}

    assert plain_verdict(**headers) is Verdict.MISSING_HEADERS


@given(texts, texts | st.just(str(SENT_AT)), texts | st.binary().map(lambda raw: f"v1,{raw.hex()}"), bodies)
def test_any_headers_and_bytes_give_a_verdict(
    message_id: str | None, timestamp: str | None, signature: str | None, body: bytes
) -> None:
    given = {"timestamp": timestamp, "body": body}

    assert standard_verdict(signature, message_id=message_id, **given) not in (None, Verdict.VALID)
    assert plain_verdict(signature, **given) not in (None, Verdict.VALID)


# --- other people's code -------------------------------------------------------------------------------------


def test_a_standard_signature_is_what_the_specification_shows() -> None:
    # The example of the Standard Webhooks libraries' own tests.
    key = parse_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")

    signature = sign_standard([key], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, b'{"test": 2432232314}')

    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_the_standardwebhooks_package_verifies_what_we_sign() -> None:
    timestamp = int(datetime.now(UTC).timestamp())  # the package reads the real clock
    headers = {
        "webhook-id": "evt_1",
        "webhook-timestamp": str(timestamp),
        "webhook-signature": sign_standard([OTHER_KEY, KEY], "evt_1", timestamp, BODY),
    }

    assert standardwebhooks.Webhook(SECRET).verify(BODY, headers)["emoji"] == "🌹"


def test_the_standardwebhooks_package_refuses_what_another_key_signed() -> None:
    timestamp = int(datetime.now(UTC).timestamp())
    headers = {
        "webhook-id": "evt_1",
        "webhook-timestamp": str(timestamp),
        "webhook-signature": sign_standard([OTHER_KEY], "evt_1", timestamp, BODY),
    }

    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(SECRET).verify(BODY, headers)


def test_we_verify_what_the_standardwebhooks_package_signs() -> None:
    signature = standardwebhooks.Webhook(SECRET).sign("evt_1", datetime.fromtimestamp(SENT_AT, UTC), BODY.decode())

    assert standard_verdict(signature) is Verdict.VALID


def test_openssl_makes_the_same_plain_signature() -> None:
    openssl = need("openssl")

    signed = f"{SENT_AT}.".encode() + BODY
    command = [openssl, "dgst", "-sha256", "-hmac", SECRET, "-hex"]
    shown = subprocess.run(command, input=signed, capture_output=True, check=True).stdout.decode()

    assert sign_plain([KEY], SENT_AT, BODY) == "sha256=" + shown.split("= ")[1].strip()


def flip(raw: bytes, bit: int) -> bytes:
    flipped = bytearray(raw)
    flipped[bit // 8] ^= 1 << bit % 8
    return bytes(flipped)
