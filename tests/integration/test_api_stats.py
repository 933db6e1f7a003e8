"""Stats over HTTP."""

import base64
from datetime import datetime, timedelta
from typing import Any

import pytest
from tests.builders import make_attempt, make_settled, refused
from tests.contract.steps import lease, read, record_settled
from tests.fakes import NOW, FakeClock
from tests.integration.apis import Api, expect, fields_of, opened_api, problem

from gatepost.domain.deliveries import QueuedDelivery
from gatepost.domain.events import rfc3339
from gatepost.domain.retry import ONE_ATTEMPT
from gatepost.domain.stats import BUCKET, start_of_bucket

STATS = "/api/integrations/stats"
HOUR = timedelta(hours=1)
FIRST, LAST = "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"


@pytest.fixture
async def api(tmp_path: Any) -> Any:
    async with opened_api(tmp_path, clock=FakeClock()) as api:
        yield api


async def webhook_with_attempts(api: Api) -> str:
    """Return a webhook of which one attempt was delivered, one failed, and one was the last; another had none."""
    shown = await api.new_webhook()
    webhook = await api.store.webhook(api.group.id, shown["id"])
    assert webhook is not None
    for _ in range(3):
        await api.new_task()
    lane = (await lease(api.store))[webhook.id]
    through, failed, dead = (await read(api.store, webhook)).deliveries
    await record_settled(
        api.store,
        lane,
        make_settled(through, attempt=lasting(through, milliseconds=42)),
        make_settled(failed, refused(503), attempt=lasting(failed, milliseconds=42, outcome=refused(503))),
        make_settled(dead, refused(503), policy=ONE_ATTEMPT, attempt=lasting(dead, seconds=9, outcome=refused(503))),
    )
    return webhook.id


def lasting(queued: QueuedDelivery, *, milliseconds: int = 0, seconds: int = 0, **changes: Any) -> Any:
    duration = timedelta(milliseconds=milliseconds, seconds=seconds)
    return make_attempt(queued.attempt_count + 1, duration=duration, **changes)


async def test_attempts_are_counted_by_webhook_in_buckets(api: Api) -> None:
    webhook_id = await webhook_with_attempts(api)
    start = start_of_bucket(NOW, BUCKET)

    page = expect(await api.admin.get(STATS, params={"limit": 10}), 200)

    [item] = page["items"]
    assert page["nextCursor"] is None
    assert {name: item[name] for name in ("webhookId", "from", "to", "delivered", "failed", "dead")} == {
        "webhookId": webhook_id,
        "from": rfc3339(start),
        "to": rfc3339(start + BUCKET),
        "delivered": 1,
        "failed": 1,
        "dead": 1,
    }
    assert 35 <= item["p50Ms"] < 50
    assert 8_000 <= item["p95Ms"] < 15_000


async def test_buckets_are_wider_the_longer_the_stretch_of_time(api: Api) -> None:
    await webhook_with_attempts(api)

    for days, width in ((1, BUCKET), (7, HOUR), (90, 12 * HOUR)):
        asked = {"from": rfc3339(NOW - timedelta(days=days)), "to": rfc3339(NOW), "limit": 10}
        assert await shown_width(api, asked) == width


async def test_buckets_are_wider_the_more_webhooks_share_a_page(api: Api) -> None:
    webhook_id = await webhook_with_attempts(api)

    for limit, width in ((1, BUCKET), (10, BUCKET), (50, HOUR / 2), (200, 2 * HOUR)):
        assert await shown_width(api, {"limit": limit}) == width
        assert await shown_width(api, {"limit": limit, "webhookId": webhook_id}) == BUCKET


async def shown_width(api: Api, asked: dict[str, Any]) -> timedelta:
    [item] = expect(await api.admin.get(STATS, params=asked), 200)["items"]
    start, end = (datetime.fromisoformat(item[each]) for each in ("from", "to"))
    assert start_of_bucket(NOW, end - start) == start
    return end - start


async def test_one_webhook_may_be_asked_for(api: Api) -> None:
    webhook_id, other = await webhook_with_attempts(api), (await api.new_webhook())["id"]

    asked = {each: expect(await api.admin.get(STATS, params={"webhookId": each}), 200) for each in (webhook_id, other)}

    assert [len(page["items"]) for page in asked.values()] == [1, 0]


async def test_a_stretch_of_time_before_anything_or_to_come_is_empty(api: Api) -> None:
    await webhook_with_attempts(api)

    for begin, end in (("0001-01-01", "1970-01-01"), ("2026-01-01", "2026-10-01"), ("2027-01-01", "9999-12-31")):
        asked = {"from": f"{begin}T00:00:00Z", "to": f"{end}T00:00:00Z"}
        assert expect(await api.admin.get(STATS, params=asked), 200) == {"items": [], "nextCursor": None}


@pytest.mark.parametrize(
    ("asked", "delivered"),
    [
        ({"from": FIRST}, 1),
        ({"from": FIRST, "to": LAST}, 1),
        ({"to": LAST}, 1),
        ({"from": FIRST, "to": "0001-01-01T00:00:01Z"}, 0),
        ({"to": FIRST}, 0),
        ({"from": "9999-12-31T00:00:00Z", "to": LAST}, 0),
        ({"from": LAST}, 0),
    ],
)
@pytest.mark.parametrize("limit", [1, 200])
async def test_the_ends_of_time_can_be_asked_for(api: Api, asked: dict[str, Any], delivered: int, limit: int) -> None:
    await webhook_with_attempts(api)

    items = expect(await api.admin.get(STATS, params={**asked, "limit": limit}), 200)["items"]

    assert sum(item["delivered"] for item in items) == delivered


async def test_the_end_has_to_come_after_the_beginning(api: Api) -> None:
    for end in (NOW, NOW - BUCKET):
        asked = {"from": rfc3339(NOW), "to": rfc3339(end)}

        assert fields_of(problem(await api.admin.get(STATS, params=asked), 422, "validation_failed")) == ["to"]


# --- pages ---------------------------------------------------------------------------------------------------


async def test_pages_have_so_many_webhooks_the_newest_first(api: Api) -> None:
    webhook_ids = [await webhook_with_attempts(api) for _ in range(3)]

    pages = await all_pages(api, limit=2)

    assert [[item["webhookId"] for item in page] for page in pages] == [webhook_ids[:0:-1], webhook_ids[:1]]


async def test_a_cursor_of_anything_else_is_refused(api: Api) -> None:
    webhook_id = (await api.new_webhook())["id"]

    for opaque in (api.group.id, f"{webhook_id}.", f"{webhook_id}.-1", f"{webhook_id}.{'9' * 40}", "~"):
        cursor = base64.urlsafe_b64encode(opaque.encode()).decode().rstrip("=")
        answer = await api.admin.get(STATS, params={"cursor": cursor})
        assert fields_of(problem(answer, 422, "validation_failed")) == ["cursor"]


@pytest.mark.parametrize("limit", ["0", "201", "x"])
async def test_a_page_has_one_to_two_hundred_webhooks(api: Api, limit: str) -> None:
    answer = await api.admin.get(STATS, params={"limit": limit})

    assert fields_of(problem(answer, 422, "validation_failed")) == ["limit"]


async def all_pages(api: Api, **asked: Any) -> list[list[dict[str, Any]]]:
    pages = []
    cursor: str | None = ""
    while cursor is not None:
        page = expect(await api.admin.get(STATS, params=asked | ({"cursor": cursor} if cursor else {})), 200)
        pages.append(page["items"])
        cursor = page["nextCursor"]
    return pages


async def test_stats_are_for_admins_of_the_group(api: Api) -> None:
    webhook_id = await webhook_with_attempts(api)

    problem(await api.member.get(STATS), 403, "forbidden")
    problem(await api.stranger.get(STATS), 401, "unauthenticated")
    problem(await api.other_admin.get(STATS, params={"groupId": api.group.id}), 404, "not_found")
    problem(await api.other_admin.get(STATS, params={"webhookId": webhook_id}), 404, "not_found")
    assert expect(await api.other_admin.get(STATS), 200)["items"] == []
