"""Every statement on SQLite finds what it asks for by an index; none walks a table."""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from tests.integration.sql_lists import LISTS

from gatepost.adapters.storage import (
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
    sqlite_lanes,
    sqlite_schema,
    threads,
)
from gatepost.domain.retention import Kept

UNFINISHED = "deliveries_unfinished"
ENGINE_QUERIES: dict[str, tuple[str, int, list[str]]] = {
    "poke": (sqlite_lanes.POKE, 0, ["PRIMARY KEY"]),
    "leasable": (sql_lanes.LEASABLE, 0, ["lanes_free", "lanes_leased"]),
    "lease": (sql_lanes.LEASE, 5, ["PRIMARY KEY"]),
    "next due": (sql_lanes.NEXT_DUE, 0, ["lanes_free"]),
    "leases": (sql_owners.LEASES, 0, ["PRIMARY KEY"]),
    "renew": (sql_owners.RENEW, 0, ["PRIMARY KEY"]),
    "release": (sqlite_lanes.RELEASE, 0, ["PRIMARY KEY", UNFINISHED]),
    "lane": (sqlite_lanes.LANE, 0, ["PRIMARY KEY"]),
    "due": (sqlite_lanes.DUE, 0, [UNFINISHED, "sqlite_autoindex_events_1"]),
    "looked to": (sqlite_lanes.LOOKED_TO, 0, [UNFINISHED]),
    "look": (
        sqlite_lanes.LOOK,
        0,
        [
            UNFINISHED,
            "event_tasks USING PRIMARY KEY (group_id=? AND task_id=? AND version<?)",
            "deliveries_of_event (event_id=? AND webhook_id=? AND replay_key=?)",
        ],
    ),
    "probe": (sqlite_lanes.PROBE, 0, [UNFINISHED, "sqlite_autoindex_events_1"]),
    "next attempt": (sqlite_lanes.NEXT_ATTEMPT, 0, [UNFINISHED]),
    "forgotten": (sql_lanes.FORGOTTEN, 0, ["lanes_free", UNFINISHED]),
    "held absurdly": (sql_lanes.HELD_ABSURDLY, 0, ["lanes_free"]),
    "let go": (sql_lanes.LET_GO, 0, ["PRIMARY KEY"]),
    "trim probes": (sql_attempts.TRIM_PROBES, 0, ["attempts_of_delivery"]),
    "orphaning": (sql_lanes.ORPHANING, 0, ["webhooks_deleted", UNFINISHED]),
    "bury": (sql_lanes.BURY, 0, [UNFINISHED, "PRIMARY KEY"]),
    "standing": (sql_attempts.STANDING, 0, ["PRIMARY KEY"]),
    "add attempts": (sql_attempts.ADD_ATTEMPTS, 15, ["PRIMARY KEY"]),
    "replace attempts": (sql_attempts.REPLACE_ATTEMPTS, 15, ["PRIMARY KEY"]),
    "move": (sql_attempts.MOVE, 11, ["PRIMARY KEY"]),
    "amend": (sql_attempts.AMEND, 11, ["PRIMARY KEY"]),
    "clean": (sql_attempts.CLEAN, 7, ["PRIMARY KEY"]),
    "lock webhooks": (sql_consequences.LOCK_WEBHOOKS, 0, ["PRIMARY KEY"]),
    "disable": (sql_webhooks.DISABLE, 0, ["PRIMARY KEY"]),
    "webhooks of groups": (sql_consequences.GROUPS_WEBHOOKS, 0, ["PRIMARY KEY (id=?)", "webhooks_of_group"]),
    "discard": (sql_deliveries.DISCARD, 0, [UNFINISHED, "PRIMARY KEY (id=?)"]),
    "before emit": (sql_emitting.BEFORE_EMIT, 0, ["PRIMARY KEY", "sqlite_autoindex_events_1"]),
    "served": (sql_webhooks.SERVED, 0, ["PRIMARY KEY"]),
    "lane marks": (sql_webhooks.LANE_MARKS, 0, ["PRIMARY KEY", "PRIMARY KEY"]),
}
DELIVERIES_BY_ID = "deliveries USING PRIMARY KEY (id>? AND id<?)"
EVENTS_BY_AGE = "events_of_group (group_id=? AND created_at>? AND created_at<?)"
PURGES: dict[str, tuple[str, int, list[str]]] = {
    "move some": (sql_attempts.MOVE_SOME, 11, ["PRIMARY KEY"]),
    "amend some": (sql_attempts.AMEND_SOME, 11, ["PRIMARY KEY"]),
    "count": (sql_stats.COUNT, 6, []),
    "webhooks with stats": (sql_stats.WEBHOOKS, 0, ["webhooks_of_group (group_id=? AND id<?)"]),
    "webhook with stats": (sql_stats.WEBHOOK, 0, ["PRIMARY KEY (id=?)"]),
    "stats": (sql_stats.STATS, 0, ["stats USING PRIMARY KEY (webhook_id=? AND at>? AND at<?)"]),
    "lease retention": (sql_retention.LEASE_JOB, 0, []),
    "end retention": (sql_retention.END_JOB, 0, ["PRIMARY KEY (job=?)"]),
    "part of deliveries": (sql_retention.PART_OF_DELIVERIES, 0, [DELIVERIES_BY_ID]),
    **{
        f"old {kept.value}": (sql, 0, [DELIVERIES_BY_ID, *(["attempts_of_delivery"] if kept is Kept.BODIES else [])])
        for kept, sql in sql_retention.OLD_DELIVERIES.items()
    },
    "still old": (sql_retention.STILL_OLD, 0, ["PRIMARY KEY (id=?)"]),
    "strip attempts": (sql_retention.STRIP, 0, ["attempts_of_delivery (delivery_id=?)"]),
    "remove attempts": (sql_retention.REMOVE_ATTEMPTS, 0, ["attempts_of_delivery (delivery_id=?)"]),
    "remove deliveries": (sql_retention.REMOVE_DELIVERIES, 0, ["PRIMARY KEY (id=?)"]),
    "next group": (sql_retention.NEXT_GROUP, 0, ["PRIMARY KEY (id>?)"]),
    "part of events": (sql_retention.PART_OF_EVENTS, 0, [f"COVERING INDEX {EVENTS_BY_AGE}"]),
    "old events": (sql_retention.OLD_EVENTS, 0, [EVENTS_BY_AGE, "deliveries_of_event (event_id=?)"]),
    "lock events": (sql_retention.LOCK_EVENTS, 2, ["sqlite_autoindex_events_1 (group_id=? AND id=?)"]),
    "remove events": (
        sql_retention.REMOVE_EVENTS,
        2,
        ["sqlite_autoindex_events_1 (", "deliveries_of_event"],
    ),
    "remove event tasks": (sql_retention.REMOVE_EVENT_TASKS, 4, ["PRIMARY KEY ("]),
    "part of replays": (sql_retention.PART_OF_REPLAYS, 0, ["replay_jobs USING PRIMARY KEY (id>? AND id<?)"]),
    "remove replays": (sql_retention.REMOVE_REPLAYS, 0, ["replay_jobs USING PRIMARY KEY (id=?)"]),
    "remove stats": (sql_retention.REMOVE_STATS, 0, ["stats_by_age (at<?)", "PRIMARY KEY ("]),
}
ACCOUNT_QUERIES: dict[str, tuple[str, int, list[str]]] = {
    "group": (sql_groups.GROUP, 0, ["PRIMARY KEY (id=?)"]),
    "group named": (sql_groups.GROUP_NAMED, 0, ["sqlite_autoindex_groups_2 (name=?)"]),
    "groups": (sql_groups.GROUPS, 0, ["PRIMARY KEY (id<?)"]),
    "memberships": (sql_groups.MEMBERSHIPS, 0, ["members_of_user (user_id=?)", "groups USING PRIMARY KEY (id=?)"]),
    "members": (sql_groups.MEMBERS, 0, ["PRIMARY KEY (group_id=? AND user_id<?)", "users USING PRIMARY KEY (id=?)"]),
    "member": (sql_groups.MEMBER, 0, ["PRIMARY KEY (group_id=? AND user_id=?)", "users USING PRIMARY KEY (id=?)"]),
    "owners": (sql_groups.OWNERS, 0, ["PRIMARY KEY (group_id=?)"]),
    "save role": (sql_groups.SAVE_ROLE, 0, ["PRIMARY KEY (group_id=? AND user_id=?)"]),
    "remove member": (sql_groups.REMOVE_MEMBER, 0, ["PRIMARY KEY (group_id=? AND user_id=?)"]),
    "key": (sql_keys.KEY, 0, ["PRIMARY KEY (id=?)"]),
    "keys": (sql_keys.KEYS, 0, ["api_keys_of_group (group_id=? AND id<?)"]),
    "revoke key": (sql_keys.REVOKE, 0, ["PRIMARY KEY (id=?)"]),
    "touch keys": (sql_keys.TOUCH_KEYS, 2, ["PRIMARY KEY (id=?)"]),
    "user": (sql_people.USER, 0, ["PRIMARY KEY (id=?)"]),
    "user with e-mail": (sql_people.USER_WITH_EMAIL, 0, ["sqlite_autoindex_users_2 (email=?)"]),
    "users": (sql_people.USERS, 0, ["PRIMARY KEY (id<?)"]),
    "installation owners": (sql_people.INSTALLATION_OWNERS, 0, ["installation_owners"]),
    "save password": (sql_people.SAVE_PASSWORD, 0, ["PRIMARY KEY (id=?)"]),
    "session": (sql_people.SESSION, 0, ["PRIMARY KEY (id=?)"]),
    "sessions": (sql_people.SESSIONS, 0, ["sessions_of_user (user_id=?)"]),
    "forget sessions": (sql_people.FORGET_SESSIONS, 0, ["PRIMARY KEY (id=?)", "sessions_by_use (last_used_at<?)"]),
    "touch sessions": (sql_people.TOUCH_SESSIONS, 2, ["PRIMARY KEY (id=?)"]),
    "end all sessions": (sql_people.END_ALL_SESSIONS, 0, ["sessions_of_user (user_id=?)"]),
    "end sessions": (sql_people.END_SESSIONS, 0, ["sessions_of_user (user_id=? AND id=?)"]),
    "forget requests": (sql_requests.FORGET_REQUESTS, 0, ["PRIMARY KEY (id=?)", "requests_by_age (at<?)"]),
    "request": (sql_requests.REQUEST, 0, ["PRIMARY KEY (id=?)"]),
    "keep answer": (sql_requests.KEEP_ANSWER, 0, ["PRIMARY KEY (id=?)"]),
    "answer": (sql_requests.ANSWER, 0, ["PRIMARY KEY (id=?)"]),
}
TASK_QUERIES: dict[str, tuple[str, int, list[str]]] = {
    "task": (sql_tasks.TASK, 0, ["PRIMARY KEY (group_id=? AND id=?)"]),
    "history": (sql_tasks.HISTORY, 0, ["PRIMARY KEY (task_id=?)"]),
    "save task": (sql_tasks.SAVE_TASK, 0, ["PRIMARY KEY (group_id=? AND id=?)"]),
    "delete task": (sql_tasks.DELETE_TASK, 0, ["PRIMARY KEY (group_id=? AND id=?)"]),
    "line of history": (sql_tasks.HISTORY_LINE, 0, ["PRIMARY KEY (task_id=? AND version=?)"]),
    "swap": (sql_swaps.SWAP, 0, ["PRIMARY KEY (group_id=? AND id=?)"]),
    "status of a swap": (sql_swaps.STATUS, 0, ["PRIMARY KEY (group_id=? AND id=?)"]),
    "versions of tasks": (sql_swaps.VERSIONS, 0, ["PRIMARY KEY (group_id=? AND id=?)"]),
    "open swaps": (sql_swaps.OPEN, 0, ["PRIMARY KEY (group_id=? AND task_id=?)"]),
    "decide swap": (sql_swaps.DECIDE, 0, ["PRIMARY KEY (group_id=? AND id=?)"]),
    "close swap": (sql_swaps.CLOSE, 0, ["PRIMARY KEY (group_id=? AND task_id=?)"]),
    "event and version": (sql_events.EVENT_AND_VERSION, 0, ["sqlite_autoindex_events_1 (group_id=? AND id=?)"]),
    "revisions": (sql_events.REVISIONS, 0, ["PRIMARY KEY (group_id=?)"]),
    "last revision": (sql_webhooks.LAST_REVISION, 0, ["PRIMARY KEY (group_id=? AND webhook_id=?)"]),
    "routed webhooks": (sql_events.ROUTED_WEBHOOKS, 0, ["PRIMARY KEY (id=?)"]),
    "first deliveries": (sql_events.FIRST_DELIVERIES, 0, ["deliveries_of_event (event_id=?)"]),
    "webhook": (sql_webhooks.WEBHOOK, 0, ["PRIMARY KEY (id=?)", "lanes USING PRIMARY KEY"]),
    "webhooks": (sql_webhooks.WEBHOOKS, 0, ["webhooks_of_group (group_id=? AND id<?)", "lanes USING PRIMARY KEY"]),
    "webhook is there": (sql_webhooks.IS_THERE, 0, ["PRIMARY KEY (id=?)"]),
    "delivery is there": (sql_deliveries.IS_THERE, 0, ["PRIMARY KEY (id=?)"]),
    "replay": (sql_replays.JOB, 0, ["PRIMARY KEY (id=?)"]),
    "replays": (sql_replays.JOBS, 0, ["replay_jobs_of_webhook (webhook_id=? AND id<?)"]),
    "cancel replay": (sql_replays.CANCEL, 0, ["PRIMARY KEY (id=?)"]),
    "replays to lease": (sql_replays.READY_LOCKED, 0, ["replay_jobs_running", "webhooks USING PRIMARY KEY (id=?)"]),
    "lease replays": (sql_replays.LEASE, 4, ["PRIMARY KEY (id=?)"]),
    "replay of ours": (sql_replays.OURS, 0, ["PRIMARY KEY (id=?)"]),
    "step of a replay": (sql_replays.OWNER_OF_STEP, 0, ["PRIMARY KEY (id=?)"]),
    "end of a part": (sql_replays.PART_ENDS_AT, 0, ["deliveries_of_webhook (webhook_id=? AND id>?)"]),
    "bytes of events": (sql_replays.BYTES, 0, ["sqlite_autoindex_events_1 (group_id=? AND id=?)"]),
    "move on": (sql_replays.MOVE_ON, 0, ["PRIMARY KEY (id=?)"]),
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
    "tasks": "PRIMARY KEY (group_id=?",
    "tasks with a text": "PRIMARY KEY (group_id=?",
    "tasks of a status": "tasks_of_status",
    "tasks of a person": "tasks_of_person",
    "swaps": "PRIMARY KEY (group_id=?",
    "pending swaps": "swaps_pending",
    "swaps of a status": "PRIMARY KEY (group_id=?",
    "events": "events_of_group",
    "events of a type": "events_of_group",
    "events of a task": "event_tasks",
    "events of a task and a type": "event_tasks",
}
# A walk along an index that holds only what is looked for, or over rows that the statement brings itself.
HARMLESS_SCAN = re.compile(
    r"SCAN (webhooks USING (COVERING )?INDEX webhooks_deleted|users USING (COVERING )?INDEX installation_owners"
    r"|replay_jobs USING (COVERING )?INDEX replay_jobs_running"
    r"|(\d+ )?CONSTANT ROWS?|\(subquery-\d+\)"
    r"|(new|old|part|taken|clean|free|found|used)|json_each VIRTUAL TABLE .*)"
)


@pytest.fixture(scope="module")
def migrated() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        sqlite_schema.migrate(connection)
        yield connection


@pytest.mark.parametrize("name", [*ENGINE_QUERIES, *PURGES, *ACCOUNT_QUERIES, *TASK_QUERIES])
def test_what_is_asked_is_found_by_index(migrated: sqlite3.Connection, name: str) -> None:
    sql, columns, indexes = (ENGINE_QUERIES | PURGES | ACCOUNT_QUERIES | TASK_QUERIES)[name]

    steps = plan_of(migrated, threads.over_rows(sql, 3, columns) if columns else sql)

    assert scans_in(steps) == []
    assert [index for index in indexes if not any(index in step for step in steps)] == []


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("before", [None, "1.x"])
def test_what_people_list_is_found_by_index(migrated: sqlite3.Connection, name: str, before: str | None) -> None:
    sql, _ = LISTS[name](before)

    steps = plan_of(migrated, sql)

    assert scans_in(steps) == []
    assert any(LIST_INDEXES[name] in step for step in steps), steps


def test_no_more_of_the_stats_is_read_than_is_added_up(migrated: sqlite3.Connection) -> None:
    steps = plan_of(migrated, sql_stats.STATS)

    reading = steps[steps.index("CO-ROUTINE found") : steps.index("SCAN found")]
    assert not [step for step in reading if "TEMP B-TREE" in step]


def test_old_events_that_were_looked_at_are_not_looked_at_again(migrated: sqlite3.Connection) -> None:
    rows = [("g", f"order-{n}", n) for n in range(5_000)]
    adding = "INSERT INTO events VALUES (?, ?, 'order.paid', ?, NULL, 'app', 1, '', 0, '')"
    migrated.execute("BEGIN")
    migrated.executemany(adding, rows)

    at_once = steps_of(migrated, sql_retention.PART_OF_EVENTS, ("g", 0, 5_000, 9))
    later = steps_of(migrated, sql_retention.PART_OF_EVENTS, ("g", 4_500, 5_000, 9))

    migrated.execute("ROLLBACK")
    assert later == at_once


def steps_of(connection: sqlite3.Connection, sql: str, params: tuple[Any, ...]) -> int:
    """Run a query; return how many steps of SQLite's machine that takes."""
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1

    connection.set_progress_handler(step, 1)
    connection.execute(sql, params).fetchall()
    connection.set_progress_handler(None, 0)
    return steps


def plan_of(connection: sqlite3.Connection, sql: str) -> list[str]:
    rows = connection.execute(f"EXPLAIN QUERY PLAN {sql}", [1] * sql.count("?")).fetchall()
    return [detail for *_, detail in rows]


def scans_in(steps: list[str]) -> list[str]:
    made_here = {f"SCAN {step.split()[1]}" for step in steps if step.startswith(("MATERIALIZE ", "CO-ROUTINE "))}
    scans = [step for step in steps if step.startswith("SCAN") and step not in made_here]
    return [step for step in scans if not HARMLESS_SCAN.fullmatch(step)]
