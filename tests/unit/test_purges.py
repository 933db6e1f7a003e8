"""When an engine lets go of what is old, and how gently."""

from datetime import datetime, timedelta

import pytest
from tests.fakes import NOW, FakeClock

from gatepost.domain.errors import StoreUnavailable
from gatepost.domain.retention import DEFAULT_RETENTION, Kept
from gatepost.engine.retention import CHECK_EVERY, EVERY, LEASE, PAUSE, Purges
from gatepost.ports import PurgeStep

STEPS = len(Kept)


class Store:
    """Gives the job to whoever asks while nobody else is said to have it, and has little to purge."""

    def __init__(self) -> None:
        self.taken_by_another = False
        self.failing = False
        self.leased = 0
        self.done_at: datetime | None = None
        self.ended: list[datetime | None] = []
        self.left = dict.fromkeys(Kept, 0)  # steps after the first
        self.purged: list[tuple[Kept, datetime, str]] = []

    async def lease_retention(self, owner: str, *, now: datetime, lease: timedelta, every: timedelta) -> bool:
        assert (owner, lease, every) == ("eng_1", LEASE, EVERY)
        if self.taken_by_another or (self.done_at is not None and now - self.done_at < every):
            return False
        self.leased += 1
        return True

    async def end_retention(self, owner: str, *, done_at: datetime | None) -> None:
        assert owner == "eng_1"
        self.ended.append(done_at)
        self.done_at = done_at or self.done_at

    async def purge(self, kept: Kept, *, before: datetime, after: str) -> PurgeStep:
        if self.failing:
            raise StoreUnavailable("it is away")
        self.purged.append((kept, before, after))
        if not self.left[kept]:
            return PurgeStep(1, None)
        self.left[kept] -= 1
        return PurgeStep(500, f"after {self.left[kept]}")


def purging(store: Store, clock: FakeClock) -> Purges:
    purges = Purges(store, clock, owner="eng_1", retention=DEFAULT_RETENTION)
    clock.advance(CHECK_EVERY.total_seconds())
    return purges


async def test_an_engine_that_has_just_started_has_more_urgent_things_to_do() -> None:
    store, clock = Store(), FakeClock()
    purges = Purges(store, clock, owner="eng_1", retention=DEFAULT_RETENTION)

    clock.advance(CHECK_EVERY.total_seconds() - 1)

    assert await purges.advance() is None
    assert store.leased == 0


async def test_everything_is_purged_step_by_step_each_before_its_own_moment() -> None:
    store, clock = Store(), FakeClock()
    purges = purging(store, clock)
    store.left[Kept.DELIVERIES] = 2

    pauses = [await purges.advance() for _ in range(STEPS + 2)]

    assert pauses == [PAUSE] * (STEPS + 1) + [None]
    expired = dict(DEFAULT_RETENTION.expired(now=clock.now()))
    assert [kept for kept, _, _ in store.purged] == [Kept.BODIES, *[Kept.DELIVERIES] * 3, *list(Kept)[2:]]
    assert all(before == expired[kept] for kept, before, _ in store.purged)
    assert [after for _, _, after in store.purged] == ["", "", "after 1", "after 0", *[""] * (STEPS - 2)]
    assert store.ended == [clock.now()]


async def test_nothing_more_is_done_until_an_hour_has_passed() -> None:
    store, clock = Store(), FakeClock()
    purges = purging(store, clock)
    for _ in range(STEPS):
        await purges.advance()

    clock.advance(EVERY.total_seconds() - 1)
    assert await purges.advance() is None
    assert len(store.purged) == STEPS

    clock.advance(CHECK_EVERY.total_seconds())
    assert await purges.advance() == PAUSE
    assert store.purged[-1][0] is Kept.BODIES


async def test_nobody_purges_while_another_has_the_job() -> None:
    store, clock = Store(), FakeClock()
    store.taken_by_another = True
    purges = purging(store, clock)

    assert await purges.advance() is None
    store.taken_by_another = False
    assert await purges.advance() is None  # it looks again in a minute
    clock.advance(CHECK_EVERY.total_seconds())

    assert await purges.advance() == PAUSE


async def test_the_lease_is_renewed_and_whoever_has_lost_it_stops_and_begins_anew() -> None:
    store, clock = Store(), FakeClock()
    purges = purging(store, clock)
    store.left[Kept.BODIES] = 100
    await purges.advance()
    clock.advance(LEASE.total_seconds() / 3)
    await purges.advance()
    assert store.leased == 2

    store.taken_by_another = True
    clock.advance(LEASE.total_seconds() / 3)
    assert await purges.advance() is None
    assert len(store.purged) == 2

    store.taken_by_another = False
    clock.advance(CHECK_EVERY.total_seconds())
    await purges.advance()
    assert store.purged[-1] == (Kept.BODIES, clock.now() - DEFAULT_RETENTION.bodies, "")


async def test_a_step_that_failed_is_taken_again() -> None:
    store, clock = Store(), FakeClock()
    purges = purging(store, clock)
    store.left[Kept.BODIES] = 1
    await purges.advance()

    store.failing = True
    with pytest.raises(StoreUnavailable):
        await purges.advance()
    store.failing = False
    await purges.advance()

    assert store.purged[-1] == (Kept.BODIES, NOW + CHECK_EVERY - DEFAULT_RETENTION.bodies, "after 0")


async def test_whoever_stops_in_between_leaves_the_rest_to_others_at_once() -> None:
    store, clock = Store(), FakeClock()
    purges = purging(store, clock)
    await purges.advance()

    await purges.finish()

    assert store.ended == [None]
    assert await purges.advance() is None
    assert len(store.purged) == 1


async def test_whoever_stops_without_the_job_gives_nothing_back() -> None:
    store, clock = Store(), FakeClock()
    purges = purging(store, clock)

    await purges.finish()

    assert store.ended == []
