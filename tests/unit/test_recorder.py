"""What is written of a lane, and when: over a store that answers when told."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

from tests.builders import make_queued, make_settled, refused
from tests.fakes import NOW, FakeClock
from tests.unit.test_lane_health import DRAINING, SUSPENDED, make_lane

from gatepost.domain.health import Condition
from gatepost.engine.lane import Lane
from gatepost.engine.recorder import Recorder
from gatepost.ports import LaneOutcomes, Settled


class SlowStore:
    """A store that keeps what it was given, and answers once it may."""

    def __init__(self) -> None:
        self.given: list[LaneOutcomes] = []
        self.may_answer = asyncio.Event()

    async def record_attempts(self, batch: Sequence[LaneOutcomes]) -> set[str]:
        self.given += batch
        await self.may_answer.wait()
        return set()


class Recording:
    def __init__(self) -> None:
        self.store = SlowStore()
        self.clock = FakeClock()
        self.told: list[tuple[Lane, Sequence[Settled]]] = []
        self.recorder = Recorder(self.store, self.clock, on_recorded=lambda *told: self.told.append(told))

    async def until_given(self, count: int) -> None:
        for _ in range(100):
            if len(self.store.given) == count:
                return
            self.clock.advance(0.001)
            await asyncio.sleep(0)
        raise AssertionError(f"the store was given {len(self.store.given)}")


async def test_what_a_lane_has_come_to_know_is_written_with_what_it_came_from_and_not_before() -> None:
    recording, lane = Recording(), make_lane()
    first, second = make_settled(make_queued(), refused()), make_settled(make_queued(), refused())
    running = asyncio.create_task(recording.recorder.run())
    lane.condition = Condition(streak=1, failing_since=NOW)
    recording.recorder.add(lane, first)

    # Before the first is written, the second suspends it.
    lane.condition, lane.held_until = SUSPENDED, NOW + timedelta(minutes=10)
    await recording.until_given(1)
    recording.recorder.add(lane, second)
    recording.store.may_answer.set()
    await recording.until_given(2)
    running.cancel()

    before, after = recording.store.given
    assert (before.settled, before.condition.streak, before.held_until) == ([first], 1, None)
    assert (after.settled, after.condition, after.held_until) == ([second], SUSPENDED, NOW + timedelta(minutes=10))
    assert {before.enabled_at, after.enabled_at} == {lane.webhook.enabled_at}


async def test_of_what_is_written_at_once_the_last_counts_and_news_without_an_attempt_goes_along() -> None:
    recording, lane = Recording(), make_lane(DRAINING)
    settled = make_settled()
    recording.store.may_answer.set()
    recording.recorder.add(lane, settled)
    lane.condition = Condition()
    recording.recorder.add(lane)

    running = asyncio.create_task(recording.recorder.run())
    await recording.until_given(1)
    await asyncio.sleep(0)
    running.cancel()

    [outcomes] = recording.store.given
    assert (outcomes.settled, outcomes.condition) == ([settled], Condition())
    assert recording.told == [(lane, [settled])]


async def test_nothing_is_written_of_a_lane_that_was_lost_meanwhile() -> None:
    recording, lost, ours = Recording(), make_lane(), make_lane()
    recording.store.may_answer.set()
    for lane in (lost, ours):
        recording.recorder.add(lane, make_settled())
    lost.lose()

    running = asyncio.create_task(recording.recorder.run())
    await recording.until_given(1)
    running.cancel()

    assert [outcomes.webhook_id for outcomes in recording.store.given] == [ours.webhook_id]
