"""`LaneStore.record_attempts`: whatever a receiver answers, the outcome is written and harms no neighbour."""

import pytest
from tests.builders import accepted, make_outcomes, make_response, make_settled
from tests.contract.backends import Store
from tests.contract.steps import (
    EVE,
    HOUR,
    detail,
    emit_one,
    lease_one,
    leased_with_one,
    read,
    record,
    record_settled,
)
from tests.fakes import NOW

from gatepost.domain.deliveries import Status
from gatepost.domain.outcomes import Accepted, ErrorClass, Outcome, Refused, Unreachable, error_class_of

HOSTILE: list[Outcome] = [
    Accepted(make_response(body=b"nul \x00 nul")),
    Accepted(make_response(body=b"\xff\xfe\xc3\x28 no utf-8 \xed\xa0\x80")),
    Accepted(make_response(body=b"\x1b[2J\x1b[31mred\x07")),
    Accepted(make_response(headers=(("x-nul", "a\x00b"),))),
    Accepted(make_response(headers=(("x-ansi", "\x1b[31m"),))),
    Accepted(make_response(headers=(("x-half", "\ud800"), ("\udfff", "x")))),
    Refused(make_response(503, headers=(("x-latin", "\x80\xff"),), body=b"\x00")),
    Unreachable(ErrorClass.TLS, "what the peer said: \x00 \ud800 \x1b[31m"),
]


@pytest.mark.parametrize("outcome", HOSTILE)
async def test_a_hostile_answer_is_written_or_stands_as_an_internal_error_and_harms_no_neighbour(
    store: Store, outcome: Outcome
) -> None:
    webhook, lane, before, _ = await leased_with_one(store)
    hit, after = await emit_one(store, webhook), await emit_one(store, webhook)
    _, other_lane, elsewhere, other_queued = await leased_with_one(store)
    settled = {
        queued.id: make_settled(queued, outcome if queued.id == hit.id else accepted())
        for queued in (await read(store, webhook)).deliveries
    }

    lost = await store.record_attempts(
        [make_outcomes(lane, list(settled.values())), make_outcomes(other_lane, [make_settled(other_queued)])]
    )

    assert lost == set()
    found = await detail(store, hit)
    (attempt,) = found.attempts
    assert found.delivery.progress.attempt_count == attempt.number == 1
    assert holds(attempt.outcome, outcome) or error_class_of(attempt.outcome) is ErrorClass.INTERNAL_ERROR
    for neighbour in (before, after):
        of = await detail(store, neighbour)
        assert of.delivery.progress == settled[neighbour.id].progress
        assert list(of.attempts) == [settled[neighbour.id].attempt]
    assert (await detail(store, elsewhere)).delivery.progress.status is Status.DELIVERED


async def test_the_body_of_an_answer_is_kept_to_its_last_byte_whatever_it_is(store: Store) -> None:
    _, lane, delivery, queued = await leased_with_one(store)
    every_byte = Accepted(make_response(body=bytes(range(256)) * 64))

    await record(store, lane, queued, every_byte)

    assert (await detail(store, delivery)).attempts[0].outcome == every_byte


async def test_a_hostile_answer_recorded_twice_is_recorded_once(store: Store) -> None:
    _, lane, delivery, queued = await leased_with_one(store)
    settled = make_settled(queued, Accepted(make_response(headers=(("x", "\ud800\x00"),))))
    await record_settled(store, lane, settled)
    once = await detail(store, delivery)

    await record_settled(store, lane, settled)

    assert await detail(store, delivery) == once


async def test_a_hostile_answer_under_a_stale_token_is_lost_like_any_other(store: Store) -> None:
    webhook, lane, delivery, queued = await leased_with_one(store)
    await lease_one(store, webhook, EVE, now=NOW + HOUR)

    lost = await record(store, lane, queued, Accepted(make_response(headers=(("x", "\ud800\x00"),))))

    assert lost == {webhook.id}
    assert list((await detail(store, delivery)).attempts) == []


def holds(stored: Outcome, given: Outcome) -> bool:
    """Say whether an outcome was stored as it was given; a detail for the operator's log need not be kept."""
    if isinstance(given, Unreachable):
        return isinstance(stored, Unreachable) and stored.error_class is given.error_class
    return stored == given
