"""What we sign is verified by software that is not ours, and what it signs we verify."""

import time

import pytest
from tests.interop.verifiers import VERIFIERS, NodeLibrary, OpenSsl, PythonLibrary, Signed, Verifier, secret_of

from gatepost.adapters.system import SystemClock
from gatepost.domain.deliveries import QueuedDelivery, request_headers
from gatepost.domain.signatures import Verdict, parse_secret, verify_plain, verify_standard

SECRET = secret_of(bytes(range(32)))
OLD_SECRET = secret_of(bytes(range(1, 25)))
BODIES = [
    '{"event":"task.completed"}',
    '{"title":"Straße – 掃除 🧹","lines":"a\\nb"}\n',
    "{}",
    '{"x":"' + "y" * 60_000 + '"}',
]


@pytest.fixture(params=VERIFIERS, ids=lambda each: each.__name__)
def verifier(request: pytest.FixtureRequest) -> Verifier:
    made: Verifier = request.param()
    return made


def sent(body: str, *secrets: str) -> Signed:
    """Return a request with the headers that the engine would send now."""
    now = SystemClock().now()
    delivery = QueuedDelivery("dlv_1", "grp_1", "wh_1", "evt_1", "task.completed", body.encode(), 1, 0, now)
    headers = request_headers(
        delivery,
        keys=[parse_secret(secret) for secret in secrets or (SECRET,)],
        own_headers=(),
        user_agent="Gatepost/test",
        timestamp=int(now.timestamp()),
    )
    return Signed(SECRET, {name.lower(): value for name, value in headers}, body.encode())


@pytest.mark.parametrize("body", BODIES, ids=["small", "unicode", "empty", "large"])
def test_what_we_send_is_accepted(verifier: Verifier, body: str) -> None:
    assert verifier.accepts(sent(body)) is True


def test_a_flipped_bit_is_refused(verifier: Verifier) -> None:
    signed = sent(BODIES[0])
    header = verifier.signature_header
    other = sent(BODIES[2]).headers[header]
    assert verifier.accepts(signed.with_flipped_bit()) is False
    assert verifier.accepts(signed.with_header(header, other)) is False


def test_both_secrets_of_a_rotation_are_accepted(verifier: Verifier) -> None:
    rotated = sent(BODIES[0], SECRET, OLD_SECRET)
    assert verifier.accepts(rotated) is True
    assert verifier.accepts(Signed(OLD_SECRET, rotated.headers, rotated.body)) is True
    assert verifier.accepts(Signed(secret_of(bytes(32)), rotated.headers, rotated.body)) is False


@pytest.mark.parametrize("library", [PythonLibrary, NodeLibrary], ids=lambda each: each.__name__)
@pytest.mark.parametrize("body", BODIES, ids=["small", "unicode", "empty", "large"])
def test_what_they_sign_we_verify(library: type[PythonLibrary | NodeLibrary], body: str) -> None:
    now = int(time.time())
    signature = library().sign(SECRET, "msg_1", now, body.encode())
    assert judged_standard(signature, now, body.encode()) is Verdict.VALID
    assert judged_standard(signature, now, body.encode() + b" ") is Verdict.WRONG_SIGNATURE


@pytest.mark.parametrize("body", BODIES, ids=["small", "unicode", "empty", "large"])
def test_a_plain_signature_made_elsewhere_is_verified(body: str) -> None:
    now = int(time.time())
    signature = OpenSsl().sign(SECRET, now, body.encode())
    assert judged_plain(signature, now, body.encode()) is Verdict.VALID
    assert judged_plain(signature, now, body.encode() + b" ") is Verdict.WRONG_SIGNATURE


def judged_standard(signature: str, timestamp: int, body: bytes) -> Verdict:
    return verify_standard(
        [parse_secret(SECRET)],
        message_id="msg_1",
        timestamp=str(timestamp),
        signature=signature,
        body=body,
        now_seconds=timestamp,
    )


def judged_plain(signature: str, timestamp: int, body: bytes) -> Verdict:
    return verify_plain(
        [parse_secret(SECRET)], timestamp=str(timestamp), signature=signature, body=body, now_seconds=timestamp
    )
