"""A bulk replay on MongoDB takes everything once, wherever who runs it dies, pauses or is overtaken.

Each race is made, not waited for: a `Tap` stops one store just before a write, or lets its process die there.
"""

from typing import Any

import pytest
from tests.builders import GROUP_ID, accepted, make_job
from tests.contract.backends import MongoBackend, Store
from tests.contract.replaying import MADE_AT, STEPPED_AT, add_job, current, finish, lease_job, replayed_in, run_jobs
from tests.contract.steps import (
    ADA,
    EVE,
    HOUR,
    LEASE,
    SECOND,
    add_webhook,
    detail,
    edit_webhook,
    emit_one,
    ids,
    lease,
    lease_one,
    read_one,
    record,
    taking,
)
from tests.fakes import NOW
from tests.integration.mongodb_rigs import documents, mongo_of
from tests.integration.taps import Asking, Tap

from gatepost.domain.deliveries import Delivery, QueuedDelivery, Status
from gatepost.domain.errors import StoreUnavailable
from gatepost.domain.replays import JobStatus, ReplayFilter, ReplayJob
from gatepost.domain.retention import Kept
from gatepost.domain.webhooks import Webhook
from gatepost.ports import Advanced, JobLease, Saved, Step

LAPSED_AT = STEPPED_AT + LEASE + SECOND

STEPPING = [
    "replay_jobs.update_one",  # the commit
    "deliveries.insert_many",
    "events.update_many",
    "lanes.bulk_write",
    "replay_jobs.update_one",
]
ADDING = ["running_replays.insert_many", "replay_jobs.insert_many"]


@pytest.fixture
async def store(mongodb: MongoBackend) -> Store:
    return await mongodb.open()


@pytest.fixture
async def other_store(mongodb: MongoBackend) -> Store:
    return await mongodb.open()


async def test_a_step_is_committed_by_its_first_write(store: Store) -> None:
    _, job, _ = await job_for(store, 3)
    held = await lease_job(store, job)
    tap = Tap(store)

    assert await step(store, held, limit=2) == (Step.MOVED, 2)

    assert tap.written == STEPPING


@pytest.mark.parametrize("is_done_first", [False, True])
@pytest.mark.parametrize("number", range(1, len(STEPPING) + 1))
@pytest.mark.parametrize("finished_by", ["its owner", "another", "who leases a job that was cancelled"])
async def test_wherever_its_process_dies_a_step_is_taken_whole_and_once(
    store: Store, other_store: Store, finished_by: str, number: int, is_done_first: bool
) -> None:
    webhook, job, originals = await job_for(store, 3)
    held = await lease_job(store, job)
    Tap(store).die_at(number, is_done_first=is_done_first)
    is_committed = number > 1 or is_done_first

    try:
        advanced = await step(store, held, limit=2)
    except StoreUnavailable:
        advanced = None

    assert advanced == (Advanced(Step.MOVED, 2) if number > 1 else None)
    assert (await current(other_store, job)).done == (2 if is_committed else 0)
    if finished_by == "who leases a job that was cancelled":
        await other_store.cancel_job(GROUP_ID, webhook.id, job.id, now=STEPPED_AT)
        for _ in range(2):
            assert await run_jobs(other_store, EVE, now=LAPSED_AT) == []
        originals = originals[:2] if is_committed else []
    else:
        if finished_by == "another":
            held = await lease_job(other_store, job, EVE, now=LAPSED_AT)
        await to_its_end(other_store, held)
        ended = await current(other_store, job)
        assert (ended.status, ended.done) == (JobStatus.DONE, 3)

    assert await replayed_in(other_store, webhook) == ids(originals)
    assert set(await lease(other_store, now=LAPSED_AT)) == ({webhook.id} if originals else set())
    await run_jobs(other_store, EVE, now=LAPSED_AT)
    assert [(each["active"], each["waiting"]) for each in (await documents(other_store))["replay_jobs"]] == [(0, [])]


async def test_a_job_that_has_ended_is_kept_until_all_that_it_made_is_there(store: Store, other_store: Store) -> None:
    webhook, job, originals = await job_for(store, 1)
    held = await lease_job(store, job)
    Tap(store).die_at(2, is_done_first=False)
    assert await step(store, held) == (Step.ENDED, 1)

    kept = await other_store.purge(Kept.REPLAYS, before=LAPSED_AT, after="")
    await run_jobs(other_store, EVE, now=LAPSED_AT)
    gone = await other_store.purge(Kept.REPLAYS, before=LAPSED_AT, after="")

    assert (kept.purged, gone.purged) == (0, 1)
    assert await replayed_in(other_store, webhook) == ids(originals)


async def test_who_has_lost_a_job_before_the_commit_has_made_nothing(store: Store, other_store: Store) -> None:
    webhook, job, _ = await job_for(store, 2)
    held = await lease_job(store, job)

    async with Tap(store).stopped_before("replay_jobs.update_one", step(store, held)) as slow:
        await lease_job(other_store, job, EVE, now=LAPSED_AT)

    assert slow.result() == (Step.LOST, 0)
    assert await replayed_in(store, webhook) == []


async def test_a_job_that_is_cancelled_just_before_the_commit_has_made_nothing(
    store: Store, other_store: Store
) -> None:
    webhook, job, _ = await job_for(store, 2)
    held = await lease_job(store, job)

    async with Tap(store).stopped_before("replay_jobs.update_one", step(store, held)) as slow:
        await other_store.cancel_job(GROUP_ID, webhook.id, job.id, now=STEPPED_AT)

    assert slow.result() == (Step.LOST, 0)
    assert await replayed_in(store, webhook) == []


@pytest.mark.parametrize("write", ["deliveries.insert_many", "events.update_many", "lanes.bulk_write"])
async def test_who_is_slow_to_pass_a_step_on_takes_nothing_away_from_the_next(
    store: Store, other_store: Store, write: str
) -> None:
    webhook, job, originals = await job_for(store, 4)
    held = await lease_job(store, job)

    async with Tap(store).stopped_before(write, step(store, held, limit=2)) as slow:
        theirs = await lease_job(other_store, job, EVE, now=LAPSED_AT)
        # They pass on what waits, commit the next step, and die before they pass that on.
        Tap(other_store).die_at(len(STEPPING[1:]) + 2, is_done_first=False)
        assert await step(other_store, theirs, limit=2) == (Step.MOVED, 2)

    assert slow.result() == (Step.MOVED, 2)
    await to_its_end(store, theirs)
    assert await replayed_in(store, webhook) == ids(originals)


async def test_what_was_sent_and_recorded_meanwhile_is_not_handed_over(store: Store) -> None:
    webhook, job, _ = await job_for(store, 1)
    await emit_one(store, webhook, at=STEPPED_AT)
    lane = await lease_one(store, webhook, now=STEPPED_AT)
    await record(store, lane, await read_one(store, webhook, now=STEPPED_AT), accepted(), at=STEPPED_AT)
    held = await lease_job(store, job)
    handed: list[QueuedDelivery] = []
    store.on_queued = taking(handed)

    async with Tap(store).stopped_before("lanes.bulk_write", step(store, held)):
        replay = await read_one(store, webhook, now=STEPPED_AT)
        await record(store, lane, replay, accepted())

    assert (await detail(store, replay)).delivery.progress.status is Status.DELIVERED
    assert handed == []


async def test_a_delivery_whose_event_goes_in_the_middle_of_a_step_is_withdrawn(
    store: Store, mongodb: MongoBackend
) -> None:
    webhook, job, originals = await job_for(store, 2)
    held = await lease_job(store, job)
    handed: list[QueuedDelivery] = []
    store.on_queued = taking(handed)

    async with Tap(store).stopped_before("deliveries.insert_many", step(store, held)):
        await mongodb.lose_event(GROUP_ID, originals[0].event_id)

    assert await replayed_in(store, webhook) == [originals[1].id]
    assert handed == []
    assert set(await lease(store, now=STEPPED_AT)) == {webhook.id}


async def test_a_step_looks_through_a_part_of_the_deliveries_and_goes_on_after_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gatepost.adapters.storage.mongo_replays._LOOKED_THROUGH_AT_ONCE", 2)
    webhook, job, originals = await job_for(store, 5)
    for _ in range(3):  # in between, what it does not want
        await emit_one(store, webhook, at=STEPPED_AT)
    held = await lease_job(store, job)

    made = [await step(store, held) for _ in range(4)]

    assert made == [(Step.MOVED, 2), (Step.MOVED, 2), (Step.MOVED, 1), (Step.MOVED, 0)]
    await to_its_end(store, held)
    assert await replayed_in(store, webhook) == ids(originals)


# --- one running job of a webhook ----------------------------------------------------------------------------


async def test_what_there_is_to_replay_is_counted_a_part_at_a_time(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gatepost.adapters.storage.mongo_replays._COUNTED_AT_ONCE", 3)
    webhook, _, originals = await job_for(store, 7)
    rare = originals[4]
    mongo = mongo_of(store)
    await mongo.deliveries.update_one({"_id": rare.id}, {"$set": {"event": "order.paid"}})
    asked: list[tuple[str, dict[str, Any]]] = []
    mongo.deliveries = Asking(mongo.deliveries, asked)

    counted = [
        await store.count_replayable(GROUP_ID, webhook.id, wanted, now=MADE_AT, sample=5)
        for wanted in (ReplayFilter(), ReplayFilter(event="order.paid"))
    ]

    assert [(each.count, ids(each.sample)) for each in counted] == [(7, ids(originals[:5])), (1, [rare.id])]
    ends = {each["id"].get("$lte") for method, each in asked if method == "count_documents"}
    assert ends == {originals[2].id, originals[5].id, None}


@pytest.mark.parametrize("is_done_first", [False, True])
@pytest.mark.parametrize("number", range(1, len(ADDING) + 1))
async def test_wherever_its_process_dies_adding_a_job_can_be_repeated_or_makes_way_after_a_minute(
    store: Store, other_store: Store, number: int, is_done_first: bool
) -> None:
    webhook = await add_webhook(store)
    ours, soon, theirs = (make_job(webhook, created_at=MADE_AT + after * SECOND) for after in (0, 59, 61))
    tap = Tap(store)
    tap.die_at(number, is_done_first=is_done_first)
    with pytest.raises(StoreUnavailable):
        await store.add_job(GROUP_ID, ours)
    assert tap.written == ADDING[:number]
    is_there = number == len(ADDING) and is_done_first
    has_place = number > 1 or is_done_first

    saved = [await other_store.add_job(GROUP_ID, each) for each in (soon, theirs, ours, ours)]

    refused, done = Saved.QUOTA_EXCEEDED, Saved.DONE
    if is_there:
        assert saved == [refused, refused, done, done]
    elif has_place:
        assert saved == [refused, done, refused, refused]
    else:
        assert saved == [done, refused, refused, refused]
    assert await jobs_of(other_store, webhook) == [ours if is_there else theirs if has_place else soon]


async def test_a_job_that_is_added_again_after_its_process_has_died_is_added(store: Store, other_store: Store) -> None:
    webhook = await add_webhook(store)
    job = make_job(webhook, created_at=MADE_AT)
    Tap(store).die_at(2, is_done_first=False)
    with pytest.raises(StoreUnavailable):
        await store.add_job(GROUP_ID, job)

    assert await other_store.add_job(GROUP_ID, job) is Saved.DONE

    assert await jobs_of(other_store, webhook) == [job]


async def test_who_adds_a_job_slowly_finds_that_another_has_taken_the_webhook(store: Store, other_store: Store) -> None:
    webhook = await add_webhook(store)
    ours, theirs = make_job(webhook, created_at=NOW), make_job(webhook, created_at=NOW + HOUR)

    async with Tap(store).stopped_before("replay_jobs.insert_many", store.add_job(GROUP_ID, ours)) as slow:
        assert await other_store.add_job(GROUP_ID, theirs) is Saved.DONE

    assert slow.result() is Saved.QUOTA_EXCEEDED
    assert await jobs_of(store, webhook) == [theirs]
    assert await store.job(GROUP_ID, webhook.id, ours.id) is None
    assert (await store.purge(Kept.REPLAYS, before=NOW + 2 * HOUR, after="")).purged == 1  # what is there in its place


async def test_a_job_of_which_a_twin_is_under_way_is_added_once(store: Store, other_store: Store) -> None:
    webhook = await add_webhook(store)
    job = make_job(webhook, created_at=NOW)

    async with Tap(store).stopped_before("replay_jobs.insert_many", store.add_job(GROUP_ID, job)) as slow:
        assert await other_store.add_job(GROUP_ID, job) is Saved.DONE
        assert await other_store.add_job(GROUP_ID, make_job(webhook, created_at=NOW)) is Saved.QUOTA_EXCEEDED

    assert slow.result() is Saved.DONE
    assert await jobs_of(store, webhook) == [job]


async def test_a_webhook_whose_last_job_is_long_gone_can_have_another(store: Store) -> None:
    webhook = await add_webhook(store)
    job = make_job(webhook, created_at=MADE_AT)
    assert await store.add_job(GROUP_ID, job) is Saved.DONE
    await store.cancel_job(GROUP_ID, webhook.id, job.id, now=STEPPED_AT)
    await run_jobs(store, ADA, now=STEPPED_AT)
    assert (await store.purge(Kept.REPLAYS, before=LAPSED_AT, after="")).purged == 1
    another = make_job(webhook, created_at=LAPSED_AT + HOUR)

    assert await store.add_job(GROUP_ID, another) is Saved.DONE

    assert await jobs_of(store, webhook) == [another]


# --- leases --------------------------------------------------------------------------------------------------


async def test_one_owner_at_a_time_has_jobs_however_many_there_are(store: Store, other_store: Store) -> None:
    _, job, _ = await job_for(store, 1)
    await lease_job(store, job)
    [held] = (await documents(store))["replay_jobs"]
    others = [{**held, "_id": f"rpl_{n}", "owner": "", "token": 0, "lease_until": 0} for n in range(1_001)]
    await mongo_of(store).replay_jobs.insert_many(others)

    assert await run_jobs(other_store, EVE) == []
    assert len(await run_jobs(other_store, EVE, now=LAPSED_AT)) == 10


async def test_what_waits_is_looked_through_part_by_part(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatepost.adapters.storage.mongo_replays._JOBS_AT_ONCE", 2)
    for _ in range(3):
        webhook = await add_webhook(store)
        await add_job(store, webhook)
        await edit_webhook(store, webhook, enabled=False)
    ready = [await add_job(store) for _ in range(3)]

    assert [each.job_id for each in await run_jobs(store)] == ids(ready)
    assert [each.job_id for each in await run_jobs(store, limit=2)] == ids(ready[:2])


# --- steps ---------------------------------------------------------------------------------------------------


async def job_for(store: Store, count: int) -> tuple[Webhook, ReplayJob, list[Delivery]]:
    """Return a webhook with so many dead letters, and a job to replay them."""
    webhook = await add_webhook(store)
    originals = [await finish(store, webhook) for _ in range(count)]
    job = await add_job(store, webhook, total=count)
    return webhook, job, originals


async def step(store: Store, held: JobLease, *, limit: int = 50) -> Advanced:
    return await store.advance_job(held, limit=limit, now=STEPPED_AT)


async def to_its_end(store: Store, held: JobLease) -> None:
    for _ in range(9):
        if (await step(store, held, limit=2)).step is Step.ENDED:
            return
    raise AssertionError("it has no end")


async def jobs_of(store: Store, webhook: Webhook) -> list[ReplayJob]:
    return list((await store.jobs(GROUP_ID, webhook.id, limit=9, before=None)).items)
