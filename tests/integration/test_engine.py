"""What the engine does with deliveries, over a real store."""

import asyncio
from datetime import timedelta
from itertools import pairwise

from tests.builders import accepted, make_webhook
from tests.integration.rigs import FAILED, LEASE, FailingRecords, Rig

from gatepost.domain.deliveries import DeadReason, Status, replayed
from gatepost.domain.outcomes import ErrorClass
from gatepost.domain.retry import RetryPolicy
from gatepost.domain.signatures import Verdict, parse_secret, verify_plain, verify_standard
from gatepost.domain.webhooks import Secret, Webhook, with_changes
from gatepost.ports import Saved


async def test_what_is_emitted_is_delivered_and_logged(rig: Rig) -> None:
    webhook = await rig.webhook()
    await rig.start()

    [delivery] = await rig.emit(webhook)
    await rig.until_status(delivery, Status.DELIVERED)

    detail = await rig.detail(delivery)
    assert [attempt.number for attempt in detail.attempts] == [1]
    assert detail.delivery.progress.last_status_code == 204
    assert len(rig.sender.sent) == 1


async def test_a_failing_receiver_is_tried_on_schedule_with_the_same_id_and_a_fresh_signature(rig: Rig) -> None:
    policy = RetryPolicy((5, 300, 1800))
    webhook = await rig.webhook(policy=policy)
    rig.sender.script(webhook.target.url, FAILED, FAILED, FAILED, accepted())
    await rig.start()

    [delivery] = await rig.emit(webhook)
    await rig.until_status(delivery, Status.DELIVERED, step=2.0)

    attempts = (await rig.detail(delivery)).attempts
    waits = [(later.started_at - earlier.started_at).total_seconds() for earlier, later in pairwise(attempts)]
    assert [attempt.number for attempt in attempts] == [1, 2, 3, 4]
    for wait, wanted in zip(waits, policy.schedule, strict=True):
        assert wanted <= wait <= wanted + 10  # the steps of the clock, never early
    headers = [dict(outgoing.headers) for outgoing in rig.sender.sent]
    assert {h["webhook-id"] for h in headers} == {delivery.event_id}
    assert len({h["webhook-timestamp"] for h in headers}) == 4
    assert [h["X-Gatepost-Attempt"] for h in headers] == ["1", "2", "3", "4"]
    for outgoing, h in zip(rig.sender.sent, headers, strict=True):
        assert _verdicts(webhook, h, outgoing.body) == (Verdict.VALID, Verdict.VALID)


async def test_a_receiver_that_never_accepts_makes_a_dead_letter_which_can_be_replayed(rig: Rig) -> None:
    webhook = await rig.webhook(policy=RetryPolicy((1, 1)))
    rig.sender.script(webhook.target.url, FAILED)
    await rig.start()
    [delivery] = await rig.emit(webhook)

    await rig.until_status(delivery, Status.DEAD_LETTER, step=0.2)

    dead = (await rig.detail(delivery)).delivery
    assert dead.progress.attempt_count == dead.progress.max_attempts == 3
    assert dead.progress.dead_reason is DeadReason.ATTEMPTS_EXHAUSTED
    rig.sender.script(webhook.target.url, accepted())
    replay = replayed(dead, rig.chance.new_id("dlv"), max_attempts=3, now=rig.clock.now())
    assert await rig.store.add_replay(rig.group.id, replay) is Saved.DONE
    await rig.until_status(replay, Status.DELIVERED)
    assert (await rig.detail(replay)).delivery.replay_of == delivery.id
    assert rig.sender.sent[-1].body == rig.sender.sent[0].body


async def test_a_backlog_is_drained_without_sending_anything_twice(rig: Rig) -> None:
    webhooks = [await rig.webhook() for _ in range(5)]
    deliveries = [d for _ in range(30) for d in await rig.emit(*webhooks)]

    await rig.start()
    await rig.until(lambda: len(rig.sender.sent) >= 150)
    await rig.quiet(1.0)

    sent = [dict(outgoing.headers)["X-Gatepost-Delivery"] for outgoing in rig.sender.sent]
    assert sorted(sent) == sorted(delivery.id for delivery in deliveries)
    assert {await rig.status(delivery) for delivery in deliveries} == {Status.DELIVERED}


async def test_stopping_finishes_what_is_in_flight_and_leaves_the_rest(rig: Rig) -> None:
    webhook = await rig.webhook(max_concurrency=1)
    rig.sender.hold()
    deliveries = [(await rig.emit(webhook))[0] for _ in range(3)]
    await rig.start()
    await rig.until(lambda: rig.sender.in_flight)

    stopping = asyncio.create_task(rig.stop())
    await rig.quiet(0.5)
    assert not stopping.done()
    rig.sender.settle_all()
    await stopping

    statuses = [await rig.status(delivery) for delivery in deliveries]
    assert statuses == [Status.DELIVERED, Status.QUEUED, Status.QUEUED]
    rig.sender.unhold()
    await rig.start(owner="eng_2")
    await rig.until_status(deliveries[-1], Status.DELIVERED)
    assert len(rig.sender.sent) == 3


async def test_a_lane_that_another_owner_has_taken_records_nothing(rig: Rig) -> None:
    webhook = await rig.webhook()
    rig.sender.hold()
    await rig.start()
    [delivery] = await rig.emit(webhook)
    await rig.until(lambda: rig.sender.in_flight)

    later = rig.clock.now() + LEASE + timedelta(seconds=1)
    leased = await rig.store.lease_lanes("eng_other", limit=10, now=later, lease=LEASE)
    rig.sender.settle_all()
    await rig.until(lambda: rig.engine is not None and rig.engine.lanes_held == 0)

    assert [lane.webhook_id for lane in leased.lanes] == [webhook.id]
    assert await rig.status(delivery) is Status.QUEUED
    assert (await rig.detail(delivery)).attempts == []


async def test_while_the_store_fails_nothing_is_started_and_no_outcome_is_lost(rig: Rig) -> None:
    webhook = await rig.webhook(max_concurrency=1)
    store = FailingRecords(rig.store)
    await rig.start(store)
    first, second = (await rig.emit(webhook))[0], (await rig.emit(webhook))[0]
    store.failing = True
    await rig.until(lambda: store.refused > 0)

    sent_while_failing = len(rig.sender.sent)
    await rig.quiet(5.0)
    assert len(rig.sender.sent) == sent_while_failing
    store.failing = False
    await rig.until_status(second, Status.DELIVERED)

    assert await rig.status(first) is Status.DELIVERED
    assert len(rig.sender.sent) == 2


async def test_an_edit_holds_from_the_next_attempt_on(rig: Rig) -> None:
    webhook = await rig.webhook(policy=RetryPolicy((60,)))
    rig.sender.script(webhook.target.url, FAILED)
    engine = await rig.start()
    [delivery] = await rig.emit(webhook)
    await rig.until_status(delivery, Status.FAILED)

    moved = with_changes(
        webhook, now=rig.clock.now(), target=make_webhook(url="https://new.example.com/").target, name="Moved"
    )
    assert await rig.store.save_webhook(rig.group.id, moved) is Saved.DONE
    engine.webhook_changed(webhook.id)
    await rig.until_status(delivery, Status.DELIVERED, step=1.0)

    assert [outgoing.target.host for outgoing in rig.sender.sent] == ["hooks.example.com", "new.example.com"]


async def test_a_disabled_webhook_keeps_its_backlog_until_it_is_enabled(rig: Rig) -> None:
    webhook = await rig.webhook(policy=RetryPolicy((1,)))
    rig.sender.script(webhook.target.url, FAILED)
    engine = await rig.start()
    [delivery] = await rig.emit(webhook)
    await rig.until_status(delivery, Status.FAILED)

    disabled = with_changes(webhook, now=rig.clock.now(), enabled=False)
    assert await rig.store.save_webhook(rig.group.id, disabled) is Saved.DONE
    engine.webhook_changed(webhook.id)
    await rig.quiet(60)
    assert len(rig.sender.sent) == 1
    rig.sender.script(webhook.target.url, accepted())
    enabled = with_changes(disabled, now=rig.clock.now(), enabled=True)
    assert await rig.store.save_webhook(rig.group.id, enabled) is Saved.DONE
    engine.webhook_changed(webhook.id)

    await rig.until_status(delivery, Status.DELIVERED, step=0.1)


async def test_hundreds_of_hanging_receivers_do_not_keep_a_healthy_one_waiting(rig: Rig) -> None:
    hanging = [await rig.webhook(url=f"https://hang{n}.example.com/") for n in range(600)]
    for webhook in hanging:
        rig.sender.hold(webhook.target.url)
    healthy = await rig.webhook(url="https://healthy.example.com/")
    await rig.start()
    await rig.emit(*hanging)
    await rig.until(lambda: len(rig.sender.in_flight) >= 512)

    [delivery] = await rig.emit(healthy)

    await rig.until_status(delivery, Status.DELIVERED)


async def test_a_delivery_that_breaks_us_is_an_outcome_and_its_neighbours_go_on(rig: Rig) -> None:
    broken = await rig.webhook(secrets=(Secret("not a secret"),), policy=RetryPolicy(()))
    sound = await rig.webhook()
    await rig.start()

    poisoned, healthy = await rig.emit(broken, sound)
    await rig.until_status(poisoned, Status.DEAD_LETTER)
    await rig.until_status(healthy, Status.DELIVERED)

    assert (await rig.detail(poisoned)).delivery.progress.last_error_class is ErrorClass.INTERNAL_ERROR


async def test_after_three_owners_died_the_attempt_is_written_before_it_is_made(rig: Rig) -> None:
    webhook = await rig.webhook(policy=RetryPolicy((5, 5)))
    [delivery] = await rig.emit(webhook)
    for n in range(3):
        await rig.store.lease_lanes(f"eng_dead{n}", limit=1, now=rig.clock.now(), lease=LEASE)
        rig.clock.advance(LEASE.total_seconds() + 1)
    rig.sender.hold()

    await rig.start()
    await rig.until(lambda: rig.sender.in_flight)
    before = await rig.detail(delivery)
    rig.sender.settle_all()
    await rig.until_status(delivery, Status.DELIVERED)

    assert before.delivery.progress.last_error_class is ErrorClass.INTERNAL_ERROR
    assert before.delivery.progress.attempt_count == 1
    after = await rig.detail(delivery)
    assert [attempt.number for attempt in after.attempts] == [1]
    assert len(rig.sender.sent) == 1


async def test_an_empty_lane_is_given_back_and_wakes_for_its_next_retry(rig: Rig) -> None:
    webhook = await rig.webhook(policy=RetryPolicy((100,)))
    rig.sender.script(webhook.target.url, FAILED, accepted())
    engine = await rig.start()
    [delivery] = await rig.emit(webhook)
    await rig.until_status(delivery, Status.FAILED)

    await rig.until(lambda: engine.lanes_held == 0, step=0.05)

    assert len(rig.sender.sent) == 1
    await rig.until_status(delivery, Status.DELIVERED, step=1.0)
    assert len(rig.sender.sent) == 2


def _verdicts(webhook: Webhook, headers: dict[str, str], body: bytes) -> tuple[Verdict, Verdict]:
    keys = (parse_secret(webhook.secrets[0].value),)
    now = int(headers["webhook-timestamp"])
    standard = verify_standard(
        keys,
        message_id=headers["webhook-id"],
        timestamp=headers["webhook-timestamp"],
        signature=headers["webhook-signature"],
        body=body,
        now_seconds=now,
    )
    plain = verify_plain(
        keys, timestamp=headers["X-Timestamp"], signature=headers["X-Signature"], body=body, now_seconds=now
    )
    return standard, plain
