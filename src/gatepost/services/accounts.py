"""Groups and the API keys that act in them."""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from gatepost.domain.errors import StoreUnavailable, invalid
from gatepost.domain.groups import (
    ApiKey,
    Caller,
    Group,
    Role,
    group_name,
    hash_key_secret,
    is_valid,
    key_text,
    parse_key,
)
from gatepost.ports import AccountStore, Chance, Clock, Saved

TRUST_SECONDS = 1.0  # how long a key once read is believed: a revoked one lives on no longer than this
MOST_TRUSTED_KEYS = 1024
TOUCH_INTERVAL = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key just made; its text is known to nobody else and cannot be had again."""

    key: ApiKey
    text: str


class Accounts:
    """Who may act in which group."""

    def __init__(self, store: AccountStore, clock: Clock, chance: Chance) -> None:
        self._store = store
        self._clock = clock
        self._chance = chance
        self._trusted: OrderedDict[str, tuple[ApiKey, float]] = OrderedDict()
        self._touches: dict[str, datetime] = {}
        self._touching: asyncio.Task[None] | None = None

    async def group_named(self, name: str) -> Group | None:
        """Return the group of that name."""
        return await self._store.group_named(group_name(name))

    async def create_group(self, name: str) -> Group:
        """Raises: InvalidInput, when the name is unfit or taken."""
        group = Group(self._chance.new_id("grp"), group_name(name), self._clock.now())
        if await self._store.add_group(group) is Saved.EXISTS:
            raise invalid("name", "choose another name: this one is taken", code="taken")
        return group

    async def create_key(self, group_id: str, role: Role) -> NewKey:
        """Add a key to a group that exists."""
        secret = self._chance.key_bytes(32)
        key = ApiKey(
            id=self._chance.new_id("key"),
            group_id=group_id,
            role=role,
            secret_hash=hash_key_secret(secret),
            created_at=self._clock.now(),
        )
        await self._store.add_key(group_id, key)
        return NewKey(key, key_text(key.id, secret))

    async def authenticate(self, text: str) -> Caller | None:
        """Return who holds this key, or None when it is none of ours or no longer good."""
        parsed = parse_key(text)
        if parsed is None:
            return None
        key_id, secret_hash = parsed
        key = await self._key(key_id)
        if key is None or not is_valid(key, secret_hash):
            return None
        self._note_use(key)
        return Caller(key.id, key.group_id, key.role)

    async def close(self) -> None:
        """Write the last uses that are still waiting."""
        if self._touching is not None:
            await self._touching

    async def _key(self, key_id: str) -> ApiKey | None:
        now = self._clock.boot()
        trusted = self._trusted.get(key_id)
        if trusted is not None and now < trusted[1]:
            return trusted[0]
        key = await self._store.key(key_id)
        if key is None:
            self._trusted.pop(key_id, None)
            return None
        used_at = trusted[0].last_used_at if trusted else None
        if used_at is not None and (key.last_used_at is None or key.last_used_at < used_at):
            key = replace(key, last_used_at=used_at)
        self._trust(key, until=now + TRUST_SECONDS)
        return key

    def _trust(self, key: ApiKey, *, until: float) -> None:
        self._trusted[key.id] = (key, until)
        self._trusted.move_to_end(key.id)
        if len(self._trusted) > MOST_TRUSTED_KEYS:
            self._trusted.popitem(last=False)

    def _note_use(self, key: ApiKey) -> None:
        now = self._clock.now()
        if key.last_used_at is not None and now - key.last_used_at < TOUCH_INTERVAL:
            return
        _, until = self._trusted[key.id]
        self._trust(replace(key, last_used_at=now), until=until)
        self._touches[key.id] = now
        if self._touching is None or self._touching.done():
            self._touching = asyncio.create_task(self._write_touches())

    async def _write_touches(self) -> None:
        while self._touches:
            touches, self._touches = self._touches, {}
            try:
                await self._store.touch_keys(touches)
            except StoreUnavailable:
                return  # a last use is worth no more than one attempt; the next one comes within a minute
