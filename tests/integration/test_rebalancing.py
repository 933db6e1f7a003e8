"""Workers as processes of their own on PostgreSQL share busy lanes, whoever comes and whoever dies."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.builders import GROUP_ID, make_delivery, make_task_change, make_webhook
from tests.commands import Running
from tests.contract.backends import Store
from tests.installations import settings_on, working
from tests.integration.postgres_rigs import postgres_database
from tests.receivers import Receiver, status

from gatepost.ports import Saved

LANES = 200
WORKERS = 4
LEASE_SECONDS = 2.0
ANSWERED_AFTER_SECONDS = 1.0
BUSY_FOR_SECONDS = 25


class Shared:
    """A database with lanes that are busy, and the workers on it."""

    def __init__(self, url: str, connection: Any, stack: ExitStack) -> None:
        self._connection = connection
        self._stack = stack
        # Nobody reads what they log.
        self._settings = settings_on(url, lease_seconds=LEASE_SECONDS, GATEPOST_LOG_LEVEL="error")

    def start(self) -> Running:
        return self._stack.enter_context(working(self._settings))

    async def joined(self, count: int) -> set[str]:
        """Return the workers once there are so many."""
        while True:
            workers = {worker for (worker,) in await self._connection.fetch("SELECT id FROM workers")}
            if len(workers) == count:
                return workers
            await asyncio.sleep(0.02)

    async def held(self) -> Mapping[str, int]:
        """Count the lanes of each owner whose lease goes on."""
        return dict(
            await self._connection.fetch("""
                SELECT owner, count(*) FROM lanes
                WHERE owner <> '' AND lease_until >= extract(epoch FROM clock_timestamp()) * 1000 GROUP BY owner
            """)
        )

    async def busy(self) -> int:
        unfinished = "SELECT count(DISTINCT webhook_id) FROM deliveries WHERE finished_at IS NULL"
        return int(await self._connection.fetchval(unfinished))


@asynccontextmanager
async def shared(folder: Path, receiver: Receiver) -> AsyncIterator[Shared]:
    async with postgres_database(folder) as backend, backend.connected() as connection:
        await keep_lanes_busy(await backend.open(), receiver.url)
        with ExitStack() as stack:
            yield Shared(backend.url, connection, stack)


async def keep_lanes_busy(store: Store, target: str) -> None:
    """Give each lane one request after another to make."""
    webhooks = [make_webhook(url=target, max_concurrency=1) for _ in range(LANES)]
    added = await asyncio.gather(*(store.add_webhook(GROUP_ID, webhook, quota=LANES) for webhook in webhooks))
    assert set(added) == {Saved.DONE}
    version = (await store.subscriptions(GROUP_ID)).version

    async def emit() -> Saved:
        change = make_task_change(at=datetime.now(UTC))
        deliveries = [make_delivery(change.event, webhook) for webhook in webhooks]
        return await store.save_change(GROUP_ID, change, deliveries, webhooks_version=version)

    emitted = await asyncio.gather(*(emit() for _ in range(int(BUSY_FOR_SECONDS / ANSWERED_AFTER_SECONDS))))
    assert set(emitted) == {Saved.DONE}


@pytest.mark.timeout(90)
async def test_two_leases_after_a_join_or_a_death_no_worker_has_much_more_than_its_share(
    tmp_path: Path, receiver: Receiver
) -> None:
    receiver.answer(status(200, delay_seconds=ANSWERED_AFTER_SECONDS))
    async with shared(tmp_path, receiver) as fleet:
        first = fleet.start()
        [its_name] = await fleet.joined(1)
        while await fleet.held() != {its_name: LANES}:  # noqa: ASYNC110  # another process does it
            await asyncio.sleep(0.02)

        for _ in range(WORKERS - 1):
            fleet.start()
        owners = await fleet.joined(WORKERS)
        assert_shared(await held_two_leases_later(fleet), owners)

        await asyncio.to_thread(kill, first)
        assert_shared(await held_two_leases_later(fleet), owners - {its_name})
        assert await fleet.busy() == LANES


async def held_two_leases_later(fleet: Shared) -> Mapping[str, int]:
    await asyncio.sleep(2 * LEASE_SECONDS)  # it is the state at that moment that counts
    return await fleet.held()


def assert_shared(held: Mapping[str, int], owners: set[str]) -> None:
    assert set(held) == owners
    assert max(held.values()) <= 1.5 * LANES / len(owners), held
    assert sum(held.values()) >= 0.9 * LANES, held  # some may just be on their way from one to another


def kill(worker: Running) -> None:
    worker.process.kill()
    worker.process.wait()
