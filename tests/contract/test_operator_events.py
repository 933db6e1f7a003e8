"""`LaneStore.record_attempts`: what it tells of receivers that fail, and of deliveries that were given up."""

from tests.builders import (
    GROUP_ID,
    POLICY,
    accepted,
    make_group,
    make_operator_event,
    make_settled,
    refused,
)
from tests.contract.backends import Store
from tests.contract.steps import (
    EVE,
    HOUR,
    add_webhook,
    detail,
    edit_webhook,
    emit_one,
    give_back,
    ids,
    lease_one,
    leased_with_one,
    read,
    read_one,
    record_settled,
    taking,
)
from tests.fakes import NOW

from gatepost.domain.deliveries import Delivery, QueuedDelivery
from gatepost.domain.events import Event
from gatepost.ports import DeliveryQuery, EventQuery, Settled


async def test_an_operator_event_is_owed_to_those_who_ask_for_it_by_name(store: Store, other_store: Store) -> None:
    webhook, lane, _, queued = await leased_with_one(store)
    by_name = await add_webhook(store, events=("webhook.degraded",))
    by_family = await add_webhook(store, events=("webhook.*", "task.*"))
    for events in (("*",), ("delivery.*",), ("webhook.suspended",)):
        await add_webhook(store, events=events)
    event = make_operator_event(webhook)

    await record_settled(store, lane, telling(queued, event))

    owed = await owed_for(other_store, event)
    assert {each.webhook_id for each in owed} == {by_name.id, by_family.id}
    for delivery in owed:
        assert (await detail(other_store, delivery)).event == event


async def test_never_to_the_webhook_that_it_is_about(store: Store) -> None:
    webhook = await add_webhook(store, events=("*", "webhook.*"))
    await emit_one(store, webhook)
    lane = await lease_one(store, webhook)
    event = make_operator_event(webhook)

    await record_settled(store, lane, telling(await read_one(store, webhook), event))

    assert await owed_for(store, event) == []
    assert await events_told(store) == [event]


async def test_it_is_owed_to_nobody_who_is_disabled_deleted_or_of_another_group(store: Store) -> None:
    webhook, lane, _, queued = await leased_with_one(store)
    other_group = make_group(name="Another shift")
    await store.add_group(other_group)
    await add_webhook(store, other_group.id, events=("webhook.*",))
    await edit_webhook(store, await add_webhook(store, events=("webhook.*",)), enabled=False)
    deleted = await add_webhook(store, events=("webhook.*",))
    await store.delete_webhook(GROUP_ID, deleted.id, now=NOW)
    event = make_operator_event(webhook)

    await record_settled(store, lane, telling(queued, event))

    assert await owed_for(store, event) == []


async def test_what_webhooks_ask_for_when_it_is_recorded_counts(store: Store, other_store: Store) -> None:
    webhook, lane, _, queued = await leased_with_one(store)
    late, gone = await add_webhook(store, events=("task.*",)), await add_webhook(store, events=("webhook.*",))
    event = make_operator_event(webhook)
    await edit_webhook(other_store, late, events=("webhook.*",))
    await edit_webhook(other_store, gone, events=("task.*",))

    await record_settled(store, lane, telling(queued, event))

    assert [each.webhook_id for each in await owed_for(store, event)] == [late.id]


async def test_it_can_be_read_by_whoever_leases_the_lane(store: Store, other_store: Store) -> None:
    webhook, lane, _, queued = await leased_with_one(store)
    hearing = await add_webhook(store, events=("webhook.*",))
    event = make_operator_event(webhook)

    await record_settled(store, lane, telling(queued, event))

    await lease_one(other_store, hearing, EVE, now=NOW)
    read = await read_one(other_store, hearing)
    assert (read.event_id, read.event, read.body) == (event.id, event.event, event.body)


async def test_it_pokes_the_lane_of_those_it_is_owed_to(store: Store, other_store: Store) -> None:
    webhook, lane, _, queued = await leased_with_one(store)
    hearing = await add_webhook(store, events=("webhook.*",))
    before = (await read(other_store, hearing)).pokes

    await record_settled(store, lane, telling(queued, make_operator_event(webhook)))

    assert (await read(other_store, hearing)).pokes > before


async def test_it_is_handed_over_before_whoever_recorded_hears_of_it(store: Store) -> None:
    webhook, lane, _, queued = await leased_with_one(store)
    hearing = await add_webhook(store, events=("webhook.*",))
    event = make_operator_event(webhook)
    handed: list[QueuedDelivery] = []
    store.on_queued = taking(handed)

    await record_settled(store, lane, telling(queued, event))

    assert [(each.webhook_id, each.event_id) for each in handed] == [(hearing.id, event.id)]
    assert ids(handed) == ids(await owed_for(store, event))


async def test_recorded_twice_it_is_told_once(store: Store, other_store: Store) -> None:
    webhook, lane, _, queued = await leased_with_one(store)
    await add_webhook(store, events=("webhook.*", "delivery.*"))
    settled = telling(queued, make_operator_event(webhook), make_operator_event(webhook, "delivery.dead_lettered"))
    await record_settled(store, lane, settled)
    once = await store.deliveries(GROUP_ID, DeliveryQuery(), limit=99, before=None)
    handed: list[QueuedDelivery] = []
    other_store.on_queued = taking(handed)

    await record_settled(other_store, lane, settled)

    assert await store.deliveries(GROUP_ID, DeliveryQuery(), limit=99, before=None) == once
    assert handed == []
    assert len(once.items) == 3


async def test_a_stale_token_tells_nothing(store: Store) -> None:
    webhook, lane, _, queued = await leased_with_one(store)
    await add_webhook(store, events=("webhook.*",))
    await lease_one(store, webhook, EVE, now=NOW + HOUR)
    event = make_operator_event(webhook)

    await record_settled(store, lane, telling(queued, event))

    assert await events_told(store) == []


async def test_that_a_delivery_was_given_up_is_told_of_one_that_was(store: Store) -> None:
    webhook, lane, delivery, queued = await leased_with_one(store)
    event = make_operator_event(webhook, "delivery.dead_lettered")

    await record_settled(store, lane, telling(queued, event))

    assert await events_told(store) == [event]
    assert len((await detail(store, delivery)).attempts) == 1


async def test_that_a_delivery_was_given_up_is_not_told_of_one_that_was_discarded_before(store: Store) -> None:
    webhook, lane, _, queued = await leased_with_one(store)
    await store.discard_backlog(GROUP_ID, webhook.id, now=NOW)

    await record_settled(store, lane, telling(queued, make_operator_event(webhook, "delivery.dead_lettered")))

    assert await events_told(store) == []


async def test_many_events_of_one_batch_are_each_told(store: Store) -> None:
    webhook, lane, *_ = await leased_with_one(store)
    hearing = await add_webhook(store, events=("delivery.*",))
    for _ in range(4):
        await emit_one(store, webhook)
    queued = (await read(store, webhook)).deliveries
    events = [make_operator_event(webhook, "delivery.dead_lettered") for _ in queued]

    await record_settled(
        store, lane, *(telling(each, event) for each, event in zip(queued, events, strict=True)), make_settled()
    )

    read_back = (await read(store, hearing)).deliveries
    assert {each.event_id for each in read_back} == {event.id for event in events}


async def test_what_is_owed_for_it_is_delivered_like_any_other(store: Store) -> None:
    webhook, lane, _, queued = await leased_with_one(store)
    hearing = await add_webhook(store, events=("webhook.*",))
    await record_settled(store, lane, telling(queued, make_operator_event(webhook)))
    theirs = await lease_one(store, hearing, EVE)
    owed = await read_one(store, hearing)

    await record_settled(store, theirs, make_settled(owed, accepted()))

    await give_back(store, hearing, theirs)
    assert list((await read(store, hearing)).deliveries) == []
    assert (await detail(store, owed)).delivery.progress.max_attempts == POLICY.max_attempts


async def test_its_routing_tells_who_was_owed_it(store: Store) -> None:
    webhook, lane, _, queued = await leased_with_one(store)
    hearing = await add_webhook(store, events=("webhook.*",))
    event = make_operator_event(webhook)

    await record_settled(store, lane, telling(queued, event))

    routing = await store.routing(GROUP_ID, event.id)
    assert routing is not None
    assert {each.webhook_id: each.delivery_id for each in routing.webhooks} == {
        webhook.id: None,
        hearing.id: ids(await owed_for(store, event))[0],
    }


# --- steps ---------------------------------------------------------------------------------------------------


def telling(queued: QueuedDelivery, *events: Event) -> Settled:
    """Return a failed attempt that has brought these about."""
    given_up = [event for event in events if event.event == "delivery.dead_lettered"]
    of_health = [event for event in events if event not in given_up]
    return make_settled(queued, refused(), given_up=next(iter(given_up), None), of_health=next(iter(of_health), None))


async def owed_for(store: Store, event: Event) -> list[Delivery]:
    page = await store.deliveries(GROUP_ID, DeliveryQuery(event=event.event), limit=99, before=None)
    return [each for each in page.items if each.event_id == event.id]


async def events_told(store: Store) -> list[Event]:
    """Return the operator events of the group, as people list them."""
    page = await store.events(GROUP_ID, EventQuery(), limit=99, before=None)
    return [each for each in page.items if each.origin == "system"]
