"""What the engine does when clocks, stores and neighbours misbehave; each of these once went wrong."""

import gc
import weakref

import pytest
from tests.builders import accepted
from tests.contract.steps import taking
from tests.integration.rigs import FAILED, LEASE, Blinking, Damaged, FailingOnce, FailingRecords, Rig, Unanswered

from gatepost.domain.deliveries import Status
from gatepost.domain.retry import RetryPolicy
from gatepost.domain.webhooks import with_changes
from gatepost.engine import engine as engine_module
from gatepost.engine.lane import Lane
from gatepost.ports import Saved


async def test_a_retry_is_made_in_time_though_its_outcome_was_slow_to_record_and_the_lane_is_busy(rig: Rig) -> None:
    webhook = await rig.webhook(policy=RetryPolicy((5,)))
    store = FailingRecords(rig.store)
    rig.sender.script(webhook.target.url, FAILED, accepted())
    await rig.start(store)
    store.failing = True
    [delivery] = await rig.emit(webhook)
    await rig.until(lambda: store.refused > 0)
    await rig.quiet(8.0)  # past the retry's due time
    store.failing = False
    await rig.until_status(delivery, Status.FAILED)

    for _ in range(10):  # a lane in use is not released, so nothing else would look
        await rig.emit(webhook)
        await rig.quiet(1.0)

    assert await rig.status(delivery) is Status.DELIVERED


@pytest.mark.parametrize("stepped_by", [40.0, 7200.0, -70.0, -7200.0])
async def test_a_step_of_the_wall_clock_does_not_make_the_engine_take_over_itself(rig: Rig, stepped_by: float) -> None:
    webhook, other = await rig.webhook(), await rig.webhook()
    rig.sender.hold(webhook.target.url)
    await rig.start()
    [delivery] = await rig.emit(webhook)
    await rig.until(lambda: rig.sender.in_flight)

    rig.clock.step(stepped_by)
    await rig.emit(other)
    await rig.quiet(2.0)
    rig.sender.settle_all()
    await rig.until_status(delivery, Status.DELIVERED)

    assert len(rig.sender.sent_to(webhook.target.url)) == 2  # one of each webhook: they share a URL


async def test_what_another_process_emits_to_a_lane_we_hold_is_sent_within_a_poll(rig: Rig) -> None:
    webhook = await rig.webhook()
    rig.sender.hold()
    engine = await rig.start()
    await rig.emit(webhook)
    await rig.until(lambda: rig.sender.in_flight)
    rig.sender.settle_all()
    await rig.quiet(0.1)
    await rig.emit(webhook)
    await rig.until(lambda: rig.sender.in_flight)  # slow, and the window has room for more

    rig.store.on_queued = taking([])  # as if another process had committed it
    [theirs] = await rig.emit(webhook)
    rig.store.on_queued = engine.hand_over
    await rig.quiet(2.0)

    assert theirs.id in [dict(outgoing.headers)["X-Gatepost-Delivery"] for outgoing in rig.sender.in_flight]


async def test_lanes_come_and_go_without_leaving_anything_behind(rig: Rig) -> None:
    webhook = await rig.webhook(policy=RetryPolicy((86_400,)))
    rig.sender.script(webhook.target.url, FAILED, accepted())
    engine = await rig.start()
    lanes: weakref.WeakSet[Lane] = weakref.WeakSet()
    for _ in range(5):
        await rig.emit(webhook)
        await rig.until(lambda: engine.lanes_held == 1)
        lanes.update(engine._lanes.values())
        await rig.until(lambda: engine.lanes_held == 0, step=0.05)

    await rig.quiet(130.0)
    rig.sender.sent.clear()
    gc.collect()

    assert len(lanes) <= 2  # those that the waiting loops looked at last


async def test_a_request_that_waited_for_its_turn_goes_by_the_lease_as_renewed_since(rig: Rig) -> None:
    webhook = await rig.webhook()
    rig.sender.hold()
    await rig.start()
    await rig.emit(webhook)
    await rig.until(lambda: rig.sender.in_flight)
    [outgoing] = rig.sender.in_flight
    before = outgoing.start_before()

    await rig.quiet(LEASE.total_seconds() / 2)

    assert outgoing.start_before() > before


async def test_lanes_leased_while_their_webhooks_could_not_be_read_are_served_at_the_next_try(rig: Rig) -> None:
    webhook = await rig.webhook()
    store = FailingOnce(rig.store, "webhooks_to_serve")
    [delivery] = await rig.emit(webhook)

    await rig.start(store)

    await rig.until_status(delivery, Status.DELIVERED)
    assert store.failed


async def test_a_webhook_enabled_again_goes_on_while_an_old_request_is_still_under_way(rig: Rig) -> None:
    webhook = await rig.webhook()
    engine = await rig.start()
    [first] = await rig.emit(webhook)
    await rig.until_status(first, Status.DELIVERED)
    rig.sender.hold()
    await rig.emit(webhook)
    await rig.until(lambda: rig.sender.in_flight)

    edited = webhook
    for enabled in (False, True):
        edited = with_changes(edited, now=rig.clock.now(), enabled=enabled)
        assert await rig.store.save_webhook(rig.group.id, edited) is Saved.DONE
        engine.webhook_changed(webhook.id)
        await rig.quiet(0.5)
    await rig.emit(webhook)

    await rig.until(lambda: len(rig.sender.in_flight) == 2)


async def test_an_attempt_written_ahead_is_made_even_when_the_engine_is_stopping(rig: Rig) -> None:
    webhook = await rig.webhook(policy=RetryPolicy(()))
    [delivery] = await rig.emit(webhook)
    for n in range(3):
        await rig.store.lease_lanes(f"eng_dead{n}", limit=1, now=rig.clock.now(), lease=LEASE)
        rig.clock.advance(LEASE.total_seconds() + 1)
    store = FailingRecords(rig.store)
    store.failing = True
    engine = await rig.start(store)
    await rig.until(lambda: store.refused > 0)

    engine.stop()
    store.failing = False
    await rig.stop()

    assert len(rig.sender.sent) == 1
    assert await rig.status(delivery) is Status.DELIVERED


async def test_a_store_that_fails_at_the_end_does_not_make_the_end_a_crash(rig: Rig) -> None:
    await rig.start(FailingOnce(rig.store, "leave"))

    await rig.stop()  # raises what `run` raised


async def test_an_engine_waits_for_a_store_that_fails_at_the_start(rig: Rig) -> None:
    webhook = await rig.webhook()
    [delivery] = await rig.emit(webhook)

    await rig.start(FailingOnce(rig.store, "join"))

    await rig.until_status(delivery, Status.DELIVERED)


async def test_damaged_webhooks_do_not_stand_in_the_way_of_the_others(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "LANES_AT_ONCE", 3)
    damaged = [await rig.webhook() for _ in range(3)]
    await rig.emit(*damaged)
    rig.clock.advance(0.01)
    healthy = await rig.webhook()
    [delivery] = await rig.emit(healthy)

    await rig.start(Damaged(rig.store, {webhook.id for webhook in damaged}))

    await rig.until_status(delivery, Status.DELIVERED)


async def test_a_webhook_enabled_again_before_its_lane_was_given_back_is_served(rig: Rig) -> None:
    webhook = await rig.webhook()
    [delivery] = await rig.emit(webhook)
    store = Blinking(rig, webhook)

    await rig.start(store)
    await rig.until(lambda: store.blinked)
    await rig.quiet(2.0)

    await rig.until_status(delivery, Status.DELIVERED)
    assert rig.clock.now() - delivery.created_at < LEASE / 2


@pytest.mark.parametrize("times", [1, 2])
async def test_a_release_that_was_not_answered_is_asked_again_whatever_the_pokes_as_it_may_have_been_done(
    rig: Rig, times: int
) -> None:
    webhook = await rig.webhook()
    store = Unanswered(rig.store, "release_lanes", times)
    engine = await rig.start(store)
    [first] = await rig.emit(webhook)
    await rig.until_status(first, Status.DELIVERED)

    await rig.until(lambda: len(store.asked) == times + 1, step=0.02)
    await rig.until(lambda: engine.lanes_held == 0)

    asked = [release.pokes is None for [[release]] in store.asked]
    assert asked == [False] + [True] * times
    [second] = await rig.emit(webhook)
    await rig.until_status(second, Status.DELIVERED)
