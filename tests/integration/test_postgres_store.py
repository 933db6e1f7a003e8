"""What only the PostgreSQL store does: schema, connections, pokes after commits."""

import asyncio
import json
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from tests.builders import make_delivery, make_request, make_task_change
from tests.contract.backends import SECRET_KEY, Postgres18Backend
from tests.contract.steps import ADA, EVE, LEASE, add_webhook, emit_one, lease, read, save
from tests.fakes import NOW
from tests.integration.postgres_rigs import ask, end_connections

from gatepost.adapters.secretbox import SecretBox
from gatepost.adapters.storage import (
    migrating,
    postgres_pokes,
    postgres_schema,
)
from gatepost.adapters.storage.postgres import PostgresStore
from gatepost.adapters.storage.postgres_connections import connect
from gatepost.adapters.storage.rows import to_ms
from gatepost.domain.errors import StoreUnavailable
from gatepost.ports import KeptAnswer, Saved

BOX = SecretBox(SECRET_KEY)
ONE = migrating.Migration(1, "0001_one.sql", "CREATE TABLE one (n bigint);")
TWO = migrating.Migration(2, "0002_two.sql", "CREATE TABLE two (n bigint);")


# --- opening -------------------------------------------------------------------------------------------------


async def test_a_database_that_was_not_migrated_is_refused(postgres: Postgres18Backend) -> None:
    empty = f"{postgres.url}_empty"
    with pytest.raises(StoreUnavailable, match="gatepost migrate"):
        await PostgresStore.open(empty, box=BOX)


async def test_a_database_of_an_older_version_is_refused(
    postgres: Postgres18Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = [*migrating.shipped("postgres"), migrating.Migration(99, "0099_new.sql", "SELECT 1;")]
    monkeypatch.setattr(postgres_schema, "shipped", lambda _: newer)

    with pytest.raises(StoreUnavailable, match="older version: run `gatepost migrate`"):
        await PostgresStore.open(postgres.url, box=BOX)


async def test_a_database_of_a_newer_version_is_refused(
    postgres: Postgres18Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_schema, "shipped", lambda _: [])
    for use in (PostgresStore.open, PostgresStore.migrate):
        with pytest.raises(StoreUnavailable, match="newer than this Gatepost"):
            await use(postgres.url, box=BOX)


@pytest.mark.parametrize("method", ["open", "migrate"])
async def test_another_secret_key_is_refused(postgres: Postgres18Backend, method: str) -> None:
    with pytest.raises(StoreUnavailable, match="sealed with another secret key"):
        await getattr(PostgresStore, method)(postgres.url, box=SecretBox(bytes(32)))


async def test_migrations_that_fail_leave_nothing(postgres: Postgres18Backend) -> None:
    broken = migrating.Migration(2, "0002_broken.sql", "CREATE TABLE two (n bigint); SELECT no_such_thing();")
    await ask(postgres, f"CREATE SCHEMA {postgres._schema}_new")
    connection = await connect(f"{postgres.url}_new")

    with pytest.raises(Exception, match="no_such_thing"):
        await postgres_schema.migrate(connection, BOX, [ONE, broken])

    assert await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()") == []
    await connection.close()


async def test_processes_that_migrate_at_once_agree(postgres: Postgres18Backend) -> None:
    await ask(postgres, f"CREATE SCHEMA {postgres._schema}_new")
    url = f"{postgres.url}_new"

    await asyncio.gather(*(PostgresStore.migrate(url, box=BOX) for _ in range(5)))

    store = await PostgresStore.open(url, box=BOX)
    await store.close()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://gatepost@127.0.0.1:1/gatepost",
        "postgresql://gatepost@/gatepost?host=/nowhere",
        "postgresql://gatepost@/no_such_database?{server}",
    ],
)
async def test_a_database_that_cannot_be_reached_is_told_in_a_sentence(postgres: Postgres18Backend, url: str) -> None:
    server = postgres.url.partition("?")[2]
    with pytest.raises(StoreUnavailable, match="the PostgreSQL database cannot be used: "):
        await PostgresStore.open(url.format(server=server), box=BOX)


# --- connections ---------------------------------------------------------------------------------------------


async def test_connections_that_ended_are_an_error_once_and_then_made_anew(postgres: Postgres18Backend) -> None:
    store = await postgres.open()
    webhook = await add_webhook(store)
    await emit_one(store, webhook)

    for _ in range(3):
        assert await end_connections(postgres)
        errors = 0
        while True:
            try:
                await emit_one(store, webhook)
                break
            except StoreUnavailable:
                errors += 1
        assert errors <= 2  # a connection for reading, one for writing

    assert webhook.id in await lease(store)


async def test_a_commit_is_durable_whatever_the_server_defaults_to(postgres: Postgres18Backend) -> None:
    url = f"{postgres.url}&synchronous_commit=off"
    store = await PostgresStore.open(url, box=BOX)

    async def shown(pool: Any) -> str:
        async with pool.acquire() as connection:
            setting: str = await connection.fetchval("SHOW synchronous_commit")
            return setting

    people, engine, pokes = [await shown(pool) for pool in store._pools]
    await store.close()

    assert (people, engine, pokes) == ("on", "on", "off")  # a poke that is lost is found by the sweep


async def test_a_process_that_stops_inside_a_transaction_does_not_keep_its_locks(postgres: Postgres18Backend) -> None:
    connection = await connect(postgres.url)
    settings = ("idle_in_transaction_session_timeout", "lock_timeout", "tcp_keepalives_idle")
    shown = [await connection.fetchval(f"SHOW {name}") for name in settings]
    await connection.close()

    assert shown[:2] == ["3s", "5s"]


async def test_the_servers_clock_is_told(postgres: Postgres18Backend) -> None:
    store = await postgres.open()
    [(before,)] = await ask(postgres, "SELECT clock_timestamp()")
    told = await store.server_time()
    [(after,)] = await ask(postgres, "SELECT clock_timestamp()")

    assert before - timedelta(milliseconds=1) <= told <= after


# --- pokes ---------------------------------------------------------------------------------------------------


async def test_many_changes_poke_their_lanes_in_few_statements(
    postgres: Postgres18Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await postgres.open()
    webhooks = [await add_webhook(store) for _ in range(3)]
    statements = 0
    lent = postgres_pokes.lent

    def counting(pool: Any) -> Any:
        nonlocal statements
        statements += 1
        return lent(pool)

    monkeypatch.setattr(postgres_pokes, "lent", counting)

    await asyncio.gather(*(emit_one(store, webhook) for webhook in webhooks * 40))

    assert [(await read(store, webhook)).pokes for webhook in webhooks] == [40, 40, 40]
    assert statements < 60


async def test_more_lanes_than_one_notification_can_name_are_all_poked(postgres: Postgres18Backend) -> None:
    store, other = await postgres.open(), await postgres.open()
    webhooks = [await add_webhook(store) for _ in range(postgres_pokes.LANES_AT_ONCE + 5)]
    heard = Heard(other)
    await other.join(EVE, now=NOW)
    await heard.until([])
    change = make_task_change()

    owed = [make_delivery(change.event, webhook) for webhook in webhooks]
    assert await save(store, change, *owed) is Saved.DONE

    assert await ask(postgres, "SELECT count(*) FROM lanes WHERE due_at <= $1", to_ms(NOW)) == [(len(webhooks),)]
    await heard.until_all({webhook.id for webhook in webhooks})


async def test_a_poke_that_failed_is_made_later(postgres: Postgres18Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_pokes, "RETRY_SECONDS", 0.05)
    store = await postgres.open()
    webhook = await add_webhook(store)
    poke, postgres_pokes.POKE = postgres_pokes.POKE, "SELECT no_such_thing()"
    try:
        await emit_one(store, webhook)  # is saved all the same
        assert await lease(store) == {}
    finally:
        postgres_pokes.POKE = poke

    async with asyncio.timeout(5):
        while webhook.id not in await lease(store):  # noqa: ASYNC110  # the database tells nobody
            await asyncio.sleep(0.01)


async def test_a_server_that_can_notify_nobody_keeps_the_poke(
    postgres: Postgres18Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = (
        "DO $$ BEGIN RAISE program_limit_exceeded USING MESSAGE = 'too many notifications in the NOTIFY queue'; END $$"
    )
    store = await postgres.open()
    webhook = await add_webhook(store)
    execute = asyncpg.Connection.execute

    async def refuse(connection: Any, sql: str, *params: Any) -> Any:
        return await (execute(connection, full) if "pg_notify" in sql else execute(connection, sql, *params))

    monkeypatch.setattr(asyncpg.Connection, "execute", refuse)

    await emit_one(store, webhook)

    assert webhook.id in await lease(store)


class Heard:
    """What a store heard of others."""

    def __init__(self, store: Any) -> None:
        self.calls: list[list[str]] = []
        self._called = asyncio.Event()
        store.on_poked = self._hear

    def _hear(self, webhook_ids: Any) -> None:
        self.calls.append(list(webhook_ids))
        self._called.set()

    async def until(self, call: list[str]) -> None:
        async with asyncio.timeout(5):
            while call not in self.calls:
                self._called.clear()
                await self._called.wait()

    async def until_all(self, webhook_ids: set[str]) -> None:
        async with asyncio.timeout(5):
            while not webhook_ids <= {each for call in self.calls for each in call}:
                self._called.clear()
                await self._called.wait()


async def test_the_owner_of_a_lane_hears_that_others_have_poked_it(postgres: Postgres18Backend) -> None:
    emitter, owner, neighbour = [await postgres.open() for _ in range(3)]
    webhook = await add_webhook(emitter)
    await emit_one(emitter, webhook)
    heard, unconcerned = Heard(owner), Heard(neighbour)
    await owner.join(ADA, now=NOW)
    await neighbour.join(EVE, now=NOW)
    for each in (heard, unconcerned):
        await each.until([])
    await lease(owner, ADA)

    await emit_one(emitter, webhook)
    await heard.until([webhook.id])
    free = await add_webhook(emitter)
    await emit_one(emitter, free)
    await unconcerned.until([free.id])  # which nobody holds, so that anybody may take it

    assert [webhook.id] not in unconcerned.calls


async def test_what_this_process_committed_itself_it_hears_of_only_where_its_engine_took_nothing(
    postgres: Postgres18Backend,
) -> None:
    store = await postgres.open()
    taken, refused = [await add_webhook(store) for _ in range(2)]
    store.on_queued = lambda queued: {each.webhook_id for each in queued} - {taken.id}
    heard = Heard(store)
    await store.join(ADA, now=NOW)
    await heard.until([])

    for webhook in (taken, refused):
        await emit_one(store, webhook)

    await heard.until([refused.id])
    assert [call for call in heard.calls if taken.id in call] == []


async def test_whoever_could_not_listen_for_a_while_looks_at_everything(
    postgres: Postgres18Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_pokes, "RETRY_SECONDS", 0.05)
    store = await postgres.open()
    heard = Heard(store)
    await store.join(ADA, now=NOW)
    await heard.until([])
    heard.calls.clear()

    assert await end_connections(postgres, "LISTEN%")

    await heard.until([])


# --- keyed requests ------------------------------------------------------------------------------------------


async def test_seeds_and_answers_are_sealed_in_their_columns(postgres: Postgres18Backend) -> None:
    store, request = await postgres.open(), make_request()
    await store.remember_request(request, kept_for=timedelta(days=1))
    await store.keep_answer(request.id, KeptAnswer(201, (), b"the key that is shown once"))

    [(seed, answer)] = await ask(postgres, "SELECT seed, answer FROM requests")

    assert BOX.open(seed, ("requests", "seed", request.id, "")) == request.seed
    assert json.loads(BOX.open(answer, ("requests", "answer", request.id, "")))[0] == 201


# --- owners --------------------------------------------------------------------------------------------------


async def test_a_renewal_counts_the_owner_as_alive(postgres: Postgres18Backend) -> None:
    store = await postgres.open()
    await store.renew_lanes(ADA, {}, now=NOW, lease=LEASE)
    assert [row["id"] for row in await ask(postgres, "SELECT id FROM workers")] == [ADA]
