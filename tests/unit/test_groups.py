import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import make_key, new_id
from tests.fakes import NOW

from gatepost.domain.errors import InvalidInput
from gatepost.domain.groups import group_name, hash_key_secret, is_valid, key_text, parse_key

SECRET = bytes(range(32))


@given(st.binary(min_size=32, max_size=32))
def test_a_key_shown_once_leads_back_to_its_id_and_the_hash_of_its_secret(secret: bytes) -> None:
    key_id = new_id("key")

    assert parse_key(key_text(key_id, secret)) == (key_id, hash_key_secret(secret))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "gp_",
        "gp_" + "0" * 32,
        "gp_" + "0" * 32 + "_" + "0" * 63,
        "gp_" + "0" * 32 + "_" + "0" * 65,
        "gp_" + "0" * 31 + "_" + "0" * 64,
        "gp_" + "A" * 32 + "_" + "0" * 64,
        "gp_" + "٠" * 32 + "_" + "0" * 64,
        " gp_" + "0" * 32 + "_" + "0" * 64,
        "gp_" + "0" * 32 + "_" + "0" * 64 + "\n",
        "\ud800",
    ],
)
def test_any_other_text_is_no_key(text: str) -> None:
    assert parse_key(text) is None


def test_a_key_is_valid_with_its_secret_and_no_other() -> None:
    key = make_key(secret_hash=hash_key_secret(SECRET))

    assert is_valid(key, hash_key_secret(SECRET))
    assert not is_valid(key, hash_key_secret(bytes(32)))


def test_a_revoked_key_is_not_valid() -> None:
    revoked = make_key(secret_hash=hash_key_secret(SECRET), revoked_at=NOW)

    assert not is_valid(revoked, hash_key_secret(SECRET))


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("Night shift", "Night shift"),
        ("  x ", "x"),
        ("x" * 100, "x" * 100),
        ("سال\u200cها 👩\u200d🌾", "سال\u200cها 👩\u200d🌾"),
    ],
)
def test_a_group_name_is_trimmed(given: str, kept: str) -> None:
    assert group_name(given) == kept


@pytest.mark.parametrize(
    "name",
    ["", "   ", "x" * 101, "nul \x00", "red \x9b31m", "\x1b[31m", "gone\x7f", "two\u2028lines", "\u202eeman", "\ud800"],
)
def test_a_group_name_outside_its_limits_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        group_name(name)

    assert refusal.value.errors[0].loc == ("name",)
