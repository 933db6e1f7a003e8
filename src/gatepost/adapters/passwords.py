"""Passwords as Argon2id hashes."""

import asyncio

import argon2
from argon2.exceptions import VerifyMismatchError

MOST_AT_ONCE = 2  # each takes 64 MiB and a core for as long as it runs


class Argon2Passwords:
    """Implements `ports.Passwords`.

    Source: RFC 9106, section 4, the second recommended option; the library's `RFC_9106_LOW_MEMORY`.
    """

    def __init__(self, parameters: argon2.Parameters = argon2.profiles.RFC_9106_LOW_MEMORY) -> None:
        self._hasher = argon2.PasswordHasher.from_parameters(parameters)
        self._nobodys_hash = _hash_of_nothing(parameters)
        self._turns = asyncio.Semaphore(MOST_AT_ONCE)

    async def hash(self, password: str) -> str:
        """Return a salted hash that tells how it was made."""
        async with self._turns:
            return await asyncio.to_thread(self._hasher.hash, password)

    async def verify(self, password: str, password_hash: str | None) -> bool:
        """Say whether it is the password; without a hash say no, after the same work."""
        async with self._turns:
            return await asyncio.to_thread(self._verify, password, password_hash or self._nobodys_hash)

    def _verify(self, password: str, password_hash: str) -> bool:
        try:
            return self._hasher.verify(password_hash, password)
        except VerifyMismatchError:
            return False


def _hash_of_nothing(parameters: argon2.Parameters) -> str:
    """Return a hash that no password has, and that takes as long to compare with as any other."""
    costs = f"m={parameters.memory_cost},t={parameters.time_cost},p={parameters.parallelism}"
    salt, digest = ("A" * -(-length * 4 // 3) for length in (parameters.salt_len, parameters.hash_len))
    return f"$argon2id$v={parameters.version}${costs}${salt}${digest}"
