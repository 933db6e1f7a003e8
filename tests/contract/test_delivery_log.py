import asyncio
from collections.abc import Sequence
from dataclasses import astuple, replace
from datetime import timedelta

import pytest
from tests.builders import (
    GROUP_ID,
    accepted,
    make_attempt,
    make_delivery,
    make_event,
    make_queued,
    make_response,
    make_settled,
    make_task_change,
    new_id,
    refused,
    unreachable,
)
from tests.contract.backends import Store
from tests.contract.steps import (
    HOUR,
    SECOND,
    add_webhook,
    detail,
    emit_one,
    give_back,
    ids,
    lease,
    lease_one,
    pokes_of,
    read,
    read_one,
    record,
    record_settled,
    save,
    taking,
)
from tests.fakes import NOW

from gatepost.domain.deliveries import Delivery, Progress, QueuedDelivery, Status, replayed
from gatepost.domain.outcomes import Accepted, Blocked, ErrorClass, Outcome, Refused, Unreachable
from gatepost.ports import DeliveryQuery, Saved

EVERYTHING = DeliveryQuery()
ATTEMPTED_AT = NOW + timedelta(milliseconds=1)


# --- lists ---------------------------------------------------------------------------------------------------


async def test_deliveries_are_listed_newest_first_page_by_page_to_the_end(store: Store) -> None:
    webhook = await add_webhook(store)
    made = [await emit_one(store, webhook, at=NOW + n * SECOND) for n in range(4)]

    pages = await every_page(store, EVERYTHING, limit=2)

    assert pages == [made[:1:-1], made[1::-1]]


async def test_deliveries_of_one_moment_are_all_listed_once(store: Store) -> None:
    webhook = await add_webhook(store)
    made = [await emit_one(store, webhook) for _ in range(5)]

    pages = await every_page(store, EVERYTHING, limit=2)

    assert sorted(ids([delivery for page in pages for delivery in page])) == sorted(ids(made))


async def test_deliveries_added_while_somebody_pages_move_no_page(store: Store) -> None:
    webhook = await add_webhook(store)
    made = [await emit_one(store, webhook, at=NOW + n * SECOND) for n in range(4)]
    first = await store.deliveries(GROUP_ID, EVERYTHING, limit=3, before=None)
    await emit_one(store, webhook, at=NOW + HOUR)

    second = await store.deliveries(GROUP_ID, EVERYTHING, limit=3, before=first.next_cursor)

    assert [*first.items, *second.items] == made[::-1]
    assert second.next_cursor is None


@pytest.fixture
async def listed(store: Store) -> dict[str, Delivery]:
    """Four deliveries that differ in everything one can ask for, by name."""
    red, blue = await add_webhook(store), await add_webhook(store)
    changes = [make_task_change(at=NOW + n * SECOND) for n in range(4)]
    names = ["created red", "created blue", "paid red", "swapped red"]
    about = [changes[0].event.tasks, changes[1].event.tasks, (), (("tsk_a", 2), ("tsk_b", 5))]
    types = ["task.created", "task.created", "order.paid", "task.swapped"]
    made: dict[str, Delivery] = {}
    for name, change, pairs, type_ in zip(names, changes, about, types, strict=True):
        event = replace(change.event, tasks=pairs, event=type_)
        made[name] = make_delivery(event, blue if name.endswith("blue") else red)
        await save(store, replace(change, event=event), made[name])
    await lease(store)
    queued = {each.id: each for each in (await read(store, red, now=NOW + HOUR)).deliveries}
    lane = await lease_one(store, red, now=NOW + HOUR)
    await record(store, lane, queued[made["paid red"].id], refused(500), at=NOW + HOUR)
    await record(store, lane, queued[made["swapped red"].id], accepted(), at=NOW + HOUR)
    return made


@pytest.mark.parametrize(
    ("ask", "found"),
    [
        ({}, ["swapped red", "paid red", "created blue", "created red"]),
        ({"status": Status.QUEUED}, ["created blue", "created red"]),
        ({"status": Status.FAILED}, ["paid red"]),
        ({"status": Status.DELIVERED}, ["swapped red"]),
        ({"status": Status.DEAD_LETTER}, []),
        ({"event": "task.created"}, ["created blue", "created red"]),
        ({"event": "task"}, []),
        ({"task_id": "tsk_b"}, ["swapped red"]),
        ({"task_id": "tsk_"}, []),
        ({"task_id": "tsk_a tsk_b"}, []),
        ({"created_from": NOW + SECOND}, ["swapped red", "paid red", "created blue"]),
        ({"created_from": NOW + SECOND + timedelta(milliseconds=1)}, ["swapped red", "paid red"]),
        ({"created_to": NOW + SECOND}, ["created red"]),
        ({"created_to": NOW + SECOND + timedelta(milliseconds=1)}, ["created blue", "created red"]),
        ({"created_from": NOW + SECOND, "created_to": NOW + 3 * SECOND}, ["paid red", "created blue"]),
        ({"created_from": NOW + SECOND, "event": "task.created", "status": Status.QUEUED}, ["created blue"]),
    ],
)
async def test_a_query_finds_what_meets_all_of_it(
    store: Store, listed: dict[str, Delivery], ask: dict[str, object], found: list[str]
) -> None:
    pages = await every_page(store, DeliveryQuery(**ask), limit=1)

    assert ids([delivery for page in pages for delivery in page]) == [listed[name].id for name in found]


async def test_a_query_for_one_webhook_finds_its_deliveries_only(store: Store, listed: dict[str, Delivery]) -> None:
    red, blue = listed["created red"], listed["created blue"]

    of_blue = await every_page(store, DeliveryQuery(webhook_id=blue.webhook_id), limit=10)
    of_red = await every_page(store, DeliveryQuery(webhook_id=red.webhook_id, status=Status.QUEUED), limit=10)
    of_nobody = await every_page(store, DeliveryQuery(webhook_id=new_id("wh")), limit=10)

    assert [ids(page) for page in of_blue + of_red + of_nobody] == [[blue.id], [red.id], []]


async def test_a_query_for_one_task_finds_all_that_is_about_it(store: Store, listed: dict[str, Delivery]) -> None:
    (task_id,) = listed["created red"].task_ids

    pages = await every_page(store, DeliveryQuery(task_id=task_id), limit=10)

    assert [ids(page) for page in pages] == [[listed["created red"].id]]


# --- one delivery --------------------------------------------------------------------------------------------


async def test_a_delivery_is_found_under_its_own_webhook_only(store: Store) -> None:
    webhook, other = await add_webhook(store), await add_webhook(store)
    delivery = await emit_one(store, webhook)

    assert await store.delivery(GROUP_ID, other.id, delivery.id) is None
    assert await store.delivery(GROUP_ID, webhook.id, new_id("dlv")) is None


async def test_attempts_are_told_in_the_order_they_were_made(store: Store) -> None:
    webhook = await add_webhook(store)
    delivery = await emit_one(store, webhook)
    lane = await lease_one(store, webhook)
    attempted = []
    for n, outcome in enumerate([refused(500), unreachable(), accepted()]):
        queued = await read_one(store, webhook, now=NOW + n * HOUR)
        settled = make_settled(queued, outcome, at=NOW + n * HOUR)
        attempted.append(settled.attempt)
        await record_settled(store, lane, settled)

    found = await detail(store, delivery)

    assert list(found.attempts) == attempted
    assert found.delivery.progress == settled.progress


@pytest.mark.parametrize(
    "outcome",
    [
        Accepted(make_response(204, headers=(), body=b"")),
        Accepted(make_response(200, headers=(("Set-Cookie", "a=1"), ("x", ""), ("set-cookie", "b=2: c")))),
        Accepted(make_response(299, body=bytes(range(256)) * 64, truncated=True)),
        Refused(make_response(503, headers=(("Retry-After", "120"),))),
        *(Unreachable(error_class) for error_class in ErrorClass),
        Blocked(ErrorClass.BLOCKED_ADDRESS),
        Blocked(ErrorClass.INVALID_TARGET),
    ],
)
async def test_every_outcome_comes_back_as_it_was(store: Store, outcome: Outcome) -> None:
    webhook = await add_webhook(store)
    delivery = await emit_one(store, webhook)
    settled = make_settled(await read_one(store, webhook), outcome, at=ATTEMPTED_AT)
    lane = await lease_one(store, webhook)

    await record_settled(store, lane, settled)

    found = await detail(store, delivery)
    assert list(found.attempts) == [settled.attempt]
    assert found.delivery == replace(delivery, progress=settled.progress)


# --- replays -------------------------------------------------------------------------------------------------


async def test_a_replay_is_written_poked_and_handed_over(store: Store) -> None:
    webhook, original = await delivered(store)
    handed: list[QueuedDelivery] = []
    store.on_queued = taking(handed)
    replay = replayed(original, new_id("dlv"), max_attempts=3, now=ATTEMPTED_AT)

    saved = await store.add_replay(GROUP_ID, replay)

    event = (await detail(store, original)).event
    assert saved is Saved.DONE
    assert (await detail(store, replay)).delivery == replay
    assert (await detail(store, replay)).event == event
    assert [astuple(queued) for queued in handed] == [astuple(make_queued(replay, event))]
    assert set(await lease(store, now=ATTEMPTED_AT)) == {webhook.id}
    assert (await read_one(store, webhook, now=ATTEMPTED_AT)).id == replay.id


async def test_a_replay_leaves_its_original_as_it_is(store: Store) -> None:
    _, original = await delivered(store)
    before = await detail(store, original)

    await store.add_replay(GROUP_ID, replayed(original, new_id("dlv"), max_attempts=3, now=NOW))

    assert await detail(store, original) == before


async def test_one_delivery_can_be_replayed_more_than_once(store: Store) -> None:
    _, original = await delivered(store)
    replays = [replayed(original, new_id("dlv"), max_attempts=3, now=NOW) for _ in range(2)]

    saved = [await store.add_replay(GROUP_ID, replay) for replay in replays]

    assert saved == [Saved.DONE, Saved.DONE]
    for replay in replays:
        assert (await detail(store, replay)).delivery == replay


async def test_a_replay_raises_the_poke_counter_of_a_lane_that_is_leased(store: Store) -> None:
    webhook, original = await delivered(store)
    await emit_one(store, webhook)
    await lease_one(store, webhook)
    before = await pokes_of(store, webhook.id)

    await store.add_replay(GROUP_ID, replayed(original, new_id("dlv"), max_attempts=3, now=NOW))

    assert await pokes_of(store, webhook.id) > before


async def test_a_replay_of_an_event_that_is_gone_is_stale_and_leaves_nothing(store: Store) -> None:
    webhook = await add_webhook(store)
    handed: list[QueuedDelivery] = []
    store.on_queued = taking(handed)
    before = await pokes_of(store, webhook.id)
    replay = replayed(make_delivery(make_event(), webhook), new_id("dlv"), max_attempts=3, now=NOW)

    saved = await store.add_replay(GROUP_ID, replay)

    assert saved is Saved.STALE
    assert await store.delivery(GROUP_ID, webhook.id, replay.id) is None
    assert await pokes_of(store, webhook.id) == before
    assert handed == []


async def test_asked_again_a_replay_is_written_poked_and_handed_over_once(store: Store, other_store: Store) -> None:
    webhook, original = await delivered(store)
    handed: list[QueuedDelivery] = []
    for each in (store, other_store):
        each.on_queued = taking(handed)
    replay = replayed(original, new_id("dlv"), max_attempts=3, now=NOW)
    await store.add_replay(GROUP_ID, replay)
    pokes = await pokes_of(store, webhook.id)

    saved = [await each.add_replay(GROUP_ID, replay) for each in (store, other_store)]

    assert saved == [Saved.DONE, Saved.DONE]
    assert ids(handed) == [replay.id]
    assert await pokes_of(store, webhook.id) == pokes
    page = await store.deliveries(GROUP_ID, EVERYTHING, limit=10, before=None)
    assert sorted(ids(page.items)) == sorted([original.id, replay.id])


async def test_asked_again_at_the_same_moment_a_replay_is_written_and_handed_over_once(
    store: Store, other_store: Store
) -> None:
    _, original = await delivered(store)
    handed: list[QueuedDelivery] = []
    for each in (store, other_store):
        each.on_queued = taking(handed)
    replay = replayed(original, new_id("dlv"), max_attempts=3, now=NOW)

    saved = await asyncio.gather(*(each.add_replay(GROUP_ID, replay) for each in [store, other_store] * 3))

    assert saved == [Saved.DONE] * 6
    assert ids(handed) == [replay.id]


async def test_asked_again_after_it_was_delivered_a_replay_stays_delivered(store: Store) -> None:
    webhook, original = await delivered(store)
    replay = replayed(original, new_id("dlv"), max_attempts=3, now=NOW)
    await store.add_replay(GROUP_ID, replay)
    await record(store, await lease_one(store, webhook), await read_one(store, webhook), accepted())
    before = await detail(store, replay)

    saved = await store.add_replay(GROUP_ID, replay)

    assert saved is Saved.DONE
    assert await detail(store, replay) == before


# --- test sends ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", [accepted(), refused(500), unreachable()])
async def test_a_test_send_is_logged_with_its_event_and_its_one_attempt(store: Store, outcome: Outcome) -> None:
    webhook = await add_webhook(store)
    event = make_event(event="webhook.test", tasks=())
    attempt = make_attempt(outcome=outcome, started_at=ATTEMPTED_AT)
    delivery = make_delivery(event, webhook, progress=finished(outcome))

    await store.add_test(GROUP_ID, event, delivery, attempt)

    found = await detail(store, delivery)
    assert (found.delivery, found.event, list(found.attempts)) == (delivery, event, [attempt])
    assert list((await store.deliveries(GROUP_ID, EVERYTHING, limit=10, before=None)).items) == [delivery]


async def test_a_test_send_is_over_and_never_queued(store: Store) -> None:
    webhook = await add_webhook(store)
    handed: list[QueuedDelivery] = []
    store.on_queued = taking(handed)
    before = await pokes_of(store, webhook.id)
    event = make_event(event="webhook.test", tasks=())

    await store.add_test(
        GROUP_ID, event, make_delivery(event, webhook, progress=finished(refused())), make_attempt(outcome=refused())
    )

    assert handed == []
    assert await pokes_of(store, webhook.id) == before
    assert list((await read(store, webhook, now=NOW + HOUR)).deliveries) == []


async def test_a_test_send_that_is_written_again_is_there_once(store: Store, other_store: Store) -> None:
    webhook = await add_webhook(store)
    event, attempt = make_event(event="webhook.test", tasks=()), make_attempt()
    delivery = make_delivery(event, webhook, progress=finished(accepted()))

    for each in (store, store, other_store):
        await each.add_test(GROUP_ID, event, delivery, attempt)

    found = await detail(store, delivery)
    assert (found.delivery, found.event, list(found.attempts)) == (delivery, event, [attempt])


async def test_a_test_send_works_while_the_webhook_is_disabled(store: Store) -> None:
    webhook = await add_webhook(store, enabled=False)
    event = make_event(event="webhook.test", tasks=())
    delivery = make_delivery(event, webhook, progress=finished(accepted()))

    await store.add_test(GROUP_ID, event, delivery, make_attempt())

    assert (await detail(store, delivery)).delivery == delivery


def finished(outcome: Outcome) -> Progress:
    return Progress(
        status=Status.DELIVERED if isinstance(outcome, Accepted) else Status.DEAD_LETTER,
        attempt_count=1,
        max_attempts=1,
        next_attempt_at=None,
        finished_at=ATTEMPTED_AT,
    )


async def delivered(store: Store):
    """Return a webhook and a delivery that it has got, its lane given back."""
    webhook = await add_webhook(store)
    delivery = await emit_one(store, webhook)
    lane = await lease_one(store, webhook)
    await record(store, lane, await read_one(store, webhook), accepted())
    await give_back(store, webhook, lane)
    return webhook, (await detail(store, delivery)).delivery


async def every_page(store: Store, query: DeliveryQuery, *, limit: int) -> list[Sequence[Delivery]]:
    pages: list[Sequence[Delivery]] = []
    cursor: str | None = None
    while not pages or cursor is not None:
        page = await store.deliveries(GROUP_ID, query, limit=limit, before=cursor)
        pages.append(list(page.items))
        cursor = page.next_cursor
    return pages
