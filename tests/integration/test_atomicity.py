"""A change that is broken off anywhere leaves nothing behind; one that was written leaves everything."""

import json
import subprocess
import sys
from itertools import count
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from tests.changes import KINDS, Changes
from tests.contract.backends import Postgres18Backend, Store
from tests.contract.steps import add_webhook

from gatepost.adapters.storage import postgres_connections
from gatepost.domain.errors import StoreUnavailable
from gatepost.domain.webhooks import Webhook
from gatepost.ports import Saved

CHECKOUT = Path(__file__).parents[2]
MOST_KILLS = 30
HINTS = "lanes"  # pokes are no part of a transaction on PostgreSQL: the sweep finds what is lost of them


@pytest.mark.parametrize("options", [["--every"], ["--runs", "40"]], ids=["at every statement", "at random"])
def test_a_process_killed_while_it_writes_leaves_all_of_a_change_or_nothing_on_sqlite(options: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.atomicity", *options],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )

    assert done.stdout, done.stderr
    report = json.loads(done.stdout)
    assert report["ok"], report
    if "statements" in report:
        assert set(report["statements"]) == set(KINDS)
        assert all(4 < statements < MOST_KILLS for statements in report["statements"].values())
    else:
        assert report["killed"] > 0 < report["answered"]


# --- PostgreSQL ----------------------------------------------------------------------------------------------


class Breaks:
    """Cuts the connection of a write before its `at`th statement, its commit being the last one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at: int | None = None
        self._begun = 0
        self._perform = postgres_connections._perform
        self._end = asyncpg.transaction.Transaction.__aexit__
        breaks = self

        async def perform(connection: Any, statement: Any) -> object:
            breaks._count(connection)
            return await breaks._perform(connection, statement)

        async def end(transaction: Any, *error: object) -> None:
            if not transaction._readonly and error[0] is None:
                breaks._count(transaction._connection)
            await breaks._end(transaction, *error)

        monkeypatch.setattr(postgres_connections, "_perform", perform)
        monkeypatch.setattr(asyncpg.transaction.Transaction, "__aexit__", end)

    def cut(self, at: int | None) -> None:
        self.at, self._begun = at, 0

    def _count(self, connection: Any) -> None:
        if self._begun == self.at:
            connection.terminate()
        self._begun += 1


@pytest.fixture
async def store(postgres: Postgres18Backend) -> Store:
    return await postgres.open()


@pytest.fixture
async def webhooks(store: Store) -> list[Webhook]:
    return [await add_webhook(store) for _ in range(2)]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_connection_cut_while_it_writes_leaves_all_of_a_change_or_nothing_on_postgresql(
    postgres: Postgres18Backend, store: Store, webhooks: list[Webhook], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = await Changes(store, webhooks).prepare(kind)
    before = await dump(postgres)
    breaks = Breaks(monkeypatch)
    after_each: list[object] = []

    for at in count():
        breaks.cut(at)
        try:
            saved = await change.write(store)
        except StoreUnavailable:
            breaks.cut(None)
            after_each.append(await dump(postgres))
            assert at < MOST_KILLS
        else:
            break
    after = await dump(postgres)

    assert saved is Saved.DONE
    assert len(after_each) > 2
    assert after_each == [before] * len(after_each)
    assert after != before
    assert await halves(postgres) == []


@pytest.mark.parametrize("kind", KINDS)
async def test_a_change_whose_answer_got_lost_is_there_as_a_whole_on_postgresql(
    postgres: Postgres18Backend, store: Store, webhooks: list[Webhook], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = await Changes(store, webhooks).prepare(kind)
    end = asyncpg.transaction.Transaction.__aexit__

    async def end_unheard(transaction: Any, *error: object) -> None:
        await end(transaction, *error)
        if not transaction._readonly:
            raise ConnectionResetError

    with monkeypatch.context() as patch:
        patch.setattr(asyncpg.transaction.Transaction, "__aexit__", end_unheard)
        with pytest.raises(StoreUnavailable):
            await change.write(store)
    after = await dump(postgres)

    again = await change.write(store)

    # A decision is asked for by its swap's id, and the swap is decided by now.
    assert again is (Saved.EXISTS if kind in ("swap_rejected", "published") else Saved.DONE)
    assert await dump(postgres) == after
    assert await halves(postgres) == []


async def dump(postgres: Postgres18Backend) -> dict[str, list[str]]:
    """Return all rows of all tables but the hints."""
    tables = "SELECT tablename FROM pg_tables WHERE schemaname = current_schema() AND tablename <> $1"
    async with postgres.connected() as connection:
        return {
            name: sorted(str(tuple(row)) for row in await connection.fetch(f"SELECT * FROM {name}"))
            for (name,) in await connection.fetch(tables, HINTS)
        }


HALVES = """
SELECT 'version without its line', t.id FROM tasks t
WHERE NOT EXISTS (SELECT 1 FROM task_history h WHERE h.task_id = t.id AND h.version = t.version)
UNION ALL
SELECT 'line without its event', h.task_id FROM task_history h
WHERE h.event <> 'task.deleted' AND NOT EXISTS (
    SELECT 1 FROM event_tasks a JOIN events e ON e.id = a.event_id
    WHERE a.task_id = h.task_id AND e.event = h.event AND e.tasks LIKE '%' || h.task_id || ':' || h.version || '%')
UNION ALL
SELECT 'event without its line', e.id FROM events e, unnest(string_to_array(e.tasks, ' ')) AS about
WHERE NOT EXISTS (SELECT 1 FROM task_history h WHERE h.task_id || ':' || h.version = about AND h.event = e.event)
UNION ALL
SELECT 'event without all its deliveries', event_id FROM deliveries GROUP BY event_id HAVING count(*) <> 2
UNION ALL
SELECT 'delivery without its event', d.id FROM deliveries d
WHERE NOT EXISTS (SELECT 1 FROM events e WHERE e.id = d.event_id)
UNION ALL
SELECT 'task held by no swap', o.task_id FROM open_swaps o
WHERE NOT EXISTS (SELECT 1 FROM swaps s WHERE s.id = o.swap_id AND s.status = 'pending')
"""


async def halves(postgres: Postgres18Backend) -> list[tuple[str, str]]:
    """Return what is there without what belongs to it."""
    async with postgres.connected() as connection:
        return [tuple(row) for row in await connection.fetch(HALVES)]
