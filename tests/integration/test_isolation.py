"""Who gets a turn when some receivers hang, fail or have thousands waiting: the others are not to notice."""

import asyncio
from collections import Counter

import pytest
from tests.builders import accepted, unreachable
from tests.fakes import delivery_id_of
from tests.integration.rigs import FAILED, Rig

from gatepost.domain.deliveries import Delivery, Status
from gatepost.domain.outcomes import ErrorClass
from gatepost.domain.retry import RetryPolicy
from gatepost.domain.webhooks import Webhook

TIMEOUT = unreachable(ErrorClass.TIMEOUT)
AT_ONCE = 500  # emitted side by side


async def webhooks_at(rig: Rig, name: str, count: int, **changes: object) -> list[Webhook]:
    return [await rig.webhook(url=f"https://{name}{n}.example.com/in", **changes) for n in range(count)]


async def backlog(rig: Rig, webhook: Webhook, size: int) -> None:
    for _ in range(size // AT_ONCE):
        await asyncio.gather(*(rig.emit(webhook) for _ in range(AT_ONCE)))


def waits(rig: Rig, emitted: dict[str, float]) -> list[float]:
    """Return how long each of these took from its event to its request."""
    started = {delivery_id_of(each): at for each, at in zip(rig.sender.sent, rig.sender.sent_at, strict=True)}
    return [started[delivery_id] - at for delivery_id, at in emitted.items()]


def noted(rig: Rig, deliveries: list[Delivery]) -> dict[str, float]:
    return {delivery.id: rig.clock.boot() for delivery in deliveries}


def in_flight_to(rig: Rig) -> Counter[str]:
    return Counter(outgoing.target.url for outgoing in rig.sender.in_flight)


async def test_one_that_hangs_with_ten_thousand_waiting_and_ten_that_fail_delay_nobody_else(rig: Rig) -> None:
    [hanging] = await webhooks_at(rig, "hangs", 1, max_concurrency=100)
    failing = await webhooks_at(rig, "fails", 10)
    healthy = await webhooks_at(rig, "well", 89)
    await rig.start()
    await rig.emit(hanging)  # it was well once
    await rig.quiet(0.5)
    rig.sender.hold(hanging.target.url)
    for webhook in failing:
        rig.sender.script(webhook.target.url, FAILED)
    await backlog(rig, hanging, 10_000)

    emitted: dict[str, float] = {}
    for second in range(20):
        emitted |= noted(rig, (await rig.emit(*healthy, *failing))[: len(healthy)])
        await rig.lives(1.0, step=0.05, stride=0.05)
        if second == 15:
            for outgoing in rig.sender.in_flight[:]:
                rig.sender.settle(outgoing, TIMEOUT)

    assert max(waits(rig, emitted)) <= 0.1
    assert in_flight_to(rig) == {hanging.target.url: 1}


async def test_when_a_thousand_hosts_hang_the_first_delivery_to_another_starts_within_a_second(rig: Rig) -> None:
    hanging = await webhooks_at(rig, "hangs", 1000)
    for webhook in hanging:
        rig.sender.hold(webhook.target.url)
    await rig.start()
    await rig.emit(*hanging)
    await rig.emit(*hanging)
    await rig.lives(2.0, step=0.05, stride=0.05)
    assert len(rig.sender.in_flight) == 1000  # one each: none has ever been well

    [healthy] = await webhooks_at(rig, "well", 1)
    emitted = noted(rig, await rig.emit(healthy))
    await rig.lives(1.0, step=0.05, stride=0.05)

    assert max(waits(rig, emitted)) < 1.0


async def test_receivers_that_are_slow_and_well_leave_room_for_others(rig: Rig) -> None:
    slow = await webhooks_at(rig, "slow", 3, max_concurrency=100)
    [healthy] = await webhooks_at(rig, "well", 1)
    for webhook in slow:
        rig.sender.hold(webhook.target.url)
        for _ in range(2):
            await backlog(rig, webhook, AT_ONCE)
    await rig.start(max_in_flight=200)
    for _ in range(8):  # by then their windows would have grown to a hundred each
        await rig.lives(1.0, step=0.05, stride=0.05)
        for outgoing in rig.sender.in_flight[:]:
            rig.sender.settle(outgoing, accepted())
    await rig.lives(1.0, step=0.05, stride=0.05)
    assert len(rig.sender.in_flight) == 150  # of three, each has as many as are left

    emitted = noted(rig, await rig.emit(healthy))
    await rig.lives(0.2, step=0.05, stride=0.05)

    assert max(waits(rig, emitted)) <= 0.1


@pytest.mark.parametrize("rig", ["sqlite", "mongodb"], indirect=True)
async def test_failing_lanes_have_half_of_all_room_and_each_of_them_gets_its_turn(rig: Rig) -> None:
    failing = await webhooks_at(rig, "fails", 12, policy=RetryPolicy((1.0,) * 9))
    [healthy] = await webhooks_at(rig, "well", 1)
    for webhook in failing:
        rig.sender.script(webhook.target.url, FAILED)
    await rig.start(max_in_flight=8)
    deliveries = await rig.emit(*failing)
    await rig.quiet(0.5)
    rig.sender.hold()
    await rig.lives(2.0, step=0.05, stride=0.05)
    assert len(rig.sender.in_flight) == 4

    [delivery] = await rig.emit(healthy)
    await rig.lives(0.1, step=0.05, stride=0.05)
    assert in_flight_to(rig)[healthy.target.url] == 1
    rig.sender.settle(next(each for each in rig.sender.in_flight if delivery_id_of(each) == delivery.id), accepted())

    while len(rig.sender.sent) < 12 + 1 + 12:  # each of them once more, however few may go at a time
        assert len(rig.sender.in_flight) <= 4
        rig.sender.settle(rig.sender.in_flight[0], accepted())
        await rig.lives(0.2, step=0.05, stride=0.05)
    rig.sender.settle_all(accepted())
    await rig.lives(0.2, step=0.05, stride=0.05)

    assert {await rig.status(each) for each in deliveries} == {Status.DELIVERED}


@pytest.mark.parametrize("rig", ["sqlite", "mongodb"], indirect=True)
async def test_a_lane_that_is_well_again_does_not_wait_for_the_failing_ones_to_make_room(rig: Rig) -> None:
    failing = await webhooks_at(rig, "fails", 4, policy=RetryPolicy((1.0,) * 9))
    [recovers] = await webhooks_at(rig, "recovers", 1, policy=RetryPolicy((1.0,) * 9), max_concurrency=2)
    for webhook in (*failing, recovers):
        rig.sender.script(webhook.target.url, FAILED)
    await rig.start(max_in_flight=6)
    await rig.emit(recovers)
    await rig.quiet(0.5)
    await rig.emit(*failing)
    await rig.quiet(0.5)
    rig.sender.hold()
    await rig.until(lambda: in_flight_to(rig)[recovers.target.url] == 1, step=0.05)
    waiting = [(await rig.emit(recovers))[0] for _ in range(2)]
    await rig.lives(2.0, step=0.05, stride=0.05)
    assert len(rig.sender.in_flight) == 3

    for outgoing in [each for each in rig.sender.in_flight if each.target.url == recovers.target.url]:
        rig.sender.settle(outgoing, accepted())
    await rig.lives(0.5, step=0.05, stride=0.05)

    assert {delivery.id for delivery in waiting} <= {delivery_id_of(each) for each in rig.sender.in_flight}


@pytest.mark.parametrize("rig", ["sqlite", "mongodb"], indirect=True)
async def test_lanes_that_are_lost_while_they_wait_for_room_leave_it_to_the_others(rig: Rig) -> None:
    failing = await webhooks_at(rig, "fails", 6, policy=RetryPolicy((1.0,) * 9))
    for webhook in failing:
        rig.sender.script(webhook.target.url, FAILED)
    engine = await rig.start(max_in_flight=2)
    await rig.emit(*failing)
    await rig.quiet(0.5)
    rig.sender.hold()
    await rig.lives(2.0, step=0.05, stride=0.05)
    [sent] = [outgoing.target.url for outgoing in rig.sender.in_flight]
    waiting = [webhook for webhook in failing if webhook.target.url != sent]

    for webhook in waiting[:4]:
        engine._lanes[webhook.id].lose()
    rig.sender.settle_all(accepted())
    await rig.lives(0.2, step=0.05, stride=0.05)

    assert in_flight_to(rig) == {waiting[-1].target.url: 1}
