"""What a process is made of: the only file that names an adapter.

                  settings
                     │
api ──▶ services ──▶ store ◀── engine ──▶ sender
                     │            ▲
                     └─ on_queued ┘
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import ip_address

import structlog
from starlette.types import ASGIApp

from gatepost import __version__, config
from gatepost.adapters.interfaces import local_addresses
from gatepost.adapters.resolver import Resolver
from gatepost.adapters.secretbox import SecretBox, key_file
from gatepost.adapters.sender import CurlSender
from gatepost.adapters.storage.sqlite import SqliteStore
from gatepost.adapters.system import SystemChance, SystemClock
from gatepost.config import InvalidSettings, Settings
from gatepost.domain.deliveries import QueuedDelivery
from gatepost.domain.errors import NotFound
from gatepost.domain.groups import Role
from gatepost.domain.network import TargetPolicy
from gatepost.engine.engine import Engine
from gatepost.ports import Chance, Clock, EngineHints
from gatepost.services.accounts import Accounts, NewKey
from gatepost.services.deliveries import Deliveries
from gatepost.services.tasks import Tasks
from gatepost.services.webhooks import Webhooks

USER_AGENT = f"Gatepost/{__version__}"
EXIT_DIED = 70  # EX_SOFTWARE in sysexits.h: a supervisor starts us again, and the store knows what is owed

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Gatepost:
    """One process, put together and running."""

    app: ASGIApp
    stop: Callable[[], None]  # start no more deliveries; leaving the context waits for those under way


def system_clock() -> Clock:
    """Return the clock, for what runs outside the server."""
    return SystemClock()


def system_chance() -> Chance:
    """Return the source of chance, for what runs outside the server."""
    return SystemChance()


@asynccontextmanager
async def running(
    settings: Settings, *, listeners: Sequence[tuple[str, int]], with_engine: bool = True
) -> AsyncIterator[Gatepost]:
    """Put a process together, run its engine, and take it apart again in the opposite order.

    Shape:  `listeners` are the (address, port) pairs that the process itself answers at.
    Raises: StoreUnavailable, when the store cannot be opened.
    """
    async with AsyncExitStack() as stack:
        parts = await stack.enter_async_context(delivery_parts(settings, listeners=listeners))
        _log_settings(settings)
        engine = _engine(parts) if with_engine else _NoEngine()
        parts.store.on_queued = engine.hand_over
        task = await stack.enter_async_context(_delivering(engine, settings))
        # In a thread, because loading the web framework is the slowest part of a start: deliveries do not wait for it.
        app, accounts = await asyncio.to_thread(_api, parts, engine, ready=lambda: not task.done())
        stack.push_async_callback(accounts.close)
        yield Gatepost(app, stop=engine.stop)


@dataclass(frozen=True, slots=True)
class Parts:
    """What an engine needs of the world."""

    settings: Settings
    clock: Clock
    chance: Chance
    target_policy: TargetPolicy
    store: SqliteStore
    sender: CurlSender


@asynccontextmanager
async def delivery_parts(settings: Settings, *, listeners: Sequence[tuple[str, int]] = ()) -> AsyncIterator[Parts]:
    """Open the store and start the sender; end both in the opposite order."""
    clock = SystemClock()
    target_policy = TargetPolicy(settings.allowed_target_networks, own_addresses(listeners))
    async with opened_store(settings) as store:
        sender = _sender(settings, target_policy, clock)
        try:
            yield Parts(settings, clock, SystemChance(), target_policy, store, sender)
        finally:
            await sender.close()


@asynccontextmanager
async def opened_store(settings: Settings) -> AsyncIterator[SqliteStore]:
    """Open the store, bring its schema up to date, and close it again.

    Raises: InvalidSettings, when there is no place or no key for it; StoreUnavailable, when it cannot be used.
    """
    box = SecretBox(_secret_key(settings))
    store = await SqliteStore.open(settings.store_path, box=box, on_death=_dies("the store's writer"))
    try:
        yield store
    finally:
        await store.close()


async def create_key(settings: Settings, group_name: str, role: Role, *, create_group: bool) -> NewKey:
    """Make an API key straight in the store, whether a server is running on it or not.

    Raises: NotFound, when there is no such group and it is not to be made; whatever `opened_store` raises.
    """
    async with opened_store(settings) as store:
        accounts = Accounts(store, SystemClock(), SystemChance())
        group = await accounts.group_named(group_name)
        if group is None:
            if not create_group:
                raise NotFound(f"There is no group named {group_name!r}: add --create-group to make it.")
            group = await accounts.create_group(group_name)
        return await accounts.create_key(group.id, role)


class _NoEngine:
    """Stands in for an engine that runs in another process, and finds the work in the store."""

    in_flight = 0

    def __init__(self) -> None:
        self._stopped = asyncio.Event()

    async def run(self) -> None:
        await self._stopped.wait()

    def stop(self) -> None:
        self._stopped.set()

    def hand_over(self, deliveries: Sequence[QueuedDelivery]) -> None:
        pass

    def webhook_changed(self, webhook_id: str) -> None:
        pass

    def poked(self, webhook_ids: Sequence[str]) -> None:
        pass


def _secret_key(settings: Settings) -> bytes:
    if settings.secret_key_bytes is not None:
        return settings.secret_key_bytes
    store = settings.store_path
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


def _sender(settings: Settings, target_policy: TargetPolicy, clock: Clock) -> CurlSender:
    return CurlSender(
        target_policy,
        Resolver(clock, nameservers=settings.nameservers),
        clock,
        max_in_flight=settings.max_in_flight,
        ca_file=str(settings.ca_file) if settings.ca_file else None,
        on_thread_death=_dies("the sender"),
    )


def _api(parts: Parts, hints: EngineHints, *, ready: Callable[[], bool]) -> tuple[ASGIApp, Accounts]:
    from gatepost.api.app import Services, create_app

    store, clock, chance = parts.store, parts.clock, parts.chance
    services = Services(
        accounts=Accounts(store, clock, chance),
        tasks=Tasks(store, store, clock, chance),
        webhooks=Webhooks(
            store,
            hints=hints,
            target_policy=parts.target_policy,
            clock=clock,
            chance=chance,
            https_only=parts.settings.https_only,
        ),
        deliveries=Deliveries(
            store,
            store,
            sender=parts.sender,
            target_policy=parts.target_policy,
            clock=clock,
            chance=chance,
            user_agent=USER_AGENT,
        ),
    )
    return create_app(services, clock=clock, ready=ready), services.accounts


def _engine(parts: Parts) -> Engine:
    return Engine(
        parts.store,
        parts.sender,
        parts.clock,
        parts.chance,
        owner=parts.chance.new_id("eng"),
        user_agent=USER_AGENT,
        lease=timedelta(seconds=parts.settings.lease_seconds),
        max_in_flight=parts.settings.max_in_flight,
    )


@asynccontextmanager
async def _delivering(engine: Engine | _NoEngine, settings: Settings) -> AsyncIterator["asyncio.Task[None]"]:
    """Run the engine; on leaving, stop it and wait for what is under way, up to the deadline."""
    task = asyncio.create_task(engine.run(), name="engine")
    task.add_done_callback(_die_of_a_bug)
    try:
        yield task
    finally:
        engine.stop()
        done, _ = await asyncio.wait([task], timeout=settings.shutdown_seconds)
        if not done:
            log.warning("engine.cut_off", after_seconds=settings.shutdown_seconds, in_flight=engine.in_flight)
            task.cancel()
            await asyncio.wait([task])


def _die_of_a_bug(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and (bug := task.exception()):
        _dies("the engine")(bug)


def _dies(part: str) -> Callable[[BaseException], None]:
    """Return what to call when a part that the process cannot do without has ended.

    The state is in the store, so ending at once and starting again loses nothing; going on without the part would.
    """

    def die(cause: BaseException) -> None:
        try:
            log.critical("process.died", part=part, exc_info=cause)
            sys.stderr.flush()
        finally:  # whatever has become of the log
            os._exit(EXIT_DIED)

    return die


def own_addresses(listeners: Iterable[tuple[str, int]]) -> frozenset[tuple[str, int]]:
    """Return where the process itself answers, so that no webhook is aimed at it (S13)."""
    found = set(listeners)
    for host, port in listeners:
        if ip_address(host).is_unspecified:
            found |= {(address, port) for address in local_addresses()}
    return frozenset(found)


def _log_settings(settings: Settings) -> None:
    """Tell what an operator may want to read again, above all which networks they opened (S9)."""
    for name, meant in config.unknown_variables(os.environ).items():
        log.warning("setting.ignored", variable=name, meant=meant)
    networks = [str(network) for network in settings.allowed_target_networks]
    if networks:
        log.warning("targets.allowed", networks=networks)
