"""`LaneStore`: what a lane remembers of its receiver, how it is probed, and when its webhook is disabled for it."""

from dataclasses import replace
from datetime import datetime

import pytest
from tests.builders import (
    GROUP_ID,
    accepted,
    make_attempt,
    make_disabling,
    make_settled,
    refused,
)
from tests.contract.backends import Store
from tests.contract.steps import (
    EVE,
    HOUR,
    SECOND,
    add_task,
    add_webhook,
    detail,
    edit_webhook,
    emit_one,
    hand_back,
    happen,
    ids,
    lease,
    lease_one,
    leased_with_one,
    read,
    record,
    record_settled,
)
from tests.fakes import NOW

from gatepost.domain.deliveries import Attempt, QueuedDelivery, Status
from gatepost.domain.health import WELL, Condition, DisabledReason, Health
from gatepost.domain.webhooks import Webhook
from gatepost.ports import EventQuery, Reading, Settled

FAILING = Condition(streak=4, failing_since=NOW - HOUR)
SUSPENDED = Condition(streak=900, failing_since=NOW - 25 * HOUR, suspended_at=NOW)
DRAINING = Condition(draining=True)
LATER = NOW + HOUR


async def test_a_new_webhook_is_well(store: Store) -> None:
    webhook, lane, *_ = await leased_with_one(store)

    assert (lane.condition, await condition_of(store, webhook)) == (WELL, WELL)


@pytest.mark.parametrize("condition", [FAILING, SUSPENDED, DRAINING])
async def test_a_condition_is_kept_for_the_next_owner_and_shown_to_people(
    store: Store, other_store: Store, condition: Condition
) -> None:
    webhook, lane, _, queued = await leased_with_one(store)

    await record(store, lane, queued, refused(), condition=condition)

    assert (await lease_one(other_store, webhook, EVE, now=LATER)).condition == condition
    assert await condition_of(other_store, webhook) == condition
    assert ids((await store.webhooks(GROUP_ID, limit=5, before=None)).items) == [webhook.id]


async def test_a_condition_ends_as_it_came(store: Store) -> None:
    webhook, lane, _, queued = await leased_with_one(store)
    await record(store, lane, queued, refused(), condition=FAILING)

    await record(store, lane, replace(queued, attempt_count=1), accepted(), condition=WELL)

    assert await condition_of(store, webhook) == WELL


async def test_a_stale_token_leaves_the_condition_as_it_is(store: Store) -> None:
    webhook, lane, _, queued = await leased_with_one(store)
    await lease_one(store, webhook, EVE, now=LATER)

    await record(store, lane, queued, refused(), condition=SUSPENDED, held_until=NOW + 9 * HOUR)

    assert await condition_of(store, webhook) == WELL
    assert set(await lease(store, now=NOW + 2 * HOUR)) == {webhook.id}


# --- held ----------------------------------------------------------------------------------------------------


async def test_a_held_lane_is_leased_when_that_is_over_and_not_before(store: Store, other_store: Store) -> None:
    webhook, lane, _, queued = await leased_with_one(store)
    await record(store, lane, queued, refused(), condition=SUSPENDED, held_until=LATER)
    assert await hand_back(store, lane)

    before = await lease(other_store, EVE, now=LATER - SECOND)
    after = await lease(other_store, EVE, now=LATER)

    assert (set(before), set(after)) == (set(), {webhook.id})


async def test_a_lane_that_is_held_no_longer_is_leased_again(store: Store) -> None:
    webhook, lane, _, queued = await leased_with_one(store)
    await record(store, lane, queued, refused(), condition=SUSPENDED, held_until=LATER)

    await record(store, lane, replace(queued, attempt_count=1), refused(), condition=FAILING)
    await hand_back(store, lane)

    assert set(await lease(store, EVE, now=NOW + SECOND)) == {webhook.id}


async def test_the_sweep_leaves_held_lanes_alone(store: Store) -> None:
    _, lane, _, queued = await leased_with_one(store)
    await record(store, lane, queued, refused(), condition=SUSPENDED, held_until=LATER)
    await hand_back(store, lane)

    assert await store.sweep(now=LATER - SECOND) == 0


async def test_an_edit_leaves_a_suspended_webhook_suspended_and_held(store: Store) -> None:
    webhook, lane, _, queued = await leased_with_one(store)
    await record(store, lane, queued, refused(), condition=SUSPENDED, held_until=LATER)
    await hand_back(store, lane)

    await edit_webhook(store, webhook, name="Another name")

    assert await condition_of(store, webhook) == SUSPENDED
    assert set(await lease(store, now=LATER - SECOND)) == set()
    assert set(await lease(store, now=LATER)) == {webhook.id}


# --- enabled again -------------------------------------------------------------------------------------------


async def test_enabled_again_a_webhook_is_well_and_served_at_once(store: Store) -> None:
    webhook, lane, _, queued = await leased_with_one(store)
    await record(store, lane, queued, refused(), condition=SUSPENDED, held_until=LATER)
    await hand_back(store, lane)

    enabled = await disable_and_enable(store, webhook, at=NOW + SECOND)

    assert (enabled.health, await condition_of(store, webhook)) == (Health.HEALTHY, WELL)
    assert (await lease_one(store, webhook, now=NOW + SECOND)).condition == WELL


async def test_a_condition_from_before_it_was_enabled_is_not_kept(store: Store) -> None:
    webhook, lane, _, queued = await leased_with_one(store)
    await disable_and_enable(store, webhook, at=NOW + SECOND)

    lost = await record(store, lane, queued, refused(), condition=SUSPENDED, held_until=LATER, window=3)

    assert lost == set()
    assert await condition_of(store, webhook) == WELL
    await hand_back(store, lane)
    assert (await lease_one(store, webhook, now=NOW + 2 * SECOND)).window == 3


async def test_a_condition_from_after_it_was_enabled_is_kept(store: Store) -> None:
    webhook, lane, _, queued = await leased_with_one(store)
    enabled = await disable_and_enable(store, webhook, at=NOW + SECOND)

    await record(store, lane, queued, refused(), condition=FAILING, enabled_at=enabled.enabled_at)

    assert await condition_of(store, webhook) == FAILING


async def test_recording_sets_the_lane_of_a_disabled_webhook_not_free(store: Store) -> None:
    webhook, lane, delivery, queued = await leased_with_one(store)
    await edit_webhook(store, webhook, enabled=False)

    await record(store, lane, queued, refused(), condition=FAILING, held_until=LATER)
    await hand_back(store, lane)

    assert (await detail(store, delivery)).delivery.progress.status is Status.FAILED
    assert set(await lease(store, now=NOW + 1000 * HOUR)) == set()


# --- probes --------------------------------------------------------------------------------------------------


async def test_failed_probes_are_kept_beside_the_attempts_and_move_nothing(store: Store, other_store: Store) -> None:
    _, lane, delivery, queued = await leased_with_one(store)
    await record(store, lane, queued, refused())
    before = await detail(store, delivery)
    probes = [probe_of(queued, number=2, at=NOW + n * SECOND) for n in (1, 2, 3)]

    for each in probes:
        await record_settled(store, lane, each)
        await record_settled(other_store, lane, each)  # its answer got lost, say

    found = await detail(store, delivery)
    assert found.delivery == before.delivery
    assert list(found.attempts) == [*before.attempts, *(each.attempt for each in probes)]


async def test_of_many_failed_probes_the_newest_twenty_are_kept(store: Store) -> None:
    _, lane, delivery, queued = await leased_with_one(store)
    probes = [probe_of(queued, number=1, at=NOW + n * SECOND) for n in range(25)]

    for each in probes:
        for _ in range(2):
            await record_settled(store, lane, each)

    found = await detail(store, delivery)
    assert (found.delivery, list(found.attempts)) == (delivery, [each.attempt for each in probes[5:]])


async def test_a_probe_that_got_through_delivers(store: Store) -> None:
    _, lane, delivery, queued = await leased_with_one(store)
    await record_settled(store, lane, probe_of(queued, number=1, at=NOW))
    through = make_settled(queued, accepted(), at=NOW + SECOND)
    through = replace(through, attempt=replace(through.attempt, probe=True))

    await record_settled(store, lane, through)

    found = await detail(store, delivery)
    assert found.delivery.progress == through.progress
    assert [(each.number, each.probe) for each in found.attempts] == [(1, True), (1, True)]


async def test_after_failed_probes_the_next_attempt_is_kept_as_ever(store: Store) -> None:
    _, lane, delivery, queued = await leased_with_one(store)
    await record_settled(store, lane, probe_of(queued, number=1, at=NOW))

    await record(store, lane, queued, refused(), at=NOW + SECOND)

    found = await detail(store, delivery)
    assert (found.delivery.progress.attempt_count, len(found.attempts)) == (1, 2)


async def test_probes_are_what_has_been_due_longest_or_will_be_first(store: Store) -> None:
    webhook, lane, failed, queued = await leased_with_one(store)
    await record(store, lane, queued, refused())
    due, overdue = [await emit_one(store, webhook, due_at=NOW - n * SECOND) for n in (1, 2)]

    some = await read(store, webhook, reading=Reading.PROBE, limit=2)
    probes = await read(store, webhook, reading=Reading.PROBE)

    assert ids(some.deliveries)[:2] == [overdue.id, due.id]
    assert [(each.id, each.attempt_count) for each in probes.deliveries] == [
        (overdue.id, 0),
        (due.id, 0),
        (failed.id, 1),
    ]


async def test_probes_keep_to_the_order_of_their_task(store: Store) -> None:
    webhook = await add_webhook(store)
    first, second = await happen(store, webhook, await add_task(store), times=2)
    lane = await lease_one(store, webhook)
    [queued] = (await read(store, webhook, reading=Reading.IN_ORDER)).deliveries
    failed = make_settled(queued, refused())
    asked = replace(failed.progress, next_attempt_at=LATER, not_before=LATER - SECOND)
    await record_settled(store, lane, replace(failed, progress=asked))

    waiting = await read(store, webhook, now=LATER - 2 * SECOND, reading=Reading.PROBE_IN_ORDER)
    free = await read(store, webhook, now=LATER - SECOND, reading=Reading.PROBE_IN_ORDER)

    assert (ids(waiting.deliveries), ids(free.deliveries)) == ([], [first.id])
    assert second.id not in ids(free.deliveries)


async def test_no_probe_comes_before_what_its_receiver_asked_for(store: Store) -> None:
    webhook, lane, first, queued = await leased_with_one(store)
    second = await emit_one(store, webhook, due_at=LATER)
    failed = make_settled(queued, refused())
    asked = replace(failed.progress, next_attempt_at=LATER, not_before=LATER)
    await record_settled(store, lane, replace(failed, progress=asked))

    before = await read(store, webhook, now=LATER - SECOND, reading=Reading.PROBE)
    after = await read(store, webhook, now=LATER, reading=Reading.PROBE)

    assert (ids(before.deliveries), set(ids(after.deliveries))) == ([second.id], {first.id, second.id})
    assert (await detail(store, first)).delivery.progress == asked


async def test_with_nothing_unfinished_there_is_nothing_to_probe_with(store: Store) -> None:
    webhook, lane, _, queued = await leased_with_one(store)
    await record(store, lane, queued, accepted())

    probed = await read(store, webhook, reading=Reading.PROBE)

    assert (list(probed.deliveries), probed.next_due_at) == ([], None)


# --- disabled for it -----------------------------------------------------------------------------------------


async def test_a_webhook_is_disabled_with_the_attempt_that_is_the_reason(store: Store, other_store: Store) -> None:
    webhook, lane, delivery, queued = await leased_with_one(store)
    gone = make_gone(webhook, queued)

    lost = await record_settled(store, lane, gone)

    disabled = await other_store.webhook(GROUP_ID, webhook.id)
    assert lost == set()
    assert disabled is not None
    assert (disabled.enabled, disabled.disabled_reason) == (False, DisabledReason.GONE)
    assert (disabled.health, disabled.config_version) == (Health.DISABLED, 2)
    assert list((await detail(store, delivery)).attempts) == [gone.attempt]


async def test_what_its_receiver_had_come_to_is_kept_of_a_disabled_webhook_too(store: Store) -> None:
    webhook, lane, _, queued = await leased_with_one(store)
    await record_settled(store, lane, make_gone(webhook, queued), condition=FAILING)
    assert await condition_of(store, webhook) == FAILING

    await record(store, lane, replace(queued, attempt_count=1), refused(), condition=SUSPENDED, held_until=LATER)

    assert await condition_of(store, webhook) == SUSPENDED
    await hand_back(store, lane)
    assert set(await lease(store, EVE, now=NOW + 1000 * HOUR)) == set()


async def test_nothing_more_goes_to_a_webhook_that_was_disabled(store: Store) -> None:
    webhook, lane, _, queued = await leased_with_one(store)
    matched = await store.subscriptions(GROUP_ID)
    await record_settled(store, lane, make_gone(webhook, queued))
    await hand_back(store, lane)

    subscriptions = await store.subscriptions(GROUP_ID)

    assert [each.enabled for each in subscriptions.items] == [False]
    assert subscriptions.version > matched.version
    assert await store.webhooks_to_serve([webhook.id]) == {}
    assert await store.lane_marks([webhook.id]) == {}
    assert set(await lease(store, EVE, now=NOW + 1000 * HOUR)) == set()


async def test_what_it_is_still_owed_waits_until_it_is_enabled_again(store: Store) -> None:
    webhook, lane, _, queued = await leased_with_one(store)
    waiting = await emit_one(store, webhook)
    await record_settled(store, lane, make_gone(webhook, queued))
    await hand_back(store, lane)
    disabled = await store.webhook(GROUP_ID, webhook.id)
    assert disabled is not None

    await edit_webhook(store, disabled, now=LATER, enabled=True)

    assert set(await lease(store, EVE, now=LATER)) == {webhook.id}
    assert waiting.id in ids((await read(store, webhook, now=LATER)).deliveries)


async def test_no_attempt_from_before_disables_a_webhook_that_was_enabled_again(store: Store) -> None:
    webhook, lane, delivery, queued = await leased_with_one(store)
    await disable_and_enable(store, webhook, at=NOW + SECOND)

    await record_settled(store, lane, make_gone(webhook, queued))

    now = await store.webhook(GROUP_ID, webhook.id)
    assert now is not None
    assert (now.enabled, now.config_version) == (True, 3)
    assert len((await detail(store, delivery)).attempts) == 1
    assert await told(store, "webhook.disabled") == 0


async def test_a_webhook_that_is_disabled_already_is_not_disabled_again(store: Store) -> None:
    webhook, lane, _, queued = await leased_with_one(store)
    await edit_webhook(store, webhook, enabled=False)

    await record_settled(store, lane, make_gone(webhook, queued))

    now = await store.webhook(GROUP_ID, webhook.id)
    assert now is not None
    assert (now.disabled_reason, now.config_version) == (DisabledReason.ADMIN, 2)
    assert await told(store, "webhook.disabled") == 0


async def test_a_deleted_webhook_is_not_disabled(store: Store) -> None:
    webhook, lane, delivery, queued = await leased_with_one(store)
    await store.delete_webhook(GROUP_ID, webhook.id, now=NOW)

    await record_settled(store, lane, make_gone(webhook, queued))

    assert len((await detail(store, delivery)).attempts) == 1
    assert await told(store, "webhook.disabled") == 0


async def test_a_webhook_is_disabled_once_however_often_that_is_recorded(store: Store, other_store: Store) -> None:
    webhook, lane, _, queued = await leased_with_one(store)
    gone = make_gone(webhook, queued)

    for handle in (store, other_store):
        await record_settled(handle, lane, gone)

    now = await store.webhook(GROUP_ID, webhook.id)
    assert now is not None
    assert now.config_version == 2
    assert await told(store, "webhook.disabled") == 1


async def test_two_attempts_that_are_the_reason_disable_it_once(store: Store) -> None:
    webhook, lane, *_ = await leased_with_one(store)
    await emit_one(store, webhook)
    queued = (await read(store, webhook)).deliveries

    await record_settled(store, lane, *(make_gone(webhook, each) for each in queued))

    now = await store.webhook(GROUP_ID, webhook.id)
    assert now is not None
    assert (len(queued), now.config_version) == (2, 2)
    assert await told(store, "webhook.disabled") == 1


async def test_a_stale_token_disables_nothing(store: Store) -> None:
    webhook, lane, _, queued = await leased_with_one(store)
    await lease_one(store, webhook, EVE, now=LATER)

    await record_settled(store, lane, make_gone(webhook, queued))

    now = await store.webhook(GROUP_ID, webhook.id)
    assert now is not None
    assert now.enabled
    assert await told(store, "webhook.disabled") == 0


# --- steps ---------------------------------------------------------------------------------------------------


async def condition_of(store: Store, webhook: Webhook) -> Condition:
    """Return the condition that people are shown, with a webhook alone and in the list."""
    alone = await store.webhook(webhook.group_id, webhook.id)
    listed = (await store.webhooks(webhook.group_id, limit=100, before=None)).items
    assert alone is not None
    assert [each.condition for each in listed if each.id == webhook.id] == [alone.condition]
    return alone.condition


async def disable_and_enable(store: Store, webhook: Webhook, *, at: datetime) -> Webhook:
    disabled = await edit_webhook(store, webhook, now=at, enabled=False)
    return await edit_webhook(store, disabled, now=at, enabled=True)


async def told(store: Store, event: str) -> int:
    return len((await store.events(GROUP_ID, EventQuery(event=event), limit=9, before=None)).items)


def make_gone(webhook: Webhook, queued: QueuedDelivery) -> Settled:
    """Return an attempt that was answered with 410."""
    return make_settled(queued, refused(410), disabling=make_disabling(webhook))


def probe_of(queued: QueuedDelivery, *, number: int, at: datetime) -> Settled:
    """Return a probe that failed."""
    attempt: Attempt = make_attempt(number, outcome=refused(), started_at=at, probe=True)
    return Settled(queued, attempt, progress=None)
