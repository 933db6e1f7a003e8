"""Every statement on PostgreSQL finds what it asks for by an index, in empty tables and in full ones."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from tests.builders import make_delivery, make_task_change
from tests.contract.backends import Postgres18Backend
from tests.contract.steps import add_webhook, proposed, save
from tests.integration.sql_lists import LISTS

from gatepost.adapters.storage import (
    postgres_lanes,
    postgres_pokes,
    sql_attempts,
    sql_consequences,
    sql_deliveries,
    sql_emitting,
    sql_events,
    sql_groups,
    sql_keys,
    sql_lanes,
    sql_owners,
    sql_people,
    sql_replays,
    sql_requests,
    sql_retention,
    sql_stats,
    sql_swaps,
    sql_tasks,
    sql_webhooks,
)
from gatepost.adapters.storage.postgres_connections import connect
from gatepost.adapters.storage.postgres_dialect import in_postgres
from gatepost.domain.retention import Kept
from gatepost.ports import Reading, Saved

UNFINISHED = "deliveries_unfinished"
ENGINE_QUERIES = {
    "poke": (postgres_pokes.POKE, "", {"lanes_pkey"}),
    "leasable": (sql_lanes.LEASABLE, "", {"lanes_free", "lanes_leased", "lanes_pkey"}),
    "lease": (sql_lanes.LEASE, "text bigint bigint text bigint", {"lanes_pkey"}),
    "next due": (sql_lanes.NEXT_DUE, "", {"lanes_free"}),
    "leases": (sql_owners.LEASES, "", {"lanes_pkey"}),
    "renew": (sql_owners.RENEW, "", {"lanes_pkey"}),
    "wanted": (sql_owners.WANTED, "", {"lanes_free", "lanes_leased"}),
    "read": (postgres_lanes.READ_LANES[Reading.DUE], "", {"lanes_pkey", UNFINISHED, "events_pkey"}),
    "look": (
        postgres_lanes.LOOK,
        "",
        {"lanes_pkey", UNFINISHED, "events_pkey", "event_tasks_pkey", "deliveries_of_event"},
    ),
    "read to probe": (
        postgres_lanes.READ_LANES[Reading.PROBE],
        "",
        {"lanes_pkey", UNFINISHED, "events_pkey"},
    ),
    "release": (postgres_lanes.RELEASE_LANES, "", {"lanes_pkey", UNFINISHED}),
    "forgotten": (sql_lanes.FORGOTTEN, "", {"lanes_free", UNFINISHED}),
    "held absurdly": (sql_lanes.HELD_ABSURDLY, "", {"lanes_free"}),
    "let go": (sql_lanes.LET_GO, "", {"lanes_pkey"}),
    "trim probes": (sql_attempts.TRIM_PROBES, "", {"attempts_of_delivery"}),
    "orphaning": (sql_lanes.ORPHANING, "", {"webhooks_deleted", UNFINISHED}),
    "bury": (sql_lanes.BURY, "", {UNFINISHED, "deliveries_pkey"}),
    "standing": (sql_attempts.STANDING, "", {"lanes_pkey"}),
    "add attempts": (sql_attempts.ADD_ATTEMPTS, sql_attempts.ADD_TYPES, {"deliveries_pkey"}),
    "replace attempts": (sql_attempts.REPLACE_ATTEMPTS, sql_attempts.ADD_TYPES, {"deliveries_pkey"}),
    "move": (sql_attempts.MOVE, sql_attempts.MOVE_TYPES, {"deliveries_pkey"}),
    "amend": (sql_attempts.AMEND, sql_attempts.MOVE_TYPES, {"deliveries_pkey"}),
    "clean": (sql_attempts.CLEAN, sql_attempts.CLEAN_TYPES, {"lanes_pkey"}),
    "lock webhooks": (sql_consequences.LOCK_WEBHOOKS, "", {"webhooks_pkey"}),
    "disable": (sql_webhooks.DISABLE, "", {"webhooks_pkey"}),
    "webhooks of groups": (sql_consequences.GROUPS_WEBHOOKS, "", {"groups_pkey", "webhooks_of_group"}),
    "discard": (sql_deliveries.DISCARD, "", {UNFINISHED, "deliveries_pkey"}),
    "before emit": (sql_emitting.BEFORE_EMIT, "", {"groups_pkey", "events_pkey"}),
    "served": (sql_webhooks.SERVED, "", {"webhooks_pkey"}),
    "lane marks": (sql_webhooks.LANE_MARKS, "", {"webhooks_pkey", "lanes_pkey"}),
}
# Without a name where two indexes will do: PostgreSQL 18 may skip from group to group.
PURGES: dict[str, tuple[str, str, set[str]]] = {
    "move some": (sql_attempts.MOVE_SOME, sql_attempts.MOVE_TYPES, {"deliveries_pkey"}),
    "amend some": (sql_attempts.AMEND_SOME, sql_attempts.MOVE_TYPES, {"deliveries_pkey"}),
    "count": (sql_stats.COUNT, sql_stats.COUNT_TYPES, set()),
    "webhooks with stats": (sql_stats.WEBHOOKS, "", set()),  # by group or by id: there are few webhooks
    "webhook with stats": (sql_stats.WEBHOOK, "", set()),
    "stats": (sql_stats.STATS, "", {"stats_pkey"}),
    "lease retention": (sql_retention.LEASE_JOB, "", set()),
    "end retention": (sql_retention.END_JOB, "", {"housekeeping_pkey"}),
    "part of deliveries": (sql_retention.PART_OF_DELIVERIES, "", {"deliveries_pkey"}),
    **{
        f"old {kept.value}": (sql, "", {"attempts_of_delivery"} if kept is Kept.BODIES else set())
        for kept, sql in sql_retention.OLD_DELIVERIES.items()
    },
    "still old": (sql_retention.STILL_OLD, "", {"deliveries_pkey"}),
    "strip attempts": (sql_retention.STRIP, "", {"attempts_of_delivery"}),
    "remove attempts": (sql_retention.REMOVE_ATTEMPTS, "", {"attempts_of_delivery"}),
    "remove deliveries": (sql_retention.REMOVE_DELIVERIES, "", {"deliveries_pkey"}),
    "next group": (sql_retention.NEXT_GROUP, "", {"groups_pkey"}),
    "part of events": (sql_retention.PART_OF_EVENTS, "", {"events_of_group"}),
    "old events": (sql_retention.OLD_EVENTS, "", {"events_of_group", "deliveries_of_event"}),
    "lock events": (sql_retention.LOCK_EVENTS, "text text", {"events_pkey"}),
    "remove events": (sql_retention.REMOVE_EVENTS, "text text", {"events_pkey", "deliveries_of_event"}),
    "remove event tasks": (sql_retention.REMOVE_EVENT_TASKS, sql_retention.EVENT_TASK_TYPES, {"event_tasks_pkey"}),
    "part of replays": (sql_retention.PART_OF_REPLAYS, "", {"replay_jobs_pkey"}),
    "remove replays": (sql_retention.REMOVE_REPLAYS, "", {"replay_jobs_pkey"}),
    "remove stats": (sql_retention.REMOVE_STATS, "", {"stats_by_age", "stats_pkey"}),
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
    "webhook": (sql_webhooks.WEBHOOK, "", {"lanes_pkey"}),
    "webhooks": (sql_webhooks.WEBHOOKS, "", {"lanes_pkey"}),
    "webhook is there": (sql_webhooks.IS_THERE, "", {"webhooks_pkey"}),
    "delivery is there": (sql_deliveries.IS_THERE, "", {"deliveries_pkey"}),
    "replay": (sql_replays.JOB, "", set()),
    "replays": (sql_replays.JOBS, "", {"replay_jobs_of_webhook"}),
    "cancel replay": (sql_replays.CANCEL, "", set()),
    "any replay": (sql_replays.READY, "", {"replay_jobs_running", "webhooks_pkey"}),
    "replays to lease": (sql_replays.READY_LOCKED, "", {"replay_jobs_running", "webhooks_pkey"}),
    "lease replays": (sql_replays.LEASE, "text bigint text bigint", {"replay_jobs_pkey"}),
    "replay of ours": (sql_replays.OURS, "", set()),
    "step of a replay": (sql_replays.OWNER_OF_STEP, "", set()),
    "end of a part": (sql_replays.PART_ENDS_AT, "", {"deliveries_of_webhook"}),
    "bytes of events": (sql_replays.BYTES, "", {"events_pkey"}),
    "move on": (sql_replays.MOVE_ON, "", {"replay_jobs_pkey"}),
}
# What each list goes along.
LIST_INDEXES = {
    "deliveries": "deliveries_of_group",
    "deliveries of a status": "deliveries_of_group",
    "deliveries of a webhook": "deliveries_of_webhook",
    "deliveries of a task": "deliveries_of_event",
    "deliveries of a task and a webhook": "deliveries_of_event",
    "dead letters": "deliveries_dead",
    "replayable": "deliveries_of_webhook",
    "replayable from a day": "deliveries_of_webhook",
    "replayable dead letters": "deliveries_dead",
    "part of a replay": "deliveries_of_webhook",
    "part of a replay from a day": "deliveries_of_webhook",
    "part of a replay of dead letters": "deliveries_of_webhook",
    "tasks": "tasks_pkey",
    "tasks with a text": "tasks_pkey",
    "tasks of a status": "tasks_of_status",
    "tasks of a person": "tasks_of_person",
    "swaps": "swaps_pkey",
    "pending swaps": "swaps_pending",
    "swaps of a status": "swaps_pkey",
    "events": "events_of_group",
    "events of a type": "events_of_group",
    "events of a task": "event_tasks_pkey",
    "events of a task and a type": "event_tasks_pkey",
}
# Indexes that hold only what is looked for may be walked from end to end.
WALKED = {"installation_owners", "lanes_leased", "replay_jobs_running", "webhooks_deleted"}


@pytest.mark.parametrize("size", ["of empty tables", "of full tables"])
async def test_what_is_asked_is_found_by_index(postgres: Postgres18Backend, size: str) -> None:
    if size == "of full tables":
        await fill(postgres)
    connection = await connect(postgres.url, plan_cache_mode="force_generic_plan")
    wrong = {}

    for name, (sql, types, indexes) in (ENGINE_QUERIES | PURGES | ACCOUNT_QUERIES | TASK_QUERIES).items():
        found, faults = await plan_of(connection, in_postgres(sql, types))
        if faults or not indexes <= found:
            wrong[name] = (faults, found)
    for name, statement in LISTS.items():
        for before in (None, "1.x"):
            sql, _ = statement(before)
            found, faults = await plan_of(connection, in_postgres(sql))
            if faults or LIST_INDEXES[name] not in found:
                wrong[f"list {name}, before {before}"] = (faults, found)
    await connection.close()

    assert wrong == {}, wrong


async def test_no_more_of_the_stats_is_read_than_is_added_up(postgres: Postgres18Backend) -> None:
    await fill(postgres)
    connection = await connect(postgres.url, plan_cache_mode="force_generic_plan")

    nodes = await nodes_of_statement(connection, in_postgres(sql_stats.STATS))

    await connection.close()
    [limited] = [node for node in nodes if node["Node Type"] == "Limit"]
    assert [node["Node Type"] for node in nodes_of(limited)][:2] == ["Limit", "Index Scan"]


async def plan_of(connection: Any, sql: str) -> tuple[set[str], list[str]]:
    """Return the indexes that a statement uses, and what is wrong with how it goes about it."""
    nodes = await nodes_of_statement(connection, sql)
    faults = [f"{node['Node Type']} on {node['Relation Name']}" for node in nodes if node["Node Type"] == "Seq Scan"]
    faults += [
        f"walks all of {node['Index Name']}"
        for node in nodes
        if "Index Name" in node and "Index Cond" not in node and node["Index Name"] not in WALKED
    ]
    return {node["Index Name"] for node in nodes if "Index Name" in node}, faults


async def nodes_of_statement(connection: Any, sql: str) -> list[dict[str, Any]]:
    await connection.execute(f"PREPARE asked AS {sql}")
    params = max(map(int, re.findall(r"\$(\d+)", sql)), default=0)
    values = f"({', '.join(['NULL'] * params)})" if params else ""
    [(plan,)] = await connection.fetch(f"EXPLAIN (FORMAT JSON) EXECUTE asked{values}")
    await connection.execute("DEALLOCATE asked")
    return list(nodes_of(json.loads(plan)[0]["Plan"]))


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
INSERT INTO stats SELECT 'wh_' || n % 100, 300000 * n, n % 16, 1, 1, 1 FROM generate_series(1, 5000) n;
INSERT INTO attempts (delivery_id, number, probe, probe_key, id, started_at, duration_us, outcome, truncated, detail)
SELECT id, 1, 0, '', id, 0, 0, 'accepted', 0, '' FROM deliveries;
INSERT INTO requests SELECT 'req_' || n, '', '', n, '' FROM generate_series(1, 2000) n;
"""
REPLAYS = """
INSERT INTO replay_jobs (id, group_id, webhook_id, total, created_at, status, done)
SELECT 'rpl_' || n, 'grp_' || n % 50, 'wh_' || n % 1000, 9, 0, CASE WHEN n % 400 = 0 THEN 'running' ELSE 'done' END, 0
FROM generate_series(1, 2000) n
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


async def fill(postgres: Postgres18Backend) -> None:
    """Put thousands of rows into the tables, of deliveries hundreds of unfinished ones, and let them be counted."""
    store = await postgres.open()
    webhooks = [await add_webhook(store) for _ in range(20)]
    change = make_task_change()
    assert await save(store, change, *(make_delivery(change.event, webhook) for webhook in webhooks)) is Saved.DONE
    await proposed(store)
    async with postgres.connected() as connection:
        await connection.execute("""
            INSERT INTO deliveries
            SELECT (jsonb_populate_record(d, jsonb_build_object('id', d.id || n, 'event_id', d.event_id || n,
                    'finished_at', CASE WHEN n % 20 > 0 THEN 1 END))).*
            FROM deliveries d, generate_series(1, 500) n
        """)
        await connection.execute("""
            INSERT INTO lanes SELECT webhook_id || n, n, 0, 0, CASE WHEN n % 3 = 0 THEN 'x' ELSE '' END, 0, n, 0, 1, 0
            FROM lanes, generate_series(1, 200) n
        """)
        await connection.execute(ACCOUNTS)
        await connection.execute(REPLAYS)
        for table, key in COPIED.items():
            await connection.execute(f"""
                INSERT INTO {table} SELECT (jsonb_populate_record(t, jsonb_build_object('{key}', t.{key} || n))).*
                FROM {table} t, generate_series(1, 2000) n
            """)
        await connection.execute("UPDATE tasks SET status = right(id, 1)")
        await connection.execute("ANALYZE")
