"""Webhooks on MongoDB: wherever their writer dies, the next one, or the sweep, ends what it began."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from tests.builders import GROUP_ID, make_delivery, make_event, make_task_change, make_webhook, subscription_of
from tests.contract.backends import MongoBackend, Store
from tests.contract.steps import HOUR, SECOND, add_webhook, detail, edit_webhook, emit_one, lease, save
from tests.fakes import NOW
from tests.integration.mongodb_rigs import documents
from tests.integration.taps import Tap

from gatepost.domain.deliveries import Status
from gatepost.domain.errors import StoreUnavailable
from gatepost.domain.events import Event
from gatepost.domain.webhooks import with_changes
from gatepost.ports import RoutedWebhook, Saved


@pytest.fixture
async def store(mongodb: MongoBackend) -> Store:
    return await mongodb.open()


@pytest.fixture
async def other_store(mongodb: MongoBackend) -> Store:
    return await mongodb.open()


async def test_whoever_matched_before_a_webhook_was_written_is_refused_after_it_was_answered(
    store: Store, other_store: Store
) -> None:
    for stop in (
        "lanes.insert_many",
        "webhooks.insert_many",
        "groups.find_one_and_update",
        "webhook_revisions.insert_many",
        "webhooks.update_one",
    ):
        async with Tap(store).stopped_before(stop, add_webhook(store)):
            matched = await other_store.subscriptions(GROUP_ID)

        webhooks = await other_store.subscriptions(GROUP_ID)
        saved = await other_store.save_change(GROUP_ID, make_task_change(), [], webhooks_version=matched.version)
        assert saved is Saved.WEBHOOKS_MOVED or matched == webhooks


@pytest.mark.parametrize("number", range(1, 8))
async def test_wherever_its_writer_dies_a_new_webhook_can_be_added_again(
    store: Store, other_store: Store, number: int
) -> None:
    webhook = make_webhook()
    await add_webhook(store)
    Tap(store).die_at(number, is_done_first=True)
    with pytest.raises(StoreUnavailable):
        await store.add_webhook(GROUP_ID, webhook, quota=2)
    matched = await other_store.subscriptions(GROUP_ID)

    saved = await other_store.add_webhook(GROUP_ID, webhook, quota=2)

    assert saved is Saved.DONE
    webhooks = await other_store.subscriptions(GROUP_ID)
    emitted = await other_store.save_change(GROUP_ID, make_task_change(), [], webhooks_version=matched.version)
    assert emitted is Saved.WEBHOOKS_MOVED or matched == webhooks
    await emit_one(other_store, webhook)
    assert set(await lease(other_store)) == {webhook.id}
    assert await other_store.add_webhook(GROUP_ID, make_webhook(), quota=2) is Saved.QUOTA_EXCEEDED


@pytest.mark.parametrize("number", range(1, 8))
async def test_wherever_its_writer_dies_a_webhook_that_can_be_matched_can_be_delivered_to(
    store: Store, other_store: Store, number: int
) -> None:
    await add_webhook(store)
    Tap(store).die_at(number, is_done_first=True)
    webhook = make_webhook()
    with pytest.raises(StoreUnavailable):
        await store.add_webhook(GROUP_ID, webhook, quota=2)

    await other_store.sweep(now=NOW)

    if await other_store.webhook(GROUP_ID, webhook.id) is not None:
        await emit_one(other_store, webhook)
        assert set(await lease(other_store)) == {webhook.id}


@pytest.mark.parametrize("is_done_first", [False, True])
@pytest.mark.parametrize("number", range(1, 6))
@pytest.mark.parametrize("change", ["disable", "enable", "delete"])
async def test_wherever_its_writer_dies_an_edit_holds_or_frees_the_lane_and_is_told(
    store: Store, other_store: Store, change: str, number: int, is_done_first: bool
) -> None:
    webhook = await add_webhook(store, enabled=change != "enable")
    await emit_one(store, webhook)
    matched = await other_store.subscriptions(GROUP_ID)
    Tap(store).die_at(number, is_done_first=is_done_first)
    if change == "delete":
        writing = store.delete_webhook(GROUP_ID, webhook.id, now=NOW)
    else:
        writing = store.save_webhook(GROUP_ID, with_changes(webhook, now=NOW, enabled=change == "enable"))
    with pytest.raises(StoreUnavailable):
        await writing

    await other_store.sweep(now=NOW)

    found = await other_store.webhook(GROUP_ID, webhook.id)
    is_live = found is not None and found.enabled
    assert set(await lease(other_store)) == ({webhook.id} if is_live else set())
    now = await other_store.subscriptions(GROUP_ID)
    assert (now.version != matched.version) == (now.items != matched.items)
    if change == "delete" and found is None:
        assert await other_store.add_webhook(GROUP_ID, make_webhook(), quota=1) is Saved.DONE


async def test_a_slow_edit_does_not_hold_the_lane_that_a_newer_one_has_freed(store: Store, other_store: Store) -> None:
    webhook = await add_webhook(store)
    await emit_one(store, webhook)

    async with Tap(store).stopped_before("lanes.update_one", edit_webhook(store, webhook, enabled=False)):
        disabled = await other_store.webhook(GROUP_ID, webhook.id)
        assert disabled is not None
        await edit_webhook(other_store, disabled, enabled=True)

    assert set(await lease(store)) == {webhook.id}


async def test_a_place_that_a_dead_writer_took_is_given_back_after_a_minute(store: Store, other_store: Store) -> None:
    await add_webhook(store)
    Tap(store).die_at(1, is_done_first=True)
    with pytest.raises(StoreUnavailable):
        await store.add_webhook(GROUP_ID, make_webhook(created_at=NOW), quota=2)

    saved = [
        await other_store.add_webhook(GROUP_ID, make_webhook(created_at=at), quota=2)
        for at in (NOW + 59 * SECOND, NOW + 61 * SECOND, NOW + HOUR)
    ]

    assert saved == [Saved.QUOTA_EXCEEDED, Saved.DONE, Saved.QUOTA_EXCEEDED]


async def test_what_is_owed_to_a_deleted_webhook_after_it_was_buried_is_buried_too(
    store: Store, other_store: Store
) -> None:
    webhook = await add_webhook(store)
    change = make_task_change()
    delivery = make_delivery(change.event, webhook)

    async with Tap(store).stopped_before("tasks.insert_one", save(store, change, delivery)):
        await other_store.delete_webhook(GROUP_ID, webhook.id, now=NOW)
        await other_store.sweep(now=NOW)
    await other_store.sweep(now=NOW + HOUR)

    assert (await detail(store, delivery)).delivery.progress.status is Status.DEAD_LETTER


async def test_secrets_and_header_values_are_sealed_in_every_document(store: Store) -> None:
    webhook = await add_webhook(store, headers=(("Authorization", "Bearer a-value-that-nobody-may-find"),))
    await emit_one(store, webhook)
    await edit_webhook(store, webhook, name="easy to find")

    everything = repr(await documents(store))

    assert "easy to find" in everything
    assert "nobody-may-find" not in everything
    assert webhook.secrets[0].value.removeprefix("whsec_") not in everything


# --- revisions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_done_first", [False, True])
@pytest.mark.parametrize("number", range(1, 6))
@pytest.mark.parametrize("change", ["disable", "delete"])
async def test_wherever_its_writer_dies_what_a_webhook_asks_for_is_noted_once(
    store: Store, other_store: Store, change: str, number: int, is_done_first: bool
) -> None:
    webhook = await add_webhook(store)
    Tap(store).die_at(number, is_done_first=is_done_first)
    if change == "delete":
        writing = store.delete_webhook(GROUP_ID, webhook.id, now=NOW)
    else:
        writing = store.save_webhook(GROUP_ID, with_changes(webhook, now=NOW, enabled=False))
    with pytest.raises(StoreUnavailable):
        await writing

    for _ in range(2):
        await other_store.sweep(now=NOW)

    is_written = number > 1 or is_done_first
    event = make_event()
    assert await publish(other_store, event) is Saved.DONE
    asked = {each.webhook_id: each.subscription for each in await routed(other_store, event)}
    if not is_written:
        assert asked == {webhook.id: subscription_of(webhook)}
    elif change == "disable":
        assert asked == {webhook.id: replace(subscription_of(webhook), enabled=False)}
    else:
        assert asked == {}
    assert len((await documents(store))["webhook_revisions"]) == 1 + is_written


async def test_a_slow_edit_is_not_taken_for_what_a_webhook_asks_for_since_a_newer_one(
    store: Store, other_store: Store
) -> None:
    webhook = await add_webhook(store)

    async with Tap(store).stopped_before("groups.find_one_and_update", edit_webhook(store, webhook, enabled=False)):
        disabled = await other_store.webhook(GROUP_ID, webhook.id)
        assert disabled is not None
        enabled = await edit_webhook(other_store, disabled, enabled=True, events=("order.*",))

    event = make_event()
    assert await publish(store, event) is Saved.DONE
    assert [each.subscription for each in await routed(store, event)] == [subscription_of(enabled)]


async def test_an_edit_that_asks_for_the_same_leaves_no_revision(store: Store) -> None:
    webhook = await add_webhook(store)

    await edit_webhook(store, webhook, name="Another")

    assert len((await documents(store))["webhook_revisions"]) == 1


async def publish(store: Store, event: Event) -> Saved:
    version = (await store.subscriptions(GROUP_ID)).version
    return await store.publish(GROUP_ID, event, [], webhooks_version=version)


async def routed(store: Store, event: Event) -> Sequence[RoutedWebhook]:
    routing = await store.routing(GROUP_ID, event.id)
    assert routing is not None
    return routing.webhooks
