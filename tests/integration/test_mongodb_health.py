"""What an attempt means for others, on MongoDB: wherever its recorder dies, all of that comes about once."""

from dataclasses import replace
from typing import Any

import pytest
from tests.builders import (
    GROUP_ID,
    make_disabling,
    make_operator_event,
    make_settled,
    refused,
)
from tests.contract.backends import MongoBackend, Store
from tests.contract.steps import (
    EVE,
    HOUR,
    SECOND,
    add_webhook,
    detail,
    edit_webhook,
    emit_many,
    ids,
    lease,
    lease_one,
    leased_with_one,
    read,
    record,
    record_settled,
)
from tests.fakes import NOW
from tests.integration.mongodb_rigs import documents, mongo_of
from tests.integration.taps import COLLECTIONS, Counting, Tap

from gatepost.domain.deliveries import QueuedDelivery
from gatepost.domain.errors import StoreUnavailable
from gatepost.domain.health import Condition, DisabledReason
from gatepost.domain.webhooks import Webhook
from gatepost.ports import DeliveryQuery, EventQuery, Settled

WRITES = 15  # of recording an attempt that means all there is
WEAK = Condition(streak=3, failing_since=NOW)


@pytest.fixture
async def store(mongodb: MongoBackend) -> Store:
    return await mongodb.open()


@pytest.fixture
async def other_store(mongodb: MongoBackend) -> Store:
    return await mongodb.open()


def gone(queued: QueuedDelivery, webhook: Webhook) -> Settled:
    """Return an attempt that was answered with 410, and dead-letters its delivery, and what it means for others."""
    settled = make_settled(queued, refused(410))
    given_up = make_operator_event(webhook, "delivery.dead_lettered")
    of_health = make_operator_event(webhook)
    return replace(settled, given_up=given_up, of_health=of_health, disabling=make_disabling(webhook))


async def told(store: Store, watcher: Webhook) -> list[str]:
    """Return the types of the events that a webhook was told of, and hold that each is listed once."""
    page = await store.deliveries(GROUP_ID, DeliveryQuery(webhook_id=watcher.id), limit=99, before=None)
    listed = await store.events(GROUP_ID, EventQuery(), limit=99, before=None)
    assert {each.event_id for each in page.items} <= set(ids(listed.items))
    return sorted(each.event for each in page.items)


async def webhook_of(store: Store, webhook: Webhook) -> Webhook:
    found = await store.webhook(GROUP_ID, webhook.id)
    assert found is not None
    return found


EVERYTHING = ["delivery.dead_lettered", "webhook.degraded", "webhook.disabled"]


async def test_recording_takes_as_many_writes_as_are_made_to_fail_below(store: Store) -> None:
    webhook, lane, _, queued = await leased_with_one(store)
    await add_webhook(store, events=("webhook.*", "delivery.*"))
    tap = Tap(store)

    await record_settled(store, lane, gone(queued, webhook))

    assert len(tap.written) == WRITES


@pytest.mark.parametrize("is_done_first", [False, True])
@pytest.mark.parametrize("number", range(1, WRITES + 1))
async def test_wherever_its_recorder_fails_an_attempt_recorded_again_means_all_it_does_once(
    store: Store, other_store: Store, number: int, is_done_first: bool
) -> None:
    webhook, lane, delivery, queued = await leased_with_one(store)
    watcher = await add_webhook(store, events=("webhook.*", "delivery.*"))
    settled = gone(queued, webhook)
    Tap(store).die_at(number, is_done_first=is_done_first)
    await try_to_record(store, lane, settled)

    for _ in range(2):
        assert await record_settled(other_store, lane, settled) == set()
    await other_store.sweep(now=NOW)

    found = await webhook_of(other_store, webhook)
    assert (found.enabled, found.disabled_reason, found.config_version) == (False, DisabledReason.GONE, 2)
    assert await told(other_store, watcher) == EVERYTHING
    assert (await detail(other_store, delivery)).attempts == [settled.attempt]
    assert set(await lease(other_store, EVE, now=NOW + HOUR)) == {watcher.id}
    assert len((await documents(other_store))["webhook_revisions"]) == 3


@pytest.mark.parametrize("is_done_first", [False, True])
@pytest.mark.parametrize("number", range(1, WRITES + 1))
async def test_wherever_its_recorder_dies_what_a_webhook_was_disabled_for_is_told(
    store: Store, other_store: Store, number: int, is_done_first: bool
) -> None:
    webhook, lane, delivery, queued = await leased_with_one(store)
    watcher = await add_webhook(store, events=("webhook.*", "delivery.*"))
    Tap(store).die_at(number, is_done_first=is_done_first)
    await try_to_record(store, lane, gone(queued, webhook))

    for _ in range(2):
        await other_store.sweep(now=NOW)

    events = await told(other_store, watcher)
    is_enabled = (await webhook_of(other_store, webhook)).enabled
    assert ("webhook.disabled" in events) != is_enabled
    assert len(events) == len(set(events))
    if (await detail(other_store, delivery)).attempts:
        assert events == EVERYTHING
    assert (webhook.id in await lease(other_store, EVE, now=NOW + HOUR)) == is_enabled


@pytest.mark.parametrize("means", ["given up", "of health", "gone", "probes"])
async def test_what_a_batch_means_takes_as_many_requests_however_long_it_is(store: Store, means: str) -> None:
    requests: list[str] = []
    for name in COLLECTIONS:
        setattr(mongo_of(store), name, Counting(getattr(mongo_of(store), name), requests))
    await add_webhook(store, events=("webhook.*", "delivery.*"))
    webhook = await add_webhook(store)
    await emit_many(store, webhook, 32)
    lane = await lease_one(store, webhook)
    due = (await read(store, webhook)).deliveries

    taken = []
    for batch in (due[:2], due[2:]):
        settled = [meaning(means, each, webhook) for each in batch]
        if means == "gone":
            current = await webhook_of(store, webhook)
            await edit_webhook(store, current, enabled=True)
        del requests[:]
        assert await record_settled(store, lane, *settled) == set()
        taken.append(list(requests))

    assert taken[0] == taken[1]


def meaning(means: str, queued: QueuedDelivery, webhook: Webhook) -> Settled:
    failed = make_settled(queued, refused())
    match means:
        case "given up":
            return replace(failed, given_up=make_operator_event(webhook, "delivery.dead_lettered"))
        case "of health":
            return replace(failed, of_health=make_operator_event(webhook))
        case "gone":
            return replace(failed, disabling=make_disabling(webhook))
        case _:
            return replace(failed, attempt=replace(failed.attempt, probe=True), progress=None)


async def try_to_record(store: Store, lane: Any, settled: Settled) -> None:
    """Record an attempt as far as the process lives; what fails after a commit is nobody's error."""
    try:
        await record_settled(store, lane, settled)
    except StoreUnavailable:
        return


async def test_a_webhook_edited_while_it_is_disabled_is_disabled_as_it_was_edited(
    store: Store, other_store: Store
) -> None:
    webhook, lane, _, queued = await leased_with_one(store)

    recording = record_settled(store, lane, gone(queued, webhook))
    async with Tap(store).stopped_before("webhooks.find_one_and_update", recording):
        await edit_webhook(other_store, webhook, name="Another")

    found = await webhook_of(store, webhook)
    assert (found.name, found.enabled, found.config_version) == ("Another", False, 3)


async def test_what_a_dead_recorder_had_to_tell_is_told_by_whoever_enables_the_webhook_again(
    store: Store, other_store: Store
) -> None:
    webhook, lane, _, queued = await leased_with_one(store)
    watcher = await add_webhook(store, events=("webhook.disabled",))
    disabled = replace(gone(queued, webhook), given_up=None, of_health=None)
    Tap(store).die_at(1, is_done_first=True)
    with pytest.raises(StoreUnavailable):
        await record_settled(store, lane, disabled)

    enabled = await edit_webhook(other_store, await webhook_of(other_store, webhook), enabled=True, now=NOW + SECOND)

    assert await told(other_store, watcher) == ["webhook.disabled"]
    assert await webhook_of(other_store, webhook) == enabled
    assert webhook.id in await lease(other_store, EVE, now=NOW + HOUR)


async def test_a_condition_is_not_kept_by_who_lost_the_lane_nor_over_an_enabling_meanwhile(
    store: Store, other_store: Store
) -> None:
    webhook, lane, _, queued = await leased_with_one(store)
    async with Tap(store).stopped_before(
        "lanes.bulk_write", record(store, lane, queued, refused(), condition=WEAK, held_until=NOW + HOUR)
    ):
        theirs = await lease_one(other_store, webhook, EVE, now=NOW + HOUR)
    assert (await webhook_of(store, webhook)).condition == Condition()

    queued = replace(queued, attempt_count=1)
    recording = record(other_store, theirs, queued, refused(), condition=WEAK, held_until=NOW + 9 * HOUR)
    async with Tap(other_store).stopped_before("lanes.bulk_write", recording):
        disabled = await edit_webhook(store, webhook, enabled=False)
        await edit_webhook(store, disabled, enabled=True, now=NOW + SECOND)

    assert (await webhook_of(store, webhook)).condition == Condition()
    assert set(await lease(store, now=NOW + 2 * HOUR)) == {webhook.id}
