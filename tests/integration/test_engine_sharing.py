"""What several engines do on one store: they share the lanes, and nothing is sent twice while lanes move."""

import pytest
from tests.fakes import delivery_id_of
from tests.integration.fleets import LEASE, SHARED_ON, Fleet, Worker, deliver_on_wrong_clocks, send_of

from gatepost.domain.deliveries import Delivery
from gatepost.domain.webhooks import Webhook, with_changes
from gatepost.engine.lane import Phase
from gatepost.ports import Saved

LEASE_SECONDS = LEASE.total_seconds()
LANES = 200


async def keep_lanes_busy(fleet: Fleet, *, for_seconds: float) -> list[Delivery]:
    """Give each lane one request after another to make for so long; return what is to be delivered."""
    webhooks = await fleet.webhooks(LANES, max_concurrency=1)
    return [each for _ in range(int(for_seconds / fleet.latency)) for each in await fleet.emit(*webhooks)]


async def test_engines_that_join_get_their_share_of_lanes_that_are_busy(fleet: Fleet) -> None:
    fleet.latency = 6.0
    deliveries = await keep_lanes_busy(fleet, for_seconds=2 * LEASE_SECONDS)
    first = await fleet.start()
    await fleet.until(lambda: len(first.lanes) == LANES, within=2)

    for _ in range(3):
        await fleet.start()
    await fleet.until(lambda: fleet.largest_share_of(LANES) <= 1.5, within=2 * LEASE_SECONDS)

    await fleet.until(lambda: len(fleet.sent) == len(deliveries), within=4 * LEASE_SECONDS)
    assert fleet.sent_twice == set()
    assert min(len(worker.sender.sent) for worker in fleet.workers) > 0


@pytest.mark.parametrize("seen", [True, False])
async def test_the_lanes_of_an_engine_that_died_are_shared_by_the_others(fleet: Fleet, seen: bool) -> None:
    fleet.latency = 12.0
    dying, *others = [await fleet.start() for _ in range(4)]
    await keep_lanes_busy(fleet, for_seconds=4 * LEASE_SECONDS)
    await fleet.until(lambda: sum(len(worker.lanes) for worker in fleet.workers) == LANES, within=6)
    await fleet.passes(fleet.latency / 2)

    in_flight = {send_of(outgoing) for outgoing in dying.sender.in_flight}
    await fleet.kill(dying, seen=seen)
    await fleet.until(lambda: sum(len(worker.lanes) for worker in others) == LANES, within=2 * LEASE_SECONDS)
    assert fleet.largest_share_of(LANES) <= 1.5

    await fleet.passes(fleet.latency)
    assert in_flight
    assert fleet.sent_twice == in_flight  # what nobody could know, and nothing else


async def test_what_a_stopping_engine_leaves_goes_to_the_others_while_it_still_waits_for_an_answer(
    fleet: Fleet,
) -> None:
    fleet.latency = 1_000.0
    webhooks = await fleet.webhooks(6, max_concurrency=1)
    for _ in range(2):
        await fleet.emit(*webhooks)
    stopping, other = [await fleet.start() for _ in range(2)]
    await fleet.until(lambda: len(stopping.sender.in_flight) + len(other.sender.in_flight) == 6, within=4)
    assert len(stopping.lanes) > 1

    stopping.engine.stop()
    for outgoing in stopping.sender.in_flight[1:]:
        stopping.sender.settle(outgoing)

    await fleet.until(lambda: len(other.lanes) == 5, within=4)
    assert len(stopping.lanes) == 1


async def test_a_lane_that_is_emitted_to_all_the_time_can_still_be_handed_back(fleet: Fleet) -> None:
    fleet.latency = 0.2
    webhooks = await fleet.webhooks(6)
    first = await fleet.start()
    emitted = []

    async def emit_for(seconds: float) -> None:
        for _ in range(round(seconds / 0.1)):
            emitted.extend(await fleet.emit(*webhooks, by=first))
            await fleet.passes(0.1)

    await emit_for(2.0)
    assert len(first.lanes) == 6
    second = await fleet.start()
    await emit_for(LEASE_SECONDS / 3 + 2)

    assert (len(first.lanes), len(second.lanes)) == (4, 2)  # a share is half of six, and one more
    await fleet.until(lambda: len(fleet.sent) == len(emitted), within=5)
    assert fleet.sent_twice == set()


async def one_on_its_way(fleet: Fleet) -> tuple[Worker, str]:
    """Return an engine that is handing back one of its four lanes, each with a request that is not answered."""
    fleet.latency = 1_000.0
    first = await fleet.start()
    await fleet.emit(*await fleet.webhooks(4))
    await fleet.until(lambda: len(first.sender.in_flight) == 4, within=2)
    await fleet.start()
    await fleet.until(lambda: handed_back(first), within=LEASE_SECONDS / 3 + 1)
    [webhook_id] = handed_back(first)
    return first, webhook_id


def handed_back(worker: Worker) -> list[str]:
    return [webhook_id for webhook_id, lane in worker.lanes.items() if lane.phase is Phase.HANDING_BACK]


async def test_a_lane_on_its_way_back_takes_nothing_in_and_records_what_is_in_flight_before_it_goes(
    fleet: Fleet,
) -> None:
    first, webhook_id = await one_on_its_way(fleet)
    second = fleet.workers[1]
    webhook = await fleet.api.webhook(fleet.group.id, webhook_id)

    [later] = await fleet.emit(webhook, by=first)
    await fleet.passes(5)  # its configuration is confirmed again and again: that does not call it back
    assert handed_back(first) == [webhook_id]
    assert second.sender.sent == []
    assert later.id not in [delivery_id_of(outgoing) for outgoing in first.sender.sent]

    first.sender.settle_all()
    await fleet.until(lambda: second.sender.sent, within=2)

    assert [delivery_id_of(outgoing) for outgoing in second.sender.sent] == [later.id]
    assert fleet.sent_twice == set()


@pytest.mark.parametrize("fleet", [*SHARED_ON, "mongodb"], indirect=True)
async def test_lanes_that_are_on_their_way_count_towards_what_is_to_be_handed_back(fleet: Fleet) -> None:
    first, webhook_id = await one_on_its_way(fleet)

    await fleet.passes(LEASE_SECONDS)  # three renewals say the same

    assert handed_back(first) == [webhook_id]
    assert len(first.lanes) == 4


@pytest.mark.parametrize("fleet", [*SHARED_ON, "mongodb"], indirect=True)
async def test_a_lane_on_its_way_back_goes_though_its_webhook_was_disabled_and_enabled(fleet: Fleet) -> None:
    first, webhook_id = await one_on_its_way(fleet)
    webhook = await fleet.api.webhook(fleet.group.id, webhook_id)

    for enabled in (False, True):
        webhook = with_changes(webhook, now=fleet.server.now(), enabled=enabled)
        assert await fleet.api.save_webhook(fleet.group.id, webhook) is Saved.DONE
        first.engine.webhook_changed(webhook_id)
        await fleet.passes(2)
    [later] = await fleet.emit(webhook)
    first.sender.settle_all()

    await fleet.until(lambda: fleet.workers[1].sender.sent, within=2)
    assert [delivery_id_of(outgoing) for outgoing in fleet.workers[1].sender.sent] == [later.id]


async def test_the_lane_that_can_go_at_once_is_the_one_that_goes(fleet: Fleet) -> None:
    fleet.latency = 1_000.0
    first = await fleet.start()
    busy, [idle] = await fleet.webhooks(3), await fleet.webhooks(1)
    await fleet.emit(*busy)
    await fleet.passes(LEASE_SECONDS / 3 - 1)
    await fleet.emit(idle, by=first)
    await fleet.until(lambda: len(first.sender.in_flight) == 4, within=0.5)
    first.sender.settle(first.sender.in_flight[-1])

    await fleet.start()
    await fleet.until(lambda: len(first.lanes) == 3, within=1.5)  # sooner than an idle lane is released

    assert set(first.lanes) == {webhook.id for webhook in busy}


async def test_an_engine_does_not_take_back_what_it_has_handed_back(fleet: Fleet) -> None:
    fleet.latency = 6.0
    await keep_lanes_busy(fleet, for_seconds=2 * LEASE_SECONDS)
    first = await fleet.start()
    await fleet.until(lambda: len(first.lanes) == LANES, within=2)
    second = await fleet.start()
    second.is_paused = True  # it has joined, and takes nothing

    await fleet.passes(LEASE_SECONDS / 3 + fleet.latency + 1)
    held = dict(first.lanes)
    assert len(held) == LANES / 2 + 1
    await fleet.passes(5)

    assert first.lanes == held


@pytest.mark.parametrize("fleet", [*SHARED_ON, "mongodb"], indirect=True)
@pytest.mark.parametrize("answered_first", [True, False])
async def test_an_engine_that_was_paused_past_its_lease_sends_and_records_nothing_more_of_what_was_taken_over(
    fleet: Fleet, answered_first: bool
) -> None:
    fleet.latency = 1.0
    webhooks = await fleet.webhooks(6, rate_limit_per_second=2)  # so that it has more to send when it wakes up
    deliveries = [each for _ in range(20) for each in await fleet.emit(*webhooks)]
    paused = await fleet.start()
    await fleet.passes(2.5)
    assert paused.sender.in_flight
    repeated = {send_of(outgoing) for outgoing in paused.sender.in_flight}
    sent_before = len(paused.sender.sent)

    paused.is_paused = True
    other = await fleet.start()
    await fleet.passes(LEASE_SECONDS + 2)
    assert len(other.lanes) == 6
    taken = set(other.lanes)
    if answered_first:
        paused.sender.settle_all()
    await fleet.resume(paused)
    paused.sender.settle_all()
    await fleet.passes(1)

    sent_since = paused.sender.sent[sent_before:]
    of_taken = {delivery.id for delivery in deliveries if delivery.webhook_id in taken & set(other.lanes)}
    assert [outgoing for outgoing in sent_since if delivery_id_of(outgoing) in of_taken] == []
    await fleet.until(lambda: len(fleet.sent) == len(deliveries), within=60)
    await fleet.passes(2)
    assert fleet.sent_twice == repeated
    for delivery_id, _ in repeated:
        [delivery] = [each for each in deliveries if each.id == delivery_id]
        [attempt] = await fleet.attempts(delivery)
        assert other.made(attempt)


# --- clocks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fleet", [*SHARED_ON, "mongodb"], indirect=True)
async def test_engines_on_machines_half_a_minute_apart_send_nothing_twice(fleet: Fleet) -> None:
    await deliver_on_wrong_clocks(fleet, deliveries=400, follows=True)

    assert fleet.sent_twice == set()
    assert not await fleet.unfinished()
    assert min(len(worker.sender.sent) for worker in fleet.workers) > 20


async def test_without_one_clock_they_would(fleet: Fleet) -> None:
    await deliver_on_wrong_clocks(fleet, deliveries=400, follows=False)

    assert fleet.sent_twice


# --- hints of other processes ------------------------------------------------------------------------------------


async def idle_lane(fleet: Fleet) -> tuple[Worker, Webhook]:
    """Return an engine that holds the lane of a webhook, has nothing to do for the next second, and hears nothing."""
    fleet.latency = 0.0
    worker = await fleet.start()
    worker.handle.on_poked = lambda _: None
    [webhook] = await fleet.webhooks(1)
    await fleet.emit(webhook)
    await fleet.until(lambda: worker.sender.sent, within=1.5)
    await fleet.passes(0.2)
    return worker, webhook


@pytest.mark.parametrize("names_it", [True, False])
async def test_a_hint_that_a_lane_we_hold_was_poked_has_it_read_at_once(fleet: Fleet, names_it: bool) -> None:
    worker, webhook = await idle_lane(fleet)
    await fleet.emit(webhook)
    await fleet.passes(0.2)
    assert len(worker.sender.sent) == 1  # nobody has told it

    worker.engine.poked([webhook.id] if names_it else [])

    await fleet.until(lambda: len(worker.sender.sent) == 2, within=0.2)


@pytest.mark.parametrize("names_it", [True, False])
async def test_a_hint_that_a_lane_nobody_holds_was_poked_has_it_leased_at_once(fleet: Fleet, names_it: bool) -> None:
    worker, _ = await idle_lane(fleet)
    [webhook] = await fleet.webhooks(1)
    await fleet.emit(webhook)
    await fleet.passes(0.2)
    assert len(worker.sender.sent) == 1

    worker.engine.poked([webhook.id] if names_it else [])

    await fleet.until(lambda: len(worker.sender.sent) == 2, within=0.2)


async def test_hints_of_what_others_hold_do_not_make_an_engine_lease_without_a_pause(fleet: Fleet) -> None:
    worker, _ = await idle_lane(fleet)
    worker.store.calls.clear()

    for _ in range(20):
        worker.engine.poked(["wh_of_another_worker"])
        await fleet.settled()

    assert worker.store.calls["lease_lanes"] == 2  # the first may have come before its poke
