"""Races that only a database with many writers has. Each test shows the race, too: it fails without its rule."""

import asyncio
from typing import Any

import pytest
from tests.builders import (
    GROUP_ID,
    accepted,
    make_delivery,
    make_disabling,
    make_group,
    make_occasion,
    make_settled,
    make_swap,
    make_task_change,
    make_user,
    make_webhook,
    refused,
)
from tests.contract.backends import Postgres18Backend, Store
from tests.contract.steps import (
    ADA,
    EVE,
    HOUR,
    LEASE,
    SECOND,
    add_member,
    add_task,
    add_webhook,
    assigned_pair,
    detail,
    edit_webhook,
    emit_one,
    lease,
    lease_one,
    leased_with_one,
    propose,
    proposed,
    read,
    read_one,
    record,
    record_settled,
    release,
    save,
    save_approval,
    taking,
)
from tests.fakes import NOW, FakeClock, NumberedChance
from tests.integration.postgres_rigs import SlowAnswers, ask, changing, until_waiting

from gatepost.adapters.storage import postgres_dialect
from gatepost.adapters.storage.scripts import LOCKED, Unstorable
from gatepost.domain import swaps, tasks
from gatepost.domain.deliveries import QueuedDelivery, Status
from gatepost.domain.groups import Caller, Role
from gatepost.domain.health import WELL
from gatepost.domain.tasks import Task
from gatepost.domain.webhooks import with_changes
from gatepost.ports import Draws, Saved, Subscriptions
from gatepost.services.emitting import Emitter
from gatepost.services.matcher import Matcher
from gatepost.services.tasks import Tasks

RULE = pytest.mark.parametrize("rule", [True, False], ids=["with the rule", "without it"])


@pytest.fixture
async def ada(postgres: Postgres18Backend) -> Store:
    return await postgres.open()


@pytest.fixture
async def eve(postgres: Postgres18Backend) -> Store:
    return await postgres.open()


@pytest.fixture
def without_locks(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let shared statements lock nothing ahead."""

    def drop() -> None:
        monkeypatch.setitem(postgres_dialect._SPELLINGS, LOCKED, "")
        postgres_dialect.in_postgres.cache_clear()

    yield drop
    postgres_dialect.in_postgres.cache_clear()


# --- recording -----------------------------------------------------------------------------------------------


@RULE
async def test_a_recorder_that_waits_for_a_row_has_its_lanes_locked_already(
    rule: bool, without_locks: Any, postgres: Postgres18Backend, ada: Store, eve: Store
) -> None:
    webhook, lane, delivery, queued = await leased_with_one(ada)
    if not rule:
        without_locks()

    async with changing(postgres, "SELECT 1 FROM deliveries WHERE id = $1 FOR UPDATE", delivery.id):
        recording = asyncio.create_task(record(ada, lane, queued, accepted()))
        await until_waiting(postgres)
        taken = await lease(eve, EVE, now=NOW + HOUR)  # ada's lease is over
        to_send = (await read(eve, webhook, now=NOW + HOUR)).deliveries
    lost = await recording

    recorded = len((await detail(ada, delivery)).attempts) == 1 and not lost
    sent_again = webhook.id in taken and bool(to_send)
    assert recorded
    assert sent_again is not rule


@RULE
async def test_a_renewal_that_waits_for_a_row_sees_who_took_it(
    rule: bool, without_locks: Any, postgres: Postgres18Backend, ada: Store
) -> None:
    webhook, lane, _, _ = await leased_with_one(ada)
    if not rule:
        without_locks()

    sql = "UPDATE lanes SET owner = 'eve', token = token + 1, lease_until = 1 WHERE webhook_id = $1"
    async with changing(postgres, sql, webhook.id):
        renewing = asyncio.create_task(ada.renew_lanes(ADA, {webhook.id: lane.token}, now=NOW, lease=LEASE))
        await until_waiting(postgres)
    lost = (await renewing).lost

    [(lease_until,)] = await ask(postgres, "SELECT lease_until FROM lanes WHERE webhook_id = $1", webhook.id)
    assert (webhook.id in lost) is rule
    assert (lease_until == 1) is rule


async def test_a_release_that_waits_for_a_row_sees_that_it_was_poked(postgres: Postgres18Backend, ada: Store) -> None:
    webhook = await add_webhook(ada)
    await emit_one(ada, webhook)
    lane = await lease_one(ada, webhook)
    await record(ada, lane, await read_one(ada, webhook), accepted())
    pokes = (await read(ada, webhook)).pokes

    async with changing(postgres, "UPDATE lanes SET pokes = pokes + 1 WHERE webhook_id = $1", webhook.id):
        releasing = asyncio.create_task(release(ada, lane, pokes=pokes))
        await until_waiting(postgres)

    assert await releasing is False


@RULE
async def test_what_is_being_recorded_is_not_buried(
    rule: bool, without_locks: Any, postgres: Postgres18Backend, ada: Store, eve: Store
) -> None:
    webhook, lane, delivery, queued = await leased_with_one(ada)
    assert await ada.delete_webhook(GROUP_ID, webhook.id, now=NOW) is Saved.DONE
    if not rule:
        without_locks()

    async with changing(postgres, "SELECT 1 FROM deliveries WHERE id = $1 FOR UPDATE", delivery.id):
        recording = asyncio.create_task(record(ada, lane, queued, accepted()))
        await until_waiting(postgres)
        sweeping = asyncio.create_task(eve.sweep(now=NOW + HOUR))  # ada's lease is over, but nobody can take it
        await until_waiting(postgres, 2)
    await asyncio.gather(recording, sweeping)

    found = await detail(ada, delivery)
    assert found.delivery.progress.status is Status.DELIVERED
    assert len(found.attempts) == 1


async def test_whoever_leaves_locks_its_lanes_in_the_order_of_those_who_poke_them(
    postgres: Postgres18Backend, ada: Store, eve: Store
) -> None:
    webhooks = [await add_webhook(ada) for _ in range(120)]
    change = make_task_change()
    await save(ada, change, *(make_delivery(change.event, webhook) for webhook in webhooks))
    await ask(postgres, "UPDATE lanes SET due_at = due_at - (random() * 1000)::bigint")  # an order of their own
    ended = asyncio.Event()

    async def keep_poking() -> None:
        while not ended.is_set():
            change = make_task_change()
            assert await save(eve, change, *(make_delivery(change.event, each) for each in webhooks)) is Saved.DONE

    poking = asyncio.create_task(keep_poking())
    for number in range(10):
        await lease(ada, f"owner-{number}", limit=500)
        await ada.leave(f"owner-{number}")
    ended.set()
    await poking
    deadlocks = await ask(postgres, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    assert deadlocks == [(0,)]


async def test_lanes_poked_by_many_are_locked_in_one_order(ada: Store, eve: Store) -> None:
    webhooks = [await add_webhook(ada) for _ in range(30)]

    async def poke_all(store: Store, *, backwards: bool) -> None:
        for _ in range(5):
            change = make_task_change()
            owed = [make_delivery(change.event, webhook) for webhook in webhooks]
            assert await save(store, change, *(reversed(owed) if backwards else owed)) is Saved.DONE

    await asyncio.gather(*(poke_all(store, backwards=store is ada) for store in (ada, eve, ada, eve)))

    assert {(await read(ada, webhook)).pokes for webhook in webhooks} == {20}


# --- disabling -----------------------------------------------------------------------------------------------


async def test_a_webhook_that_is_being_enabled_again_is_not_disabled_for_what_was_before(
    postgres: Postgres18Backend, ada: Store, eve: Store
) -> None:
    webhook, lane, delivery, queued = await leased_with_one(ada)
    disabled = await edit_webhook(ada, webhook, enabled=False)
    gone = make_settled(queued, refused(410), disabling=make_disabling(webhook))

    async with changing(postgres, "SELECT 1 FROM groups WHERE id = $1 FOR UPDATE", GROUP_ID):
        enabling = asyncio.create_task(edit_webhook(eve, disabled, now=NOW + SECOND, enabled=True))
        await until_waiting(postgres)  # it has the webhook and its lane
        recording = asyncio.create_task(record_settled(ada, lane, gone))
        await until_waiting(postgres, 2)
    await asyncio.gather(enabling, recording)

    now = await ada.webhook(GROUP_ID, webhook.id)
    assert now is not None
    assert (now.enabled, now.config_version, now.condition) == (True, 3, WELL)
    assert len((await detail(ada, delivery)).attempts) == 1


async def test_edits_and_outcomes_that_disable_take_their_rows_in_one_order(
    postgres: Postgres18Backend, ada: Store, eve: Store
) -> None:
    webhook, lane, _, queued = await leased_with_one(ada)
    gone = make_settled(queued, refused(410), disabling=make_disabling(webhook))

    async with changing(postgres, "SELECT 1 FROM deliveries WHERE id = $1 FOR UPDATE", queued.id):
        recording = asyncio.create_task(record_settled(ada, lane, gone))
        await until_waiting(postgres)  # it has the lane, and the webhook before that: otherwise both wait in a circle
        editing = asyncio.create_task(eve.save_webhook(GROUP_ID, with_changes(webhook, now=NOW, name="Another name")))
        await until_waiting(postgres, 2)
    lost, saved = await asyncio.gather(recording, editing)

    assert (lost, saved) == (set(), Saved.STALE)


# --- emitting ------------------------------------------------------------------------------------------------


class Interrupted:
    """A store, in which somebody elsewhere adds a webhook just after the group's webhooks were read for a match."""

    def __init__(self, store: Store, elsewhere: Store, *, rule: bool) -> None:
        self._store = store
        self._elsewhere = elsewhere
        self._rule = rule
        self.added: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def subscriptions(self, group_id: str) -> Subscriptions:
        found = await self._store.subscriptions(group_id)
        if not self.added:
            self.added.append((await add_webhook(self._elsewhere)).id)
        return found

    async def save_change(self, group_id: str, *args: Any, webhooks_version: int) -> Saved:
        if not self._rule:
            webhooks_version = (await self._store.subscriptions(group_id)).version
        return await self._store.save_change(group_id, *args, webhooks_version=webhooks_version)


@RULE
async def test_a_webhook_added_while_a_change_is_matched_is_owed_its_event(
    rule: bool, postgres: Postgres18Backend, ada: Store, eve: Store
) -> None:
    store = Interrupted(ada, eve, rule=rule)
    chance = NumberedChance(first=1_000_000)
    service = Tasks(store, store, Emitter(Matcher(store), chance), FakeClock(), chance)

    await service.create(Caller("key_ada", GROUP_ID, Role.ADMIN), {"title": "Night shift"}, draws=Draws(NOW, chance))

    owed = await ask(postgres, "SELECT webhook_id FROM deliveries")
    assert [webhook_id for (webhook_id,) in owed] == (store.added if rule else [])


@RULE
async def test_of_two_who_add_the_last_webhook_at_once_one_is_refused(
    rule: bool, without_locks: Any, postgres: Postgres18Backend, ada: Store, eve: Store
) -> None:
    if not rule:
        without_locks()

    async with changing(postgres, "SELECT 1 FROM groups WHERE id = $1 FOR UPDATE", GROUP_ID):
        adding = [
            asyncio.create_task(store.add_webhook(GROUP_ID, make_webhook(group_id=GROUP_ID), quota=1))
            for store in (ada, eve)
        ]
        await until_waiting(postgres, 2)
    saved = await asyncio.gather(*adding)

    assert sorted(each.value for each in saved) == (["done", "quota_exceeded"] if rule else ["done", "done"])


@RULE
async def test_what_was_recorded_before_its_commit_was_answered_is_not_handed_over(
    rule: bool, monkeypatch: pytest.MonkeyPatch, ada: Store
) -> None:
    webhook = await add_webhook(ada)
    await emit_one(ada, webhook)
    lane = await lease_one(ada, webhook)
    handed: list[QueuedDelivery] = []
    ada.on_queued = taking(handed)
    if not rule:
        monkeypatch.setattr("gatepost.adapters.storage.handing_over.HandOver.recorded", lambda *_: None)
    answers = SlowAnswers(monkeypatch)

    emitting = asyncio.create_task(emit_one(ada, webhook))
    await answers.committed.wait()
    for queued in (await read(ada, webhook)).deliveries:
        await record(ada, lane, queued, accepted())
    answers.answered.set()
    delivery = await emitting

    assert [queued.id for queued in handed] == ([] if rule else [delivery.id])


@RULE
async def test_of_a_lane_that_was_leased_before_the_commit_was_answered_nothing_is_handed_over(
    rule: bool, monkeypatch: pytest.MonkeyPatch, ada: Store, eve: Store
) -> None:
    webhook, *_ = await leased_with_one(eve)
    handed: list[QueuedDelivery] = []
    ada.on_queued = taking(handed)
    if not rule:
        monkeypatch.setattr("gatepost.adapters.storage.handing_over.HandOver.leased", lambda *_: None)
    answers = SlowAnswers(monkeypatch)

    emitting = asyncio.create_task(emit_one(ada, webhook))
    await answers.committed.wait()
    theirs = await lease_one(eve, webhook, EVE, now=NOW + HOUR)
    for queued in (await read(eve, webhook)).deliveries:
        await record(eve, theirs, queued, accepted())
    await lease_one(ada, webhook, now=NOW + 2 * HOUR)
    answers.answered.set()
    delivery = await emitting

    assert [queued.id for queued in handed] == ([] if rule else [delivery.id])


async def test_what_was_not_recorded_yet_is_handed_over_when_its_commit_is_answered(
    monkeypatch: pytest.MonkeyPatch, ada: Store
) -> None:
    webhook = await add_webhook(ada)
    handed: list[QueuedDelivery] = []
    ada.on_queued = taking(handed)
    answers = SlowAnswers(monkeypatch)

    emitting = asyncio.create_task(emit_one(ada, webhook))
    await answers.committed.wait()
    assert handed == []
    answers.answered.set()
    delivery = await emitting

    assert [queued.id for queued in handed] == [delivery.id]


async def test_two_who_save_one_change_at_once_write_it_once(
    postgres: Postgres18Backend, ada: Store, eve: Store
) -> None:
    webhook = await add_webhook(ada)
    change = make_task_change()
    deliveries = [make_delivery(change.event, webhook)]

    saved = await asyncio.gather(*(save(store, change, *deliveries) for store in (ada, eve) * 10))

    assert set(saved) == {Saved.DONE}
    assert len(await ask(postgres, "SELECT id FROM deliveries")) == 1


# --- people --------------------------------------------------------------------------------------------------


@RULE
@pytest.mark.parametrize("method", ["save_role", "remove_member"])
async def test_of_two_owners_who_take_that_from_each_other_at_once_one_stays(
    rule: bool, method: str, without_locks: Any, postgres: Postgres18Backend, ada: Store, eve: Store
) -> None:
    owners = [await add_member(ada, Role.OWNER) for _ in range(2)]
    new_role = [Role.MEMBER] if method == "save_role" else []
    if not rule:
        without_locks()

    async with changing(postgres, "SELECT 1 FROM members FOR UPDATE"):
        taking_away = [
            asyncio.create_task(getattr(store, method)(GROUP_ID, owner.id, *new_role, expected=Role.OWNER))
            for store, owner in zip((ada, eve), owners, strict=True)
        ]
        await until_waiting(postgres, 2)
    saved = await asyncio.gather(*taking_away)

    left = await ask(postgres, "SELECT user_id FROM members WHERE role = 'owner'")
    assert sorted(each.value for each in saved) == (["done", "last_owner"] if rule else ["done", "done"])
    assert len(left) == (1 if rule else 0)


@RULE
async def test_of_two_who_want_to_be_the_first_person_at_once_one_is(
    rule: bool, without_locks: Any, postgres: Postgres18Backend, ada: Store, eve: Store
) -> None:
    if not rule:
        without_locks()

    async with changing(postgres, "LOCK TABLE users IN SHARE MODE"):  # which can be read meanwhile
        adding = [asyncio.create_task(store.add_first_user(make_user())) for store in (ada, eve)]
        await until_waiting(postgres, 2)
    saved = await asyncio.gather(*adding)

    assert sorted(each.value for each in saved) == (["done", "exists"] if rule else ["done", "done"])
    if rule:
        assert len(await ask(postgres, "SELECT user_id FROM members WHERE role = 'owner'")) == 1


@RULE
async def test_a_group_that_is_made_at_the_moment_of_the_first_person_is_theirs(
    rule: bool, without_locks: Any, postgres: Postgres18Backend, ada: Store, eve: Store
) -> None:
    group, person = make_group(), make_user(is_installation_owner=True)
    if not rule:
        without_locks()

    async with changing(postgres, "LOCK TABLE groups IN SHARE MODE"):  # which can be read meanwhile
        adding = asyncio.create_task(ada.add_group(group, owner_ids=None))
        await until_waiting(postgres)
        being_first = asyncio.create_task(eve.add_first_user(person))
        if rule:
            await until_waiting(postgres, 2)
        else:
            await being_first

    assert [await adding, await being_first] == [Saved.DONE, Saved.DONE]
    assert (await eve.member(group.id, person.id) is not None) is rule


# --- swaps ---------------------------------------------------------------------------------------------------


@RULE
async def test_of_two_who_approve_one_swap_at_once_the_second_finds_it_decided(
    rule: bool, without_locks: Any, postgres: Postgres18Backend, ada: Store, eve: Store
) -> None:
    pair = await assigned_pair(ada)
    swap = await propose(ada, *pair)
    if not rule:
        without_locks()

    async with changing(postgres, "SELECT 1 FROM swaps WHERE id = $1 FOR UPDATE", swap.id):
        approving = [
            asyncio.create_task(save_approval(store, swaps.approve(swap, *pair, make_occasion())))
            for store in (ada, eve)
        ]
        await until_waiting(postgres, 2)
    ends = await asyncio.gather(*approving, return_exceptions=True)

    assert Saved.DONE in ends
    assert (Saved.EXISTS in ends) is rule
    assert any(isinstance(end, Unstorable) for end in ends) is not rule


@RULE
@pytest.mark.parametrize("which", [0, 1])
async def test_an_approval_that_waits_for_a_task_sees_that_it_was_changed(
    rule: bool, which: int, without_locks: Any, postgres: Postgres18Backend, ada: Store
) -> None:
    swap, approval = await proposed(ada)
    if not rule:
        without_locks()

    sql = "UPDATE tasks SET version = version + 1 WHERE id = $1"
    async with changing(postgres, sql, approval.changes[which].task.id):
        approving = asyncio.create_task(save_approval(ada, approval))
        await until_waiting(postgres)

    assert (await approving is Saved.STALE) is rule
    people = [assigned_to for (assigned_to,) in await ask(postgres, "SELECT assigned_to FROM tasks ORDER BY id")]
    assert (len(set(people)) == 2) is rule  # without it one of them has both
    assert (await ada.swap(GROUP_ID, swap.id) == swap) is rule


@RULE
async def test_of_two_who_propose_swaps_of_one_task_at_once_the_second_finds_the_first(
    rule: bool, without_locks: Any, postgres: Postgres18Backend, ada: Store, eve: Store
) -> None:
    one, other = await assigned_pair(ada)
    third = await add_task(ada, assigned_to="usr_zoe")
    if not rule:
        without_locks()

    async with changing(postgres, "LOCK TABLE open_swaps IN SHARE MODE"):  # may be read, but not written
        proposing = [
            asyncio.create_task(store.add_swap(GROUP_ID, make_swap(*pair)))
            for store, pair in ((ada, (one, other)), (eve, (third, one)))
        ]
        await until_waiting(postgres, 2)
    ends = await asyncio.gather(*proposing, return_exceptions=True)

    assert Saved.DONE in ends
    assert (Saved.EXISTS in ends) is rule
    assert any(isinstance(end, Unstorable) for end in ends) is not rule


async def test_swaps_changes_and_edits_of_webhooks_at_once_never_wait_in_a_circle(
    postgres: Postgres18Backend, ada: Store, eve: Store
) -> None:
    webhook = await add_webhook(ada)
    added = [await add_task(ada, assigned_to=f"usr_{n}") for n in range(4)]

    async def task(store: Store, number: int) -> Task:
        found = await store.task(GROUP_ID, added[number].id)
        assert found is not None
        return found

    async def keep_swapping(store: Store, first: int, second: int) -> None:
        for _ in range(8):
            pair = await task(store, first), await task(store, second)
            swap = make_swap(*pair)
            if await store.add_swap(GROUP_ID, swap) is Saved.DONE:
                approval = swaps.approve(swap, *pair, make_occasion())
                if await save_approval(store, approval, make_delivery(approval.event, webhook)) is not Saved.DONE:
                    await store.reject_swap(GROUP_ID, swaps.reject(swap, "usr_boss", now=NOW))

    async def keep_changing(store: Store, number: int, titles: str) -> None:
        for title in titles:
            change = tasks.update(await task(store, number), {"title": title}, make_occasion())
            assert change is not None
            await save(store, change, make_delivery(change.event, webhook))

    async def keep_editing() -> None:
        edited = webhook
        for name in "abcdefgh":
            edited = await edit_webhook(eve, edited, name=name)

    await asyncio.gather(
        *(keep_swapping(store, n, (n + step) % 4) for store, step in ((ada, 1), (eve, 3)) for n in range(4)),
        *(
            keep_changing(store, n, titles)
            for store, titles in ((ada, "abcdefgh"), (eve, "ABCDEFGH"))
            for n in range(4)
        ),
        keep_editing(),
    )

    deadlocks = await ask(postgres, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    assert deadlocks == [(0,)]


# --- leasing -------------------------------------------------------------------------------------------------


async def test_many_who_lease_at_once_never_share_a_lane(postgres: Postgres18Backend, ada: Store) -> None:
    webhooks = [await add_webhook(ada) for _ in range(40)]
    for webhook in webhooks:
        await emit_one(ada, webhook)
    handles = [await postgres.open() for _ in range(4)]

    taken: list[tuple[str, int]] = []
    for round_number in range(5):
        now = NOW + round_number * HOUR
        leased = await asyncio.gather(
            *(lease(handle, f"owner-{n}", now=now, limit=15) for n, handle in enumerate(handles))
        )
        taken += [(lane.webhook_id, lane.token) for lanes in leased for lane in lanes.values()]

    assert len(taken) == len(set(taken)) > 40


async def test_whoever_leases_while_others_do_gets_those_that_are_left(postgres: Postgres18Backend, ada: Store) -> None:
    webhooks = [await add_webhook(ada) for _ in range(6)]
    for number, webhook in enumerate(webhooks):
        await emit_one(ada, webhook, at=NOW - number * SECOND)
    longest_due = [webhook.id for webhook in webhooks[3:]]

    async with changing(postgres, "SELECT 1 FROM lanes WHERE webhook_id = ANY ($1) FOR UPDATE", longest_due):
        leased = await lease(ada, limit=3)

    assert set(leased) == {webhook.id for webhook in webhooks[:3]}


async def test_a_lane_that_is_written_to_is_passed_over_and_holds_nobody_up(
    postgres: Postgres18Backend, ada: Store
) -> None:
    busy, free = [await add_webhook(ada) for _ in range(2)]
    for webhook in (busy, free):
        await emit_one(ada, webhook)

    async with changing(postgres, "SELECT 1 FROM lanes WHERE webhook_id = $1 FOR UPDATE", busy.id):
        leased = await lease(ada)

    assert set(leased) == {free.id}
    assert set(await lease(ada)) == {busy.id}
