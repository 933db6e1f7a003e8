"""Addresses, passwords and sessions of people."""

import base64
from datetime import timedelta
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import make_session, make_user, new_id
from tests.fakes import NOW

from gatepost.domain.errors import InvalidInput
from gatepost.domain.people import (
    IDLE,
    LIFETIME,
    email_address,
    fit_password,
    generated_password,
    is_live,
    parse_session,
    session_text,
)

SECRET = bytes(range(32))
MOMENT = timedelta(milliseconds=1)


@given(st.binary(min_size=32, max_size=32))
def test_a_cookie_leads_back_to_its_session_and_the_hash_of_its_secret(secret: bytes) -> None:
    session_id = new_id("ses")
    assert parse_session(session_text(session_id, secret)) == (session_id, sha256(secret).digest())


@pytest.mark.parametrize(
    "text", ["", ".", "0" * 32, f"{'0' * 32}.{'0' * 63}", f"{'0' * 32}.{'0' * 65}", f"{'A' * 32}.{'0' * 64}"]
)
def test_what_is_no_session_is_none(text: str) -> None:
    assert parse_session(text) is None
    assert parse_session(f"{'0' * 32}.{'0' * 64}\n") is None


def test_a_session_lives_until_it_is_idle_for_too_long_or_too_old() -> None:
    session = make_session(make_user(), secret_hash=sha256(SECRET).digest())
    assert is_live(session, sha256(SECRET).digest(), now=NOW + IDLE - MOMENT)
    assert not is_live(session, sha256(SECRET).digest(), now=NOW + IDLE)
    used = make_session(
        make_user(), secret_hash=sha256(SECRET).digest(), last_used_at=NOW + LIFETIME - timedelta(hours=1)
    )
    assert is_live(used, sha256(SECRET).digest(), now=NOW + LIFETIME - MOMENT)
    assert not is_live(used, sha256(SECRET).digest(), now=NOW + LIFETIME)


def test_a_session_opens_with_its_own_secret_only() -> None:
    session = make_session(make_user(), secret_hash=sha256(SECRET).digest())
    for other in (sha256(bytes(32)).digest(), SECRET, b""):
        assert not is_live(session, other, now=NOW)


@pytest.mark.parametrize("text", ["ann@example.com", " Ann@Example.COM\n", "ANN@EXAMPLE.COM"])
def test_an_address_is_compared_in_lower_case(text: str) -> None:
    assert email_address(text) == "ann@example.com"


@pytest.mark.parametrize(
    "text",
    ["", "@", "ann", "ann@", "@example.com", "a b@c", "a@b@c", "änn@example.com", "a@b\x00c", "a" * 251 + "@b.c"],
)
def test_what_can_be_nobodys_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="email"):
        email_address(text)


def test_a_password_has_a_length_and_no_other_rule() -> None:
    for fit in ("x" * 8, "ä" * 200, "        ", "pass\x00word"):
        assert fit_password(fit) == fit
    for unfit in ("x" * 7, "x" * 201, "correct \ud800 horse"):
        with pytest.raises(InvalidInput, match="newPassword"):
            fit_password(unfit, field="newPassword")


@given(st.binary(min_size=15, max_size=15))
def test_a_password_that_is_made_may_be_set_and_holds_all_of_its_chance(entropy: bytes) -> None:
    made = generated_password(entropy)
    assert fit_password(made) == made
    assert base64.b32decode(made.replace("-", "").upper()) == entropy
