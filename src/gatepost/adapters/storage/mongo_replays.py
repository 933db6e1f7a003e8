"""Bulk replays in MongoDB: a job is a document, and each of its steps is one write of it.

A step makes deliveries, which are documents of their own. So the job takes them along in `waiting`, their ids derived,
in the very write that moves it on: that compares the token, how far the job had come, and that nothing waits. What
follows may be done by anybody, any number of times: the deliveries are inserted, the lane is poked, and `waiting` is
emptied. Whoever dies in between leaves a job that is `active`, also when it has ended meanwhile: whoever leases jobs,
or takes the next step, does the rest first.

Of each webhook one job runs. `running_replays` has a document for each webhook that ever had one, with the job that has
the place; it is taken before the job is written:

* The place of a job that runs is taken; that of one that has ended is free to be taken over, by compare-and-set.
* The place of a job that is not there is somebody's who is about to write it, or has died. After a minute it may be
  taken over; but before that a tombstone is written in place of the job, so that whoever was only slow finds its `_id`
  taken and gives up. So it is with swaps, too (`mongo_swaps.py`).

Leases are compared one by one. Two owners who ask at the very same moment may get some each; neither gets any after
that until the other's are over, so it is one again within a lease. Each job has one owner at any time. Jobs that wait
for their webhook are looked through on the way, a part at a time: nothing in them says that they wait.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from pymongo.errors import PyMongoError

from gatepost.adapters.storage.mongo_documents import (
    DELIVERY_FIELDS,
    delivery_document,
    delivery_from_document,
    same,
)
from gatepost.adapters.storage.mongo_driver import Document, Mongo, fetch, insert_new, parts_of, said_by
from gatepost.adapters.storage.mongo_outbox import poke
from gatepost.adapters.storage.mongo_retention import hold_events
from gatepost.adapters.storage.paging import page_of
from gatepost.adapters.storage.rows import from_ms, from_ms_or_none, to_ms, to_ms_or_none
from gatepost.domain.deliveries import Delivery, QueuedDelivery, Status, queued
from gatepost.domain.errors import StoreUnavailable
from gatepost.domain.replays import JobStatus, ReplayFilter, ReplayJob, replayed_by
from gatepost.ports import Advanced, JobLease, Page, Replayable, Saved, Step

_LOOKED_THROUGH_AT_ONCE = 2_000  # deliveries, for those that a job wants: a step is short, however few those are
_COUNTED_AT_ONCE = 5_000  # of all that the webhook was sent: an answer about millions would be waited for in vain
_JOBS_AT_ONCE = 500  # looked at, for those that have something to do
_MOST_TRIES = 100
_ABANDONED_AFTER_MS = 60_000
_RUNNING = JobStatus.RUNNING.value
_BURIED = "buried"  # the status of a tombstone

log = structlog.get_logger()


class MongoReplays:
    """Implements `ports.ReplayStore`."""

    _mongo: Mongo

    async def count_replayable(
        self, group_id: str, webhook_id: str, wanted: ReplayFilter, *, now: datetime, sample: int
    ) -> Replayable:
        asked = _replayable(group_id, webhook_id, wanted, to_ms(now))
        return await self._mongo.read(_count(self._mongo, asked, sample))

    async def add_job(self, group_id: str, job: ReplayJob) -> Saved:
        return await self._mongo.write(_add(self._mongo, _document(group_id, job)))

    async def job(self, group_id: str, webhook_id: str, job_id: str) -> ReplayJob | None:
        return await self._mongo.read(_job(self._mongo, _key(group_id, webhook_id, job_id)))

    async def jobs(self, group_id: str, webhook_id: str, *, limit: int, before: str | None) -> Page[ReplayJob]:
        asked: Document = {"group_id": group_id, "webhook_id": webhook_id}
        if before is not None:
            asked["id"] = {"$lt": before}
        return await self._mongo.read(_jobs(self._mongo, asked, limit))

    async def cancel_job(self, group_id: str, webhook_id: str, job_id: str, *, now: datetime) -> None:
        running = _key(group_id, webhook_id, job_id) | {"status": _RUNNING}
        await self._mongo.write(_cancel(self._mongo, running, _ending(JobStatus.CANCELLED, now)))

    async def lease_jobs(self, owner: str, *, limit: int, now: datetime, lease: timedelta) -> Sequence[JobLease]:
        return await self._mongo.write(_lease(self._mongo, owner, limit, now, lease))

    async def advance_job(self, lease: JobLease, *, limit: int, now: datetime) -> Advanced:
        return await self._mongo.write(_advance(self._mongo, lease, limit, now))


# --- what people ask for -------------------------------------------------------------------------------------


def _replayable(group_id: str, webhook_id: str, wanted: ReplayFilter, finished_by: int) -> Document:
    """Return what finds a webhook's deliveries that can be replayed; all but the webhook is looked at along the way."""
    asked: Document = {
        "webhook_id": webhook_id,
        "group_id": group_id,
        "status": {"$in": [each.value for each in wanted.statuses]},
        "finished_at": {"$lte": finished_by},
        "made_by": same(""),  # neither by a job nor for a test
    }
    if wanted.event is not None:
        asked["event"] = same(wanted.event)
    created: Document = {}
    if wanted.created_from is not None:
        created["$gte"] = to_ms(wanted.created_from)
    if wanted.created_to is not None:
        created["$lt"] = to_ms(wanted.created_to)
    return asked | {"created_at": created} if created else asked


async def _count(mongo: Mongo, asked: Document, sample: int) -> Replayable:
    """Count what is asked for, part by part of all that the webhook was sent, and return the first of it, too."""
    count, after_id = 0, ""
    first: list[Delivery] = []
    while True:
        end = await _end_of_part(mongo, asked["webhook_id"], after_id, _COUNTED_AT_ONCE)
        part = asked | {"id": _between(after_id, end)}
        found = await mongo.deliveries.count_documents(part)
        if found and len(first) < sample:
            first += await _first(mongo, part, sample - len(first))
        count += found
        if end is None:
            return Replayable(count, first)
        after_id = end


async def _end_of_part(mongo: Mongo, webhook_id: str, after_id: str, size: int) -> str | None:
    """Return the last of so many deliveries of a webhook after one of them; None when there are fewer."""
    rest = mongo.deliveries.find({"webhook_id": webhook_id, "id": {"$gt": after_id}}, {"id": 1}).sort("id", 1)
    last = await fetch(rest.skip(size - 1).limit(1))
    return last[0]["id"] if last else None


def _between(after_id: str, end: str | None) -> Document:
    return {"$gt": after_id} if end is None else {"$gt": after_id, "$lte": end}


async def _first(mongo: Mongo, asked: Document, limit: int) -> list[Delivery]:
    found = mongo.deliveries.find(asked, DELIVERY_FIELDS).sort("id", 1)
    return [delivery_from_document(each) for each in await fetch(found.limit(limit))]


async def _job(mongo: Mongo, key: Document) -> ReplayJob | None:
    found = await mongo.replay_jobs.find_one(key, {"waiting": 0})
    return _job_from(found) if found else None


async def _jobs(mongo: Mongo, asked: Document, limit: int) -> Page[ReplayJob]:
    found = await fetch(mongo.replay_jobs.find(asked, {"waiting": 0}).sort("id", -1).limit(limit + 1))
    return page_of([_job_from(each) for each in found], limit)


async def _cancel(mongo: Mongo, running: Document, ending: Document) -> None:
    # What waits is queued: `active` stays until it is.
    await mongo.replay_jobs.update_one(running, {"$set": ending})


# --- adding --------------------------------------------------------------------------------------------------


async def _add(mongo: Mongo, job: Document) -> Saved:
    if await _is_there(mongo, job):
        return Saved.DONE
    if await _take_place(mongo, job) and await insert_new(mongo.replay_jobs, [job]):
        return Saved.DONE
    return Saved.DONE if await _is_there(mongo, job) else Saved.QUOTA_EXCEEDED  # its twin was faster, or it is buried


async def _is_there(mongo: Mongo, job: Document) -> bool:
    found = await mongo.replay_jobs.find_one({"_id": same(job["_id"])}, {"status": 1})
    return found is not None and found["status"] != _BURIED


async def _take_place(mongo: Mongo, job: Document) -> bool:
    """Take the place of the one running job of a webhook; say whether it is ours."""
    key, place = {"_id": job["webhook_id"]}, {"job_id": job["_id"], "at": job["created_at"]}
    for _ in range(_MOST_TRIES):
        if await insert_new(mongo.running_replays, [{**key, **place}]):
            return True
        found = await mongo.running_replays.find_one(key)
        if found is None:
            continue
        if found["job_id"] != job["_id"] and not await _is_free(mongo, found, now=job["created_at"]):
            return False
        if (await mongo.running_replays.update_one(found, {"$set": place})).matched_count:
            return True
    raise StoreUnavailable("too many replay the webhook's deliveries at this moment; try again")


async def _is_free(mongo: Mongo, place: Document, *, now: int) -> bool:
    """Say whether the job that has a place needs it no more; make sure of it, if it is not there yet."""
    holder = await mongo.replay_jobs.find_one({"_id": place["job_id"]}, {"status": 1})
    if holder is not None:
        return bool(holder["status"] != _RUNNING)
    if place["at"] > now - _ABANDONED_AFTER_MS:
        return False
    nobody_s = {"group_id": "", "webhook_id": "", "id": "", "active": 0, "finished_at": now}
    return bool(await insert_new(mongo.replay_jobs, [{"_id": place["job_id"], "status": _BURIED, **nobody_s}]))


# --- leasing -------------------------------------------------------------------------------------------------


async def _lease(mongo: Mongo, owner: str, limit: int, now: datetime, lease: timedelta) -> list[JobLease]:
    leases = {"active": 1, "lease_until": {"$gte": to_ms(now), "$lte": to_ms(now + 2 * lease)}}
    live = await fetch(mongo.replay_jobs.find(leases, {"owner": 1, "status": 1, "webhook_id": 1}))
    if await _ready(mongo, [job for job in live if job["owner"] != owner]):
        return []
    leased = []
    for job in await _ready_in_turn(mongo, limit):
        found = {"_id": job["_id"], "status": _RUNNING, "token": job["token"]}
        ours = {"$set": {"owner": owner, "lease_until": to_ms(now + lease)}, "$inc": {"token": 1}}
        if (await mongo.replay_jobs.update_one(found, ours)).matched_count:
            leased.append(JobLease(job["_id"], job["token"] + 1))
    return sorted(leased)


async def _ready_in_turn(mongo: Mongo, limit: int) -> list[Document]:
    """Return the jobs that have something to do, those first that were leased least recently."""
    ready: list[Document] = []
    async with mongo.replay_jobs.find({"active": 1}).sort("lease_until", 1).batch_size(_JOBS_AT_ONCE) as cursor:
        while len(ready) < limit and (part := await cursor.to_list(_JOBS_AT_ONCE)):
            for job in part:
                if job["status"] != _RUNNING:
                    await _let_go(mongo, job)
            ready += await _ready(mongo, part)
    return ready[:limit]


async def _ready(mongo: Mongo, jobs: Sequence[Document]) -> list[Document]:
    """Return those jobs that run and do not wait for their webhook to be enabled."""
    running = [job for job in jobs if job["status"] == _RUNNING]
    disabled: set[str] = set()
    for part in parts_of(job["webhook_id"] for job in running):
        asked = {"_id": {"$in": part}, "enabled": 0, "deleted": 0}
        disabled |= {each["_id"] for each in await fetch(mongo.webhooks.find(asked, {"_id": 1}))}
    return [job for job in running if job["webhook_id"] not in disabled]


async def _let_go(mongo: Mongo, job: Document) -> None:
    """Do what is left to do of a job that has ended, and look at it no more."""
    await _pass_on(mongo, job)
    await mongo.replay_jobs.update_one({"_id": job["_id"], "waits": 0}, {"$set": {"active": 0}})


# --- steps ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Taking:
    """What a step comes past, and how far."""

    originals: Sequence[Delivery]
    until_id: str
    is_last: bool


async def _advance(mongo: Mongo, lease: JobLease, limit: int, now: datetime) -> Advanced:
    found = await mongo.replay_jobs.find_one({"_id": lease.job_id, "token": lease.token, "status": _RUNNING})
    if found is None:
        return Advanced(Step.LOST)
    await _pass_on(mongo, found)
    job = _job_from(found)
    webhook = await mongo.webhooks.find_one({"_id": job.webhook_id}, {"enabled": 1, "deleted": 1, "max_attempts": 1})
    if webhook is None or webhook["deleted"]:
        is_ours = await _moved(mongo, found, _ending(JobStatus.FAILED, now))
        return Advanced(Step.ENDED if is_ours else Step.LOST)
    if not webhook["enabled"]:
        return Advanced(Step.LOST)
    taking = await _take(mongo, job, found["after_id"], limit)
    events = await _events(mongo, job.group_id, taking.originals)
    made = [
        replayed_by(job, each, max_attempts=webhook["max_attempts"], now=now)
        for each in taking.originals
        if each.event_id in events
    ]
    ready = [queued(each, body=events[each.event_id]["body"], hop=events[each.event_id]["hop"]) for each in made]
    return await _write_step(mongo, found, taking, made, ready, now)


async def _take(mongo: Mongo, job: ReplayJob, after_id: str, limit: int) -> _Taking:
    """Look through the next part of the webhook's deliveries for what the job wants."""
    end = await _end_of_part(mongo, job.webhook_id, after_id, _LOOKED_THROUGH_AT_ONCE)
    asked = _replayable(job.group_id, job.webhook_id, job.filter, to_ms(job.created_at))
    originals = await _first(mongo, asked | {"id": _between(after_id, end)}, limit)
    if len(originals) == limit:
        return _Taking(originals, originals[-1].id, is_last=False)
    last = originals[-1].id if originals else after_id
    return _Taking(originals, end or last, is_last=end is None)


async def _events(mongo: Mongo, group_id: str, deliveries: Sequence[Delivery]) -> dict[str, Document]:
    events: dict[str, Document] = {}
    for part in parts_of({f"{group_id}/{each.event_id}" for each in deliveries}):
        asked = {"_id": {"$in": part}, "group_id": group_id}
        events |= {each["id"]: each for each in await fetch(mongo.events.find(asked, {"id": 1, "body": 1, "hop": 1}))}
    return events


async def _write_step(
    mongo: Mongo,
    found: Document,
    taking: _Taking,
    made: Sequence[Delivery],
    ready: Sequence[QueuedDelivery],
    now: datetime,
) -> Advanced:
    waiting = [delivery_document(each) | {"made_by": found["_id"]} for each in made]
    fields = {"after_id": taking.until_id, "waits": int(bool(waiting)), "waiting": waiting}
    fields["done"] = found["done"] + len(taking.originals)
    if taking.is_last:
        fields |= _ending(JobStatus.DONE, now)
    with mongo.hand_over.emission(ready) as hand_over:
        if not await _moved(mongo, found, fields):
            return Advanced(Step.LOST)
        try:
            # This was the commit: what fails after it unsays nothing.
            if await _pass_on(mongo, {**found, **fields}):
                hand_over()
        except PyMongoError as error:
            log.warning("replay.not_passed_on", job_id=found["_id"], reason=said_by(error))
    return Advanced(Step.ENDED if taking.is_last else Step.MOVED, len(made))


def _ending(status: JobStatus, now: datetime) -> Document:
    return {"status": status.value, "finished_at": to_ms(now)}


async def _moved(mongo: Mongo, found: Document, fields: Mapping[str, Any]) -> bool:
    """Move a job on, unless somebody has since, or it has a new owner, or was cancelled."""
    still = {field: found[field] for field in ("_id", "token", "status", "after_id")} | {"waits": 0}
    return (await mongo.replay_jobs.update_one(still, {"$set": dict(fields)})).matched_count == 1


async def _pass_on(mongo: Mongo, job: Document) -> bool:
    """Insert and poke what waits in a job, and say whether all of it is there; done twice it does no harm."""
    waiting = job["waiting"]
    if not waiting:
        return True
    await insert_new(mongo.deliveries, waiting)
    are_all_there = await hold_events(mongo, job["group_id"], waiting)
    await poke(mongo, {job["webhook_id"]: min(each["next_attempt_at"] for each in waiting)})
    # Not what the next step has left here meanwhile.
    passed_on = {"_id": job["_id"], "after_id": job["after_id"], "waits": 1}
    await mongo.replay_jobs.update_one(passed_on, {"$set": {"waits": 0, "waiting": []}})
    return are_all_there


# --- documents -----------------------------------------------------------------------------------------------


def _key(group_id: str, webhook_id: str, job_id: str) -> Document:
    return {"_id": same(job_id), "group_id": group_id, "webhook_id": webhook_id}


def _document(group_id: str, job: ReplayJob) -> Document:
    return {
        "_id": job.id,
        "id": job.id,
        "group_id": group_id,
        "webhook_id": job.webhook_id,
        "wanted_status": job.filter.status and job.filter.status.value,
        "wanted_event": job.filter.event,
        "wanted_from": to_ms_or_none(job.filter.created_from),
        "wanted_to": to_ms_or_none(job.filter.created_to),
        "total": job.total,
        "created_at": to_ms(job.created_at),
        "status": job.status.value,
        "done": job.done,
        "finished_at": to_ms_or_none(job.finished_at),
        "active": 1,  # whether it runs, or something waits that somebody has left
        "after_id": "",  # how far it has come
        "waits": 0,
        "waiting": [],  # what the last step has made, until it is passed on
        "owner": "",
        "token": 0,
        "lease_until": 0,
    }


def _job_from(document: Mapping[str, Any]) -> ReplayJob:
    wanted_status = document["wanted_status"]
    return ReplayJob(
        id=document["_id"],
        group_id=document["group_id"],
        webhook_id=document["webhook_id"],
        filter=ReplayFilter(
            status=None if wanted_status is None else Status(wanted_status),
            event=document["wanted_event"],
            created_from=from_ms_or_none(document["wanted_from"]),
            created_to=from_ms_or_none(document["wanted_to"]),
        ),
        total=document["total"],
        created_at=from_ms(document["created_at"]),
        status=JobStatus(document["status"]),
        done=document["done"],
        finished_at=from_ms_or_none(document["finished_at"]),
    )
