"""Opening the store that the settings name; beside bootstrap the only file that names an adapter."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

from gatepost.adapters.secretbox import SecretBox, key_file
from gatepost.adapters.storage.sqlite import SqliteStore
from gatepost.config import InvalidSettings, Settings
from gatepost.domain.deliveries import QueuedDelivery
from gatepost.ports import (
    Clock,
    DeliveryLog,
    EventStore,
    GroupStore,
    KeyStore,
    LaneStore,
    PeopleStore,
    ReplayStore,
    RequestStore,
    RetentionStore,
    StatsStore,
    SwapStore,
    TaskStore,
    TimeSource,
    WebhookStore,
)
from gatepost.store_url import StoreKind


class Store(
    GroupStore,
    KeyStore,
    PeopleStore,
    RequestStore,
    TaskStore,
    SwapStore,
    EventStore,
    WebhookStore,
    DeliveryLog,
    ReplayStore,
    LaneStore,
    StatsStore,
    RetentionStore,
    TimeSource,
    Protocol,
):
    """One process's handle on all that is stored.

    Shape: `on_queued` is called with deliveries just committed here, before whoever wrote them goes on, and returns the
           webhooks whose lanes took none; `on_poked` with the webhooks that other processes have committed some for,
           without any when it is not known which. Both on the event loop.
    """

    on_queued: Callable[[Sequence[QueuedDelivery]], set[str]]
    on_poked: Callable[[Sequence[str]], None]

    async def close(self) -> None:
        """Finish what was asked for and let go of everything."""


class _ServerStore(Protocol):
    """The class of a store that lies with a server."""

    async def open(self, url: str, *, box: SecretBox, on_death: Callable[[BaseException], None]) -> Store: ...

    async def migrate(self, url: str, *, box: SecretBox) -> None: ...


@asynccontextmanager
async def opened(
    settings: Settings, *, on_death: Callable[[BaseException], None], clock: Clock
) -> AsyncIterator[Store]:
    """Open the store and close it again. An embedded one is made when it is missing, and brought up to date.

    Raises: InvalidSettings, when there is no place, no key or no driver for it; StoreUnavailable, when it cannot be
            used, above all because it is not of this version's schema.
    """
    store: Store
    box = SecretBox(_secret_key(settings))
    if settings.store.is_embedded:
        store = await SqliteStore.open(settings.store.path, box=box, on_death=on_death, clock=clock)
    else:
        adapter = _server_store(settings.store.kind)
        store = await adapter.open(settings.store.secret, box=box, on_death=on_death)
    try:
        yield store
    finally:
        await store.close()


async def migrate(settings: Settings) -> None:
    """Bring the store's schema up to date.

    Raises: what `opened` raises.
    """
    box = SecretBox(_secret_key(settings))
    if settings.store.is_embedded:
        await SqliteStore.migrate(settings.store.path, box=box)
    else:
        await _server_store(settings.store.kind).migrate(settings.store.secret, box=box)


_EXTRAS = {StoreKind.POSTGRESQL: "postgres", StoreKind.MONGODB: "mongodb"}


def _server_store(kind: StoreKind) -> _ServerStore:
    """Return the class of a store, loaded only now: its driver is an extra that others need not install."""
    try:
        if kind is StoreKind.POSTGRESQL:
            from gatepost.adapters.storage.postgres import PostgresStore

            return PostgresStore
        from gatepost.adapters.storage.mongodb import MongoStore

        return MongoStore
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("gatepost"):
            raise
        raise InvalidSettings(
            f"The driver for {kind} is not installed ({error.name}): pip install 'gatepost[{_EXTRAS[kind]}]'."
        ) from None


def _secret_key(settings: Settings) -> bytes:
    if settings.secret_key_bytes is not None:
        return settings.secret_key_bytes
    return _key_beside(settings.store.path)  # of an embedded store: the others are refused without a key


def _key_beside(store: Path) -> bytes:
    if not store.parent.is_dir():
        raise InvalidSettings(f"There is no folder {store.parent} for the store: create it, or choose another.")
    try:
        return key_file(store.with_name(f"{store.name}.key"))
    except ValueError as error:
        raise InvalidSettings(f"The key file of the store cannot be used: {error}.") from None
    except OSError as error:
        raise InvalidSettings(
            f"The key file beside the store cannot be read or made ({error.strerror}): make {store.parent} writable,"
            " or set GATEPOST_SECRET_KEY."
        ) from None
