"""`DeliveryLog.discard_backlog`: what a webhook is still owed is given up, because somebody says so."""

import asyncio

import pytest
from tests.builders import GROUP_ID, accepted, make_group, make_settled, new_id, refused
from tests.contract.backends import Store
from tests.contract.steps import (
    HOUR,
    SECOND,
    add_webhook,
    detail,
    emit_many,
    emit_one,
    lease_one,
    leased_with_one,
    read,
    record,
    record_settled,
)
from tests.fakes import NOW

from gatepost.domain.deliveries import DeadReason, Status
from gatepost.domain.outcomes import ErrorClass, Unreachable
from gatepost.domain.webhooks import Webhook
from gatepost.ports import DeliveryQuery

LATER = NOW + HOUR
DEAD = DeliveryQuery(status=Status.DEAD_LETTER)


async def test_all_that_a_webhook_is_owed_becomes_dead_as_discarded(store: Store, other_store: Store) -> None:
    webhook, lane, failed, queued = await leased_with_one(store)
    await record(store, lane, queued, refused(headers=(("Retry-After", "3600"),)))
    waiting = await emit_one(store, webhook, due_at=LATER)

    discarded = await other_store.discard_backlog(GROUP_ID, webhook.id, now=LATER)

    assert discarded == 2
    for delivery, count in ((failed, 1), (waiting, 0)):
        progress = (await detail(store, delivery)).delivery.progress
        assert (progress.status, progress.dead_reason) == (Status.DEAD_LETTER, DeadReason.DISCARDED)
        assert (progress.attempt_count, progress.next_attempt_at, progress.finished_at) == (count, None, LATER)
        assert progress.not_before is None
    assert list((await read(store, webhook, now=NOW + 1000 * HOUR)).deliveries) == []


async def test_others_keep_what_they_are_owed_and_what_is_finished_stays(store: Store) -> None:
    webhook, lane, delivered, queued = await leased_with_one(store)
    await record(store, lane, queued, accepted())
    other = await emit_one(store, await add_webhook(store))

    assert await store.discard_backlog(GROUP_ID, webhook.id, now=NOW) == 0
    assert (await detail(store, delivered)).delivery.progress.status is Status.DELIVERED
    assert (await detail(store, other)).delivery.progress.status is Status.QUEUED


async def test_what_comes_in_after_it_was_asked_for_is_left(store: Store) -> None:
    webhook = await add_webhook(store)
    await emit_one(store, webhook)
    late = await emit_one(store, webhook, at=NOW + SECOND)

    assert await store.discard_backlog(GROUP_ID, webhook.id, now=NOW) == 1
    assert (await detail(store, late)).delivery.progress.status is Status.QUEUED


async def test_the_version_of_the_webhook_rises_so_that_owners_look_again(store: Store) -> None:
    webhook, *_ = await leased_with_one(store)

    await store.discard_backlog(GROUP_ID, webhook.id, now=NOW)

    assert (await version_of(store, webhook)) > webhook.config_version


async def test_a_backlog_of_any_size_is_discarded_whole_and_what_is_read_meanwhile_is_of_a_version_from_before(
    store: Store, other_store: Store
) -> None:
    webhook = await add_webhook(store)
    await emit_many(store, webhook, 1_001)
    discarding = asyncio.create_task(store.discard_backlog(GROUP_ID, webhook.id, now=NOW))

    last_read_at = webhook.config_version
    while not discarding.done():
        version = await version_of(other_store, webhook)
        if (await read(other_store, webhook, limit=1)).deliveries:
            last_read_at = version

    assert await discarding == 1_001
    assert (await read(store, webhook)).next_due_at is None
    assert last_read_at < await version_of(store, webhook)


async def test_the_webhook_of_another_group_keeps_its_backlog(store: Store) -> None:
    other = make_group(name="Another shift")
    await store.add_group(other)
    webhook = await add_webhook(store)
    delivery = await emit_one(store, webhook)

    assert await store.discard_backlog(other.id, webhook.id, now=NOW) == 0
    assert await store.discard_backlog(GROUP_ID, new_id("wh"), now=NOW) == 0
    assert (await detail(store, delivery)).delivery.progress.status is Status.QUEUED
    assert await version_of(store, webhook) == webhook.config_version


async def test_what_was_under_way_and_is_accepted_is_delivered_after_all(store: Store) -> None:
    webhook, lane, delivery, queued = await leased_with_one(store)
    await store.discard_backlog(GROUP_ID, webhook.id, now=NOW)
    settled = make_settled(queued, accepted(), at=NOW + SECOND)

    for _ in range(2):
        assert await record_settled(store, lane, settled) == set()

    found = await detail(store, delivery)
    assert found.delivery.progress == settled.progress
    assert list(found.attempts) == [settled.attempt]
    assert list((await store.deliveries(GROUP_ID, DEAD, limit=9, before=None)).items) == []


async def test_what_was_under_way_and_fails_stays_discarded(store: Store) -> None:
    webhook, lane, delivery, queued = await leased_with_one(store)
    await store.discard_backlog(GROUP_ID, webhook.id, now=NOW)
    discarded = await detail(store, delivery)

    lost = await record(store, lane, queued, refused(), at=NOW + SECOND)

    assert lost == set()
    assert await detail(store, delivery) == discarded


@pytest.mark.parametrize("accept", [True, False])
async def test_so_it_is_with_an_attempt_that_was_written_ahead(store: Store, accept: bool) -> None:
    webhook, lane, delivery, queued = await leased_with_one(store)
    await record(store, lane, queued, Unreachable(ErrorClass.INTERNAL_ERROR, "process died"))
    await store.discard_backlog(GROUP_ID, webhook.id, now=NOW)
    discarded = await detail(store, delivery)
    amended = make_settled(queued, accepted() if accept else refused(), amends=True)

    await record_settled(store, lane, amended)

    found = await detail(store, delivery)
    assert found.delivery.progress == (amended.progress if accept else discarded.delivery.progress)
    assert len(found.attempts) == 1


async def test_what_was_discarded_is_not_sent_by_the_next_owner(store: Store) -> None:
    webhook = await add_webhook(store)
    await emit_one(store, webhook)
    await store.discard_backlog(GROUP_ID, webhook.id, now=NOW)

    await lease_one(store, webhook)

    assert list((await read(store, webhook)).deliveries) == []


async def version_of(store: Store, webhook: Webhook) -> int:
    """Return the version that owners go by."""
    return (await store.lane_marks([webhook.id]))[webhook.id].config_version
