"""What only the PostgreSQL store does: schema, connections, pokes after commits, statements that use their index."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from tests.builders import make_delivery, make_request, make_task_change
from tests.contract.backends import SECRET_KEY, Postgres18Backend
from tests.contract.steps import ADA, EVE, LEASE, add_webhook, emit_one, lease, proposed, read, save
from tests.fakes import NOW
from tests.integration.postgres_rigs import ask, end_connections, postgres_database

from gatepost.adapters.secretbox import SecretBox
from gatepost.adapters.storage import (
    migrating,
    postgres_lanes,
    postgres_pokes,
    postgres_schema,
    sql_attempts,
    sql_deliveries,
    sql_emitting,
    sql_events,
    sql_groups,
    sql_keys,
    sql_lanes,
    sql_owners,
    sql_people,
    sql_requests,
    sql_swaps,
    sql_tasks,
    sql_webhooks,
)
from gatepost.adapters.storage.postgres import PostgresStore
from gatepost.adapters.storage.postgres_connections import connect
from gatepost.adapters.storage.postgres_dialect import in_postgres
from gatepost.adapters.storage.rows import ATTEMPT_TYPES, to_ms
from gatepost.domain.deliveries import Status
from gatepost.domain.errors import StoreUnavailable
from gatepost.domain.swaps import SwapStatus
from gatepost.domain.tasks import TaskStatus
from gatepost.ports import DeliveryQuery, EventQuery, KeptAnswer, Saved, TaskQuery

BOX = SecretBox(SECRET_KEY)
ONE = migrating.Migration(1, "0001_one.sql", "CREATE TABLE one (n bigint);")
TWO = migrating.Migration(2, "0002_two.sql", "CREATE TABLE two (n bigint);")


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Postgres18Backend]:
    async with postgres_database(tmp_path) as backend:
        yield backend


# --- opening -------------------------------------------------------------------------------------------------


async def test_a_database_that_was_not_migrated_is_refused(database: Postgres18Backend) -> None:
    empty = f"{database.url}_empty"
    with pytest.raises(StoreUnavailable, match="gatepost migrate"):
        await PostgresStore.open(empty, box=BOX)


async def test_a_database_of_an_older_version_is_refused(
    database: Postgres18Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = [*migrating.shipped("postgres"), migrating.Migration(99, "0099_new.sql", "SELECT 1;")]
    monkeypatch.setattr(postgres_schema, "shipped", lambda _: newer)

    with pytest.raises(StoreUnavailable, match="older version: run `gatepost migrate`"):
        await PostgresStore.open(database.url, box=BOX)


async def test_a_database_of_a_newer_version_is_refused(
    database: Postgres18Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_schema, "shipped", lambda _: [])
    for use in (PostgresStore.open, PostgresStore.migrate):
        with pytest.raises(StoreUnavailable, match="newer than this Gatepost"):
            await use(database.url, box=BOX)


@pytest.mark.parametrize("method", ["open", "migrate"])
async def test_another_secret_key_is_refused(database: Postgres18Backend, method: str) -> None:
    with pytest.raises(StoreUnavailable, match="sealed with another secret key"):
        await getattr(PostgresStore, method)(database.url, box=SecretBox(bytes(32)))


async def test_migrations_that_fail_leave_nothing(database: Postgres18Backend) -> None:
    broken = migrating.Migration(2, "0002_broken.sql", "CREATE TABLE two (n bigint); SELECT no_such_thing();")
    await ask(database, f"CREATE SCHEMA {database._schema}_new")
    connection = await connect(f"{database.url}_new")

    with pytest.raises(Exception, match="no_such_thing"):
        await postgres_schema.migrate(connection, BOX, [ONE, broken])

    assert await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()") == []
    await connection.close()


async def test_processes_that_migrate_at_once_agree(database: Postgres18Backend) -> None:
    await ask(database, f"CREATE SCHEMA {database._schema}_new")
    url = f"{database.url}_new"

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
async def test_a_database_that_cannot_be_reached_is_told_in_a_sentence(database: Postgres18Backend, url: str) -> None:
    server = database.url.partition("?")[2]
    with pytest.raises(StoreUnavailable, match="the PostgreSQL database cannot be used: "):
        await PostgresStore.open(url.format(server=server), box=BOX)


# --- connections ---------------------------------------------------------------------------------------------


async def test_connections_that_ended_are_an_error_once_and_then_made_anew(database: Postgres18Backend) -> None:
    store = await database.open()
    webhook = await add_webhook(store)
    await emit_one(store, webhook)

    for _ in range(3):
        assert await end_connections(database)
        errors = 0
        while True:
            try:
                await emit_one(store, webhook)
                break
            except StoreUnavailable:
                errors += 1
        assert errors <= 2  # a connection for reading, one for writing

    assert webhook.id in await lease(store)


async def test_a_commit_is_durable_whatever_the_server_defaults_to(database: Postgres18Backend) -> None:
    url = f"{database.url}&synchronous_commit=off"
    store = await PostgresStore.open(url, box=BOX)

    async def shown(pool: Any) -> str:
        async with pool.acquire() as connection:
            setting: str = await connection.fetchval("SHOW synchronous_commit")
            return setting

    people, engine, pokes = [await shown(pool) for pool in store._pools]
    await store.close()

    assert (people, engine, pokes) == ("on", "on", "off")  # a poke that is lost is found by the sweep


async def test_a_process_that_stops_inside_a_transaction_does_not_keep_its_locks(database: Postgres18Backend) -> None:
    connection = await connect(database.url)
    settings = ("idle_in_transaction_session_timeout", "lock_timeout", "tcp_keepalives_idle")
    shown = [await connection.fetchval(f"SHOW {name}") for name in settings]
    await connection.close()

    assert shown[:2] == ["3s", "5s"]


async def test_the_servers_clock_is_told(database: Postgres18Backend) -> None:
    store = await database.open()
    [(before,)] = await ask(database, "SELECT clock_timestamp()")
    told = await store.server_time()
    [(after,)] = await ask(database, "SELECT clock_timestamp()")

    assert before - timedelta(milliseconds=1) <= told <= after


# --- pokes ---------------------------------------------------------------------------------------------------


async def test_many_changes_poke_their_lanes_in_few_statements(
    database: Postgres18Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await database.open()
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


async def test_more_lanes_than_one_notification_can_name_are_all_poked(database: Postgres18Backend) -> None:
    store, other = await database.open(), await database.open()
    webhooks = [await add_webhook(store) for _ in range(postgres_pokes.LANES_AT_ONCE + 5)]
    heard = Heard(other)
    await other.join(EVE, now=NOW)
    await heard.until([])
    change = make_task_change()

    owed = [make_delivery(change.event, webhook) for webhook in webhooks]
    assert await save(store, change, *owed) is Saved.DONE

    assert await ask(database, "SELECT count(*) FROM lanes WHERE due_at <= $1", to_ms(NOW)) == [(len(webhooks),)]
    await heard.until_all({webhook.id for webhook in webhooks})


async def test_a_poke_that_failed_is_made_later(database: Postgres18Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_pokes, "RETRY_SECONDS", 0.05)
    store = await database.open()
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
    database: Postgres18Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = (
        "DO $$ BEGIN RAISE program_limit_exceeded USING MESSAGE = 'too many notifications in the NOTIFY queue'; END $$"
    )
    store = await database.open()
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


async def test_the_owner_of_a_lane_hears_that_others_have_poked_it(database: Postgres18Backend) -> None:
    emitter, owner, neighbour = [await database.open() for _ in range(3)]
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
    database: Postgres18Backend,
) -> None:
    store = await database.open()
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
    database: Postgres18Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_pokes, "RETRY_SECONDS", 0.05)
    store = await database.open()
    heard = Heard(store)
    await store.join(ADA, now=NOW)
    await heard.until([])
    heard.calls.clear()

    assert await end_connections(database, "LISTEN%")

    await heard.until([])


# --- keyed requests ------------------------------------------------------------------------------------------


async def test_seeds_and_answers_are_sealed_in_their_columns(database: Postgres18Backend) -> None:
    store, request = await database.open(), make_request()
    await store.remember_request(request, kept_for=timedelta(days=1))
    await store.keep_answer(request.id, KeptAnswer(201, (), b"the key that is shown once"))

    [(seed, answer)] = await ask(database, "SELECT seed, answer FROM requests")

    assert BOX.open(seed, ("requests", "seed", request.id, "")) == request.seed
    assert json.loads(BOX.open(answer, ("requests", "answer", request.id, "")))[0] == 201


# --- statements ----------------------------------------------------------------------------------------------

UNFINISHED = "deliveries_unfinished"
ENGINE_QUERIES = {
    "poke": (postgres_pokes.POKE, "", {"lanes_pkey"}),
    "leasable": (sql_lanes.LEASABLE, "", {"lanes_free", "lanes_leased", "lanes_pkey"}),
    "lease": (sql_lanes.LEASE, "text bigint bigint text bigint", {"lanes_pkey"}),
    "next due": (sql_lanes.NEXT_DUE, "", {"lanes_free"}),
    "leases": (sql_owners.LEASES, "", {"lanes_pkey"}),
    "renew": (sql_owners.RENEW, "", {"lanes_pkey"}),
    "wanted": (sql_owners.WANTED, "", {"lanes_free", "lanes_leased"}),
    "read": (postgres_lanes.READ_LANES, "", {"lanes_pkey", UNFINISHED, "events_pkey"}),
    "release": (postgres_lanes.RELEASE_LANES, "", {"lanes_pkey", UNFINISHED}),
    "forgotten": (sql_lanes.FORGOTTEN, "", {"lanes_free", UNFINISHED}),
    "orphaning": (sql_lanes.ORPHANING, "", {"webhooks_deleted", UNFINISHED}),
    "bury": (sql_lanes.BURY, "", {UNFINISHED, "deliveries_pkey"}),
    "standing": (sql_attempts.STANDING, "", {"lanes_pkey"}),
    "add attempts": (sql_attempts.ADD_ATTEMPTS, ATTEMPT_TYPES, {"deliveries_pkey"}),
    "replace attempts": (sql_attempts.REPLACE_ATTEMPTS, ATTEMPT_TYPES, {"deliveries_pkey"}),
    "move": (sql_attempts.MOVE, sql_attempts.MOVE_TYPES, {"deliveries_pkey"}),
    "amend": (sql_attempts.AMEND, sql_attempts.MOVE_TYPES, {"deliveries_pkey"}),
    "clean": (sql_attempts.CLEAN, "text bigint", {"lanes_pkey"}),
    "before emit": (sql_emitting.BEFORE_EMIT, "", {"groups_pkey", "events_pkey"}),
    "served": (sql_webhooks.SERVED, "", {"webhooks_pkey"}),
    "lane marks": (sql_webhooks.LANE_MARKS, "", {"webhooks_pkey", "lanes_pkey"}),
}
# Without a name where two indexes hold all that is asked for: either will do.
ACCOUNT_QUERIES: dict[str, tuple[str, str, set[str]]] = {
    "group": (sql_groups.GROUP, "", {"groups_pkey"}),
    "group named": (sql_groups.GROUP_NAMED, "", {"groups_name_key"}),
    "groups": (sql_groups.GROUPS, "", {"groups_pkey"}),
    "memberships": (sql_groups.MEMBERSHIPS, "", {"members_of_user", "groups_pkey"}),
    "members": (sql_groups.MEMBERS, "", {"members_pkey", "users_pkey"}),
    "member": (sql_groups.MEMBER, "", {"users_pkey"}),
    "owners": (sql_groups.OWNERS, "", {"members_pkey"}),
    "save role": (sql_groups.SAVE_ROLE, "", set()),
    "remove member": (sql_groups.REMOVE_MEMBER, "", set()),
    "key": (sql_keys.KEY, "", {"api_keys_pkey"}),
    "keys": (sql_keys.KEYS, "", {"api_keys_of_group"}),
    "revoke key": (sql_keys.REVOKE, "", set()),
    "touch keys": (sql_keys.TOUCH_KEYS, "text bigint", {"api_keys_pkey"}),
    "user": (sql_people.USER, "", {"users_pkey"}),
    "user with e-mail": (sql_people.USER_WITH_EMAIL, "", {"users_email_key"}),
    "users": (sql_people.USERS, "", {"users_pkey"}),
    "installation owners": (sql_people.INSTALLATION_OWNERS, "", {"installation_owners"}),
    "save password": (sql_people.SAVE_PASSWORD, "", {"users_pkey"}),
    "session": (sql_people.SESSION, "", {"sessions_pkey"}),
    "sessions": (sql_people.SESSIONS, "", {"sessions_of_user"}),
    "forget sessions": (sql_people.FORGET_SESSIONS, "", {"sessions_pkey", "sessions_by_use"}),
    "touch sessions": (sql_people.TOUCH_SESSIONS, "text bigint", {"sessions_pkey"}),
    "end all sessions": (sql_people.END_ALL_SESSIONS, "", {"sessions_of_user"}),
    "end sessions": (sql_people.END_SESSIONS, "", set()),
    "forget requests": (sql_requests.FORGET_REQUESTS, "", {"requests_pkey", "requests_by_age"}),
    "request": (sql_requests.REQUEST, "", {"requests_pkey"}),
    "keep answer": (sql_requests.KEEP_ANSWER, "", {"requests_pkey"}),
    "answer": (sql_requests.ANSWER, "", {"requests_pkey"}),
}
TASK_QUERIES: dict[str, tuple[str, str, set[str]]] = {
    "task": (sql_tasks.TASK, "", {"tasks_pkey"}),
    "history": (sql_tasks.HISTORY, "", {"task_history_pkey"}),
    "save task": (sql_tasks.SAVE_TASK, "", {"tasks_pkey"}),
    "delete task": (sql_tasks.DELETE_TASK, "", {"tasks_pkey"}),
    "line of history": (sql_tasks.HISTORY_LINE, "", {"task_history_pkey"}),
    "swap": (sql_swaps.SWAP, "", {"swaps_pkey"}),
    "status of a swap": (sql_swaps.STATUS, "", {"swaps_pkey"}),
    "versions of tasks": (sql_swaps.VERSIONS, "", {"tasks_pkey"}),
    "open swaps": (sql_swaps.OPEN, "", {"open_swaps_pkey"}),
    "decide swap": (sql_swaps.DECIDE, "", {"swaps_pkey"}),
    "close swap": (sql_swaps.CLOSE, "", {"open_swaps_pkey"}),
    "event and version": (sql_events.EVENT_AND_VERSION, "", {"events_pkey"}),
    "revisions": (sql_events.REVISIONS, "", {"webhook_revisions_pkey"}),
    "last revision": (sql_webhooks.LAST_REVISION, "", {"webhook_revisions_pkey"}),
    "routed webhooks": (sql_events.ROUTED_WEBHOOKS, "", {"webhooks_pkey"}),
    "first deliveries": (sql_events.FIRST_DELIVERIES, "", {"deliveries_of_event"}),
    "webhook is there": (sql_webhooks.IS_THERE, "", {"webhooks_pkey"}),
    "delivery is there": (sql_deliveries.IS_THERE, "", {"deliveries_pkey"}),
}
# Each list's statement, but for where its page begins, and the index to go along.
LISTS: dict[str, tuple[Callable[[str | None], tuple[str, Any]], str]] = {
    "deliveries": (partial(sql_deliveries.deliveries_statement, "grp", DeliveryQuery()), "deliveries_of_group"),
    "deliveries of a status": (
        partial(sql_deliveries.deliveries_statement, "grp", DeliveryQuery(status=Status.FAILED)),
        "deliveries_of_group",
    ),
    "deliveries of a webhook": (
        partial(sql_deliveries.deliveries_statement, "grp", DeliveryQuery(webhook_id="wh")),
        "deliveries_of_webhook",
    ),
    "deliveries of a task": (
        partial(sql_deliveries.deliveries_statement, "grp", DeliveryQuery(task_id="tsk")),
        "deliveries_of_event",
    ),
    "deliveries of a task and a webhook": (
        partial(sql_deliveries.deliveries_statement, "grp", DeliveryQuery(task_id="tsk", webhook_id="wh")),
        "deliveries_of_event",
    ),
    "dead letters": (
        partial(sql_deliveries.deliveries_statement, "grp", DeliveryQuery(status=Status.DEAD_LETTER)),
        "deliveries_dead",
    ),
    "tasks": (partial(sql_tasks.tasks_statement, "grp", TaskQuery()), "tasks_pkey"),
    "tasks with a text": (partial(sql_tasks.tasks_statement, "grp", TaskQuery(text="rose")), "tasks_pkey"),
    "tasks of a status": (
        partial(sql_tasks.tasks_statement, "grp", TaskQuery(status=TaskStatus.PENDING)),
        "tasks_of_status",
    ),
    "tasks of a person": (
        partial(sql_tasks.tasks_statement, "grp", TaskQuery(assigned_to="usr", text="rose")),
        "tasks_of_person",
    ),
    "swaps": (partial(sql_swaps.swaps_statement, "grp", None), "swaps_pkey"),
    "pending swaps": (partial(sql_swaps.swaps_statement, "grp", SwapStatus.PENDING), "swaps_pending"),
    "swaps of a status": (partial(sql_swaps.swaps_statement, "grp", SwapStatus.REJECTED), "swaps_pkey"),
    "events": (partial(sql_events.events_statement, "grp", EventQuery()), "events_of_group"),
    "events of a type": (
        partial(sql_events.events_statement, "grp", EventQuery(event="task.created")),
        "events_of_group",
    ),
    "events of a task": (partial(sql_events.events_statement, "grp", EventQuery(task_id="tsk")), "event_tasks_pkey"),
    "events of a task and a type": (
        partial(sql_events.events_statement, "grp", EventQuery(task_id="tsk", event="task.created")),
        "event_tasks_pkey",
    ),
}
# Indexes that hold only what is looked for may be walked from end to end.
WALKED = {"installation_owners", "lanes_leased", "webhooks_deleted"}


@pytest.mark.parametrize("size", ["of empty tables", "of full tables"])
async def test_what_is_asked_is_found_by_index(database: Postgres18Backend, size: str) -> None:
    if size == "of full tables":
        await fill(database)
    connection = await connect(database.url, plan_cache_mode="force_generic_plan")
    wrong = {}

    for name, (sql, types, indexes) in (ENGINE_QUERIES | ACCOUNT_QUERIES | TASK_QUERIES).items():
        found, faults = await plan_of(connection, in_postgres(sql, types))
        if faults or not indexes <= found:
            wrong[name] = (faults, found)
    for name, (statement, index) in LISTS.items():
        for before in (None, "1.x"):
            sql, _ = statement(before)
            found, faults = await plan_of(connection, in_postgres(sql))
            if faults or index not in found:
                wrong[f"list {name}, before {before}"] = (faults, found)
    await connection.close()

    assert wrong == {}, wrong


async def plan_of(connection: Any, sql: str) -> tuple[set[str], list[str]]:
    """Return the indexes that a statement uses, and what is wrong with how it goes about it."""
    await connection.execute(f"PREPARE asked AS {sql}")
    params = max(map(int, re.findall(r"\$(\d+)", sql)), default=0)
    values = f"({', '.join(['NULL'] * params)})" if params else ""
    [(plan,)] = await connection.fetch(f"EXPLAIN (FORMAT JSON) EXECUTE asked{values}")
    await connection.execute("DEALLOCATE asked")
    nodes = list(nodes_of(json.loads(plan)[0]["Plan"]))
    faults = [f"{node['Node Type']} on {node['Relation Name']}" for node in nodes if node["Node Type"] == "Seq Scan"]
    faults += [
        f"walks all of {node['Index Name']}"
        for node in nodes
        if "Index Name" in node and "Index Cond" not in node and node["Index Name"] not in WALKED
    ]
    return {node["Index Name"] for node in nodes if "Index Name" in node}, faults


def nodes_of(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes_of(child)


ACCOUNTS = """
INSERT INTO groups SELECT 'grp_' || n, n, 0, 0 FROM generate_series(1, 500) n;
INSERT INTO users SELECT 'usr_' || n, n, '', '', 0, CASE WHEN n < 3 THEN 1 ELSE 0 END FROM generate_series(1, 2000) n;
INSERT INTO members SELECT 'grp_' || n % 500, 'usr_' || n, CASE WHEN n % 9 = 0 THEN 'owner' ELSE 'member' END, 0
FROM generate_series(1, 2000) n;
INSERT INTO api_keys SELECT 'key_' || n, 'grp_' || n % 500, 'admin', '', 0, NULL, '', CASE WHEN n % 9 = 0 THEN 0 END
FROM generate_series(1, 2000) n;
INSERT INTO sessions SELECT 'ses_' || n, 'usr_' || n % 500, '', 0, n FROM generate_series(1, 2000) n;
INSERT INTO requests SELECT 'req_' || n, '', '', n, '' FROM generate_series(1, 2000) n;
"""


COPIED = {
    "tasks": "id",
    "task_history": "task_id",
    "swaps": "id",
    "open_swaps": "task_id",
    "events": "id",
    "event_tasks": "task_id",
    "webhook_revisions": "webhook_id",
}


async def fill(database: Postgres18Backend) -> None:
    """Put thousands of rows into the tables, of deliveries hundreds of unfinished ones, and let them be counted."""
    store = await database.open()
    webhooks = [await add_webhook(store) for _ in range(20)]
    change = make_task_change()
    assert await save(store, change, *(make_delivery(change.event, webhook) for webhook in webhooks)) is Saved.DONE
    await proposed(store)
    async with database.connected() as connection:
        await connection.execute("""
            INSERT INTO deliveries
            SELECT (jsonb_populate_record(d, jsonb_build_object('id', d.id || n, 'event_id', d.event_id || n,
                    'finished_at', CASE WHEN n % 20 > 0 THEN 1 END))).*
            FROM deliveries d, generate_series(1, 500) n
        """)
        await connection.execute("""
            INSERT INTO lanes SELECT webhook_id || n, n, 0, 0, CASE WHEN n % 3 = 0 THEN 'x' ELSE '' END, 0, n
            FROM lanes, generate_series(1, 200) n
        """)
        await connection.execute(ACCOUNTS)
        for table, key in COPIED.items():
            await connection.execute(f"""
                INSERT INTO {table} SELECT (jsonb_populate_record(t, jsonb_build_object('{key}', t.{key} || n))).*
                FROM {table} t, generate_series(1, 2000) n
            """)
        await connection.execute("UPDATE tasks SET status = right(id, 1)")
        await connection.execute("ANALYZE")


async def test_a_renewal_counts_the_owner_as_alive(database: Postgres18Backend) -> None:
    store = await database.open()
    await store.renew_lanes(ADA, {}, now=NOW, lease=LEASE)
    assert [row["id"] for row in await ask(database, "SELECT id FROM workers")] == [ADA]
