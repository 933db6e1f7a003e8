"""The engine over a real SQLite store, on a clock that moves when told and a sender that answers as scripted."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.builders import accepted, make_delivery, make_group, make_task_change, make_webhook
from tests.fakes import FakeClock, NumberedChance, ScriptedSender

from gatepost.adapters.secretbox import SecretBox
from gatepost.adapters.storage.sqlite import SqliteStore
from gatepost.domain.deliveries import DeadReason, Delivery, ErrorClass, Refused, Response, Status, replayed
from gatepost.domain.errors import StoreUnavailable
from gatepost.domain.retry import RetryPolicy
from gatepost.domain.signatures import Verdict, parse_secret, verify_plain, verify_standard
from gatepost.domain.webhooks import Secret, Webhook, with_changes
from gatepost.engine import engine as engine_module
from gatepost.engine.engine import Engine
from gatepost.engine.lane import Lane
from gatepost.ports import Saved

LEASE = timedelta(seconds=30)
FAILED = Refused(Response(500, (), b"broken"))


class Rig:
    """A store, a sender and an engine that can be started more than once."""

    def __init__(self, store: SqliteStore, clock: FakeClock) -> None:
        self.store = store
        self.clock = clock
        self.sender = ScriptedSender(clock)
        self.chance = NumberedChance()
        self.group = make_group()
        self.engine: Engine | None = None
        self._running: asyncio.Task[None] | None = None

    async def start(self, store: Any = None, owner: str = "eng_1") -> Engine:
        self.engine = Engine(
            store or self.store,
            self.sender,
            self.clock,
            self.chance,
            owner=owner,
            user_agent="Gatepost/test",
            lease=LEASE,
            max_in_flight=8192,
        )
        self.store.on_queued = self.engine.hand_over
        self._running = asyncio.create_task(self.engine.run())
        return self.engine

    async def stop(self) -> None:
        if self.engine and self._running:
            self.engine.stop()
            await self.until(lambda: self._running is None or self._running.done())
            await self._running
        self._running = None

    async def abandon(self) -> None:
        """Stop, whatever the test left unanswered."""
        if self.engine:
            self.engine.stop()
            await asyncio.sleep(0.01)
            self.sender.settle_all()
            await self.stop()

    async def webhook(self, **changes: Any) -> Webhook:
        webhook = make_webhook(group_id=self.group.id, **changes)
        assert await self.store.add_webhook(self.group.id, webhook, quota=1000) is Saved.DONE
        return webhook

    async def emit(self, *webhooks: Webhook) -> list[Delivery]:
        change = make_task_change(group_id=self.group.id, at=self.clock.now())
        deliveries = [make_delivery(change.event, webhook) for webhook in webhooks]
        version = (await self.store.subscriptions(self.group.id)).version
        saved = await self.store.save_change(self.group.id, change, deliveries, webhooks_version=version)
        assert saved is Saved.DONE
        return deliveries

    async def until(self, condition: Callable[[], Any], *, step: float = 0.004) -> None:
        """Let the loop and the store's threads work, and time pass in small steps, until the condition holds."""
        for _ in range(3000):
            if condition():
                return
            self.clock.advance(step)
            await asyncio.sleep(0.001)
        raise AssertionError("it never came about")

    async def quiet(self, seconds: float) -> None:
        """Let time pass in which nothing is expected."""
        for _ in range(20):
            self.clock.advance(seconds / 20)
            await asyncio.sleep(0.002)

    async def status(self, delivery: Delivery) -> Status:
        return (await self.detail(delivery)).delivery.progress.status

    async def detail(self, delivery: Delivery) -> Any:
        return await self.store.delivery(self.group.id, delivery.webhook_id, delivery.id)

    async def until_status(self, delivery: Delivery, status: Status, *, step: float = 0.004) -> None:
        for _ in range(2000):
            if await self.status(delivery) is status:
                return
            self.clock.advance(step)
            await asyncio.sleep(0.001)
        raise AssertionError(f"it is still {await self.status(delivery)}")


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    def die(bug: BaseException) -> None:
        raise bug

    store = await SqliteStore.open(tmp_path / "engine.db", box=SecretBox(bytes(32)), on_death=die)
    rig = Rig(store, FakeClock())
    await store.add_group(rig.group)
    yield rig
    await rig.abandon()
    await store.close()


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
    store = _FailingRecords(rig.store)
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


class _FailingRecords:
    """The store, with one method that fails while it is told to."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self.failing = False
        self.refused = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def record_attempts(self, batch: Sequence[Any], *, now: Any) -> set[str]:
        if self.failing:
            self.refused += 1
            raise StoreUnavailable("the disk is full")
        return await self._store.record_attempts(batch, now=now)


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


# --- what once went wrong ------------------------------------------------------------------------------------


async def test_a_retry_is_made_in_time_though_its_outcome_was_slow_to_record_and_the_lane_is_busy(rig: Rig) -> None:
    webhook = await rig.webhook(policy=RetryPolicy((5,)))
    store = _FailingRecords(rig.store)
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

    rig.store.on_queued = lambda _: None  # as if another process had committed it
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
    store = _FailingOnce(rig.store, "webhooks_to_serve")
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
    store = _FailingRecords(rig.store)
    store.failing = True
    engine = await rig.start(store)
    await rig.until(lambda: store.refused > 0)

    engine.stop()
    store.failing = False
    await rig.stop()

    assert len(rig.sender.sent) == 1
    assert await rig.status(delivery) is Status.DELIVERED


async def test_a_store_that_fails_at_the_end_does_not_make_the_end_a_crash(rig: Rig) -> None:
    await rig.start(_FailingOnce(rig.store, "leave"))

    await rig.stop()  # raises what `run` raised


async def test_an_engine_waits_for_a_store_that_fails_at_the_start(rig: Rig) -> None:
    webhook = await rig.webhook()
    [delivery] = await rig.emit(webhook)

    await rig.start(_FailingOnce(rig.store, "join"))

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

    await rig.start(_Damaged(rig.store, {webhook.id for webhook in damaged}))

    await rig.until_status(delivery, Status.DELIVERED)


async def test_a_webhook_enabled_again_before_its_lane_was_given_back_is_served(rig: Rig) -> None:
    webhook = await rig.webhook()
    [delivery] = await rig.emit(webhook)
    store = _Blinking(rig, webhook)

    await rig.start(store)
    await rig.until(lambda: store.blinked)
    await rig.quiet(2.0)

    await rig.until_status(delivery, Status.DELIVERED)
    assert rig.clock.now() - delivery.created_at < LEASE / 2


class _Damaged:
    """The store, some of whose webhooks cannot be read."""

    def __init__(self, store: SqliteStore, damaged: set[str]) -> None:
        self._store = store
        self._damaged = damaged

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def webhooks_to_serve(self, webhook_ids: Sequence[str]) -> dict[str, Webhook | None]:
        served = await self._store.webhooks_to_serve(webhook_ids)
        return {each: None if each in self._damaged else webhook for each, webhook in served.items()}


class _Blinking:
    """The store, in which a webhook is disabled just when its lane was leased, and enabled again just after."""

    def __init__(self, rig: Rig, webhook: Webhook) -> None:
        self._rig = rig
        self._webhook = webhook
        self.blinked = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rig.store, name)

    async def webhooks_to_serve(self, webhook_ids: Sequence[str]) -> Any:
        if self.blinked:
            return await self._rig.store.webhooks_to_serve(webhook_ids)
        self.blinked = True
        await self._edit(enabled=False)
        served = await self._rig.store.webhooks_to_serve(webhook_ids)
        await self._edit(enabled=True)
        return served

    async def _edit(self, *, enabled: bool) -> None:
        self._webhook = with_changes(self._webhook, now=self._rig.clock.now(), enabled=enabled)
        assert await self._rig.store.save_webhook(self._rig.group.id, self._webhook) is Saved.DONE


class _FailingOnce:
    """The store, one method of which fails the first time."""

    def __init__(self, store: SqliteStore, method: str) -> None:
        self._store = store
        self._method = method
        self.failed = False

    def __getattr__(self, name: str) -> Any:
        if name == self._method and not self.failed:
            self.failed = True
            return _unavailable
        return getattr(self._store, name)


async def _unavailable(*_: Any, **__: Any) -> None:
    raise StoreUnavailable("the disk is full")
