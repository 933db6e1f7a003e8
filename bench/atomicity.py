"""Kill a process in the middle of its writes, and look for halves of changes in what is stored.

    python -m bench.atomicity --runs 1000
    python -m bench.atomicity --every

The process of each run opens the SQLite store, makes one change, and is killed as its writer begins the statement that
was drawn: a change of any kind, any statement of it, the commit among them. `--every` goes through all of them in turn.
Prints a JSON report and exits 1 unless everything answered is there, and of all that was broken off there is nothing.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import sqlite3
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.builders import GROUP_ID, make_group
from tests.changes import KINDS, Changes, Prepared
from tests.contract.steps import add_webhook

from gatepost.adapters.secretbox import SecretBox
from gatepost.adapters.storage import threads
from gatepost.adapters.storage.sqlite import SqliteStore
from gatepost.ports import Saved

BOX = SecretBox(bytes(32))
WEBHOOKS = 2  # each wants every event
MOST_STATEMENTS = 18  # more than any change has: some runs are to reach their end
WRITER = "sqlite-writer"

Dump = dict[str, list[str]]


async def prepared(path: Path, kinds: list[str]) -> list[Prepared]:
    """Make a store, and in it what changes of these kinds start from."""
    store = await SqliteStore.open(path, box=BOX)
    await store.add_group(make_group(id=GROUP_ID))
    webhooks = [await add_webhook(store) for _ in range(WEBHOOKS)]
    changes = [await Changes(store, webhooks).prepare(kind) for kind in kinds]
    await store.close()
    return changes


def survives(path: Path, change: Prepared, killed_at: int) -> bool:
    """Make a change in a process that is killed as it begins that statement; say whether it came to its end."""
    child = os.fork()
    if child == 0:
        os._exit(_make(path, change, killed_at))
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return False
    assert os.waitstatus_to_exitcode(status) == 0, "the change was not written, though nothing stood against it"
    return True


def _make(path: Path, change: Prepared, killed_at: int) -> int:
    begun = count()

    def begin(_: str) -> None:
        if threading.current_thread().name == WRITER and next(begun) == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)

    connect = threads.connect

    def watched(path: Path) -> sqlite3.Connection:
        connection = connect(path)
        connection.set_trace_callback(begin)
        return connection

    async def make() -> Saved:
        return await change.write(await SqliteStore.open(path, box=BOX))

    threads.connect = watched
    try:
        return 0 if asyncio.run(make()) is Saved.DONE else 1
    except BaseException as error:  # noqa: BLE001  # whatever it is: this process ends here
        print(f"{change.kind}: {error!r}", file=sys.stderr)
        return 2


def dump(path: Path) -> Dump:
    """Return all rows of all tables."""
    with closing(sqlite3.connect(path)) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        return {table: sorted(map(repr, connection.execute(f"SELECT * FROM {table}"))) for table in tables}


def halves(path: Path) -> Counter[str]:
    """Count what is there without what belongs to it."""
    with closing(sqlite3.connect(path)) as connection:
        return Counter(_halves(connection))


def _halves(connection: sqlite3.Connection) -> Iterator[str]:
    def rows(sql: str) -> set[tuple[Any, ...]]:
        return set(connection.execute(sql))

    versions, lines = rows("SELECT id, version FROM tasks"), rows("SELECT task_id, version, event FROM task_history")
    events = rows("SELECT id, event, tasks FROM events")
    told = {
        (task_id, int(version), event)
        for _, event, about in events
        for task_id, _, version in (pair.rpartition(":") for pair in about.split())
    }
    newest = {task_id: max(version for other, version, _ in lines if other == task_id) for task_id, *_ in lines}
    owed = Counter(event_id for event_id, _ in rows("SELECT event_id, webhook_id FROM deliveries"))
    wanted = {event_id for event_id, *_ in events} & set(owed)
    about = {(task_id, event_id) for event_id, _, about in events for task_id in _ids(about)}
    pending = rows("SELECT task_id, id FROM swaps WHERE status = 'pending'")
    pending |= rows("SELECT with_task_id, id FROM swaps WHERE status = 'pending'")

    yield from ("version without its line" for _ in versions ^ set(newest.items()))
    yield from ("event without its line" for _ in told - lines)
    yield from ("line without its event" for *_, event in lines - told if event != "task.deleted")
    yield from ("event without all its deliveries" for event_id in wanted if owed[event_id] != WEBHOOKS)
    yield from ("delivery without its event" for _ in set(owed) - wanted)
    yield from ("event not found by its tasks" for _ in about ^ rows("SELECT task_id, event_id FROM event_tasks"))
    yield from ("task held by no swap" for _ in pending ^ rows("SELECT task_id, swap_id FROM open_swaps"))


def _ids(about: str) -> list[str]:
    return [pair.rpartition(":")[0] for pair in about.split()]


def every(folder: Path) -> dict[str, Any]:
    """Kill a process at each statement of each kind of change."""
    statements = {}
    torn = []
    for kind in KINDS:
        path = folder / f"{kind}.db"
        [change] = asyncio.run(prepared(path, [kind]))
        before = dump(path)
        for at in count():
            if survives(path, change, at):
                break
            torn += [f"{kind}, statement {at}"] * (dump(path) != before)
        statements[kind] = at
        torn += [f"{kind}: {half}" for half in halves(path)] + [f"{kind}: nothing"] * (dump(path) == before)
    return {"statements": statements, "torn": torn, "ok": not torn}


def at_random(folder: Path, runs: int, seed: int) -> dict[str, Any]:
    """Kill processes at random."""
    chance = random.Random(seed)
    path = folder / "atomicity.db"
    changes = asyncio.run(prepared(path, [chance.choice(KINDS) for _ in range(runs)]))
    before = dump(path)
    answered = lost = phantom = 0
    for change in changes:
        survived = survives(path, change, chance.randrange(MOST_STATEMENTS))
        after = dump(path)
        answered += survived
        lost += survived and after == before
        phantom += not survived and after != before
        before = after
    found = halves(path)
    return {
        "runs": runs,
        "kinds": dict(sorted(Counter(change.kind for change in changes).items())),
        "answered": answered,
        "killed": runs - answered,
        "lost": lost,
        "phantom": phantom,
        "halves": dict(found),
        "ok": not (lost or phantom or found),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--every", action="store_true", help="each statement of each kind of change, once")
    options = parser.parse_args()
    with TemporaryDirectory(prefix="gatepost-atomicity-") as folder:
        report = every(Path(folder)) if options.every else at_random(Path(folder), options.runs, options.seed)
    print(json.dumps(report, indent=2))
    sys.exit(0 if report["ok"] else 1)


if __name__ == "__main__":
    main()
