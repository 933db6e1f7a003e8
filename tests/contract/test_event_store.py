"""`EventStore`: what others publish, the list of all events, and whom an event was for."""

import asyncio
from dataclasses import astuple, replace
from typing import Any

import pytest
from tests.builders import (
    GROUP_ID,
    accepted,
    make_attempt,
    make_delivery,
    make_event,
    make_group,
    make_occasion,
    make_progress,
    make_queued,
    make_task_change,
    make_webhook,
    new_id,
    subscription_of,
)
from tests.contract.backends import Store
from tests.contract.steps import (
    SECOND,
    add_task,
    add_webhook,
    detail,
    edit_webhook,
    give_back,
    ids,
    lease,
    lease_one,
    pokes_of,
    propose,
    proposed,
    publish,
    read_one,
    record,
    save,
    save_approval,
    taking,
)
from tests.fakes import NOW

from gatepost.domain import swaps, tasks
from gatepost.domain.deliveries import QueuedDelivery, replayed
from gatepost.domain.errors import InvalidInput
from gatepost.domain.events import Event
from gatepost.domain.retry import RetryPolicy
from gatepost.ports import DeliveryQuery, EventQuery, RoutedWebhook, Saved

EVERYTHING = EventQuery()


def paid(**changes: Any) -> Event:
    """Return an event that another application tells of."""
    return make_event(**{"event": "order.paid", "tasks": (), **changes})


# --- publishing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event_id", ["7", "order-17_paid", "-", "Z" * 64])
async def test_a_published_event_brings_its_deliveries_with_it(store: Store, other_store: Store, event_id: str) -> None:
    webhooks = [await add_webhook(store) for _ in range(2)]
    event = paid(id=event_id, origin="inbound:jira", actor_id=None, hop=2, body=b'{"any":"bytes \xc3\xa9"}')
    deliveries = [make_delivery(event, webhook) for webhook in webhooks]

    saved = await publish(store, event, *deliveries)

    assert saved is Saved.DONE
    assert await every_page(other_store, EVERYTHING, limit=10) == [[event]]
    for delivery in deliveries:
        found = await detail(other_store, delivery)
        assert (found.delivery, found.event, list(found.attempts)) == (delivery, event, [])


async def test_exactly_the_deliveries_of_a_published_event_are_poked_and_handed_over(store: Store) -> None:
    webhook, other = await add_webhook(store), await add_webhook(store)
    for webhook_id, lane in (await lease(store)).items():
        await give_back(store, webhook if webhook_id == webhook.id else other, lane)
    handed: list[QueuedDelivery] = []
    store.on_queued = taking(handed)
    event = paid()
    delivery = make_delivery(event, webhook)

    await publish(store, event, delivery)

    assert [astuple(queued) for queued in handed] == [astuple(make_queued(delivery, event))]
    assert set(await lease(store)) == {webhook.id}
    assert (await read_one(store, webhook)).body == event.body


async def test_an_event_that_nobody_wants_is_kept(store: Store) -> None:
    event = paid()

    assert await publish(store, event) is Saved.DONE
    assert await every_page(store, EVERYTHING, limit=10) == [[event]]


@pytest.mark.parametrize("first", ["published", "of a task"])
async def test_an_event_whose_id_the_group_has_is_refused_and_leaves_nothing(
    store: Store, other_store: Store, first: str
) -> None:
    webhook = await add_webhook(store)
    change = make_task_change()
    stored = paid() if first == "published" else change.event
    assert await (publish(store, stored) if first == "published" else save(store, change)) is Saved.DONE
    before = await pokes_of(store, webhook.id)
    handed: list[QueuedDelivery] = []
    other_store.on_queued = taking(handed)
    again = paid(id=stored.id, body=b"{}", created_at=NOW + SECOND)

    saved = await publish(other_store, again, make_delivery(again, webhook))

    assert saved is Saved.EXISTS
    assert await every_page(store, EVERYTHING, limit=10) == [[stored]]
    assert list((await store.deliveries(GROUP_ID, DeliveryQuery(), limit=10, before=None)).items) == []
    assert await pokes_of(store, webhook.id) == before
    assert handed == []


async def test_of_many_who_publish_one_id_at_once_one_succeeds(store: Store, other_store: Store) -> None:
    webhook = await add_webhook(store)
    events = [paid(id="order-17", body=b'{"n":%d}' % n) for n in range(6)]
    deliveries = [make_delivery(event, webhook) for event in events]

    saved = await asyncio.gather(
        *(publish([store, other_store][n % 2], events[n], deliveries[n]) for n in range(len(events)))
    )

    assert sorted(each.value for each in saved) == ["done"] + ["exists"] * 5
    winner = saved.index(Saved.DONE)
    assert await every_page(store, EVERYTHING, limit=10) == [[events[winner]]]
    listed = await store.deliveries(GROUP_ID, DeliveryQuery(), limit=10, before=None)
    assert list(listed.items) == [deliveries[winner]]


async def test_an_event_matched_against_webhooks_that_were_written_since_is_not_written(
    store: Store, other_store: Store
) -> None:
    matched = await store.subscriptions(GROUP_ID)
    webhook = await add_webhook(other_store)
    event = paid()
    delivery = make_delivery(event, webhook)

    saved = await store.publish(GROUP_ID, event, [delivery], webhooks_version=matched.version)

    assert saved is Saved.WEBHOOKS_MOVED
    assert await every_page(store, EVERYTHING, limit=10) == [[]]
    assert await store.delivery(GROUP_ID, webhook.id, delivery.id) is None
    assert await publish(store, event, delivery) is Saved.DONE


async def test_two_groups_may_have_events_of_one_id_and_each_sends_its_own(store: Store) -> None:
    other = make_group()
    await store.add_group(other)
    for group_id in (GROUP_ID, other.id):
        webhook = await add_webhook(store, group_id=group_id)
        event = paid(id="order-17", group_id=group_id, body=group_id.encode())
        delivery = make_delivery(event, webhook)

        assert await publish(store, event, delivery) is Saved.DONE

        assert (await detail(store, delivery)).event == event
        assert (await read_one(store, webhook)).body == event.body
        assert list((await store.events(group_id, EVERYTHING, limit=10, before=None)).items) == [event]
        routing = await store.routing(group_id, "order-17")
        assert routing is not None
        assert [(each.webhook_id, each.delivery_id) for each in routing.webhooks] == [(webhook.id, delivery.id)]


# --- the list ------------------------------------------------------------------------------------------------


async def test_events_are_listed_newest_first_page_by_page_whatever_their_ids(store: Store) -> None:
    made = [paid(id=event_id, created_at=NOW + n * SECOND) for n, event_id in enumerate(["m", "z", "a", "0", "q"])]
    for event in made:
        await publish(store, event)

    assert await every_page(store, EVERYTHING, limit=2) == [made[4:2:-1], made[2:0:-1], made[:1]]


async def test_events_of_one_moment_are_all_listed_once(store: Store) -> None:
    made = [paid(id=event_id) for event_id in ["m", "z", "a-b", "0", "q"]]
    for event in made:
        await publish(store, event)

    pages = await every_page(store, EVERYTHING, limit=2)

    assert sorted(ids([event for page in pages for event in page])) == sorted(ids(made))


async def test_events_added_while_somebody_pages_move_no_page(store: Store) -> None:
    made = [paid(created_at=NOW + n * SECOND) for n in range(4)]
    for event in made:
        await publish(store, event)
    first = await store.events(GROUP_ID, EVERYTHING, limit=2, before=None)
    await publish(store, paid(created_at=NOW + 9 * SECOND))

    second = await store.events(GROUP_ID, EVERYTHING, limit=2, before=first.next_cursor)

    assert [*first.items, *second.items] == made[::-1]
    assert second.next_cursor is None


async def test_a_group_without_events_has_one_empty_page(store: Store) -> None:
    assert await every_page(store, EVERYTHING, limit=2) == [[]]


@pytest.mark.parametrize(
    "cursor", ["", "x", "1.", ".x", "1", "-1.x", "1.\x00", "1.x\ud800", "1." + "x" * 65, "9" * 30 + ".x"]
)
async def test_a_cursor_that_no_page_gave_is_refused(store: Store, cursor: str) -> None:
    with pytest.raises(InvalidInput):
        await store.events(GROUP_ID, EVERYTHING, limit=2, before=cursor)


@pytest.fixture
async def made(store: Store) -> dict[str, Event]:
    """Events of every kind, by name, oldest first."""
    webhook = await add_webhook(store)
    ada, eve = (make_task_change(assigned_to=name, at=NOW) for name in ("usr_ada", "usr_eve"))
    eve = replace(eve, event=replace(eve.event, created_at=NOW + SECOND))
    started = tasks.start(ada.task, make_occasion(at=NOW + 2 * SECOND))
    order, tested = paid(created_at=NOW + 3 * SECOND), paid(event="webhook.test", created_at=NOW + 4 * SECOND)
    await save(store, ada)
    await save(store, eve)
    await save(store, started, make_delivery(started.event, webhook))
    await publish(store, order)
    delivery = make_delivery(tested, webhook, progress=make_progress(next_attempt_at=None, finished_at=NOW))
    await store.add_test(GROUP_ID, tested, delivery, make_attempt())
    swap = await propose(store, started.task, eve.task)
    approval = swaps.approve(swap, started.task, eve.task, make_occasion(at=NOW + 5 * SECOND))
    await save_approval(store, approval)
    events = [ada.event, eve.event, started.event, order, tested, approval.event]
    return dict(zip(["ada's", "eve's", "started", "paid", "test", "swapped"], events, strict=True))


@pytest.mark.parametrize(
    ("ask", "found"),
    [
        ({}, ["swapped", "test", "paid", "started", "eve's", "ada's"]),
        ({"event": "task.created"}, ["eve's", "ada's"]),
        ({"event": "order.paid"}, ["paid"]),
        ({"event": "webhook.test"}, ["test"]),
        ({"event": "task"}, []),
        ({"task_id": "ada's"}, ["swapped", "started", "ada's"]),
        ({"task_id": "eve's"}, ["swapped", "eve's"]),
        ({"task_id": "eve's", "event": "task.swapped"}, ["swapped"]),
        ({"task_id": "eve's", "event": "task.updated"}, []),
        ({"task_id": "tsk_"}, []),
    ],
)
async def test_a_query_finds_what_meets_all_of_it(
    store: Store, made: dict[str, Event], ask: dict[str, str], found: list[str]
) -> None:
    if ask.get("task_id") in made:
        ask = {**ask, "task_id": made[ask["task_id"]].task_ids[0]}

    pages = await every_page(store, EventQuery(**ask), limit=1)

    assert [event for page in pages for event in page] == [made[name] for name in found]


# --- routing -------------------------------------------------------------------------------------------------


async def test_an_event_that_is_not_there_was_routed_nowhere(store: Store) -> None:
    assert await store.routing(GROUP_ID, new_id("evt")) is None


async def test_routing_tells_what_every_webhook_asked_for_and_who_got_the_event_newest_first(store: Store) -> None:
    webhooks = [
        await add_webhook(store, name="all"),
        await add_webhook(store, name="some", events=("order.*",), ignore_origins=("ui",)),
        await add_webhook(store, name="off", enabled=False),
    ]
    change = make_task_change()
    delivery = make_delivery(change.event, webhooks[0])
    await save(store, change, delivery)

    routing = await store.routing(GROUP_ID, change.event.id)

    assert routing is not None
    assert routing.event == change.event
    assert list(routing.webhooks) == [
        RoutedWebhook(webhooks[2].id, "off", subscription_of(webhooks[2]), None),
        RoutedWebhook(webhooks[1].id, "some", subscription_of(webhooks[1]), None),
        RoutedWebhook(webhooks[0].id, "all", subscription_of(webhooks[0]), delivery.id),
    ]


@pytest.mark.parametrize("way", ["changed", "published", "swapped"])
@pytest.mark.parametrize(
    "edit",
    [{"enabled": False}, {"events": ("task.approved",)}, {"ignore_origins": ("api", "ui")}, {"name": "Renamed"}],
)
async def test_routing_tells_what_a_webhook_asked_for_before_it_was_edited(
    store: Store, other_store: Store, way: str, edit: dict[str, Any]
) -> None:
    webhook = await add_webhook(store)
    edited_before = await edit_webhook(store, webhook, events=("task.*", "order.*"))
    event = await emit_by(store, way)

    edited = await edit_webhook(other_store, edited_before, **edit)

    assert await routed(other_store, event) == [
        RoutedWebhook(webhook.id, edited.name, subscription_of(edited_before), None)
    ]
    assert await routed(other_store, await emit_by(store, way)) == [
        RoutedWebhook(webhook.id, edited.name, subscription_of(edited), None)
    ]


async def test_an_event_between_two_edits_finds_what_was_asked_for_then(store: Store) -> None:
    webhook = await add_webhook(store, events=("a.a",))
    asked = []
    events = []
    for pattern in ("b.b", "c.c", "d.d", "c.c", "a.a"):
        events.append(await emit_by(store, "published"))
        asked.append(subscription_of(webhook))
        webhook = await edit_webhook(store, webhook, events=(pattern,))

    found = [(await routed(store, event))[0].subscription for event in events]

    assert found == asked


async def test_a_webhook_added_later_was_not_there_yet_and_neither_was_one_that_is_gone_again(store: Store) -> None:
    there = await add_webhook(store)
    event = await emit_by(store, "changed")
    later = await add_webhook(store)
    await edit_webhook(store, later, events=("order.*",))
    gone = await add_webhook(store)
    await store.delete_webhook(GROUP_ID, gone.id, now=NOW)

    assert await routed(store, event) == [
        RoutedWebhook(later.id, later.name, None, None),
        RoutedWebhook(there.id, there.name, subscription_of(there), None),
    ]


async def test_a_webhook_deleted_later_is_told_of_and_one_deleted_before_is_not(store: Store) -> None:
    before, after = await add_webhook(store, name="before"), await add_webhook(store, name="after")
    await store.delete_webhook(GROUP_ID, before.id, now=NOW)
    change = make_task_change()
    delivery = make_delivery(change.event, after)
    await save(store, change, delivery)
    await store.delete_webhook(GROUP_ID, after.id, now=NOW)

    assert await routed(store, change.event) == [RoutedWebhook(after.id, "after", subscription_of(after), delivery.id)]


async def test_a_replay_is_not_taken_for_the_first_delivery(store: Store) -> None:
    webhook, other = await add_webhook(store), await add_webhook(store)
    change = make_task_change()
    delivery = make_delivery(change.event, webhook)
    await save(store, change, delivery)
    await record(store, await lease_one(store, webhook), await read_one(store, webhook), accepted())
    for original in (delivery, replace(delivery, webhook_id=other.id)):
        replay = replayed(original, new_id("dlv"), max_attempts=3, now=NOW)
        assert await store.add_replay(GROUP_ID, replay) is Saved.DONE

    assert {each.webhook_id: each.delivery_id for each in await routed(store, change.event)} == {
        webhook.id: delivery.id,
        other.id: None,
    }


async def test_a_test_send_was_for_its_webhook_alone(store: Store) -> None:
    webhook, other = await add_webhook(store), await add_webhook(store)
    event = make_event(event="webhook.test", tasks=())
    delivery = make_delivery(event, webhook, progress=make_progress(next_attempt_at=None, finished_at=NOW))
    await store.add_test(GROUP_ID, event, delivery, make_attempt())

    assert await routed(store, event) == [
        RoutedWebhook(other.id, other.name, None, None),
        RoutedWebhook(webhook.id, webhook.name, None, delivery.id),
    ]


async def test_how_often_a_webhook_is_tried_is_told_as_it_is_today(store: Store) -> None:
    webhook = await add_webhook(store)
    event = await emit_by(store, "changed")
    edited = await edit_webhook(store, webhook, policy=RetryPolicy((1.0,) * 6))

    assert [each.subscription for each in await routed(store, event)] == [subscription_of(edited)]


async def test_the_webhooks_of_other_groups_were_never_asked(store: Store) -> None:
    other = make_group()
    await store.add_group(other)
    await add_webhook(store, group_id=other.id)

    assert await routed(store, await emit_by(store, "changed")) == []


async def test_a_webhook_that_could_not_be_added_was_never_asked(store: Store) -> None:
    await store.add_webhook(GROUP_ID, make_webhook(), quota=0)

    assert await routed(store, await emit_by(store, "changed")) == []


async def emit_by(store: Store, way: str) -> Event:
    """Write an event that is owed to nobody, in one of the ways in which events come to be."""
    if way == "published":
        event = paid()
        assert await publish(store, event) is Saved.DONE
        return event
    if way == "swapped":
        _, approval = await proposed(store)
        assert await save_approval(store, approval) is Saved.DONE
        return approval.event
    change = tasks.start(await add_task(store), make_occasion())
    assert await save(store, change) is Saved.DONE
    return change.event


async def routed(store: Store, event: Event) -> list[RoutedWebhook]:
    routing = await store.routing(event.group_id, event.id)
    assert routing is not None
    assert routing.event == event
    return list(routing.webhooks)


async def every_page(store: Store, query: EventQuery, *, limit: int) -> list[list[Event]]:
    pages: list[list[Event]] = []
    cursor: str | None = None
    while not pages or cursor is not None:
        page = await store.events(GROUP_ID, query, limit=limit, before=cursor)
        pages.append(list(page.items))
        cursor = page.next_cursor
    return pages
