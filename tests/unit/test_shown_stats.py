"""How much of the stats is read and shown at once, whatever is asked for."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import GROUP_ID
from tests.fakes import NOW, FakeClock

from gatepost.domain.errors import InvalidInput
from gatepost.domain.stats import BUCKET, Bucket, start_of_bucket
from gatepost.ports import Page, StatsQuery
from gatepost.services.stats import LONGEST, MOST_BUCKETS, MOST_ON_PAGE, MOST_READ, Stats

FIRST, LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
any_moment = st.none() | st.datetimes(timezones=st.just(UTC)) | st.sampled_from([FIRST, LAST, NOW, NOW - LONGEST])
limits = st.integers(1, 200)


class Asked:
    """A store that notes what it is asked."""

    def __init__(self) -> None:
        self.query: StatsQuery | None = None
        self.most_read = 0

    async def stats(
        self, group_id: str, query: StatsQuery, *, limit: int, most_read: int, before: str | None
    ) -> Page[Bucket]:
        self.query, self.most_read = query, most_read
        return Page([], None)


async def ask(limit: int, begins_at: datetime | None, ends_at: datetime | None) -> Asked:
    asked = Asked()
    stats = Stats(asked, None, FakeClock())  # type: ignore[arg-type]  # nobody asks for a webhook
    await stats.of(GROUP_ID, webhook_id=None, begins_at=begins_at, ends_at=ends_at, limit=limit, before=None)
    return asked


@given(limits, any_moment, any_moment)
async def test_a_page_is_bounded_however_long_the_stretch_of_time(
    limit: int, begins_at: datetime | None, ends_at: datetime | None
) -> None:
    if begins_at and ends_at and ends_at <= begins_at:
        with pytest.raises(InvalidInput):
            await ask(limit, begins_at, ends_at)
        return

    asked = await ask(limit, begins_at, ends_at)

    if (query := asked.query) is not None:
        most = (query.end - query.start) // query.width
        assert 1 <= most <= MOST_BUCKETS
        assert most * limit <= MOST_ON_PAGE
        assert query.width // BUCKET < asked.most_read <= max(MOST_READ, query.width // BUCKET + 1)
        assert (start_of_bucket(query.start, query.width), query.width % BUCKET) == (query.start, timedelta(0))
        assert start_of_bucket(query.end, query.width) == query.end


@given(limits, st.timedeltas(timedelta(seconds=1), LONGEST))
async def test_all_that_is_asked_for_is_looked_through(limit: int, length: timedelta) -> None:
    query = (await ask(limit, NOW - length, NOW)).query

    assert query is not None
    assert query.start <= NOW - length
    assert query.end >= NOW


async def test_what_was_before_anything_and_what_is_to_come_is_not_looked_for() -> None:
    for begins_at, ends_at in ((FIRST, NOW - LONGEST), (None, FIRST), (LAST, None), (NOW, LAST)):
        assert (await ask(50, begins_at, ends_at)).query is None
