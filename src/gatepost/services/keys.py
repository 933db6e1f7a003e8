"""The API keys of groups."""

from dataclasses import dataclass

from gatepost.domain.errors import NotFound, invalid
from gatepost.domain.groups import (
    KEY_ROLES,
    ApiKey,
    Role,
    fit_name,
    hash_key_secret,
    is_valid,
    key_text,
    parse_key,
)
from gatepost.ports import Clock, Draws, KeyStore, Page, Saved
from gatepost.services.trust import LastUses, Trusted

SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key just made; its text is known to nobody else and cannot be had again."""

    key: ApiKey
    text: str


class Keys:
    """Which machines may act in which group."""

    def __init__(self, store: KeyStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._trusted: Trusted[ApiKey] = Trusted(clock)
        self._uses = LastUses(clock, store.touch_keys)

    async def create(self, group_id: str, role: Role, name: str | None = None, *, draws: Draws) -> NewKey:
        """Add a key to a group that exists.

        Raises: InvalidInput, when the name is unfit, or the role not one for keys.
        """
        if role not in KEY_ROLES:
            raise invalid("role", f"give one of {', '.join(KEY_ROLES)}", code="role")
        key_id, secret = draws.chance.new_id("key"), draws.chance.key_bytes(SECRET_BYTES)
        key = ApiKey(
            id=key_id,
            group_id=group_id,
            role=role,
            secret_hash=hash_key_secret(secret),
            created_at=draws.at,
            name=None if name is None else fit_name("name", name),
        )
        await self._store.add_key(group_id, key)
        return NewKey(key, key_text(key.id, secret))

    async def get(self, key_id: str) -> ApiKey:
        """Return a key, revoked or not.

        Raises: NotFound.
        """
        key = await self._trusted.get(key_id, self._store.key)
        if key is None:
            raise NotFound("there is no such key")
        return key

    async def list(self, group_id: str, *, limit: int, before: str | None) -> Page[ApiKey]:
        """Return the group's keys that are not revoked, newest first."""
        return await self._store.keys(group_id, limit=limit, before=before)

    async def revoke(self, group_id: str, key_id: str) -> None:
        """Refuse a key from now on; other processes do within a second.

        Raises: NotFound.
        """
        if await self._store.revoke_key(group_id, key_id, now=self._clock.now()) is not Saved.DONE:
            raise NotFound("there is no such key in this group")
        self._trusted.forget(lambda key: key.id == key_id)

    async def authenticate(self, text: str) -> ApiKey | None:
        """Return the key of this text, or None when it is none of ours or no longer good."""
        parsed = parse_key(text)
        if parsed is None:
            return None
        key_id, secret_hash = parsed
        key = await self._trusted.get(key_id, self._store.key)
        if key is None or not is_valid(key, secret_hash):
            return None
        self._uses.note(key.id, known=key.last_used_at)
        return key

    async def close(self) -> None:
        """Write the last uses that are still waiting."""
        await self._uses.close()
