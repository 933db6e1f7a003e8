"""What the engine does about a receiver that fails for hours, days and a week, over a real store."""

import asyncio
import json
from collections import Counter
from datetime import timedelta
from itertools import pairwise

import pytest
from tests.builders import accepted, make_occasion, make_task_change, refused
from tests.event_schemas import must_fit
from tests.fakes import delivery_id_of
from tests.integration.rigs import FAILED, Rig, SlowRecords

from gatepost.domain import consequences, tasks
from gatepost.domain.deliveries import Attempt, Delivery, Status
from gatepost.domain.health import WELL, DisabledReason, Health
from gatepost.domain.retry import RetryPolicy
from gatepost.domain.tasks import Task
from gatepost.domain.webhooks import Webhook, with_changes
from gatepost.ports import Saved

MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0
DOWN = "https://down.example.com/in"
LISTENING = "https://operator.example.com/in"
RATE = 3  # maxConcurrency, and so what is drained in a second
EVERY_FOUR_HOURS = RetryPolicy((4 * HOUR,) * 15)


class Outage:
    """A webhook whose receiver is down from the first event on, and what the group's tasks go through meanwhile."""

    def __init__(self, rig: Rig, webhook: Webhook, listener: Webhook) -> None:
        self.rig = rig
        self.webhook = webhook
        self.listener = listener
        self.began = rig.clock.now()
        self.deliveries: list[Delivery] = []
        self.tasks: list[Task] = []
        self.changes = 0

    async def change_tasks(self) -> list[Delivery]:
        """Change each task once more, or make them; return what is owed for it."""
        at = self.rig.clock.now()
        self.changes += 1
        if self.tasks:
            title = f"Water it for the {self.changes}. time"
            changes = [tasks.update(task, {"title": title}, make_occasion(at=at)) for task in self.tasks]
        else:
            changes = [make_task_change(group_id=self.rig.group.id, at=at) for _ in range(4)]
        for change in changes:
            assert change is not None
            self.deliveries += await self.rig.emit_change(change, self.webhook)
        self.tasks = [change.task for change in changes if change is not None]
        return self.deliveries[-len(self.tasks) :]

    async def lasts(self, seconds: float, *, change_every: float) -> None:
        for _ in range(round(seconds / change_every)):
            await self.change_tasks()
            await self.rig.lives(change_every)

    async def health(self) -> Health:
        return (await self.rig.webhook_now(self.webhook)).health

    async def attempts(self) -> list[Attempt]:
        """List every attempt that was made of any delivery, in the order of time."""
        details = [await self.rig.detail(delivery) for delivery in self.deliveries]
        return sorted((each for detail in details for each in detail.attempts), key=lambda each: each.started_at)

    async def probes(self) -> list[Attempt]:
        return [attempt for attempt in await self.attempts() if attempt.probe]

    def told(self) -> list[str]:
        """List the operator events that the listener was sent; each is as its schema says."""
        sent = self.rig.sender.sent_to(LISTENING)
        for outgoing in sent:
            must_fit(json.loads(outgoing.body))
        return [dict(outgoing.headers)["X-Gatepost-Event"] for outgoing in sent]


async def outage(rig: Rig, **changes: object) -> Outage:
    listener = await rig.webhook(url=LISTENING, events=("webhook.*", "delivery.*"))
    webhook = await rig.webhook(url=DOWN, **{"policy": EVERY_FOUR_HOURS, "max_concurrency": RATE, **changes})
    rig.sender.script(DOWN, FAILED)
    await rig.start()
    return Outage(rig, webhook, listener)


# --- two days down -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_order", [False, True])
async def test_after_two_days_down_the_whole_backlog_arrives_at_the_drain_rate(rig: Rig, in_order: bool) -> None:
    down = await outage(rig, preserve_task_order=in_order)
    await down.lasts(DAY - 2 * HOUR, change_every=2 * HOUR)
    assert await down.health() is Health.DEGRADED
    await down.lasts(DAY + 2 * HOUR, change_every=2 * HOUR)
    assert await down.health() is Health.SUSPENDED

    rig.sender.script(DOWN, accepted())
    sent_before = len(rig.sender.sent)
    await rig.lives(20 * MINUTE)

    assert await down.health() is Health.HEALTHY
    assert {await rig.status(delivery) for delivery in down.deliveries} == {Status.DELIVERED}
    arrived = [outgoing for outgoing in rig.sender.sent[sent_before:] if outgoing.target.url == DOWN]
    assert Counter(map(delivery_id_of, arrived)) == Counter(delivery.id for delivery in down.deliveries)
    assert_never_faster_than(RATE, drained_at(rig, sent_before))
    assert_probed_every_ten_minutes(rig, rig.sender.sent_at[sent_before])
    if in_order:
        assert_in_order(down, [delivery_id_of(outgoing) for outgoing in arrived])
    assert down.told() == ["webhook.degraded", "webhook.suspended", "webhook.recovered"]


def drained_at(rig: Rig, sent_before: int) -> list[float]:
    sent = zip(rig.sender.sent[sent_before:], rig.sender.sent_at[sent_before:], strict=True)
    return [at for outgoing, at in sent if outgoing.target.url == DOWN]


def assert_never_faster_than(per_second: int, moments: list[float]) -> None:
    for first, later in zip(moments[1:], moments[1 + per_second :], strict=False):  # the probe was the first
        assert later - first > 1 - 1e-6


def assert_probed_every_ten_minutes(rig: Rig, recovered: float) -> None:
    """From the suspension to the recovery; the attempts that are kept are only the newest probes of each delivery."""
    told = zip(moments_of(rig, LISTENING), rig.sender.sent_to(LISTENING), strict=True)
    suspended = next(at for at, outgoing in told if dict(outgoing.headers)["X-Gatepost-Event"] == "webhook.suspended")
    probed = [at for at in moments_of(rig, DOWN) if suspended < at < recovered]
    waits = [(later - earlier) / MINUTE for earlier, later in pairwise([suspended, *probed])]
    assert [wait for wait in waits if not 9.9 <= wait <= 12.1] == []  # the strides of the clock
    assert len(waits) >= 110


def moments_of(rig: Rig, url: str) -> list[float]:
    """Return when each request to a receiver was sent."""
    sent = zip(rig.sender.sent, rig.sender.sent_at, strict=True)
    return [at for outgoing, at in sent if outgoing.target.url == url]


def assert_in_order(down: Outage, arrived: list[str]) -> None:
    place = {delivery_id: n for n, delivery_id in enumerate(arrived)}
    for task in down.tasks:
        of_task = [place[delivery.id] for delivery in down.deliveries if task.id in delivery.task_ids]
        assert len(of_task) == down.changes
        assert of_task == sorted(of_task)


async def test_a_probe_moves_neither_the_count_of_attempts_nor_the_schedule(rig: Rig) -> None:
    down = await outage(rig)
    await down.lasts(DAY + HOUR, change_every=5 * HOUR)
    assert await down.health() is Health.SUSPENDED
    before = [(await rig.detail(delivery)).delivery.progress for delivery in down.deliveries]

    await rig.lives(HOUR)

    assert len(await down.probes()) >= 5
    assert [(await rig.detail(delivery)).delivery.progress for delivery in down.deliveries] == before


async def test_once_it_is_drained_it_is_sent_to_as_fast_as_ever(rig: Rig) -> None:
    down = await outage(rig)
    await down.lasts(DAY + HOUR, change_every=5 * HOUR)
    rig.sender.script(DOWN, accepted())
    await rig.lives(40 * MINUTE)
    assert (await rig.webhook_now(down.webhook)).condition == WELL  # and its next owner knows

    sent_before = len(rig.sender.sent)
    for _ in range(10):
        await down.change_tasks()
    await rig.lives(5.0, step=0.02, stride=0.25)

    assert len(drained_at(rig, sent_before)) == 40


async def test_it_is_told_of_each_delivery_that_was_given_up(rig: Rig) -> None:
    down = await outage(rig, policy=RetryPolicy((1,)))

    await down.change_tasks()
    await rig.lives(MINUTE, stride=1.0)

    assert {await rig.status(delivery) for delivery in down.deliveries} == {Status.DEAD_LETTER}
    assert Counter(down.told()) == {"delivery.dead_lettered": 4, "webhook.degraded": 1}


# --- disabled ----------------------------------------------------------------------------------------------------


async def test_a_week_of_suspension_disables_it_and_enabling_it_again_keeps_the_backlog(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consequences, "PROBE_EVERY", timedelta(hours=12))  # so that a week is not a thousand probes
    down = await outage(rig)
    await down.lasts(DAY + HOUR, change_every=5 * HOUR)
    await rig.lives(7 * DAY - 2 * HOUR, stride=10 * MINUTE)
    assert await down.health() is Health.SUSPENDED
    await rig.lives(DAY / 2, stride=10 * MINUTE)
    disabled = await rig.webhook_now(down.webhook)
    assert (disabled.enabled, disabled.disabled_reason) == (False, DisabledReason.SUSPENDED_7D)
    sent_before = len(rig.sender.sent_to(DOWN))
    await rig.lives(DAY, stride=HOUR)
    assert len(rig.sender.sent_to(DOWN)) == sent_before

    rig.sender.script(DOWN, accepted())
    enabled = with_changes(disabled, now=rig.clock.now(), enabled=True)
    assert await rig.store.save_webhook(rig.group.id, enabled) is Saved.DONE
    assert rig.engine is not None
    rig.engine.webhook_changed(enabled.id)
    await rig.lives(MINUTE, stride=1.0)

    assert await down.health() is Health.HEALTHY
    assert {await rig.status(delivery) for delivery in down.deliveries} == {Status.DELIVERED}
    assert down.told() == ["webhook.degraded", "webhook.suspended", "webhook.disabled"]


async def test_410_ends_it_at_once_and_what_it_met_waits_with_the_rest(rig: Rig) -> None:
    down = await outage(rig, max_concurrency=1)
    rig.sender.script(DOWN, refused(410))

    await down.change_tasks()
    await rig.lives(10 * MINUTE, stride=1.0)

    gone = await rig.webhook_now(down.webhook)
    assert (gone.enabled, gone.health, gone.disabled_reason) == (False, Health.DISABLED, DisabledReason.GONE)
    assert len(rig.sender.sent_to(DOWN)) == 1
    statuses = Counter([await rig.status(delivery) for delivery in down.deliveries])
    assert statuses == {Status.FAILED: 1, Status.QUEUED: 3}
    assert down.told() == ["webhook.disabled"]


async def test_nothing_more_is_sent_after_410_though_that_is_slow_to_be_written_down(rig: Rig) -> None:
    webhook = await rig.webhook(url=DOWN)
    rig.sender.script(DOWN, refused(410))
    for _ in range(3):
        await rig.emit(webhook)
    store = SlowRecords(rig.store)
    await rig.start(store)
    await rig.until(lambda: rig.sender.sent)

    for _ in range(40):  # its configuration is looked at several times, and says that it is enabled
        rig.clock.advance(0.1)
        await asyncio.sleep(0.005)
    store.may_write.set()
    await rig.quiet(5.0)

    assert len(rig.sender.sent) == 1
    assert (await rig.webhook_now(webhook)).disabled_reason is DisabledReason.GONE


async def test_410_to_what_was_sent_before_it_was_enabled_again_disables_nothing(rig: Rig) -> None:
    webhook = await rig.webhook(url=DOWN)
    rig.sender.hold(DOWN)
    engine = await rig.start()
    await rig.emit(webhook)
    await rig.until(lambda: rig.sender.in_flight)
    rig.clock.advance(0.01)
    for enabled in (False, True):
        webhook = with_changes(webhook, now=rig.clock.now(), enabled=enabled)
        assert await rig.store.save_webhook(rig.group.id, webhook) is Saved.DONE
        engine.webhook_changed(webhook.id)
        await rig.quiet(0.5)

    rig.sender.settle_all(refused(410))
    await rig.quiet(0.5)

    assert (await rig.webhook_now(webhook)).health is Health.HEALTHY


async def test_a_webhook_enabled_again_while_it_is_suspended_is_served_at_once(rig: Rig) -> None:
    down = await outage(rig)
    await down.lasts(DAY + HOUR, change_every=5 * HOUR)
    assert await down.health() is Health.SUSPENDED
    [last] = (await down.change_tasks())[-1:]
    rig.sender.script(DOWN, accepted())
    webhook = await rig.webhook_now(down.webhook)

    for enabled in (False, True):
        webhook = with_changes(webhook, now=rig.clock.now(), enabled=enabled)
        assert await rig.store.save_webhook(rig.group.id, webhook) is Saved.DONE
    await rig.lives(5.0, stride=1.0)

    assert await rig.status(last) is Status.DELIVERED
    assert not [attempt for attempt in (await rig.detail(last)).attempts if attempt.probe]


# --- Retry-After -------------------------------------------------------------------------------------------------


async def test_retry_after_holds_all_deliveries_a_minute_and_its_own_until_its_end(rig: Rig) -> None:
    webhook = await rig.webhook(url=DOWN, policy=RetryPolicy((5,)))
    busy = refused(503, headers=(("Retry-After", "300"),))
    rig.sender.script(DOWN, busy, accepted())
    await rig.start()
    [first] = await rig.emit(webhook)
    await rig.until_status(first, Status.FAILED)
    asked_at = rig.sender.sent_at[-1]

    [second] = await rig.emit(webhook)
    await rig.lives(10 * MINUTE, stride=0.25)

    waits = {delivery_id_of(each): at - asked_at for each, at in zip(rig.sender.sent, rig.sender.sent_at, strict=True)}
    assert 60 <= waits[second.id] <= 62
    assert 300 <= waits[first.id] <= 302
    assert (await rig.detail(first)).delivery.progress.attempt_count == 2
