"""What the store promises about what it counts."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from tests.builders import (
    GROUP_ID,
    accepted,
    make_attempt,
    make_group,
    make_outcomes,
    make_settled,
    new_id,
    refused,
    unreachable,
)
from tests.contract.backends import Store
from tests.contract.steps import (
    HOUR,
    SECOND,
    add_webhook,
    emit_many,
    emit_one,
    ids,
    lease_one,
    leased_with_one,
    read,
    record,
    record_settled,
)
from tests.fakes import NOW

from gatepost.domain.errors import InvalidInput
from gatepost.domain.outcomes import ErrorClass, Outcome
from gatepost.domain.retry import ONE_ATTEMPT
from gatepost.domain.stats import BOUNDS_MS, BUCKET, Bucket, bin_of, start_of_bucket
from gatepost.domain.webhooks import Webhook
from gatepost.ports import StatsQuery

MINUTE = 60 * SECOND
STARTED = start_of_bucket(NOW, BUCKET)
OF_ALL_BINS = [timedelta(milliseconds=bound - 1) for bound in BOUNDS_MS]


def around_now(**asked: Any) -> StatsQuery:
    start = start_of_bucket(NOW - HOUR, HOUR)
    return replace(StatsQuery(start=start, end=start + 4 * HOUR, width=BUCKET), **asked)


async def stats(store: Store, group_id: str = GROUP_ID, **asked: Any) -> Sequence[Bucket]:
    """Return what was counted around now, when that is one page."""
    page = await store.stats(group_id, around_now(**asked), limit=50, most_read=1000, before=None)
    assert page.next_cursor is None
    return page.items


async def pages(store: Store, *, limit: int = 50, most_read: int = 1000, **asked: Any) -> list[Sequence[Bucket]]:
    """Return what was counted around now, page by page."""
    found: list[Sequence[Bucket]] = []
    before: str | None = None
    while not found or before is not None:
        page = await store.stats(GROUP_ID, around_now(**asked), limit=limit, most_read=most_read, before=before)
        found.append(page.items)
        before = page.next_cursor
    return found


async def webhook_with_attempts(
    store: Store, *moments: datetime, durations: Sequence[timedelta] = (timedelta(0),)
) -> Webhook:
    """Return a webhook with an attempt that failed of each duration at each of the moments."""
    webhook = await add_webhook(store)
    failed = [make_attempt(outcome=refused(503), started_at=at, duration=each) for at in moments for each in durations]
    await emit_many(store, webhook, len(failed))
    lane = await lease_one(store, webhook)
    deliveries = (await read(store, webhook, limit=len(failed))).deliveries
    settled = [
        make_settled(queued, attempt.outcome, attempt=attempt)
        for queued, attempt in zip(deliveries, failed, strict=True)
    ]
    await record_settled(store, lane, *settled)
    return webhook


def every_bucket(start: datetime, count: int) -> list[datetime]:
    return [start + number * BUCKET for number in range(count)]


def numbers(buckets: Sequence[Bucket]) -> list[tuple[int, int, int]]:
    return [(each.tally.delivered, each.tally.failed, each.tally.dead) for each in buckets]


async def test_without_attempts_there_is_nothing_to_show(store: Store) -> None:
    await emit_one(store, await add_webhook(store))

    assert await stats(store) == []


async def test_an_attempt_is_counted_by_what_became_of_its_delivery(store: Store) -> None:
    webhook = await add_webhook(store)
    await emit_many(store, webhook, 3)
    lane = await lease_one(store, webhook)
    through, failed, dead = (await read(store, webhook)).deliveries

    await record_settled(
        store,
        lane,
        make_settled(through),
        make_settled(failed, refused(503)),
        make_settled(dead, unreachable(), policy=ONE_ATTEMPT),
    )

    [bucket] = await stats(store)
    assert (bucket.webhook_id, bucket.start_at) == (webhook.id, STARTED)
    assert numbers([bucket]) == [(1, 1, 1)]


async def test_latencies_are_counted_in_their_bins(store: Store) -> None:
    webhook = await add_webhook(store)
    await emit_many(store, webhook, 3)
    lane = await lease_one(store, webhook)
    lasted = [timedelta(milliseconds=3), timedelta(milliseconds=3), timedelta(seconds=9)]

    await record_settled(
        store,
        lane,
        *(
            make_settled(queued, attempt=make_attempt(duration=duration))
            for queued, duration in zip((await read(store, webhook)).deliveries, lasted, strict=True)
        ),
    )

    [bucket] = await stats(store)
    assert {number: count for number, count in enumerate(bucket.tally.latencies) if count} == {
        bin_of(lasted[0]): 2,
        bin_of(lasted[2]): 1,
    }


async def test_batches_add_up_in_the_bucket_that_each_attempt_began_in(store: Store) -> None:
    webhook = await add_webhook(store)
    await emit_many(store, webhook, 4)
    lane = await lease_one(store, webhook)
    deliveries = (await read(store, webhook)).deliveries

    for queued, at in zip(deliveries, (STARTED, STARTED + BUCKET - SECOND, STARTED + BUCKET, STARTED), strict=True):
        await record(store, lane, queued, refused(503), at=at)

    buckets = await stats(store)
    assert [each.start_at for each in buckets] == [STARTED + BUCKET, STARTED]
    assert numbers(buckets) == [(0, 1, 0), (0, 3, 0)]


async def test_what_is_recorded_again_is_not_counted_again(store: Store) -> None:
    _, lane, _, queued = await leased_with_one(store)
    settled = make_settled(queued)

    await record_settled(store, lane, settled)
    await record_settled(store, lane, settled)

    assert numbers(await stats(store)) == [(1, 0, 0)]


async def test_one_delivery_twice_in_a_batch_counts_as_often_as_it_moved(store: Store) -> None:
    _, lane, _, queued = await leased_with_one(store)
    first = make_settled(queued, refused(503))

    await record_settled(store, lane, first, first, make_settled(replace(queued, attempt_count=1)))

    assert numbers(await stats(store)) == [(1, 1, 0)]


async def test_a_lane_that_is_lost_counts_nothing(store: Store) -> None:
    _, lane, _, queued = await leased_with_one(store)

    assert await record(store, replace(lane, token=lane.token + 1), queued, refused(503)) == {lane.webhook_id}

    assert await stats(store) == []


async def test_a_probe_that_failed_counts_for_nothing_and_one_that_got_through_counts(store: Store) -> None:
    _, lane, _, queued = await leased_with_one(store)
    failed = make_attempt(outcome=refused(503), probe=True)
    await record_settled(store, lane, make_settled(queued, attempt=failed, progress=None))
    assert await stats(store) == []

    await record_settled(store, lane, make_settled(queued, attempt=make_attempt(probe=True)))

    assert numbers(await stats(store)) == [(1, 0, 0)]


@pytest.mark.parametrize(
    ("outcome", "numbered"),
    [(accepted(), (1, 0, 0)), (refused(503), (0, 1, 0)), (refused(503, headers=(("x", "\ud800"),)), (0, 1, 0))],
)
async def test_an_attempt_written_ahead_is_counted_once_by_its_amendment(
    store: Store, outcome: Outcome, numbered: tuple[int, int, int]
) -> None:
    _, lane, _, queued = await leased_with_one(store)
    await record(store, lane, queued, unreachable(ErrorClass.INTERNAL_ERROR))
    assert await stats(store) == []

    for _ in range(2):
        await record_settled(store, lane, make_settled(queued, outcome, amends=True))

    assert numbers(await stats(store)) == [numbered]


@pytest.mark.parametrize(("outcome", "numbered"), [(accepted(), (1, 0, 0)), (refused(503), (0, 0, 1))])
async def test_a_last_attempt_written_ahead_is_counted_once_by_its_amendment(
    store: Store, outcome: Outcome, numbered: tuple[int, int, int]
) -> None:
    _, lane, _, queued = await leased_with_one(store)
    died = unreachable(ErrorClass.INTERNAL_ERROR)
    await record_settled(store, lane, make_settled(queued, died, policy=ONE_ATTEMPT))
    assert await stats(store) == []

    for _ in range(2):
        await record_settled(store, lane, make_settled(queued, outcome, policy=ONE_ATTEMPT, amends=True))

    assert numbers(await stats(store)) == [numbered]


async def test_wide_buckets_add_up_what_lies_in_them(store: Store) -> None:
    hour = start_of_bucket(NOW, HOUR)
    await webhook_with_attempts(store, hour, hour + 59 * MINUTE, hour + 60 * MINUTE)

    buckets = await stats(store, width=HOUR)

    assert [each.start_at for each in buckets] == [hour + HOUR, hour]
    assert numbers(buckets) == [(0, 1, 0), (0, 2, 0)]
    assert [sum(each.tally.latencies) for each in buckets] == [1, 2]


async def test_the_start_belongs_to_what_is_asked_for_and_the_end_does_not(store: Store) -> None:
    _, lane, _, queued = await leased_with_one(store)
    await record(store, lane, queued, refused(503), at=STARTED + SECOND)

    assert len(await stats(store, start=STARTED, end=STARTED + BUCKET)) == 1
    assert await stats(store, start=STARTED - BUCKET, end=STARTED) == []
    assert await stats(store, start=STARTED + BUCKET, end=STARTED + HOUR) == []


async def test_webhooks_are_told_apart_the_newest_first(store: Store) -> None:
    webhooks = [await webhook_with_attempts(store, NOW) for _ in range(3)]

    assert [each.webhook_id for each in await stats(store)] == ids(webhooks)[::-1]
    assert [each.webhook_id for each in await stats(store, webhook_id=webhooks[1].id)] == [webhooks[1].id]


async def test_one_batch_counts_for_each_of_its_lanes(store: Store) -> None:
    webhooks = [await add_webhook(store) for _ in range(2)]
    outcomes = []
    for webhook in webhooks:
        await emit_many(store, webhook, 2)
        lane = await lease_one(store, webhook)
        settled = [make_settled(queued) for queued in (await read(store, webhook)).deliveries]
        outcomes.append(make_outcomes(lane, settled))

    assert await store.record_attempts(outcomes) == set()

    assert numbers(await stats(store)) == [(2, 0, 0), (2, 0, 0)]


async def test_other_groups_and_deleted_webhooks_are_not_shown(store: Store) -> None:
    webhook, lane, _, queued = await leased_with_one(store)
    await record(store, lane, queued, refused(503))
    other = make_group(name="another", id=new_id("grp"))
    await store.add_group(other)

    assert await stats(store, group_id=other.id) == []
    assert await stats(store, group_id=other.id, webhook_id=webhook.id) == []
    await store.delete_webhook(GROUP_ID, webhook.id, now=NOW)
    assert await stats(store) == []


# --- pages ---------------------------------------------------------------------------------------------------


async def test_a_page_has_so_many_webhooks_with_or_without_counts(store: Store) -> None:
    oldest = await webhook_with_attempts(store, NOW, NOW + BUCKET)
    for _ in range(2):
        await add_webhook(store)
    newest = [await webhook_with_attempts(store, NOW) for _ in range(2)]

    found = await pages(store, limit=2)

    assert [[each.webhook_id for each in page] for page in found] == [ids(newest)[::-1], [], [oldest.id, oldest.id]]


async def test_a_page_that_is_the_last_one_says_so(store: Store) -> None:
    for _ in range(4):
        await webhook_with_attempts(store, NOW)

    assert [len(page) for page in await pages(store, limit=2)] == [2, 2]
    assert [len(page) for page in await pages(store, limit=4)] == [4]


@pytest.mark.parametrize("width", [BUCKET, 2 * BUCKET])
async def test_what_one_webhook_has_too_much_of_takes_a_page_for_each_whole_bucket(
    store: Store, width: timedelta
) -> None:
    start = start_of_bucket(NOW, HOUR)
    older, busy = [await webhook_with_attempts(store, *every_bucket(start, 4), durations=OF_ALL_BINS) for _ in range(2)]

    found = await pages(store, width=width, most_read=width // BUCKET + 1)

    assert [each for page in found for each in page] == await stats(store, width=width)
    newest_first = [start + number * width for number in range(4 * BUCKET // width)][::-1]
    assert [[(each.webhook_id, each.start_at) for each in page] for page in found if page] == [
        [(webhook.id, start_at)] for webhook in (busy, older) for start_at in newest_first
    ]


async def test_what_does_not_fit_into_a_page_any_more_is_left_to_the_next_one_as_a_whole(store: Store) -> None:
    moments = every_bucket(STARTED, 3)
    webhooks = [await webhook_with_attempts(store, *moments, durations=OF_ALL_BINS) for _ in range(3)]

    found = await pages(store, most_read=4)

    assert [[each.webhook_id for each in page] for page in found] == [[each.id] * 3 for each in webhooks[::-1]]


async def test_a_webhook_deleted_in_the_middle_of_its_pages_leaves_the_next_one_whole(store: Store) -> None:
    older = await webhook_with_attempts(store, STARTED, STARTED + 9 * BUCKET)
    busy = await webhook_with_attempts(store, *every_bucket(STARTED, 3), durations=OF_ALL_BINS)
    first = await store.stats(GROUP_ID, around_now(), limit=50, most_read=2, before=None)
    assert [each.webhook_id for each in first.items] == [busy.id]

    await store.delete_webhook(GROUP_ID, busy.id, now=NOW)

    rest = await store.stats(GROUP_ID, around_now(), limit=50, most_read=1000, before=first.next_cursor)
    assert [each.webhook_id for each in rest.items] == [older.id, older.id]


@pytest.mark.parametrize(
    "cursor", ["", "x", "wh_1", f"wh_{'0' * 32}.", f"wh_{'0' * 32}.-1", f"wh_{'0' * 32}.{'9' * 14}"]
)
async def test_a_cursor_that_no_page_gave_is_refused(store: Store, cursor: str) -> None:
    with pytest.raises(InvalidInput):
        await store.stats(GROUP_ID, around_now(), limit=2, most_read=1000, before=cursor)


async def test_a_cursor_beyond_the_end_shows_nothing_from_beyond(store: Store) -> None:
    webhook = await webhook_with_attempts(store, STARTED, STARTED + BUCKET)
    asked = around_now(end=STARTED + BUCKET)

    page = await store.stats(GROUP_ID, asked, limit=2, most_read=1000, before=f"{webhook.id}.{'9' * 13}")

    assert [each.start_at for each in page.items] == [STARTED]
