"""What an engine lets go of while it runs, over a real store."""

import asyncio
from datetime import timedelta

import pytest
from tests.builders import refused
from tests.integration.rigs import FAILED, Rig

from gatepost.domain.deliveries import Delivery, Status
from gatepost.domain.outcomes import response_of
from gatepost.domain.retry import RetryPolicy
from gatepost.engine.retention import CHECK_EVERY, EVERY, LEASE, PAUSE
from gatepost.ports import DeliveryQuery, EventQuery

DAY = timedelta(days=1)


async def passes(rig: Rig, *, after: timedelta) -> None:
    """Let time pass, and the engine purge once."""
    rig.clock.advance((after - EVERY).total_seconds())
    done = rig._watched.calls["end_retention"]
    await rig.until(lambda: rig._watched.calls["end_retention"] > done + 1, step=5.0)


async def listed(rig: Rig) -> list[str]:
    page = await rig.store.deliveries(rig.group.id, DeliveryQuery(), limit=100, before=None)
    return [delivery.id for delivery in page.items]


async def response_bodies(rig: Rig, delivery: Delivery) -> list[bytes | None]:
    responses = [response_of(attempt.outcome) for attempt in (await rig.detail(delivery)).attempts]
    return [response.body for response in responses if response is not None]


async def test_what_is_finished_goes_when_its_time_has_come_and_what_waits_stays(rig: Rig) -> None:
    webhook, dying, patient = (
        await rig.webhook(),
        await rig.webhook(url="https://dying.example.com/in", policy=RetryPolicy(())),
        await rig.webhook(url="https://patient.example.com/in", policy=RetryPolicy((604_800,) * 19)),
    )
    rig.sender.script(dying.target.url, refused(503))
    rig.sender.script(patient.target.url, FAILED)
    await rig.start()
    delivered, dead, waiting = await rig.emit(webhook, dying, patient)
    await rig.until_status(delivered, Status.DELIVERED)
    await rig.until_status(dead, Status.DEAD_LETTER)
    await rig.until_status(waiting, Status.FAILED)

    await passes(rig, after=5 * DAY)
    assert await response_bodies(rig, dead) == [b"noted"]

    await passes(rig, after=3 * DAY)
    assert await response_bodies(rig, dead) == [None]

    await passes(rig, after=25 * DAY)
    assert sorted(await listed(rig)) == sorted([dead.id, waiting.id])
    assert (await rig.detail(waiting)).event is not None

    await passes(rig, after=60 * DAY)
    assert await listed(rig) == [waiting.id]
    assert len((await rig.store.events(rig.group.id, EventQuery(), limit=10, before=None)).items) == 1


@pytest.mark.parametrize("rig", ["sqlite", "mongodb"], indirect=True)
async def test_an_engine_that_stops_while_it_purges_leaves_the_rest_to_others_at_once(rig: Rig) -> None:
    await rig.start()
    rig.clock.advance(CHECK_EVERY.total_seconds())
    await rig.until(lambda: rig._watched.calls["purge"] > 0, step=PAUSE.total_seconds() / 10)

    await rig.stop()

    assert await rig.store.lease_retention("eng_2", now=rig.clock.now(), lease=LEASE, every=EVERY)


@pytest.mark.parametrize("rig", ["sqlite", "mongodb"], indirect=True)
async def test_deliveries_go_on_while_the_store_purges(rig: Rig) -> None:
    webhook = await rig.webhook()
    engine = await rig.start()
    purging, may_end = asyncio.Event(), asyncio.Event()
    purge = rig.store.purge

    async def slowly(*args: object, **kwargs: object) -> object:
        purging.set()
        await may_end.wait()
        return await purge(*args, **kwargs)

    rig.store.purge = slowly
    rig.clock.advance(CHECK_EVERY.total_seconds())
    await rig.until(purging.is_set)

    [delivery] = await rig.emit(webhook)
    await rig.until(lambda: len(rig.sender.sent) == 1)
    may_end.set()

    await rig.until_status(delivery, Status.DELIVERED)
    assert engine.lanes_held <= 1
