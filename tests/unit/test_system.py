import asyncio
import itertools
import re
import time
from datetime import UTC, datetime, timedelta

from tests.fakes import NOW

from gatepost.adapters.system import SeededChance, SystemChance, SystemClock

SOON = timedelta(milliseconds=1)
LATE = timedelta(minutes=1)


def test_an_id_is_a_prefix_and_a_version_7_uuid() -> None:
    made = SystemChance().new_id("tsk")

    assert re.fullmatch(r"tsk_[0-9a-f]{12}7[0-9a-f]{3}[89ab][0-9a-f]{15}", made)


def test_an_id_begins_with_the_moment_it_was_made() -> None:
    before = time.time_ns() // 1_000_000
    made = SystemChance().new_id("evt")

    assert before <= int(made[4:16], 16) <= time.time_ns() // 1_000_000


def test_ids_sort_by_when_they_were_made_even_more_of_them_than_a_millisecond_can_number() -> None:
    chance = SystemChance()

    made = [chance.new_id("dlv") for _ in range(20_000)]

    assert all(earlier < later for earlier, later in itertools.pairwise(made))


def test_ids_end_in_chance() -> None:
    chance = SystemChance()

    assert len({chance.new_id("dlv")[-15:] for _ in range(2_000)}) == 2_000


def test_a_draw_lies_between_0_and_1() -> None:
    chance = SystemChance()

    assert all(0 <= chance.draw() < 1 for _ in range(1_000))


def test_key_bytes_have_the_length_asked_for_and_differ() -> None:
    chance = SystemChance()

    assert len(chance.key_bytes(32)) == 32
    assert chance.key_bytes(32) != chance.key_bytes(32)


def test_now_is_aware_and_has_no_more_than_a_store_keeps() -> None:
    moments = [SystemClock().now() for _ in range(1_000)]

    assert {moment.microsecond % 1000 for moment in moments} == {0}
    assert abs(moments[-1] - datetime.now(UTC)) < timedelta(seconds=5)
    assert moments[0].tzinfo is UTC


def seeded(seed: bytes = bytes(32), *, after_ms: int = 0) -> SeededChance:
    return SystemChance().repeatable(seed, NOW + timedelta(milliseconds=after_ms))


def drawn(chance: SeededChance) -> list[object]:
    return [chance.new_id("tsk"), chance.key_bytes(32), chance.draw(), chance.new_id("evt"), chance.key_bytes(70)]


def test_the_same_seed_and_moment_draw_the_same_again() -> None:
    assert drawn(seeded()) == drawn(seeded())
    assert drawn(seeded().repeatable(bytes(32), NOW)) == drawn(seeded())


def test_another_seed_draws_something_else() -> None:
    assert not set(map(str, drawn(seeded()))) & set(map(str, drawn(seeded(bytes(31) + b"1"))))


def test_no_two_draws_of_one_seed_are_the_same() -> None:
    chance = seeded()
    assert len({chance.new_id("dlv")[-15:] for _ in range(2_000)}) == 2_000
    assert len({chance.key_bytes(32) for _ in range(2_000)}) == 2_000
    assert len({chance.draw() for _ in range(2_000)}) == 2_000
    long = chance.key_bytes(96)
    assert len({long[:32], long[32:64], long[64:]}) == 3


def test_a_seeded_id_is_a_version_7_uuid_of_its_moment_that_sorts_by_the_draws() -> None:
    chance = seeded()
    made = [chance.new_id("dlv") for _ in range(4_000)]
    assert all(re.fullmatch(r"dlv_[0-9a-f]{12}7[0-9a-f]{3}[89ab][0-9a-f]{15}", each) for each in made)
    assert {int(each[4:16], 16) for each in made} == {int(NOW.timestamp()) * 1000 + 789}
    assert made == sorted(made)


def test_seeded_ids_sort_by_their_moments() -> None:
    made = [seeded(bytes([number % 7]) * 32, after_ms=number).new_id("evt") for number in range(2_000)]
    assert made == sorted(made)


def test_a_seeded_draw_lies_between_0_and_1() -> None:
    chance = seeded()
    draws = [chance.draw() for _ in range(1_000)]
    assert all(0 <= draw < 1 for draw in draws)
    assert 0.4 < sum(draws) / len(draws) < 0.6


def test_boot_never_goes_back() -> None:
    clock = SystemClock()
    moments = [clock.boot() for _ in range(1_000)]

    assert moments == sorted(moments)


async def test_waiting_ends_when_the_event_is_set() -> None:
    event = asyncio.Event()
    waiting = asyncio.create_task(SystemClock().wait(event, LATE))
    await asyncio.sleep(0)

    event.set()

    assert await waiting is True


async def test_waiting_ends_when_the_time_is_up() -> None:
    assert await SystemClock().wait(asyncio.Event(), SOON) is False


async def test_an_event_that_is_set_already_is_not_waited_for() -> None:
    event = asyncio.Event()
    event.set()

    assert await SystemClock().wait(event, timedelta(0)) is True
    assert await SystemClock().wait(event, -SOON) is True
