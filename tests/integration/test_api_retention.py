"""What is no longer kept, over HTTP: it is null, and so told from what was empty."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.builders import accepted, make_attempt, make_delivery, make_event, make_progress, make_webhook
from tests.fakes import NOW, FakeClock
from tests.integration.apis import Api, expect, opened_api

from gatepost.domain.deliveries import Delivery, Status
from gatepost.domain.retention import Kept

EMPTY = accepted(204, headers=(), body=b"")
LATER = NOW + timedelta(days=1)


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with opened_api(tmp_path, clock=FakeClock()) as opened:
        yield opened


async def delivered(api: Api) -> Delivery:
    """Write a delivery that got through, to a receiver that answered with nothing."""
    webhook = await api.new_webhook()
    progress = make_progress(status=Status.DELIVERED, attempt_count=1, next_attempt_at=None, finished_at=NOW)
    event = make_event(group_id=api.group.id, tasks=())
    delivery = make_delivery(event, make_webhook(id=webhook["id"]), progress=progress)
    await api.store.add_test(api.group.id, event, delivery, make_attempt(outcome=EMPTY))
    return delivery


async def only_attempt(api: Api, delivery: Delivery) -> dict[str, Any]:
    path = f"/api/integrations/webhooks/{delivery.webhook_id}/deliveries/{delivery.id}"
    [attempt] = expect(await api.admin.get(path), 200)["attempts"]
    return dict(attempt)


async def test_an_answer_that_is_no_longer_kept_is_null_and_an_empty_one_is_empty(api: Api) -> None:
    delivery = await delivered(api)
    before = await only_attempt(api, delivery)

    await api.store.purge(Kept.BODIES, before=LATER, after="")

    assert (before["responseHeaders"], before["responseBody"]) == ({}, "")
    assert await only_attempt(api, delivery) == {**before, "responseHeaders": None, "responseBody": None}
