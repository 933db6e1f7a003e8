"""`LaneStore.read_lanes` with `Reading.IN_ORDER`: of each task, what happened earlier is sent earlier."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from tests.builders import (
    GROUP_ID,
    accepted,
    make_delivery,
    make_event,
    make_occasion,
    new_id,
    refused,
)
from tests.contract.backends import Store
from tests.contract.steps import (
    HOUR,
    SECOND,
    add_task,
    add_webhook,
    assigned_pair,
    emit_one,
    hand_back,
    happen,
    ids,
    lease_one,
    propose,
    publish,
    read,
    record,
    save,
    save_approval,
)
from tests.fakes import NOW

from gatepost.domain import swaps, tasks
from gatepost.domain.deliveries import Delivery, QueuedDelivery, replayed
from gatepost.domain.outcomes import Outcome
from gatepost.domain.tasks import Task
from gatepost.domain.webhooks import Webhook
from gatepost.ports import Position, Reading, Saved


async def test_only_the_earliest_of_a_task_may_start(store: Store) -> None:
    webhook = await add_webhook(store)
    first, *_ = await happen(store, webhook, await add_task(store), times=3)

    assert await startable(store, webhook) == [first.id]


async def test_the_next_may_start_once_the_one_before_is_delivered(store: Store, other_store: Store) -> None:
    webhook = await add_webhook(store)
    first, second, third = await happen(store, webhook, await add_task(store), times=3)

    await finish(store, webhook, first, accepted())

    assert await startable(other_store, webhook) == [second.id]
    assert third.id not in await startable(store, webhook, now=NOW + 9 * HOUR)


async def test_one_that_waits_for_its_retry_holds_up_the_rest_of_its_task(store: Store) -> None:
    webhook = await add_webhook(store)
    first, _ = await happen(store, webhook, await add_task(store), times=2)

    await finish(store, webhook, first, refused())

    lane = await read(store, webhook, reading=Reading.IN_ORDER)
    assert (list(lane.deliveries), lane.next_due_at) == ([], NOW + 5 * SECOND)
    assert await startable(store, webhook, now=NOW + 5 * SECOND) == [first.id]


async def test_one_that_was_given_up_holds_up_nothing(store: Store) -> None:
    webhook = await add_webhook(store)
    first, second = await happen(store, webhook, await add_task(store), times=2)

    for n in range(3):  # attempts of the builders' policy
        await finish(store, webhook, first, refused(), number=n + 1)

    assert await startable(store, webhook) == [second.id]


async def test_it_looks_past_what_the_webhook_was_not_owed_or_has_had(store: Store) -> None:
    webhook, other = await add_webhook(store), await add_webhook(store)
    task = await add_task(store)
    first = (await happen(store, webhook, task, times=1))[0]
    await happen(store, other, replace(task, version=2), times=2)
    had = (await happen(store, webhook, replace(task, version=4), times=1))[0]
    await happen(store, webhook, replace(task, version=5), times=1)
    await finish(store, webhook, had, accepted())

    assert await startable(store, webhook) == [first.id]


async def test_tasks_wait_for_nobody_but_themselves(store: Store) -> None:
    webhook = await add_webhook(store)
    one, other = [await happen(store, webhook, await add_task(store), times=2) for _ in range(2)]

    await finish(store, webhook, one[0], refused())

    assert await startable(store, webhook) == [other[0].id]


async def test_webhooks_wait_for_nobody_but_themselves(store: Store) -> None:
    slow, fast = await add_webhook(store), await add_webhook(store)
    task = await add_task(store)
    change = tasks.start(task, make_occasion())
    first_slow, first_fast = (make_delivery(change.event, webhook) for webhook in (slow, fast))
    assert await save(store, change, first_slow, first_fast) is Saved.DONE
    [next_fast] = await happen(store, fast, change.task, times=1)

    await finish(store, fast, first_fast, accepted())

    assert await startable(store, fast) == [next_fast.id]
    assert await startable(store, slow) == [first_slow.id]


async def test_an_event_of_two_tasks_waits_for_both_and_holds_up_both(store: Store) -> None:
    webhook = await add_webhook(store)
    task, with_task = await assigned_pair(store)
    [before] = await happen(store, webhook, with_task, times=1)
    with_task = await stored(store, with_task)
    approval = swaps.approve(await propose(store, task, with_task), task, with_task, make_occasion())
    swapped = make_delivery(approval.event, webhook)
    assert await save_approval(store, approval, swapped) is Saved.DONE
    [after] = await happen(store, webhook, await stored(store, task), times=1)

    blocked = await startable(store, webhook)
    await finish(store, webhook, before, accepted())
    free = await startable(store, webhook)
    await finish(store, webhook, swapped, accepted())

    assert (blocked, free) == ([before.id], [swapped.id])
    assert await startable(store, webhook) == [after.id]


async def test_an_event_of_no_task_waits_for_nothing(store: Store) -> None:
    webhook = await add_webhook(store)
    await happen(store, webhook, await add_task(store), times=2)
    event = replace(make_event(event="order.paid", tasks=()), id=new_id("evt"))
    free = make_delivery(event, webhook)
    assert await publish(store, event, free) is Saved.DONE

    assert free.id in await startable(store, webhook)


async def test_a_replay_waits_for_nothing_and_holds_up_nothing(store: Store) -> None:
    webhook = await add_webhook(store)
    first, second, third = await happen(store, webhook, await add_task(store), times=3)
    await finish(store, webhook, first, accepted())
    replays = [replayed(each, new_id("dlv"), max_attempts=3, now=NOW) for each in (first, third)]
    for each in replays:
        assert await store.add_replay(GROUP_ID, each) is Saved.DONE

    assert set(await startable(store, webhook)) == {second.id, *ids(replays)}


async def test_what_is_held_up_hides_nothing_behind_the_limit(store: Store) -> None:
    webhook = await add_webhook(store)
    first, *_ = await happen(store, webhook, await add_task(store), times=20)
    free = [await emit_one(store, webhook, at=NOW + SECOND) for _ in range(2)]

    lane = await read(store, webhook, now=NOW + HOUR, limit=2, reading=Reading.IN_ORDER)

    assert ids(lane.deliveries) == [first.id, free[0].id]


async def test_a_read_looks_at_some_of_a_long_queue_and_the_next_ones_go_on_to_its_end(store: Store) -> None:
    webhook = await add_webhook(store)
    first, *blocked = await happen(store, webhook, await add_task(store), times=12)
    free = [await emit_one(store, webhook, at=NOW + n * SECOND) for n in (1, 2)]

    found, onward_from = [], []
    looked_to: Position | None = None
    for _ in range(5):
        lane = await read(
            store, webhook, now=NOW + HOUR, limit=2, reading=Reading.IN_ORDER, look_at=4, onward_from=looked_to
        )
        found.append(ids(lane.deliveries))
        looked_to = lane.looked_to
        onward_from.append(looked_to and looked_to.delivery_id)

    passed = [blocked[6].id, blocked[10].id, free[0].id]
    assert onward_from == [*passed, free[1].id, None]
    assert found == [[first.id], [first.id], [first.id, free[0].id], [first.id, free[1].id], [first.id]]


async def test_the_first_of_a_task_is_found_though_more_than_one_look_sees_are_due_before_it(store: Store) -> None:
    webhook = await add_webhook(store)
    first, *_ = await happen(store, webhook, await add_task(store), times=11)
    await finish(store, webhook, first, refused())

    found: list[str] = []
    looked_to: Position | None = None
    for _ in range(2):
        lane = await read(store, webhook, now=NOW + HOUR, reading=Reading.IN_ORDER, look_at=4, onward_from=looked_to)
        found += ids(lane.deliveries)
        looked_to = lane.looked_to

    assert (found, looked_to) == ([first.id], None)


async def test_a_look_at_the_rest_of_the_queue_comes_to_its_end(store: Store) -> None:
    webhook = await add_webhook(store)
    first, *_ = await happen(store, webhook, await add_task(store), times=5)

    lane = await read(store, webhook, reading=Reading.IN_ORDER, look_at=4)

    assert (ids(lane.deliveries), lane.looked_to) == ([first.id], None)


async def test_the_longest_due_are_read_first_in_order_too(store: Store) -> None:
    webhook = await add_webhook(store)
    third, first, second = [await emit_one(store, webhook, due_at=NOW - n * SECOND) for n in (1, 3, 2)]

    assert await startable(store, webhook) == [first.id, second.id, third.id]


async def test_whoever_does_not_ask_for_order_reads_all_that_is_due(store: Store) -> None:
    webhook = await add_webhook(store)
    all_of_it = await happen(store, webhook, await add_task(store), times=3)

    assert set(ids((await read(store, webhook)).deliveries)) == set(ids(all_of_it))


# --- steps ---------------------------------------------------------------------------------------------------


async def stored(store: Store, task: Task) -> Task:
    found = await store.task(task.group_id, task.id)
    assert found is not None
    return found


async def startable(store: Store, webhook: Webhook, *, now: datetime = NOW) -> Sequence[str]:
    return ids((await read(store, webhook, now=now, reading=Reading.IN_ORDER)).deliveries)


async def finish(store: Store, webhook: Webhook, delivery: Delivery, outcome: Outcome, *, number: int = 1) -> None:
    """Record an attempt under a lease of its own."""
    lane = await lease_one(store, webhook, now=NOW)
    queued = QueuedDelivery(
        delivery.id, GROUP_ID, webhook.id, delivery.event_id, delivery.event, b"{}", 1, number - 1, NOW
    )
    assert await record(store, lane, queued, outcome) == set()
    assert await hand_back(store, lane)
