"""Bulk replays over HTTP, what waits given up, and webhooks that ask for order; no engine runs beside."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.builders import accepted, make_webhook, refused
from tests.contract.replaying import finish_many
from tests.fakes import NOW, FakeClock
from tests.integration.apis import Api, expect, fields_of, opened_api, problem

from gatepost.domain.events import rfc3339
from gatepost.domain.health import Condition
from gatepost.engine.replays import Replays
from gatepost.ports import LaneOutcomes

WEBHOOKS = "/api/integrations/webhooks"
HOUR = timedelta(hours=1)


@pytest.fixture(params=["sqlite", "mongodb"])
async def api(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Api]:
    async with opened_api(tmp_path, on=request.param, clock=FakeClock()) as opened:
        yield opened


async def finished(api: Api, webhook_id: str, *, dead: bool = True, hours_ago: int = 1, **event: Any) -> str:
    """Write a delivery whose one attempt is over; return its id."""
    webhook = make_webhook(id=webhook_id, group_id=api.group.id)
    outcome = refused() if dead else accepted()
    [delivery_id] = await finish_many(api.store, webhook, 1, outcome, at=NOW - hours_ago * HOUR, **event)
    return delivery_id


async def replay(api: Api, webhook_id: str, **wanted: Any) -> dict[str, Any]:
    started: dict[str, Any] = expect(await api.admin.post(f"{WEBHOOKS}/{webhook_id}/replays", wanted), 202)
    return started


async def advance(api: Api) -> None:
    """Do what an engine does, once."""
    await Replays(api.store, FakeClock(), owner="eng_1").advance()


# --- previews ------------------------------------------------------------------------------------------------


async def test_a_dry_run_says_how_many_there_are_shows_the_first_and_changes_nothing(api: Api) -> None:
    webhook = await api.new_webhook()
    made = [await finished(api, webhook["id"]) for _ in range(7)]

    answer = await api.admin.post(f"{WEBHOOKS}/{webhook['id']}/replays", {"status": "dead-letter", "dryRun": True})

    preview = expect(answer, 200)
    listed = {each["id"]: each for each in await api.deliveries_of(webhook["id"])}
    assert preview == {"count": 7, "sample": [listed[each] for each in made[:5]]}
    page = expect(await api.admin.get(f"{WEBHOOKS}/{webhook['id']}/replays"), 200)
    assert page == {"items": [], "nextCursor": None}
    assert len(listed) == 7


async def test_a_dry_run_works_while_the_webhook_is_disabled(api: Api) -> None:
    webhook = await api.new_webhook()
    await finished(api, webhook["id"])
    expect(await api.admin.patch(f"{WEBHOOKS}/{webhook['id']}", {"enabled": False}), 200)

    answer = await api.admin.post(f"{WEBHOOKS}/{webhook['id']}/replays", {"dryRun": True})

    assert expect(answer, 200)["count"] == 1


@pytest.mark.parametrize(
    ("wanted", "count"),
    [
        ({}, 3),
        ({"status": "dead-letter"}, 2),
        ({"status": "delivered"}, 1),
        ({"event": "order.paid"}, 1),
        ({"event": "order.sent"}, 0),
        ({"from": rfc3339(NOW - 2 * HOUR)}, 2),
        ({"to": rfc3339(NOW - 2 * HOUR)}, 1),
        ({"from": rfc3339(NOW - 3 * HOUR), "to": rfc3339(NOW - HOUR), "status": "dead-letter"}, 1),
        ({"status": None, "event": None, "from": None, "to": None}, 3),
    ],
)
async def test_a_filter_takes_what_meets_all_of_it(api: Api, wanted: dict[str, Any], count: int) -> None:
    webhook = await api.new_webhook()
    await finished(api, webhook["id"], hours_ago=3)
    await finished(api, webhook["id"], hours_ago=2, dead=False)
    await finished(api, webhook["id"], hours_ago=1, event="order.paid")

    preview = await api.admin.post(f"{WEBHOOKS}/{webhook['id']}/replays", {**wanted, "dryRun": True})
    job = await replay(api, webhook["id"], **wanted)

    assert (expect(preview, 200)["count"], job["total"]) == (count, count)


# --- jobs ----------------------------------------------------------------------------------------------------


async def test_a_replay_is_started_listed_looked_at_and_done(api: Api) -> None:
    webhook = await api.new_webhook()
    originals = [await finished(api, webhook["id"]) for _ in range(3)]
    begun_at = rfc3339(NOW - HOUR)

    job = await replay(api, webhook["id"], status="dead-letter", **{"from": begun_at})

    path = f"{WEBHOOKS}/{webhook['id']}/replays"
    assert job == {
        "id": job["id"],
        "groupId": api.group.id,
        "webhookId": webhook["id"],
        "status": "running",
        "total": 3,
        "done": 0,
        "createdAt": rfc3339(NOW),
        "finishedAt": None,
        "filter": {"status": "dead-letter", "event": None, "from": begun_at, "to": None},
    }
    assert job["id"].startswith("rpl_")
    assert expect(await api.admin.get(f"{path}/{job['id']}"), 200) == job
    assert expect(await api.admin.get(path), 200) == {"items": [job], "nextCursor": None}
    await advance(api)
    done = expect(await api.admin.get(f"{path}/{job['id']}"), 200)
    assert done == {**job, "status": "done", "done": 3, "finishedAt": rfc3339(NOW)}
    replays = [each for each in await api.deliveries_of(webhook["id"]) if each["replayOf"]]
    assert sorted(each["replayOf"] for each in replays) == originals
    assert {(each["status"], each["attemptCount"], each["maxAttempts"]) for each in replays} == {("queued", 0, 10)}


async def test_replays_are_listed_newest_first_page_by_page(api: Api) -> None:
    webhook, other = await api.new_webhook(), await api.new_webhook()
    made = []
    for _ in range(3):
        made.append((await replay(api, webhook["id"]))["id"])
        await advance(api)
    await replay(api, other["id"])
    path = f"{WEBHOOKS}/{webhook['id']}/replays"

    first = expect(await api.admin.get(path, params={"limit": 2}), 200)
    second = expect(await api.admin.get(path, params={"limit": 2, "cursor": first["nextCursor"]}), 200)

    assert [each["id"] for each in first["items"] + second["items"]] == made[::-1]
    assert second["nextCursor"] is None


async def test_a_replay_is_cancelled_once_and_for_all(api: Api) -> None:
    webhook = await api.new_webhook()
    await finished(api, webhook["id"])
    job = await replay(api, webhook["id"])
    path = f"{WEBHOOKS}/{webhook['id']}/replays/{job['id']}"

    cancelled = expect(await api.admin.post(f"{path}/cancel"), 200)
    await advance(api)

    assert cancelled == {**job, "status": "cancelled", "finishedAt": rfc3339(NOW)}
    assert expect(await api.admin.post(f"{path}/cancel"), 200) == cancelled
    assert expect(await api.admin.get(path), 200) == cancelled
    assert [each["replayOf"] for each in await api.deliveries_of(webhook["id"])] == [None]


async def test_a_replay_that_is_done_stays_done_when_it_is_cancelled(api: Api) -> None:
    webhook = await api.new_webhook()
    job = await replay(api, webhook["id"])
    await advance(api)

    answer = await api.admin.post(f"{WEBHOOKS}/{webhook['id']}/replays/{job['id']}/cancel")

    assert expect(answer, 200)["status"] == "done"


async def test_a_disabled_webhook_refuses_a_replay_until_it_is_enabled(api: Api) -> None:
    webhook = await api.new_webhook(enabled=False)
    path = f"{WEBHOOKS}/{webhook['id']}"

    problem(await api.admin.post(f"{path}/replays", {}), 409, "webhook_disabled")

    expect(await api.admin.patch(path, {"enabled": True}), 200)
    expect(await api.admin.post(f"{path}/replays", {}), 202)


async def test_while_a_replay_runs_its_webhook_refuses_another(api: Api) -> None:
    webhook, other = await api.new_webhook(), await api.new_webhook()
    path = f"{WEBHOOKS}/{webhook['id']}/replays"
    job = await replay(api, webhook["id"])

    told = problem(await api.admin.post(path, {"status": "dead-letter"}), 409, "quota_exceeded")

    assert "cancel" in told["detail"]
    expect(await api.admin.post(path, {"dryRun": True}), 200)
    await replay(api, other["id"])
    expect(await api.admin.post(f"{path}/{job['id']}/cancel"), 200)
    expect(await api.admin.post(path, {}), 202)


async def test_a_repeated_request_starts_one_replay_and_gets_the_first_answer(api: Api) -> None:
    webhook = await api.new_webhook()
    await finished(api, webhook["id"])
    path, once = f"{WEBHOOKS}/{webhook['id']}/replays", {"Idempotency-Key": "monday"}

    first = await api.admin.post(path, {"status": "dead-letter"}, headers=once)
    await advance(api)
    second = await api.admin.post(path, {"status": "dead-letter"}, headers=once)

    assert expect(second, 202) == expect(first, 202)
    assert second.headers["idempotency-replayed"] == "true"
    assert len(expect(await api.admin.get(path), 200)["items"]) == 1
    problem(await api.admin.post(path, {"status": "delivered"}, headers=once), 422, "idempotency_mismatch")


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"status": "queued"}, ["status"]),
        ({"status": "failed"}, ["status"]),
        ({"status": ""}, ["status"]),
        ({"event": "*"}, ["event"]),
        ({"event": ""}, ["event"]),
        ({"from": "yesterday"}, ["from"]),
        ({"to": 1}, ["to"]),
        ({"from": rfc3339(NOW), "to": rfc3339(NOW - HOUR)}, ["to"]),
        ({"from": rfc3339(NOW), "to": rfc3339(NOW)}, ["to"]),
        ({"from": rfc3339(NOW), "to": rfc3339(NOW - HOUR), "dryRun": True}, ["to"]),
        ({"dryRun": "yes"}, ["dryRun"]),
        ({"taskId": "tsk_1", "createdFrom": rfc3339(NOW)}, ["createdFrom", "taskId"]),
    ],
)
async def test_what_is_no_filter_is_refused_by_name(api: Api, body: dict[str, Any], fields: list[str]) -> None:
    webhook = await api.new_webhook()

    refused = await api.admin.post(f"{WEBHOOKS}/{webhook['id']}/replays", body)

    assert sorted(fields_of(problem(refused, 422, "validation_failed"))) == fields
    assert expect(await api.admin.get(f"{WEBHOOKS}/{webhook['id']}/replays"), 200)["items"] == []


async def test_replays_are_for_admins_of_the_group_only(api: Api) -> None:
    webhook, other = await api.new_webhook(), await api.new_webhook()
    job = await replay(api, webhook["id"])
    path = f"{WEBHOOKS}/{webhook['id']}/replays"
    calls = [("POST", path, {}), ("GET", path, None), ("GET", f"{path}/{job['id']}", None)]
    calls += [("POST", f"{path}/{job['id']}/cancel", {}), ("POST", f"{WEBHOOKS}/{webhook['id']}/discard-backlog", {})]

    for method, url, body in calls:
        given = {} if body is None else {"json": body}
        problem(await api.stranger(method, url, **given), 401, "unauthenticated")
        problem(await api.member(method, url, **given), 403, "forbidden")
        problem(await api.other_admin(method, url, **given), 404, "not_found")
    under_another = f"{WEBHOOKS}/{other['id']}/replays/{job['id']}"
    problem(await api.admin.get(under_another), 404, "not_found")
    problem(await api.admin.post(f"{under_another}/cancel"), 404, "not_found")
    problem(await api.admin.get(f"{path}/rpl_{'0' * 32}"), 404, "not_found")
    assert expect(await api.admin.get(f"{path}/{job['id']}"), 200) == job


async def test_the_replay_of_a_deleted_webhook_has_failed_and_can_be_looked_at(api: Api) -> None:
    webhook = await api.new_webhook()
    await finished(api, webhook["id"])
    job = await replay(api, webhook["id"])
    path = f"{WEBHOOKS}/{webhook['id']}"
    assert (await api.admin.delete(path)).status_code == 204
    assert expect(await api.admin.get(f"{path}/replays/{job['id']}"), 200) == job

    await advance(api)

    failed = {**job, "status": "failed", "finishedAt": rfc3339(NOW)}
    assert expect(await api.admin.get(f"{path}/replays/{job['id']}"), 200) == failed
    assert expect(await api.admin.post(f"{path}/replays/{job['id']}/cancel"), 200) == failed
    problem(await api.other_admin.get(f"{path}/replays/{job['id']}"), 404, "not_found")
    problem(await api.admin.get(f"{path}/replays"), 404, "not_found")
    problem(await api.admin.post(f"{path}/replays", {}), 404, "not_found")


async def test_a_replay_of_a_webhook_that_is_deleted_meanwhile_can_be_cancelled(api: Api) -> None:
    webhook = await api.new_webhook()
    job = await replay(api, webhook["id"])
    assert (await api.admin.delete(f"{WEBHOOKS}/{webhook['id']}")).status_code == 204

    cancelled = expect(await api.admin.post(f"{WEBHOOKS}/{webhook['id']}/replays/{job['id']}/cancel"), 200)
    await advance(api)

    assert cancelled["status"] == "cancelled"
    assert expect(await api.admin.get(f"{WEBHOOKS}/{webhook['id']}/replays/{job['id']}"), 200) == cancelled


# --- what waits ----------------------------------------------------------------------------------------------


async def test_what_waits_is_given_up_and_the_engine_is_told(api: Api) -> None:
    webhook, other = await api.new_webhook(), await api.new_webhook()
    await asyncio.gather(*(api.new_task() for _ in range(3)))
    done = await finished(api, webhook["id"], dead=False)
    api.hints.changed.clear()

    answer = await api.admin.post(f"{WEBHOOKS}/{webhook['id']}/discard-backlog")
    again = await api.admin.post(f"{WEBHOOKS}/{webhook['id']}/discard-backlog")

    assert (expect(answer, 200), expect(again, 200)) == ({"discarded": 3}, {"discarded": 0})
    assert api.hints.changed == [webhook["id"]] * 2
    told = {(each["status"], each["deadReason"]) for each in await api.deliveries_of(webhook["id"])}
    assert told == {("dead-letter", "discarded"), ("delivered", None)}
    assert {each["status"] for each in await api.deliveries_of(other["id"])} == {"queued"}
    assert done in {each["id"] for each in await api.deliveries_of(webhook["id"])}


async def test_what_was_given_up_can_be_replayed(api: Api) -> None:
    webhook = await api.new_webhook()
    await api.new_task()
    expect(await api.admin.post(f"{WEBHOOKS}/{webhook['id']}/discard-backlog"), 200)

    assert (await replay(api, webhook["id"], status="dead-letter"))["total"] == 1


# --- order and health ----------------------------------------------------------------------------------------


async def test_a_webhook_keeps_that_it_wants_its_tasks_in_order(api: Api) -> None:
    webhook = await api.new_webhook(preserveTaskOrder=True)
    path = f"{WEBHOOKS}/{webhook['id']}"

    assert webhook["preserveTaskOrder"] is True
    assert expect(await api.admin.get(path), 200)["preserveTaskOrder"] is True
    assert expect(await api.admin.patch(path, {"name": "Other"}), 200)["preserveTaskOrder"] is True
    assert expect(await api.admin.patch(path, {"preserveTaskOrder": False}), 200)["preserveTaskOrder"] is False
    assert (await api.new_webhook())["preserveTaskOrder"] is False


async def test_a_webhook_shows_what_its_lane_has_met(api: Api) -> None:
    webhook = await api.new_webhook()
    path = f"{WEBHOOKS}/{webhook['id']}"

    assert (webhook["health"], webhook["disabledReason"]) == ("healthy", None)
    await keep(api, webhook["id"], Condition(streak=5, failing_since=NOW), hours=1)
    assert expect(await api.admin.get(path), 200)["health"] == "degraded"
    await keep(api, webhook["id"], Condition(streak=9, failing_since=NOW - 24 * HOUR, suspended_at=NOW), hours=2)
    assert expect(await api.admin.get(WEBHOOKS), 200)["items"][0]["health"] == "suspended"
    disabled = expect(await api.admin.patch(path, {"enabled": False}), 200)
    assert (disabled["health"], disabled["disabledReason"]) == ("disabled", "admin")
    enabled = expect(await api.admin.patch(path, {"enabled": True}), 200)
    assert (enabled["health"], enabled["disabledReason"]) == ("healthy", None)
    assert expect(await api.admin.get(path), 200) == enabled


async def keep(api: Api, webhook_id: str, condition: Condition, *, hours: int) -> None:
    """Write down what a lane has met, as its owner does."""
    now = NOW + hours * HOUR
    await api.new_task()
    leased = await api.store.lease_lanes("eng_1", limit=9, now=now, lease=timedelta(seconds=30))
    [lane] = [each for each in leased.lanes if each.webhook_id == webhook_id]
    webhook = (await api.store.webhooks_to_serve([webhook_id]))[webhook_id]
    outcomes = LaneOutcomes(webhook_id, lane.token, lane.window, [], condition, enabled_at=webhook.enabled_at)
    assert await api.store.record_attempts([outcomes]) == set()
