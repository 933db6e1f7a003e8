"""Bulk replays, worked through by engines that may die at any moment."""

import asyncio
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.builders import (
    GROUP_ID,
    make_attempt,
    make_delivery,
    make_event,
    make_job,
    make_progress,
    make_webhook,
    refused,
)
from tests.contract.backends import Backend, data_on
from tests.fakes import NOW, FakeClock
from tests.integration.rigs import FailingOnce, Rig, Watched

from gatepost.domain.deliveries import DeadReason, Delivery, Status
from gatepost.domain.replays import JobStatus, ReplayJob
from gatepost.domain.webhooks import Webhook, with_changes
from gatepost.engine import replays as engine_replays
from gatepost.engine.replays import PER_SECOND, Replays
from gatepost.ports import DeliveryQuery, Saved

ROOT = Path(__file__).parents[2]
MANY = 5_000
FINISHED_AT = NOW - timedelta(hours=1)
AFTER_ITS_LEASE = NOW + engine_replays.LEASE + timedelta(seconds=1)


@pytest.fixture(params=["sqlite", "postgres-18", "mongodb"])
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    async with data_on(request.param, tmp_path) as backend:
        yield backend


@pytest.mark.timeout(180)
async def test_a_replay_whose_engine_is_killed_goes_on_and_makes_each_delivery_once(backend: Backend) -> None:
    store = await backend.open()
    webhook = make_webhook()
    await store.add_webhook(GROUP_ID, webhook, quota=1)
    originals = await dead_letters(store, webhook, MANY)
    job = await start(store, webhook, total=MANY)
    killed_after = random.randrange(1, MANY // engine_replays.STEP - 10)  # any of them

    await replayed_by_one_that_is_killed(backend, steps=killed_after)
    before = await store.job(GROUP_ID, webhook.id, job.id)
    survivor = Replays(store, FakeClock(AFTER_ITS_LEASE), owner="owner-next")
    while await survivor.advance() is not None:
        pass

    assert before.status is JobStatus.RUNNING, f"it was done before it was killed, after {killed_after} steps"
    assert before.done >= killed_after * engine_replays.STEP
    ended = await store.job(GROUP_ID, webhook.id, job.id)
    assert (ended.status, ended.done, ended.total) == (JobStatus.DONE, MANY, MANY)
    replays = await replays_of(store, webhook)
    assert len(replays) == MANY
    assert {each.replay_of for each in replays} == set(originals)


async def test_two_engines_at_one_job_make_each_delivery_once(backend: Backend) -> None:
    stores = [await backend.open(), await backend.open()]
    webhook = make_webhook()
    await stores[0].add_webhook(GROUP_ID, webhook, quota=1)
    originals = await dead_letters(stores[0], webhook, 300)
    job = await start(stores[0], webhook, total=300)
    clocks = [FakeClock(), FakeClock()]
    engines = [
        Replays(store, clock, owner=f"owner-{n}") for n, (store, clock) in enumerate(zip(stores, clocks, strict=True))
    ]

    for n in range(100):
        # The other's lease is over at each turn, although it is not done with what it began under it.
        clocks[n % 2].advance(3 * engine_replays.LEASE.total_seconds())
        await asyncio.gather(*(engine.advance() for engine in engines))
        if (await stores[0].job(GROUP_ID, webhook.id, job.id)).status is JobStatus.DONE:
            break

    ended = await stores[0].job(GROUP_ID, webhook.id, job.id)
    assert (ended.status, ended.done) == (JobStatus.DONE, 300)
    assert sorted(each.replay_of or "" for each in await replays_of(stores[0], webhook)) == sorted(originals)


async def test_an_engine_works_through_a_replay_at_its_own_pace_and_delivers(rig: Rig) -> None:
    webhook = await rig.webhook(rate_limit_per_second=None)
    originals = await dead_letters(rig.store, webhook, 250, group_id=rig.group.id)
    job = await start(rig.store, webhook, total=250)
    await rig.start()

    began = rig.clock.boot()
    await until_status(rig, job, JobStatus.DONE)
    took = rig.clock.boot() - began
    await rig.until(lambda: len(rig.sender.sent) >= 250)
    await rig.quiet(1.0)

    sent = Counter(dict(outgoing.headers)["webhook-id"] for outgoing in rig.sender.sent)
    assert len(sent) == len(originals)
    assert set(sent.values()) == {1}
    assert took >= (250 - engine_replays.STEP) / PER_SECOND


async def test_a_replay_waits_while_its_webhook_is_disabled(rig: Rig) -> None:
    webhook = await rig.webhook()
    await dead_letters(rig.store, webhook, 3, group_id=rig.group.id)
    job = await start(rig.store, webhook, total=3)
    disabled = with_changes(webhook, now=rig.clock.now(), enabled=False)
    assert await rig.store.save_webhook(rig.group.id, disabled) is Saved.DONE
    await rig.start()
    await rig.quiet(10.0)
    waiting = await rig.store.job(rig.group.id, webhook.id, job.id)

    enabled = with_changes(disabled, now=rig.clock.now(), enabled=True)
    assert await rig.store.save_webhook(rig.group.id, enabled) is Saved.DONE
    await until_status(rig, job, JobStatus.DONE)

    assert (waiting.status, waiting.done) == (JobStatus.RUNNING, 0)
    await rig.until(lambda: len(rig.sender.sent) == 3)


async def test_an_engine_that_is_stopped_begins_no_more_steps(rig: Rig) -> None:
    webhook = await rig.webhook()
    await dead_letters(rig.store, webhook, 500, group_id=rig.group.id)
    job = await start(rig.store, webhook, total=500)
    await rig.start()
    await until_done(rig, job, at_least=50)

    await rig.stop()

    stopped = await rig.store.job(rig.group.id, webhook.id, job.id)
    assert stopped.status is JobStatus.RUNNING
    assert stopped.done == len(await replays_of(rig.store, webhook))
    await rig.start(owner="eng_2")
    await until_status(rig, job, JobStatus.DONE)
    assert len(await replays_of(rig.store, webhook)) == 500


@pytest.mark.parametrize("method", ["lease_jobs", "advance_job"])
async def test_a_replay_outlives_a_store_that_fails(rig: Rig, method: str) -> None:
    webhook = await rig.webhook()
    await dead_letters(rig.store, webhook, 60, group_id=rig.group.id)
    job = await start(rig.store, webhook, total=60)
    failing = FailingOnce(rig.store, method)

    await rig.start(failing)
    await until_status(rig, job, JobStatus.DONE)

    assert failing.failed
    assert len(await replays_of(rig.store, webhook)) == 60


async def test_jobs_share_what_is_made_in_a_second(rig: Rig) -> None:
    webhooks = [await rig.webhook() for _ in range(3)]
    for webhook in webhooks:
        await dead_letters(rig.store, webhook, 40, group_id=rig.group.id)
    jobs = [await start(rig.store, webhook, total=40) for webhook in webhooks]
    replays = Replays(rig.store, rig.clock, owner="eng_1")

    pause = await replays.advance()

    done = [(await rig.store.job(rig.group.id, job.webhook_id, job.id)).done for job in jobs]
    assert done == [engine_replays.STEP // 3] * 3
    assert pause == timedelta(seconds=sum(done) / PER_SECOND)


async def test_an_engine_without_jobs_writes_nothing(rig: Rig) -> None:
    watched = Watched(rig.store)
    replays = Replays(watched, rig.clock, owner="eng_1")

    assert await replays.advance() is None
    assert dict(watched.calls) == {"lease_jobs": 1}


# --- what these are made of ----------------------------------------------------------------------------------


async def dead_letters(store: Any, webhook: Webhook, count: int, *, group_id: str = GROUP_ID) -> list[str]:
    """Write what a webhook did not take, as quickly as a store can."""
    progress = make_progress(
        status=Status.DEAD_LETTER,
        attempt_count=1,
        next_attempt_at=None,
        dead_reason=DeadReason.ATTEMPTS_EXHAUSTED,
        finished_at=FINISHED_AT,
    )

    async def add_one() -> str:
        event = make_event(group_id=group_id, tasks=())
        delivery = make_delivery(event, webhook, progress=progress)
        await store.add_test(group_id, event, delivery, make_attempt(outcome=refused()))
        return delivery.id

    made: list[str] = []
    while len(made) < count:
        made += await asyncio.gather(*(add_one() for _ in range(min(250, count - len(made)))))
    return made


async def start(store: Any, webhook: Webhook, **changes: Any) -> ReplayJob:
    job = make_job(webhook, **changes)
    assert await store.add_job(webhook.group_id, job) is Saved.DONE
    return job


async def replays_of(store: Any, webhook: Webhook) -> list[Delivery]:
    found: list[Delivery] = []
    before = None
    while True:
        page = await store.deliveries(
            webhook.group_id, DeliveryQuery(webhook_id=webhook.id), limit=1_000, before=before
        )
        found += [each for each in page.items if each.replay_of]
        before = page.next_cursor
        if before is None:
            return found


async def replayed_by_one_that_is_killed(backend: Backend, *, steps: int) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.integration.doomed_replayer", backend.name, str(backend.folder)),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    for _ in range(steps):
        assert await process.stdout.readline() == b".\n"
    process.kill()
    await process.communicate()


async def until_status(rig: Rig, job: ReplayJob, status: JobStatus) -> None:
    for _ in range(3000):
        if (await rig.store.job(rig.group.id, job.webhook_id, job.id)).status is status:
            return
        await rig.quiet(0.25)
    raise AssertionError("it never came about")


async def until_done(rig: Rig, job: ReplayJob, *, at_least: int) -> None:
    for _ in range(3000):
        if (await rig.store.job(rig.group.id, job.webhook_id, job.id)).done >= at_least:
            return
        await rig.quiet(0.25)
    raise AssertionError("it never came about")
