"""`LaneStore.join` and `leave`: who is alive, and what becomes of the leases of the dead."""

import asyncio
import sys
from pathlib import Path

from tests.builders import refused
from tests.contract.backends import Backend, Store
from tests.contract.steps import (
    ADA,
    EVE,
    HOUR,
    LEASE,
    SECOND,
    add_webhook,
    detail,
    emit_one,
    lease,
    lease_one,
    leased_with_one,
    read,
    record,
)
from tests.fakes import NOW

ROOT = Path(__file__).resolve().parents[2]


async def test_an_owner_that_joined_leases_and_renews(store: Store) -> None:
    await store.join(ADA, now=NOW)
    webhook, lane, *_ = await leased_with_one(store)

    assert (await store.renew_lanes(ADA, {webhook.id: lane.token}, now=NOW, lease=LEASE)).lost == set()


async def test_whoever_joins_ends_no_lease_of_the_living(store: Store, other_store: Store) -> None:
    await store.join(ADA, now=NOW)
    webhook, lane, _, queued = await leased_with_one(store)

    await other_store.join(EVE, now=NOW + SECOND)

    assert await lease(other_store, EVE, now=NOW + SECOND) == {}
    assert (await store.renew_lanes(ADA, {webhook.id: lane.token}, now=NOW + SECOND, lease=LEASE)).lost == set()
    assert await record(store, lane, queued, refused()) == set()


async def test_an_owner_that_joins_again_keeps_its_leases(store: Store, other_store: Store) -> None:
    await store.join(ADA, now=NOW)
    webhook, lane, *_ = await leased_with_one(store)

    await store.join(ADA, now=NOW + SECOND)

    assert (await read(store, webhook)).token == lane.token
    assert await lease(other_store, EVE, now=NOW + SECOND) == {}


async def test_whatever_an_owner_still_held_when_it_left_can_be_leased_at_once(
    store: Store, other_store: Store
) -> None:
    await store.join(ADA, now=NOW)
    await other_store.join(EVE, now=NOW)
    webhook, lane, _, queued = await leased_with_one(store)

    await store.leave(ADA)

    theirs = await lease_one(other_store, webhook, EVE)
    assert theirs.token > lane.token
    assert await record(store, lane, queued, refused()) == {webhook.id}


async def test_an_owner_that_leaves_takes_nobody_with_it(store: Store, other_store: Store) -> None:
    await store.join(ADA, now=NOW)
    await other_store.join(EVE, now=NOW)
    await leased_with_one(store)

    await other_store.leave(EVE)
    await other_store.leave("owner-nobody-knows")

    assert await lease(other_store, "owner-new") == {}


async def test_the_lanes_of_an_owner_that_was_killed_can_be_leased_as_soon_as_its_death_can_be_known(
    backend: Backend, store: Store
) -> None:
    webhooks = [await add_webhook(store) for _ in range(2)]
    deliveries = [await emit_one(store, webhook) for webhook in webhooks]
    await store.join(ADA, now=NOW)
    await killed_after_leasing(backend, "owner-doomed", lanes=2)
    known_at = NOW + SECOND if backend.sees_death else NOW + LEASE + SECOND

    await store.join(EVE, now=known_at)
    taken = await lease(store, EVE, now=known_at)

    assert {webhook_id: lane.unclean for webhook_id, lane in taken.items()} == {each.id: 1 for each in webhooks}
    for delivery in deliveries:
        assert (await detail(store, delivery)).delivery == delivery


async def test_a_store_that_was_closed_without_leaving_holds_no_lane_for_longer_than_its_lease(
    backend: Backend, store: Store
) -> None:
    await store.join(ADA, now=NOW)
    webhook, *_ = await leased_with_one(store)

    reopened = await backend.reopen()
    await reopened.join(EVE, now=NOW + HOUR)

    assert set(await lease(reopened, EVE, now=NOW + HOUR)) == {webhook.id}


async def killed_after_leasing(backend: Backend, owner: str, *, lanes: int) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.contract.doomed_owner", backend.name, str(backend.folder), owner),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"%d\n" % lanes
    process.kill()
    await process.communicate()
