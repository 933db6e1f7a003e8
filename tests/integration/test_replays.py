"""Bulk replays, worked through by engines that may die at any moment."""

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from tests.builders import (
    GROUP_ID,
    make_webhook,
)
from tests.contract.backends import Backend, data_on
from tests.contract.replaying import add_job, current, finish_many, replayed_in
from tests.contract.steps import edit_webhook
from tests.fakes import NOW, FakeClock
from tests.integration.rigs import FailingOnce, Rig, Watched

from gatepost.domain.replays import JobStatus, ReplayJob
from gatepost.engine import replays as engine_replays
from gatepost.engine.replays import JOBS_AT_ONCE, PER_SECOND, Replays

ROOT = Path(__file__).parents[2]
MANY = 2_000
FINISHED_AT = NOW - timedelta(hours=1)
AFTER_ITS_LEASE = NOW + engine_replays.LEASE + timedelta(seconds=1)


@pytest.fixture(params=["sqlite", "postgres-18", "mongodb"])
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    async with data_on(request.param, tmp_path) as backend:
        yield backend


@pytest.mark.timeout(180)
@pytest.mark.parametrize("killed_after", [1, 23])  # steps of 40
async def test_a_replay_whose_engine_is_killed_goes_on_and_makes_each_delivery_once(
    backend: Backend, killed_after: int
) -> None:
    store = await backend.open()
    webhook = make_webhook()
    await store.add_webhook(GROUP_ID, webhook, quota=1)
    originals = await finish_many(store, webhook, MANY, at=FINISHED_AT)
    job = await add_job(store, webhook, created_at=NOW, total=MANY)

    await replayed_by_one_that_is_killed(backend, steps=killed_after)
    before = await current(store, job)
    survivor = Replays(store, FakeClock(AFTER_ITS_LEASE), owner="owner-next")
    while await survivor.advance() is not None:
        pass

    assert before.status is JobStatus.RUNNING, f"it was done before it was killed, after {killed_after} steps"
    assert before.done >= killed_after * engine_replays.STEP
    ended = await current(store, job)
    assert (ended.status, ended.done, ended.total) == (JobStatus.DONE, MANY, MANY)
    assert await replayed_in(store, webhook) == sorted(originals)


async def test_two_engines_at_one_job_make_each_delivery_once(backend: Backend) -> None:
    stores = [await backend.open(), await backend.open()]
    webhook = make_webhook()
    await stores[0].add_webhook(GROUP_ID, webhook, quota=1)
    originals = await finish_many(stores[0], webhook, 300, at=FINISHED_AT)
    job = await add_job(stores[0], webhook, created_at=NOW, total=300)
    clocks = [FakeClock(), FakeClock()]
    engines = [
        Replays(store, clock, owner=f"owner-{n}") for n, (store, clock) in enumerate(zip(stores, clocks, strict=True))
    ]

    for n in range(100):
        # The other's lease is over at each turn, although it is not done with what it began under it.
        clocks[n % 2].advance(3 * engine_replays.LEASE.total_seconds())
        await asyncio.gather(*(engine.advance() for engine in engines))
        if (await current(stores[0], job)).status is JobStatus.DONE:
            break

    ended = await current(stores[0], job)
    assert (ended.status, ended.done) == (JobStatus.DONE, 300)
    assert await replayed_in(stores[0], webhook) == sorted(originals)


async def test_an_engine_works_through_a_replay_at_its_own_pace_and_delivers(rig: Rig) -> None:
    webhook = await rig.webhook(rate_limit_per_second=None)
    originals = await finish_many(rig.store, webhook, 250, at=FINISHED_AT)
    job = await add_job(rig.store, webhook, created_at=NOW, total=250)
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
    await finish_many(rig.store, webhook, 3, at=FINISHED_AT)
    job = await add_job(rig.store, webhook, created_at=NOW, total=3)
    disabled = await edit_webhook(rig.store, webhook, enabled=False)
    await rig.start()
    await rig.quiet(10.0)
    waiting = await current(rig.store, job)

    began = rig.clock.boot()
    await edit_webhook(rig.store, disabled, now=rig.clock.now(), enabled=True)
    await until_status(rig, job, JobStatus.DONE)

    assert (waiting.status, waiting.done) == (JobStatus.RUNNING, 0)
    assert rig.clock.boot() - began <= 3.0
    await rig.until(lambda: len(rig.sender.sent) == 3)


async def test_replays_that_wait_do_not_slow_the_others_down(rig: Rig) -> None:
    for _ in range(50):
        webhook = await rig.webhook()
        await add_job(rig.store, webhook, created_at=NOW)
        await edit_webhook(rig.store, webhook, enabled=False)
    webhook = await rig.webhook()
    await finish_many(rig.store, webhook, 200, at=FINISHED_AT)
    job = await add_job(rig.store, webhook, created_at=NOW, total=200)
    await rig.start()

    began = rig.clock.boot()
    await until_status(rig, job, JobStatus.DONE)

    assert rig.clock.boot() - began <= 200 / PER_SECOND + 3.0


async def test_an_engine_that_is_stopped_begins_no_more_steps(rig: Rig) -> None:
    webhook = await rig.webhook()
    await finish_many(rig.store, webhook, 500, at=FINISHED_AT)
    job = await add_job(rig.store, webhook, created_at=NOW, total=500)
    await rig.start()
    await until_done(rig, job, at_least=50)

    await rig.stop()

    stopped = await current(rig.store, job)
    assert stopped.status is JobStatus.RUNNING
    assert stopped.done == len(await replayed_in(rig.store, webhook))
    await rig.start(owner="eng_2")
    await until_status(rig, job, JobStatus.DONE)
    assert len(await replayed_in(rig.store, webhook)) == 500


@pytest.mark.parametrize("method", ["lease_jobs", "advance_job"])
async def test_a_replay_outlives_a_store_that_fails(rig: Rig, method: str) -> None:
    webhook = await rig.webhook()
    await finish_many(rig.store, webhook, 60, at=FINISHED_AT)
    job = await add_job(rig.store, webhook, created_at=NOW, total=60)
    failing = FailingOnce(rig.store, method)

    await rig.start(failing)
    await until_status(rig, job, JobStatus.DONE)

    assert failing.failed
    assert len(await replayed_in(rig.store, webhook)) == 60


async def test_jobs_share_what_is_made_in_a_second(rig: Rig) -> None:
    webhooks = [await rig.webhook() for _ in range(3)]
    for webhook in webhooks:
        await finish_many(rig.store, webhook, 40, at=FINISHED_AT)
    jobs = [await add_job(rig.store, webhook, created_at=NOW, total=40) for webhook in webhooks]
    replays = Replays(rig.store, rig.clock, owner="eng_1")

    pause = await replays.advance()

    done = [(await current(rig.store, job)).done for job in jobs]
    assert done == [engine_replays.STEP // 3] * 3
    assert pause == timedelta(seconds=sum(done) / PER_SECOND)


async def test_jobs_that_have_nothing_to_take_do_not_keep_the_next_ones_waiting(rig: Rig) -> None:
    jobs = [await add_job(rig.store, await rig.webhook(), created_at=NOW) for _ in range(JOBS_AT_ONCE + 1)]
    replays = Replays(rig.store, rig.clock, owner="eng_1")

    pauses = [await replays.advance() for _ in range(3)]

    assert pauses == [engine_replays.PAUSE, engine_replays.PAUSE, None]
    assert {(await current(rig.store, job)).status for job in jobs} == {JobStatus.DONE}


async def test_an_engine_without_jobs_writes_nothing(rig: Rig) -> None:
    watched = Watched(rig.store)
    replays = Replays(watched, rig.clock, owner="eng_1")

    assert await replays.advance() is None
    assert dict(watched.calls) == {"lease_jobs": 1}


# --- what these are made of ----------------------------------------------------------------------------------


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
        if (await current(rig.store, job)).status is status:
            return
        await rig.quiet(0.25)
    raise AssertionError("it never came about")


async def until_done(rig: Rig, job: ReplayJob, *, at_least: int) -> None:
    for _ in range(3000):
        if (await current(rig.store, job)).done >= at_least:
            return
        await rig.quiet(0.25)
    raise AssertionError("it never came about")
