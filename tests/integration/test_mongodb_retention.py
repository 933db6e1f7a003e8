"""On MongoDB nothing that somebody needs is let go of, whoever dies or comes in between, and nothing is counted twice.

Each race is made, not waited for: a `Tap` stops one store just before a write, or lets its process die there.
"""

from datetime import timedelta

import pytest
from tests.builders import GROUP_ID, accepted, make_delivery, make_event, make_group, make_settled, new_id, refused
from tests.contract.backends import MongoBackend, Store
from tests.contract.steps import (
    EVE,
    HOUR,
    SECOND,
    add_webhook,
    detail,
    emit_many,
    emit_one,
    ids,
    lease_one,
    leased_with_one,
    publish,
    read,
    read_one,
    record,
    record_settled,
)
from tests.fakes import NOW
from tests.integration.mongodb_rigs import documents, mongo_of
from tests.integration.taps import Broken, Tap

from gatepost.domain.deliveries import Delivery, Status, replayed
from gatepost.domain.errors import StoreUnavailable
from gatepost.domain.outcomes import response_of
from gatepost.domain.retention import Kept
from gatepost.domain.stats import BUCKET, start_of_bucket
from gatepost.domain.webhooks import Webhook
from gatepost.ports import DeliveryQuery, Reading, Saved, StatsQuery

LATER = NOW + SECOND
MODULE = "gatepost.adapters.storage.mongo_retention"
LETTING_GO = ["events.update_many", "events.delete_many"]
REPLAYING = ["deliveries.insert_many", "events.update_many", "lanes.bulk_write"]
RECORDING = ["deliveries.bulk_write", "stats.bulk_write"]


@pytest.fixture
async def store(mongodb: MongoBackend) -> Store:
    return await mongodb.open()


@pytest.fixture
async def other_store(mongodb: MongoBackend) -> Store:
    return await mongodb.open()


# --- events and their deliveries -----------------------------------------------------------------------------


@pytest.mark.parametrize("write", LETTING_GO)
async def test_an_event_that_is_replayed_while_it_is_let_go_of_stays(
    store: Store, other_store: Store, write: str
) -> None:
    webhook, replay = await old_event(store)

    async with Tap(store).stopped_before(write, purge(store, Kept.EVENTS)) as purging:
        assert await other_store.add_replay(GROUP_ID, replay) is Saved.DONE

    assert purging.result() == 0
    assert (await read_one(store, webhook)).id == replay.id


@pytest.mark.parametrize("write", REPLAYING[:2])
async def test_a_replay_whose_event_is_let_go_of_in_the_middle_is_refused_and_leaves_nothing(
    store: Store, other_store: Store, mongodb: MongoBackend, write: str
) -> None:
    webhook, replay = await old_event(store)

    async with Tap(store).stopped_before(write, store.add_replay(GROUP_ID, replay)) as replaying:
        if write == "deliveries.insert_many":
            assert await purge(other_store, Kept.EVENTS) == 1
        else:  # it would have been seen: this is of one who looked before it was inserted
            await mongodb.lose_event(GROUP_ID, replay.event_id)

    assert replaying.result() is Saved.STALE
    assert (await read(store, webhook)).deliveries == []
    assert (await documents(store))["deliveries"] == []


@pytest.mark.parametrize("is_read_first", [False, True])
async def test_a_replay_left_without_its_event_is_withdrawn_by_who_reads_its_lane_or_repeats_it(
    store: Store, other_store: Store, mongodb: MongoBackend, is_read_first: bool
) -> None:
    webhook, replay = await old_event(store)
    async with Tap(other_store).stopped_before("events.delete_many", purge(other_store, Kept.EVENTS)) as purging:
        Tap(store).die_at(1, is_done_first=True)
        with pytest.raises(StoreUnavailable):
            await store.add_replay(GROUP_ID, replay)
    assert purging.result() == 1
    third_store = await mongodb.open()
    assert [each["id"] for each in (await documents(third_store))["deliveries"]] == [replay.id]

    if is_read_first:
        assert (await read(third_store, webhook)).deliveries == []
        assert (await documents(third_store))["deliveries"] == []

    assert await third_store.add_replay(GROUP_ID, replay) is Saved.STALE
    assert (await documents(third_store))["deliveries"] == []


@pytest.mark.parametrize("reading", [*Reading])
async def test_what_has_lost_its_event_holds_up_nothing(store: Store, mongodb: MongoBackend, reading: Reading) -> None:
    webhook = await add_webhook(store)
    lost, kept = [await emit_one(store, webhook) for _ in range(2)]
    await mongodb.lose_event(GROUP_ID, lost.event_id)

    lane = await read(store, webhook, limit=1, reading=reading)

    assert ids(lane.deliveries) == [kept.id]


async def test_a_replay_that_was_sent_before_its_event_went_was_added(store: Store, mongodb: MongoBackend) -> None:
    webhook, replay = await old_event(store)
    assert await store.add_replay(GROUP_ID, replay) is Saved.DONE
    await record(store, await lease_one(store, webhook), await read_one(store, webhook), accepted())
    await mongodb.lose_event(GROUP_ID, replay.event_id)

    assert await store.add_replay(GROUP_ID, replay) is Saved.DONE
    assert (await detail(store, replay)).delivery.progress.status is Status.DELIVERED


async def test_an_event_that_is_replayed_is_not_let_go_of_by_who_looked_before(
    store: Store, other_store: Store, mongodb: MongoBackend
) -> None:
    webhook, replay = await old_event(store)
    third_store = await mongodb.open()

    # The second marks it anew, and then sees the replay. The first goes on after that: the stamp is not its own.
    async with (
        Tap(store).stopped_before("events.delete_many", purge(store, Kept.EVENTS)) as first,
        Tap(other_store).stopped_before("events.update_many", purge(other_store, Kept.EVENTS)) as second,
    ):
        assert await third_store.add_replay(GROUP_ID, replay) is Saved.DONE

    assert (first.result(), second.result()) == (0, 0)
    assert (await read_one(store, webhook)).id == replay.id


async def test_an_event_whose_deliveries_are_still_to_be_passed_on_stays(store: Store) -> None:
    webhook = await add_webhook(store)
    event = make_event(event="order.paid", tasks=())
    mongo = mongo_of(store)
    real, mongo.deliveries = mongo.deliveries, Broken(mongo.deliveries)
    await publish(store, event, make_delivery(event, webhook))
    mongo.deliveries = real

    assert await purge(store, Kept.EVENTS) == 0

    await store.sweep(now=NOW)
    assert (await read_one(store, webhook)).event_id == event.id


async def test_the_deliveries_of_one_event_may_be_many(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{MODULE}._FOUND_AT_ONCE", 2)
    webhooks = [await add_webhook(store) for _ in range(3)]
    wanted, alone, unwanted = [make_event(event="order.paid", tasks=()) for _ in range(3)]
    await publish(store, wanted, *(make_delivery(wanted, each) for each in webhooks))
    await publish(store, alone, make_delivery(alone, webhooks[0]))
    await publish(store, unwanted)

    assert await purge(store, Kept.EVENTS) == 1

    assert sorted(each["id"] for each in (await documents(store))["events"]) == sorted([wanted.id, alone.id])


async def test_events_are_looked_for_in_a_few_groups_at_a_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{MODULE}._GROUPS_AT_ONCE", 1)
    groups = [make_group(name=f"group {number}") for number in range(3)]
    for group in groups:
        await store.add_group(group)
    await publish(store, make_event(group_id=groups[1].id))

    assert await purge(store, Kept.EVENTS) == 1


# --- steps that are broken off -------------------------------------------------------------------------------


@pytest.mark.parametrize("is_done_first", [False, True])
@pytest.mark.parametrize("number", [1, 2, 3, 4])
async def test_wherever_its_process_dies_a_purge_is_finished_by_the_next(
    store: Store, other_store: Store, number: int, is_done_first: bool
) -> None:
    webhook, lane, _, queued = await leased_with_one(store)
    await record(store, lane, queued, accepted())
    tap = Tap(store)
    tap.die_at(number, is_done_first=is_done_first)

    with pytest.raises(StoreUnavailable):
        await purge_all(store)
    await purge_all(other_store)

    assert tap.written == ["deliveries.bulk_write", "deliveries.delete_many", *LETTING_GO][:number]
    found = await documents(other_store)
    assert (found["deliveries"], found["events"]) == ([], [])
    assert await other_store.webhook(GROUP_ID, webhook.id) is not None


async def test_what_is_looked_at_in_vain_does_not_end_a_purge(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{MODULE}._LOOKED_AT_AT_ONCE", 2)
    webhook = await add_webhook(store)
    await emit_many(store, webhook, 5)
    lane = await lease_one(store, webhook)
    due = sorted((await read(store, webhook)).deliveries, key=lambda each: each.id)
    await record(store, lane, due[-1], accepted())

    assert await purge(store, Kept.BODIES) == 1
    assert await purge(store, Kept.DELIVERIES) == 1

    listed = await store.deliveries(GROUP_ID, DeliveryQuery(), limit=9, before=None)
    assert {each.id for each in listed.items} == {each.id for each in due[:-1]}


async def test_what_is_delivered_after_all_in_the_middle_of_a_purge_stays(store: Store, other_store: Store) -> None:
    webhook, lane, delivery, queued = await leased_with_one(store)
    assert await store.discard_backlog(GROUP_ID, webhook.id, now=NOW) == 1

    async with Tap(store).stopped_before("deliveries.delete_many", purge(store, Kept.DEAD_LETTERS)):
        await record(other_store, lane, queued, accepted(), at=LATER)

    [attempt] = (await detail(store, delivery)).attempts
    response = response_of(attempt.outcome)
    assert response is not None
    assert response.status_code == 200


# --- counting ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_done_first", [False, True])
@pytest.mark.parametrize("number", [1, 2])
async def test_wherever_its_process_dies_an_attempt_is_counted_once_at_most(
    store: Store, other_store: Store, number: int, is_done_first: bool
) -> None:
    _, lane, _, queued = await leased_with_one(store)
    tap = Tap(store)
    tap.die_at(number, is_done_first=is_done_first)

    if number == 1:
        with pytest.raises(StoreUnavailable):
            await record(store, lane, queued, accepted())
    else:  # it is recorded, whether it is counted or not
        assert await record(store, lane, queued, accepted()) == set()
    await record(other_store, lane, queued, accepted())

    assert tap.written[:number] == RECORDING[:number]
    assert await counted(other_store) == (1 if (number, is_done_first) in [(1, False), (2, True)] else 0)


async def test_of_a_batch_only_what_it_has_moved_is_counted(store: Store, other_store: Store) -> None:
    webhook = await add_webhook(store)
    await emit_many(store, webhook, 3)
    lane = await lease_one(store, webhook)
    due = (await read(store, webhook)).deliveries

    async with Tap(store).stopped_before(
        "deliveries.bulk_write", record_settled(store, lane, *(make_settled(each) for each in due))
    ):
        await record(other_store, lane, due[1], accepted())

    assert await counted(store) == 3


async def test_what_is_written_beside_an_outcome_that_cannot_be_is_counted_once(store: Store) -> None:
    webhook = await add_webhook(store)
    await emit_many(store, webhook, 2)
    lane = await lease_one(store, webhook)
    good, bad = (await read(store, webhook)).deliveries
    unstorable = make_settled(bad, refused(headers=(("x", "\ud800"),)))

    await record_settled(store, lane, make_settled(good), unstorable)

    assert await counted(store) == 2


async def test_a_lane_taken_over_in_the_middle_counts_what_was_sent(store: Store, other_store: Store) -> None:
    webhook, lane, _, queued = await leased_with_one(store)
    before = Tap(store).stopped_before("deliveries.bulk_write", record(store, lane, queued, refused()))

    async with before:
        theirs = await lease_one(other_store, webhook, EVE, now=NOW + HOUR)
        await record(other_store, theirs, queued, accepted())

    assert await counted(store) == 1


# --- steps ---------------------------------------------------------------------------------------------------


async def old_event(store: Store) -> tuple[Webhook, Delivery]:
    """Return a webhook, and a replay for it of an event that no delivery is left of."""
    webhook = await add_webhook(store)
    event = make_event()
    await publish(store, event)
    original = make_delivery(event, webhook)
    return webhook, replayed(original, new_id("dlv"), max_attempts=3, now=NOW)


async def purge(store: Store, kept: Kept) -> int:
    """Purge to the end, and return how many rows that took."""
    rows, after = 0, ""
    while True:
        step = await store.purge(kept, before=LATER, after=after)
        rows += step.purged
        if step.go_on_after is None:
            return rows
        after = step.go_on_after


async def purge_all(store: Store) -> None:
    for kept in (Kept.BODIES, Kept.DELIVERIES, Kept.EVENTS):
        await purge(store, kept)


async def counted(store: Store) -> int:
    start = start_of_bucket(NOW, HOUR) - HOUR
    asked = StatsQuery(start, start + timedelta(hours=3), BUCKET)
    page = await store.stats(GROUP_ID, asked, limit=50, most_read=1000, before=None)
    return sum(sum(each.tally.latencies) for each in page.items)
