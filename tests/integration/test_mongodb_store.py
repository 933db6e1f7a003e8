"""A MongoDB database is asked by its indexes and shards, opened when it is ready, lost, and found again."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests import standin
from tests.builders import (
    GROUP_ID,
    accepted,
    make_delivery,
    make_disabling,
    make_event,
    make_group,
    make_job,
    make_key,
    make_occasion,
    make_operator_event,
    make_request,
    make_session,
    make_settled,
    make_swap,
    make_task_change,
    make_user,
    new_id,
    refused,
)
from tests.contract.backends import SECRET_KEY, MongoBackend, Store
from tests.contract.steps import (
    ADA,
    EVE,
    HOUR,
    add_task,
    add_webhook,
    detail,
    edit_webhook,
    emit_one,
    lease,
    leased_with_one,
    pokes_of,
    read,
    record,
    record_settled,
    release,
    save,
)
from tests.fakes import NOW
from tests.integration.mongodb_rigs import mongo_of
from tests.integration.taps import COLLECTIONS, Asking, Tap
from tests.standin import StandIn

from gatepost.adapters.secretbox import SecretBox
from gatepost.adapters.storage import mongo_driver
from gatepost.adapters.storage.mongo_schema import INDEXES, SCHEMA_VERSION
from gatepost.adapters.storage.mongodb import MongoStore
from gatepost.domain import swaps, tasks
from gatepost.domain.deliveries import Status, replayed
from gatepost.domain.errors import StoreUnavailable
from gatepost.domain.groups import Role
from gatepost.domain.health import Condition
from gatepost.domain.people import IDLE
from gatepost.domain.replays import ReplayFilter
from gatepost.domain.retention import Kept
from gatepost.domain.stats import BUCKET, start_of_bucket
from gatepost.domain.swaps import SwapStatus
from gatepost.domain.tasks import TaskStatus
from gatepost.domain.webhooks import Webhook
from gatepost.ports import DeliveryQuery, EventQuery, KeptAnswer, Reading, Saved, StatsQuery, TaskQuery

BOX = SecretBox(SECRET_KEY)
EVERYTHING = DeliveryQuery()


@pytest.fixture
async def store(mongodb: MongoBackend) -> Store:
    return await mongodb.open()


# --- indexes and shards --------------------------------------------------------------------------------------


SHARD_KEYS = {
    "tasks": ["group_id", "id"],
    "events": ["group_id", "id"],
    "deliveries": ["webhook_id", "id"],
    "history": ["group_id", "task_id", "version"],
}
OF_ONE = {"find_one", "update_one", "bulk_write", "find_one_and_update"}
# Deliveries of several webhooks, and the sweep: what waits, what is held, and who has something due.
OF_ALL_SHARDS = [
    ("deliveries", "group_id"),
    ("deliveries", "open"),
    ("tasks", "pending_events"),
    ("tasks", "lock"),
    ("events", "pending_events"),
]


async def test_whatever_is_asked_has_its_index_and_its_shard(store: Store) -> None:
    asked: dict[str, list[tuple[str, dict[str, Any]]]] = {name: [] for name in COLLECTIONS}
    mongo = mongo_of(store)
    for name, of in asked.items():
        setattr(mongo, name, Asking(getattr(mongo, name), of))
    await a_day_of(store)

    for name, questions in asked.items():
        assert questions, name
        for method, question in questions:
            fields = list(question)
            if "_id" not in question:
                assert any(set(index[:1]) <= set(fields) for index in INDEXES[name]), (name, question)
                ranges = {field for field, value in question.items() if isinstance(value, dict)}
                equal = set(fields) - ranges - {"event", "created_at", "group_id", "password_hash"}
                assert any(equal <= set(index) for index in INDEXES[name]), (name, question)
            is_walk = (name, fields) == ("deliveries", ["_id"]) and "$lt" in question["_id"]  # of retention
            if name in SHARD_KEYS and (name, fields[0]) not in OF_ALL_SHARDS and not is_walk:
                key = SHARD_KEYS[name] if method in OF_ONE else SHARD_KEYS[name][:1]
                assert set(key) <= set(fields), (name, method, question)


async def a_day_of(store: Store) -> None:
    """Do everything that is done, once."""
    await a_day_of_accounts(store)
    await store.join(ADA, now=NOW)
    await store.join(EVE, now=NOW)
    webhook, lane, delivery, queued = await leased_with_one(store)
    task = await add_task(store, assigned_to="usr_ada")
    await save(store, tasks.start(task, make_occasion()))
    await save(store, tasks.start(task, make_occasion()))  # stale
    await store.renew_lanes(ADA, {webhook.id: lane.token, new_id("wh"): 1}, now=NOW, lease=HOUR)
    await record(store, lane, queued, accepted(), window=3)
    await release(store, lane, pokes=await pokes_of(store, webhook.id))
    await store.add_replay(GROUP_ID, replayed(delivery, new_id("dlv"), max_attempts=3, now=NOW))
    await detail(store, delivery)
    for query in (
        EVERYTHING,
        DeliveryQuery(webhook_id=webhook.id, event="task.created", created_from=NOW),
        DeliveryQuery(status=Status.DEAD_LETTER),
        DeliveryQuery(task_id=task.id),
    ):
        await store.deliveries(GROUP_ID, query, limit=1, before="dlv_z")
    for listed in (
        TaskQuery(),
        TaskQuery(status=TaskStatus.PENDING),
        TaskQuery(assigned_to="usr_ada"),
        TaskQuery(text="plants"),
    ):
        await store.tasks(GROUP_ID, listed, limit=1, before=None)
    await store.task(GROUP_ID, task.id)
    await store.history(GROUP_ID, task.id)
    await store.webhooks(GROUP_ID, limit=1, before="wh_z")
    await store.webhook(GROUP_ID, webhook.id)
    await store.lane_marks([webhook.id])
    await store.webhooks_to_serve([webhook.id])
    await edit_webhook(store, webhook)
    await a_day_of_swaps_and_events(store)
    await a_day_of_health(store)
    await a_day_of_replays_and_retention(store, webhook)
    await store.delete_webhook(GROUP_ID, webhook.id, now=NOW)
    await store.sweep(now=NOW)
    await store.leave(ADA)


async def a_day_of_health(store: Store) -> None:
    webhook = await add_webhook(store)
    await add_webhook(store, events=("webhook.*",))
    await emit_one(store, webhook)
    lane = (await lease(store, now=NOW + HOUR))[webhook.id]
    for reading in Reading:
        (queued,) = (await read(store, webhook, reading=reading)).deliveries
    failed = make_settled(queued, refused())
    probe = replace(failed.attempt, probe=True)
    await record_settled(store, lane, replace(failed, attempt=probe), condition=Condition(streak=1), held_until=NOW)
    gone = replace(failed, of_health=make_operator_event(webhook), disabling=make_disabling(webhook))
    await record_settled(store, lane, gone)
    await store.discard_backlog(GROUP_ID, webhook.id, now=NOW)


async def a_day_of_swaps_and_events(store: Store) -> None:
    task, with_task = [await add_task(store, assigned_to=each) for each in ("usr_ada", "usr_eve")]
    rejected, swap = make_swap(task, with_task), make_swap(task, with_task)
    for each in (rejected, swap):  # the second finds the place taken
        await store.add_swap(GROUP_ID, each)
    await store.reject_swap(GROUP_ID, swaps.reject(rejected, "usr_ada", now=NOW))
    await store.add_swap(GROUP_ID, swap)
    for status in (None, SwapStatus.PENDING):
        await store.swaps(GROUP_ID, status, limit=1, before="swp_z")
    approval = swaps.approve(swap, task, with_task, make_occasion())
    version = (await store.subscriptions(GROUP_ID)).version
    approving = store.approve_swap(GROUP_ID, approval, [], webhooks_version=version)
    async with Tap(store).stopped_before("swaps.find_one_and_update", approving):
        await store.task(GROUP_ID, task.id)
        await store.history(GROUP_ID, task.id)
        await store.tasks(GROUP_ID, TaskQuery(), limit=1, before=None)
        await store.sweep(now=NOW)
    await store.delete_task(GROUP_ID, tasks.delete(approval.changes[0].task, make_occasion()))
    event = make_event(tasks=())
    await store.publish(GROUP_ID, event, [make_delivery(event)], webhooks_version=version)
    for query in (EventQuery(), EventQuery(event="order.paid"), EventQuery(event="task.created", task_id=task.id)):
        await store.events(GROUP_ID, query, limit=1, before="0.evt_1")
    await store.routing(GROUP_ID, event.id)


async def a_day_of_replays_and_retention(store: Store, webhook: Webhook) -> None:
    wanted = ReplayFilter(Status.DELIVERED, "task.created", NOW, NOW + HOUR)
    await store.count_replayable(GROUP_ID, webhook.id, wanted, now=NOW, sample=1)
    job, cancelled = make_job(webhook), make_job(webhook)
    await store.add_job(GROUP_ID, cancelled)
    assert await store.add_job(GROUP_ID, job) is Saved.QUOTA_EXCEEDED
    await store.cancel_job(GROUP_ID, webhook.id, cancelled.id, now=NOW)
    await store.add_job(GROUP_ID, job)
    await store.jobs(GROUP_ID, webhook.id, limit=1, before="rpl_z")
    await store.job(GROUP_ID, webhook.id, job.id)
    [held] = await store.lease_jobs(ADA, limit=1, now=NOW, lease=HOUR)
    assert (await store.advance_job(held, limit=1, now=NOW)).made == 1
    for webhook_id in (None, webhook.id):
        asked = StatsQuery(start_of_bucket(NOW, HOUR), start_of_bucket(NOW, HOUR) + HOUR, BUCKET, webhook_id)
        await store.stats(GROUP_ID, asked, limit=10, most_read=100, before=None)
    await store.lease_retention(ADA, now=NOW, lease=HOUR, every=HOUR)
    for kept in Kept:
        step = await store.purge(kept, before=NOW + HOUR, after="")
        assert step.purged or kept is Kept.DEAD_LETTERS  # which are asked for as what was delivered is
    await store.end_retention(ADA, done_at=NOW)


async def a_day_of_accounts(store: Store) -> None:
    ada, eve, group, key, request = make_user(), make_user(), make_group(), make_key(), make_request()
    ended, session = make_session(ada, last_used_at=NOW - 2 * IDLE), make_session(ada)
    await store.add_first_user(ada)
    await store.add_user(eve)
    await store.add_user(replace(eve, id=new_id("usr")))  # the address is taken
    await store.user(eve.id)
    await store.user_with_email(eve.email)
    await store.users(limit=1, before=None)
    await store.save_password(eve.id, "another hash", expected=eve.password_hash)
    for each in (ended, session):
        await store.add_session(each)
    await store.session(session.id)
    await store.sessions(ada.id)
    await store.touch_sessions({session.id: NOW})
    await store.end_sessions(ada.id, [session.id])
    await store.end_sessions(ada.id)
    await store.add_group(group, owner_ids=[ada.id])
    await store.add_group(make_group())  # the name is taken
    await store.add_group(make_group(name="nobody's"), owner_ids=None)
    await store.group(group.id)
    await store.group_named(group.name)
    await store.groups(limit=1, before=None)
    await store.add_member(group.id, eve.id, Role.ADMIN, now=NOW)
    await store.save_role(group.id, eve.id, Role.OWNER, expected=Role.ADMIN)
    await store.remove_member(group.id, ada.id, expected=Role.OWNER)
    await store.memberships(eve.id)
    await store.members(group.id, limit=1, before=None)
    await store.member(group.id, eve.id)
    await store.add_key(GROUP_ID, key)
    await store.key(key.id)
    await store.keys(GROUP_ID, limit=1, before="key_z")
    await store.touch_keys({key.id: NOW})
    await store.revoke_key(GROUP_ID, key.id, now=NOW)
    for at in (NOW - HOUR, NOW, NOW):
        await store.remember_request(replace(request, at=at), kept_for=timedelta(minutes=1))
    await store.keep_answer(request.id, KeptAnswer(200, (), b""))
    await store.keep_answer(request.id, KeptAnswer(200, (), b""))  # there is one already


# --- opening and losing the server ---------------------------------------------------------------------------


async def test_a_database_that_was_not_made_ready_is_refused_with_the_command(mongodb: MongoBackend) -> None:
    with pytest.raises(StoreUnavailable, match="run `gatepost migrate`"):
        await MongoStore.open(another_url(mongodb), box=BOX)


async def test_another_key_is_refused_at_the_start_and_by_migrate(mongodb: MongoBackend) -> None:
    other = SecretBox(bytes(32))

    for use in (MongoStore.open, MongoStore.migrate):
        with pytest.raises(StoreUnavailable, match="another secret key"):
            await use(mongodb.url, box=other)


async def test_a_database_of_a_newer_version_is_refused(mongodb: MongoBackend, store: Store) -> None:
    mongo = mongo_of(store)
    await mongo.meta.update_one({"_id": "schema"}, {"$set": {"version": SCHEMA_VERSION + 1}})

    for use in (MongoStore.open, MongoStore.migrate):
        with pytest.raises(StoreUnavailable, match="newer than this Gatepost"):
            await use(mongodb.url, box=BOX)


async def test_several_processes_make_a_database_ready_at_once(mongodb: MongoBackend) -> None:
    url = another_url(mongodb)

    await asyncio.gather(*(MongoStore.migrate(url, box=BOX) for _ in range(4)))

    store = await MongoStore.open(url, box=BOX)
    indexes = {name: len(await mongo_of(store).database[name].index_information()) for name in INDEXES}
    await store.close()
    assert indexes == {name: len(of) + 1 for name, of in INDEXES.items()}


async def test_the_options_of_the_url_do_not_weaken_what_the_store_promises() -> None:
    url = "mongodb://127.0.0.1:1/?w=1&journal=false&readPreference=secondary&retryWrites=true&readConcernLevel=local"
    mongo = mongo_driver.Mongo(url)
    database = mongo.database
    await mongo.close()

    assert database.name == "gatepost"
    assert database.write_concern.document == {"w": "majority", "j": True}
    assert (database.read_concern.level, database.read_preference.name) == ("majority", "Primary")
    assert mongo.client.options.retry_writes is False


@pytest.mark.parametrize("url", ["mongodb://u:secret@a:b:c/x", "mongodb://", "http://127.0.0.1"])
async def test_a_url_that_is_none_is_refused_without_being_quoted(url: str) -> None:
    with pytest.raises(StoreUnavailable) as refused_:
        await MongoStore.open(url, box=BOX)

    assert "secret" not in str(refused_.value)


async def test_a_server_that_cannot_be_reached_is_an_error_within_seconds() -> None:
    started = asyncio.get_running_loop().time()

    with pytest.raises(StoreUnavailable):
        await MongoStore.open("mongodb://127.0.0.1:1/gatepost", box=BOX)

    assert asyncio.get_running_loop().time() - started < 7


@pytest.mark.parametrize("loss", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_server_that_is_lost_is_an_error_and_what_it_acknowledged_is_there_when_it_is_back(
    monkeypatch: pytest.MonkeyPatch, loss: signal.Signals
) -> None:
    monkeypatch.setattr(mongo_driver, "FIND_SERVER_MS", 2_000)
    monkeypatch.setattr(mongo_driver, "ANSWER_MS", 2_000)
    server = StandIn()
    store: Any = None
    try:
        await MongoStore.migrate(server.url, box=BOX)
        store = await MongoStore.open(server.url, box=BOX)
        task = await add_task(store)
        server.process.send_signal(loss)

        async with asyncio.timeout(20):
            for asked in (store.task(GROUP_ID, task.id), save(store, make_task_change()), lease(store)):
                with pytest.raises(StoreUnavailable):
                    await asked

        if loss is signal.SIGKILL:
            server.process.wait()
            server.start()
        else:
            server.process.send_signal(signal.SIGCONT)
        await eventually(lambda: store.task(GROUP_ID, task.id), task)
    finally:
        if store is not None:
            await store.close()
        server.remove()


async def test_the_servers_clock_is_told(store: Store) -> None:
    moment = await store.server_time()

    assert moment is not None
    assert abs(moment - datetime.now(UTC)) < timedelta(minutes=5)


# --- steps ---------------------------------------------------------------------------------------------------


def another_url(backend: MongoBackend) -> str:
    """Return the URL of a database that is not there yet."""
    return standin.url(f"{urlsplit(backend.url).path[1:]}_new")


async def eventually(ask: Callable[[], Awaitable[Any]], answer: Any) -> None:
    """Ask until the store can answer, for twenty seconds."""
    for _ in range(200):
        try:
            assert await ask() == answer
            return
        except StoreUnavailable:
            await asyncio.sleep(0.1)
    pytest.fail("the store did not come back")
