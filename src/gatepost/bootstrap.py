"""What a process is made of: the file that names the adapters; the store's are in `stores.py`.

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
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from ipaddress import ip_address
from typing import TYPE_CHECKING

import structlog
from starlette.types import ASGIApp

from gatepost import __version__, config, stores
from gatepost.adapters.interfaces import local_addresses
from gatepost.adapters.passwords import Argon2Passwords
from gatepost.adapters.resolver import Resolver
from gatepost.adapters.sender import CurlSender
from gatepost.adapters.system import FollowedClock, SystemChance, SystemClock
from gatepost.config import Settings
from gatepost.domain.errors import NotFound
from gatepost.domain.groups import Group, Role
from gatepost.domain.network import TargetPolicy
from gatepost.engine.engine import Engine
from gatepost.engine.terms import Limits
from gatepost.ports import Chance, Clock, Draws, EngineHints
from gatepost.services.deliveries import Deliveries
from gatepost.services.emitting import Emitter
from gatepost.services.events import Events
from gatepost.services.groups import Groups
from gatepost.services.keys import Keys, NewKey
from gatepost.services.matcher import Matcher
from gatepost.services.people import NewUser, People
from gatepost.services.replays import Replays
from gatepost.services.requests import Requests
from gatepost.services.stats import Stats
from gatepost.services.swaps import Swaps
from gatepost.services.tasks import Tasks
from gatepost.services.webhooks import Webhooks
from gatepost.stores import Store

if TYPE_CHECKING:
    from gatepost.api.app import Services

USER_AGENT = f"Gatepost/{__version__}"
EXIT_DIED = 70  # EX_SOFTWARE in sysexits.h: a supervisor starts us again, and the store knows what is owed

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Gatepost:
    """One process that serves the API, put together and running."""

    app: ASGIApp
    stop: Callable[[], None]  # start no more deliveries; leaving the context waits for those under way
    first_owner: NewUser | None = None  # whose account was made, because there was nobody


@dataclass(frozen=True, slots=True)
class Worker:
    """One process that delivers and serves nobody, running."""

    health_app: Callable[[], ASGIApp]  # made when asked for: it loads the web framework
    stop: Callable[[], None]  # as above


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
    Raises: InvalidSettings; StoreUnavailable, when the store cannot be opened.
    """
    async with AsyncExitStack() as stack:
        parts = await stack.enter_async_context(delivery_parts(settings, listeners=listeners))
        _log_settings(settings)
        engine = await _engine(parts) if with_engine else _NoEngine()
        task = await stack.enter_async_context(_delivering(engine, parts))
        # In a thread, because loading the web framework is the slowest part of a start: deliveries do not wait for it.
        app, services = await asyncio.to_thread(_api, parts, engine, ready=lambda: not task.done())
        stack.push_async_callback(services.close)
        yield Gatepost(app, stop=engine.stop, first_owner=await _first_owner(settings, services))


@asynccontextmanager
async def working(settings: Settings, *, listeners: Sequence[tuple[str, int]]) -> AsyncIterator[Worker]:
    """Run an engine alone; as `running` otherwise."""
    async with delivery_parts(settings, listeners=listeners) as parts:
        _log_settings(settings)
        engine = await _engine(parts)
        async with _delivering(engine, parts) as task:
            yield Worker(lambda: _health_api(parts.clock, ready=lambda: not task.done()), stop=engine.stop)


@dataclass(frozen=True, slots=True)
class Parts:
    """What an engine needs of the world."""

    settings: Settings
    clock: Clock
    chance: Chance
    target_policy: TargetPolicy
    store: Store
    sender: CurlSender


@asynccontextmanager
async def delivery_parts(settings: Settings, *, listeners: Sequence[tuple[str, int]] = ()) -> AsyncIterator[Parts]:
    """Open the store, follow its clock and start the sender; end all of it in the opposite order."""
    clock = FollowedClock()
    target_policy = TargetPolicy(settings.allowed_target_networks, own_addresses(listeners))
    async with opened_store(settings, clock) as store, _following(clock, store):
        sender = _sender(settings, target_policy, clock)
        try:
            yield Parts(settings, clock, SystemChance(), target_policy, store, sender)
        finally:
            await sender.close()


@asynccontextmanager
async def _following(clock: FollowedClock, store: Store) -> AsyncIterator[None]:
    await clock.sample(store.server_time)
    task = asyncio.create_task(clock.keep(store.server_time), name="clock")
    task.add_done_callback(partial(_die_of_a_bug, "the clock"))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def opened_store(settings: Settings, clock: Clock | None = None) -> AbstractAsyncContextManager[Store]:
    """Open the store as `stores.opened` does; the process does not outlive what runs it."""
    return stores.opened(settings, on_death=_dies("the store's writer"), clock=clock or SystemClock())


@dataclass(frozen=True, slots=True)
class Accounts:
    """What an operator manages straight in the store, whether a server is running on it or not."""

    people: People
    groups: Groups
    keys: Keys
    clock: Clock
    chance: Chance

    @property
    def draws(self) -> Draws:
        """What one creation draws."""
        return Draws(self.clock.now(), self.chance)

    async def group_named(self, name: str) -> Group:
        """Raises: NotFound."""
        group = await self.groups.named(name)
        if group is None:
            raise NotFound(f"There is no group named {name!r}.")
        return group

    async def create_group(self, name: str) -> Group:
        """Make a group that belongs to those who own the installation."""
        return await self.groups.create(name, owner_ids=None, draws=self.draws)

    async def create_key(self, group_name: str, role: Role, name: str | None = None, *, create_group: bool) -> NewKey:
        """Make an API key.

        Raises: NotFound, when there is no such group and it is not to be made; InvalidInput.
        """
        group = await self.groups.named(group_name)
        if group is None:
            if not create_group:
                raise NotFound(f"There is no group named {group_name!r}: add --create-group to make it.")
            group = await self.create_group(group_name)
        return await self.keys.create(group.id, role, name, draws=self.draws)


@asynccontextmanager
async def opened_accounts(settings: Settings) -> AsyncIterator[Accounts]:
    """Open the store for what an operator does to accounts; as `opened_store` otherwise."""
    async with opened_store(settings) as store:
        clock, chance = SystemClock(), SystemChance()
        yield _accounts(store, clock, chance)


def _accounts(store: Store, clock: Clock, chance: Chance) -> Accounts:
    people = People(store, store, Argon2Passwords(), clock, chance)
    return Accounts(people, Groups(store, people), Keys(store, clock), clock, chance)


class _NoEngine:
    """Stands in for an engine that runs in another process, and finds the work in the store."""

    in_flight = 0

    def __init__(self) -> None:
        self._stopped = asyncio.Event()

    async def run(self) -> None:
        await self._stopped.wait()

    def stop(self) -> None:
        self._stopped.set()

    def webhook_changed(self, webhook_id: str) -> None:
        pass


def _sender(settings: Settings, target_policy: TargetPolicy, clock: Clock) -> CurlSender:
    return CurlSender(
        target_policy,
        Resolver(clock, nameservers=settings.nameservers),
        clock,
        max_in_flight=settings.max_in_flight,
        ca_file=str(settings.ca_file) if settings.ca_file else None,
        on_thread_death=_dies("the sender"),
    )


def _api(parts: Parts, hints: EngineHints, *, ready: Callable[[], bool]) -> "tuple[ASGIApp, Services]":
    from gatepost.api.app import Services, create_app
    from gatepost.api.peers import Peers

    store, clock, chance = parts.store, parts.clock, parts.chance
    accounts = _accounts(store, clock, chance)
    emitter = Emitter(Matcher(store), chance)
    services = Services(
        people=accounts.people,
        groups=accounts.groups,
        keys=accounts.keys,
        requests=Requests(store, clock, chance),
        tasks=Tasks(store, store, emitter, clock, chance),
        swaps=Swaps(store, store, store, emitter, clock, chance),
        events=Events(store, emitter),
        stats=Stats(store, store, clock),
        webhooks=Webhooks(
            store,
            hints=hints,
            target_policy=parts.target_policy,
            clock=clock,
            https_only=parts.settings.https_only,
        ),
        deliveries=Deliveries(
            store,
            store,
            sender=parts.sender,
            hints=hints,
            target_policy=parts.target_policy,
            clock=clock,
            chance=chance,
            user_agent=USER_AGENT,
        ),
        replays=Replays(store, store, clock),
    )
    peers = Peers(parts.settings.trusted_proxies, parts.settings.public_url)
    return create_app(services, clock=clock, ready=ready, peers=peers), services


async def _first_owner(settings: Settings, services: "Services") -> NewUser | None:
    """Make the owner's account while there is nobody, so that somebody can sign in."""
    given = settings.admin_password.get_secret_value() if settings.admin_password else None
    made = await services.people.create_first(settings.admin_email, given, draws=services.requests.draws())
    if made is not None:
        log.info("owner.created", user_id=made.user.id)
    return made


def _health_api(clock: Clock, *, ready: Callable[[], bool]) -> ASGIApp:
    from gatepost.api.app import create_health_app

    return create_health_app(clock=clock, ready=ready)


async def _engine(parts: Parts) -> Engine:
    """Return an engine that the store knows of, and that is told what is committed."""
    owner = parts.chance.new_id("eng")
    # Here, and not by the engine alone: it would try for as long as it takes, and until then nobody is ready.
    await parts.store.join(owner, now=parts.clock.now())
    engine = Engine(
        parts.store,
        parts.sender,
        parts.clock,
        parts.chance,
        owner=owner,
        user_agent=USER_AGENT,
        limits=Limits(
            lease=timedelta(seconds=parts.settings.lease_seconds),
            max_in_flight=parts.settings.max_in_flight,
            retention=parts.settings.retention,
        ),
    )
    parts.store.on_queued = engine.hand_over
    parts.store.on_poked = engine.poked
    return engine


@asynccontextmanager
async def _delivering(engine: Engine | _NoEngine, parts: Parts) -> AsyncIterator["asyncio.Task[None]"]:
    """Run the engine; on leaving, stop it and wait for what is under way, up to the deadline."""
    task = asyncio.create_task(engine.run(), name="engine")
    task.add_done_callback(partial(_die_of_a_bug, "the engine"))
    try:
        yield task
    finally:
        engine.stop()
        patience = parts.settings.shutdown_seconds
        done, _ = await asyncio.wait([task], timeout=patience)
        if not done:
            log.warning("engine.cut_off", after_seconds=patience, in_flight=engine.in_flight)
            task.cancel()
            await asyncio.wait([task])


def _die_of_a_bug(part: str, task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and (bug := task.exception()):
        _dies(part)(bug)


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
