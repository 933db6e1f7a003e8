"""Password hashes, made with the library that makes them."""

import argon2
import pytest

from gatepost.adapters.passwords import Argon2Passwords

CHEAP = argon2.profiles.CHEAPEST


@pytest.fixture
def passwords() -> Argon2Passwords:
    return Argon2Passwords(CHEAP)


async def test_a_password_is_told_from_any_other(passwords: Argon2Passwords) -> None:
    made = await passwords.hash("correct horse ä€😀")
    assert await passwords.verify("correct horse ä€😀", made)
    for wrong in ("correct horse", "", "x" * 1000):
        assert not await passwords.verify(wrong, made)


async def test_the_same_password_is_hashed_differently_each_time(passwords: Argon2Passwords) -> None:
    assert await passwords.hash("correct horse") != await passwords.hash("correct horse")


async def test_nobodys_password_is_never_right_and_costs_as_much(passwords: Argon2Passwords) -> None:
    for guess in ("", "correct horse", "A"):
        assert not await passwords.verify(guess, None)
    assert argon2.extract_parameters(passwords._nobodys_hash) == CHEAP


async def test_hashes_are_as_rfc_9106_recommends() -> None:
    made = await Argon2Passwords().hash("correct horse")
    assert made.startswith("$argon2id$v=19$m=65536,t=3,p=4$")


async def test_a_hash_made_with_other_parameters_still_counts(passwords: Argon2Passwords) -> None:
    made = argon2.PasswordHasher(time_cost=2, memory_cost=64, parallelism=1).hash("correct horse")
    assert await passwords.verify("correct horse", made)
