import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from tests.builders import GROUP_ID, accepted, make_group, make_webhook, new_id, refused, subscription_of
from tests.contract.backends import Backend, Store
from tests.contract.steps import (
    ADA,
    add_webhook,
    detail,
    edit_webhook,
    emit_one,
    give_back,
    lease,
    lease_one,
    leased_with_one,
    pokes_of,
    read,
    read_one,
    record,
    release,
)
from tests.fakes import NOW

from gatepost.domain.deliveries import DeadReason, Status
from gatepost.domain.health import DisabledReason
from gatepost.domain.retry import RetryPolicy
from gatepost.domain.signatures import make_secret, parse_secret
from gatepost.domain.webhooks import Secret, Webhook, with_changes
from gatepost.ports import Saved

LATER = NOW + timedelta(milliseconds=1)
HEADER_VALUE = "Bearer a-value-that-nobody-may-find"
SECRETS = (
    Secret(make_secret(b"the newest key, 32 bytes of it, ")),
    Secret(make_secret(b"the key before, 32 bytes of it, "), expires_at=LATER),
)


def full_webhook(**changes: object) -> Webhook:
    """Return a webhook with nothing left at its default."""
    webhook = make_webhook(
        url="http://[2606:4700::1111]:8080/in?x=1",
        name="Küche 🌹",
        events=("task.*", "order.paid"),
        headers=(("Authorization", HEADER_VALUE), ("X-Team", "red")),
        policy=RetryPolicy((0.1, 5.0, 604_800.0)),
        timeout_seconds=3,
        max_concurrency=7,
        rate_limit_per_second=9,
        ignore_origins=("api", "inbound:jira"),
        secrets=SECRETS,
        preserve_task_order=True,
        disabled_reason=DisabledReason.GONE,
        enabled_at=LATER,
        updated_at=LATER,
    )
    return replace(webhook, **changes)


# --- add, look, list -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "webhook", [make_webhook(), full_webhook(), full_webhook(policy=RetryPolicy(()), enabled=False)]
)
async def test_a_webhook_comes_back_as_it_was_written(store: Store, other_store: Store, webhook: Webhook) -> None:
    saved = await store.add_webhook(GROUP_ID, webhook, quota=1)

    assert saved is Saved.DONE
    assert await other_store.webhook(GROUP_ID, webhook.id) == webhook


async def test_a_webhook_nobody_added_is_none(store: Store) -> None:
    assert await store.webhook(GROUP_ID, new_id("wh")) is None


async def test_webhooks_are_listed_newest_first_page_by_page_to_the_end(store: Store) -> None:
    added = [await add_webhook(store, created_at=NOW + timedelta(seconds=n)) for n in range(4)]
    first = await store.webhooks(GROUP_ID, limit=2, before=None)
    await add_webhook(store, created_at=NOW + timedelta(minutes=1))

    second = await store.webhooks(GROUP_ID, limit=2, before=first.next_cursor)

    assert [*first.items, *second.items] == added[::-1]
    assert second.next_cursor is None


async def test_secrets_and_header_values_are_sealed_at_rest(backend: Backend, store: Store) -> None:
    await add_webhook(store, headers=(("Authorization", HEADER_VALUE),), secrets=SECRETS, name="easy to find")
    while_open = backend.bytes_at_rest()
    await backend.close()

    for at_rest in (while_open, backend.bytes_at_rest()):
        if at_rest is None:
            continue  # it lies with a server; its own tests look at the columns
        assert b"easy to find" in at_rest
        assert HEADER_VALUE.encode() not in at_rest
        for secret in SECRETS:
            assert secret.value.removeprefix("whsec_").encode() not in at_rest
            assert parse_secret(secret.value).decoded not in at_rest


# --- quota ---------------------------------------------------------------------------------------------------


async def test_a_group_has_at_most_its_quota_of_live_webhooks(store: Store) -> None:
    added = [await add_webhook(store), await add_webhook(store, enabled=False)]
    one_more = make_webhook()

    saved = await store.add_webhook(GROUP_ID, one_more, quota=2)

    assert saved is Saved.QUOTA_EXCEEDED
    assert await store.webhook(GROUP_ID, one_more.id) is None
    assert list((await store.webhooks(GROUP_ID, limit=10, before=None)).items) == added[::-1]


async def test_a_refused_webhook_moves_no_version_and_leaves_no_lane(store: Store) -> None:
    before = await store.subscriptions(GROUP_ID)
    refused = make_webhook()

    await store.add_webhook(GROUP_ID, refused, quota=0)

    assert await store.subscriptions(GROUP_ID) == before
    assert await store.lane_marks([refused.id]) == {}


async def test_deleted_webhooks_and_those_of_other_groups_do_not_count(store: Store) -> None:
    other = make_group()
    await store.add_group(other)
    await add_webhook(store, group_id=other.id)
    await store.delete_webhook(GROUP_ID, (await add_webhook(store)).id, now=NOW)

    assert await store.add_webhook(GROUP_ID, make_webhook(), quota=1) is Saved.DONE


async def test_two_processes_that_add_at_once_keep_the_quota(store: Store, other_store: Store) -> None:
    saved = await asyncio.gather(
        *(each.add_webhook(GROUP_ID, make_webhook(), quota=3) for each in [store, other_store] * 5)
    )

    assert sorted(each.value for each in saved) == ["done"] * 3 + ["quota_exceeded"] * 7


# --- asked again ---------------------------------------------------------------------------------------------


async def test_asked_again_a_webhook_is_added_once_whatever_the_quota(store: Store, other_store: Store) -> None:
    webhook = make_webhook()
    await store.add_webhook(GROUP_ID, webhook, quota=1)
    before = await store.subscriptions(GROUP_ID)

    saved = [await each.add_webhook(GROUP_ID, webhook, quota=1) for each in (store, other_store)]

    assert saved == [Saved.DONE, Saved.DONE]
    assert list((await store.webhooks(GROUP_ID, limit=10, before=None)).items) == [webhook]
    assert await store.subscriptions(GROUP_ID) == before


async def test_asked_again_at_the_same_moment_a_webhook_is_added_once(store: Store, other_store: Store) -> None:
    webhook = make_webhook()

    saved = await asyncio.gather(*(each.add_webhook(GROUP_ID, webhook, quota=1) for each in [store, other_store] * 3))

    assert saved == [Saved.DONE] * 6
    assert list((await store.webhooks(GROUP_ID, limit=10, before=None)).items) == [webhook]
    assert await store.add_webhook(GROUP_ID, make_webhook(), quota=2) is Saved.DONE


async def test_asked_again_after_it_was_edited_a_webhook_stays_as_it_is(store: Store) -> None:
    webhook = await add_webhook(store)
    edited = await edit_webhook(store, webhook, enabled=False)

    saved = await store.add_webhook(GROUP_ID, webhook, quota=10)

    assert saved is Saved.DONE
    assert await store.webhook(GROUP_ID, webhook.id) == edited


async def test_asked_again_after_it_was_deleted_a_webhook_stays_deleted(store: Store) -> None:
    webhook = await add_webhook(store)
    await store.delete_webhook(GROUP_ID, webhook.id, now=NOW)
    before = await store.subscriptions(GROUP_ID)

    saved = await store.add_webhook(GROUP_ID, webhook, quota=10)

    assert saved is Saved.DONE
    assert await store.webhook(GROUP_ID, webhook.id) is None
    assert await store.subscriptions(GROUP_ID) == before


# --- edits ---------------------------------------------------------------------------------------------------


async def test_an_edit_is_written_whole(store: Store, other_store: Store) -> None:
    webhook = await add_webhook(store)
    edited = full_webhook(id=webhook.id, config_version=2)

    saved = await store.save_webhook(GROUP_ID, edited)

    assert saved is Saved.DONE
    assert await other_store.webhook(GROUP_ID, webhook.id) == edited


@pytest.mark.parametrize("version", [1, 2, 4])
async def test_an_edit_of_any_version_but_the_one_before_is_stale(store: Store, version: int) -> None:
    webhook = await edit_webhook(store, await add_webhook(store))

    saved = await store.save_webhook(GROUP_ID, replace(webhook, name="Day shift", config_version=version))

    assert saved is Saved.STALE
    assert await store.webhook(GROUP_ID, webhook.id) == webhook


async def test_an_edit_of_a_webhook_that_is_deleted_or_never_was_is_stale(store: Store) -> None:
    deleted = await add_webhook(store)
    await store.delete_webhook(GROUP_ID, deleted.id, now=NOW)

    saved = [
        await store.save_webhook(GROUP_ID, with_changes(webhook, now=LATER)) for webhook in (deleted, make_webhook())
    ]

    assert saved == [Saved.STALE, Saved.STALE]
    assert await store.webhook(GROUP_ID, deleted.id) is None


async def test_of_two_processes_that_edit_one_version_one_succeeds(store: Store, other_store: Store) -> None:
    webhook = await add_webhook(store)
    edits = [with_changes(webhook, now=LATER, name=name) for name in ("Day shift", "Late shift")]

    saved = await asyncio.gather(store.save_webhook(GROUP_ID, edits[0]), other_store.save_webhook(GROUP_ID, edits[1]))

    assert sorted(each.value for each in saved) == ["done", "stale"]
    assert await store.webhook(GROUP_ID, webhook.id) == edits[saved.index(Saved.DONE)]


# --- subscriptions -------------------------------------------------------------------------------------------


async def test_subscriptions_are_what_webhooks_ask_for_disabled_ones_too_deleted_ones_not(store: Store) -> None:
    live = await add_webhook(store, events=("task.*", "order.paid"), ignore_origins=("api",))
    disabled = await add_webhook(store, enabled=False, policy=RetryPolicy(()))
    deleted = await add_webhook(store)
    await store.delete_webhook(GROUP_ID, deleted.id, now=NOW)

    subscriptions = await store.subscriptions(GROUP_ID)

    assert {each.webhook_id: each for each in subscriptions.items} == {
        live.id: subscription_of(live),
        disabled.id: subscription_of(disabled),
    }
    assert len(subscriptions.items) == 2


async def test_the_version_of_the_subscriptions_changes_with_every_write_of_any_webhook(
    store: Store, other_store: Store
) -> None:
    versions = [(await store.subscriptions(GROUP_ID)).version]
    webhook = await add_webhook(other_store)
    versions.append((await store.subscriptions(GROUP_ID)).version)
    await edit_webhook(other_store, webhook)
    versions.append((await store.subscriptions(GROUP_ID)).version)
    await other_store.delete_webhook(GROUP_ID, webhook.id, now=NOW)
    versions.append((await store.subscriptions(GROUP_ID)).version)

    assert len(set(versions)) == 4


async def test_the_version_of_the_subscriptions_stays_while_nothing_is_written(store: Store) -> None:
    webhook = await add_webhook(store)
    before = await store.subscriptions(GROUP_ID)
    await store.save_webhook(GROUP_ID, replace(webhook, config_version=7))
    await store.delete_webhook(GROUP_ID, new_id("wh"), now=NOW)
    await emit_one(store, webhook)

    assert await store.subscriptions(GROUP_ID) == before


# --- the lane ------------------------------------------------------------------------------------------------


async def test_the_lane_of_a_disabled_webhook_is_held_and_freed_when_it_is_enabled(store: Store) -> None:
    webhook = await add_webhook(store)
    delivery = await emit_one(store, webhook)
    disabled = await edit_webhook(store, webhook, enabled=False)

    while_disabled = await store.lease_lanes("owner", limit=10, now=NOW, lease=timedelta(seconds=30))
    await edit_webhook(store, disabled, enabled=True)

    assert (list(while_disabled.lanes), while_disabled.next_due_at) == ([], None)
    assert set(await lease(store)) == {webhook.id}
    assert (await read_one(store, webhook)).id == delivery.id


async def test_pokes_do_not_free_a_lane_that_is_held(store: Store) -> None:
    webhook = await add_webhook(store)
    disabled = await edit_webhook(store, webhook, enabled=False)

    await emit_one(store, disabled)
    await edit_webhook(store, disabled, name="still disabled")

    assert await lease(store) == {}


async def test_the_lane_of_a_webhook_added_disabled_is_held(store: Store) -> None:
    webhook = await add_webhook(store, enabled=False)

    await emit_one(store, webhook)

    assert await lease(store) == {}


async def test_a_lane_disabled_while_it_is_leased_is_held_once_it_is_given_back(store: Store) -> None:
    webhook = await add_webhook(store)
    await emit_one(store, webhook)
    lane = await lease_one(store, webhook)

    await edit_webhook(store, webhook, enabled=False)
    await give_back(store, webhook, lane)

    assert await lease(store) == {}


async def test_every_edit_pokes_the_lane(store: Store) -> None:
    webhook = await add_webhook(store)
    await emit_one(store, webhook)
    lane = await lease_one(store, webhook)
    await record(store, lane, await read_one(store, webhook), accepted())
    pokes = (await read(store, webhook)).pokes

    await edit_webhook(store, webhook, name="Day shift")

    assert await pokes_of(store, webhook.id) > pokes
    assert not await release(store, lane, pokes=pokes)


async def test_an_edit_makes_the_lane_due(store: Store) -> None:
    webhook = await add_webhook(store)
    await emit_one(store, webhook)
    lane = await lease_one(store, webhook)
    await record(store, lane, await read_one(store, webhook), accepted())
    await give_back(store, webhook, lane)
    assert await lease(store) == {}

    await edit_webhook(store, webhook, name="Day shift")

    assert set(await lease(store)) == {webhook.id}


# --- deleting ------------------------------------------------------------------------------------------------


async def test_a_deleted_webhook_is_gone_from_every_list(store: Store, other_store: Store) -> None:
    kept, deleted = await add_webhook(store), await add_webhook(store)

    saved = await store.delete_webhook(GROUP_ID, deleted.id, now=NOW)

    assert saved is Saved.DONE
    assert await other_store.webhook(GROUP_ID, deleted.id) is None
    assert list((await other_store.webhooks(GROUP_ID, limit=10, before=None)).items) == [kept]


async def test_deleting_what_is_deleted_or_never_was_is_stale(store: Store) -> None:
    webhook = await add_webhook(store)
    await store.delete_webhook(GROUP_ID, webhook.id, now=NOW)

    saved = [await store.delete_webhook(GROUP_ID, each, now=NOW) for each in (webhook.id, new_id("wh"))]

    assert saved == [Saved.STALE, Saved.STALE]


async def test_the_lane_of_a_deleted_webhook_is_held(store: Store) -> None:
    webhook = await add_webhook(store)
    await emit_one(store, webhook)

    await store.delete_webhook(GROUP_ID, webhook.id, now=NOW)

    assert await lease(store) == {}


async def test_the_sweep_buries_what_a_deleted_webhook_was_still_owed(store: Store) -> None:
    webhook, kept = await add_webhook(store), await add_webhook(store)
    done, waiting = await emit_one(store, webhook), await emit_one(store, kept)
    await record(store, await lease_one(store, webhook), await read_one(store, webhook), accepted())
    await store.leave(ADA)
    delivered = await detail(store, done)
    owed = await emit_one(store, webhook)
    await store.delete_webhook(GROUP_ID, webhook.id, now=NOW)

    await store.sweep(now=LATER)

    assert (await detail(store, owed)).delivery.progress == replace(
        owed.progress,
        status=Status.DEAD_LETTER,
        dead_reason=DeadReason.WEBHOOK_DELETED,
        next_attempt_at=None,
        finished_at=LATER,
    )
    assert await detail(store, done) == delivered
    assert (await detail(store, waiting)).delivery == waiting
    assert list((await read(store, webhook, now=LATER)).deliveries) == []


async def test_what_is_buried_waits_for_nothing_more(store: Store) -> None:
    webhook, lane, delivery, queued = await leased_with_one(store)
    await record(store, lane, queued, refused(headers=(("Retry-After", "3600"),)))
    await store.leave(ADA)
    await store.delete_webhook(GROUP_ID, webhook.id, now=NOW)

    await store.sweep(now=LATER)

    progress = (await detail(store, delivery)).delivery.progress
    assert (progress.dead_reason, progress.attempt_count) == (DeadReason.WEBHOOK_DELETED, 1)
    assert (progress.next_attempt_at, progress.not_before) == (None, None)


async def test_deliveries_of_a_deleted_webhook_wait_for_the_sweep_unchanged(store: Store) -> None:
    webhook = await add_webhook(store)
    owed = await emit_one(store, webhook)

    await store.delete_webhook(GROUP_ID, webhook.id, now=NOW)

    assert (await detail(store, owed)).delivery == owed
