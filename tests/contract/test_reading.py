"""`LaneStore.read_lanes`, `lane_marks` and `webhooks_to_serve`: what an owner looks at."""

from dataclasses import astuple, replace
from datetime import timedelta

from tests.builders import (
    GROUP_ID,
    accepted,
    make_delivery,
    make_queued,
    make_task_change,
    new_id,
    refused,
)
from tests.contract.backends import Store
from tests.contract.steps import (
    EVE,
    HOUR,
    SECOND,
    add_webhook,
    edit_webhook,
    emit_one,
    ids,
    lease_one,
    read,
    read_one,
    record,
    save,
)
from tests.fakes import NOW

from gatepost.domain.webhooks import Secret
from gatepost.ports import LaneAsk

MS = timedelta(milliseconds=1)


async def test_what_is_read_is_all_that_sending_needs_to_the_last_byte(store: Store, other_store: Store) -> None:
    webhook = await add_webhook(store)
    change = make_task_change(at=NOW - MS)
    event = replace(change.event, hop=3, body=b'{"order":"of keys","is":1e2,"kept":"\\u00e9"} \xc3\xa9')
    delivery = make_delivery(event, webhook)
    await save(store, replace(change, event=event), delivery)

    lane = await read(other_store, webhook)

    assert [astuple(queued) for queued in lane.deliveries] == [astuple(make_queued(delivery, event))]


async def test_the_longest_due_are_read_first(store: Store) -> None:
    webhook = await add_webhook(store)
    third, first, second = [await emit_one(store, webhook, due_at=NOW - n * SECOND) for n in (1, 3, 2)]

    lane = await read(store, webhook)

    assert ids(lane.deliveries) == [first.id, second.id, third.id]


async def test_no_more_are_read_than_were_asked_for_of_each_lane(store: Store) -> None:
    few, many = await add_webhook(store), await add_webhook(store)
    owed = {
        webhook.id: [await emit_one(store, webhook, due_at=NOW - n * SECOND) for n in (3, 2, 1)]
        for webhook in (few, many)
    }

    lanes = await store.read_lanes({few.id: LaneAsk(1), many.id: LaneAsk(2)}, now=NOW)

    assert ids(lanes[few.id].deliveries) == ids(owed[few.id][:1])
    assert ids(lanes[many.id].deliveries) == ids(owed[many.id][:2])


async def test_only_lanes_that_were_asked_for_are_read(store: Store) -> None:
    asked, other = await add_webhook(store), await add_webhook(store)
    await emit_one(store, other)

    lanes = await store.read_lanes({asked.id: LaneAsk(10)}, now=NOW)

    assert set(lanes) == {asked.id}
    assert list(lanes[asked.id].deliveries) == []


async def test_what_is_not_due_yet_is_left_and_told_as_the_next(store: Store) -> None:
    webhook = await add_webhook(store)
    due = await emit_one(store, webhook, due_at=NOW)
    await emit_one(store, webhook, due_at=NOW + HOUR)
    later = await emit_one(store, webhook, due_at=NOW + MS)

    lane = await read(store, webhook)

    assert ids(lane.deliveries) == [due.id]
    assert lane.next_due_at == later.progress.next_attempt_at


async def test_what_was_due_beyond_the_limit_is_told_as_the_next(store: Store) -> None:
    webhook = await add_webhook(store)
    for n in (3, 2):
        await emit_one(store, webhook, due_at=NOW - n * SECOND)

    lane = await read(store, webhook, limit=1)

    assert lane.next_due_at == NOW - 2 * SECOND


async def test_with_nothing_after_what_was_read_there_is_no_next(store: Store) -> None:
    webhook = await add_webhook(store)
    empty = await read(store, webhook)
    await emit_one(store, webhook)

    full = await read(store, webhook, limit=1)

    assert (empty.next_due_at, full.next_due_at) == (None, None)


async def test_finished_deliveries_are_never_read(store: Store) -> None:
    webhook = await add_webhook(store)
    for _ in range(2):
        await emit_one(store, webhook)
    lane = await lease_one(store, webhook)
    delivered, dying = (await read(store, webhook)).deliveries
    await record(store, lane, delivered, accepted())
    for n in range(3):  # attempts of the builders' policy
        await record(store, lane, replace(dying, attempt_count=n), refused(), at=NOW + n * HOUR)

    after = await read(store, webhook, now=NOW + 1000 * HOUR)

    assert (list(after.deliveries), after.next_due_at) == ([], None)


async def test_a_failed_delivery_is_read_again_once_its_retry_is_due(store: Store) -> None:
    webhook = await add_webhook(store)
    delivery = await emit_one(store, webhook)
    lane = await lease_one(store, webhook)
    await record(store, lane, await read_one(store, webhook), refused())

    before = await read(store, webhook, now=NOW + 5 * SECOND - MS)
    after = await read(store, webhook, now=NOW + 5 * SECOND)

    assert (list(before.deliveries), before.next_due_at) == ([], NOW + 5 * SECOND)
    assert [(queued.id, queued.attempt_count) for queued in after.deliveries] == [(delivery.id, 1)]


async def test_a_read_tells_the_token_and_the_pokes_as_they_are_now(store: Store, other_store: Store) -> None:
    webhook = await add_webhook(store)
    await emit_one(store, webhook)
    mine = await lease_one(store, webhook)
    before = await read(store, webhook)
    theirs = await lease_one(other_store, webhook, EVE, now=NOW + HOUR)
    await emit_one(other_store, webhook)

    after = await read(store, webhook)

    assert (before.token, after.token) == (mine.token, theirs.token)
    assert after.pokes > before.pokes


async def test_reading_changes_nothing(store: Store) -> None:
    webhook = await add_webhook(store)
    await emit_one(store, webhook)

    first, second = await read(store, webhook), await read(store, webhook)

    assert (first.token, first.pokes, ids(first.deliveries)) == (second.token, second.pokes, ids(second.deliveries))


# --- configuration -------------------------------------------------------------------------------------------


async def test_the_version_of_each_webhook_is_told_but_of_disabled_deleted_and_unknown_ones(store: Store) -> None:
    new, edited = await add_webhook(store), await edit_webhook(store, await add_webhook(store))
    disabled = await edit_webhook(store, await add_webhook(store), enabled=False)
    deleted, other = await add_webhook(store), await add_webhook(store)
    await store.delete_webhook(GROUP_ID, deleted.id, now=NOW)

    marks = await store.lane_marks([new.id, edited.id, disabled.id, deleted.id, new_id("wh")])

    assert {webhook_id: mark.config_version for webhook_id, mark in marks.items()} == {new.id: 1, edited.id: 2}
    assert other.id not in marks


async def test_an_edit_in_another_process_shows_in_the_version_at_once(store: Store, other_store: Store) -> None:
    webhook = await add_webhook(store)
    await edit_webhook(other_store, webhook)

    assert (await store.lane_marks([webhook.id]))[webhook.id].config_version == 2


async def test_webhooks_are_served_whole_but_not_disabled_deleted_and_unknown_ones(store: Store) -> None:
    secrets = (Secret("whsec_" + "A" * 32), Secret("whsec_" + "B" * 32, expires_at=NOW + MS))
    live = await add_webhook(store, headers=(("Authorization", "Bearer abc"),), secrets=secrets)
    disabled = await edit_webhook(store, await add_webhook(store), enabled=False)
    deleted, other = await add_webhook(store), await add_webhook(store)
    await store.delete_webhook(GROUP_ID, deleted.id, now=NOW)

    served = await store.webhooks_to_serve([live.id, disabled.id, deleted.id, new_id("wh")])

    assert dict(served) == {live.id: live}
    assert other.id not in served


async def test_an_enabled_webhook_is_served_again(store: Store) -> None:
    disabled = await edit_webhook(store, await add_webhook(store), enabled=False)
    enabled = await edit_webhook(store, disabled, enabled=True)

    assert (await store.lane_marks([enabled.id]))[enabled.id].config_version == 3
    assert await store.webhooks_to_serve([enabled.id]) == {enabled.id: enabled}


async def test_asked_for_nothing_the_store_answers_nothing(store: Store) -> None:
    await emit_one(store, await add_webhook(store))

    assert await store.read_lanes({}, now=NOW) == {}
    assert await store.lane_marks([]) == {}
    assert await store.webhooks_to_serve([]) == {}
