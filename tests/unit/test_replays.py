"""Bulk replays: what they take, and under which names they make it."""

import pytest
from tests.builders import make_delivery, make_job, make_webhook
from tests.fakes import NOW

from gatepost.domain.deliveries import Status, first_progress
from gatepost.domain.errors import InvalidInput
from gatepost.domain.replays import ReplayFilter, replayed_by


@pytest.mark.parametrize("status", [Status.DELIVERED, Status.DEAD_LETTER])
def test_a_filter_may_ask_for_a_last_status(status: Status) -> None:
    assert ReplayFilter(status=status).statuses == (status,)


@pytest.mark.parametrize("status", [Status.QUEUED, Status.FAILED])
def test_a_filter_cannot_ask_for_what_is_still_to_be_sent(status: Status) -> None:
    with pytest.raises(InvalidInput, match="status: give delivered or dead-letter"):
        ReplayFilter(status=status)


def test_a_filter_without_a_status_takes_both_last_ones() -> None:
    assert ReplayFilter().statuses == (Status.DELIVERED, Status.DEAD_LETTER)


def test_what_a_job_makes_of_a_delivery_is_new_and_of_the_same_event() -> None:
    webhook = make_webhook()
    job, original = make_job(webhook), make_delivery(webhook=webhook)

    made = replayed_by(job, original, max_attempts=7, now=NOW)

    assert (made.event_id, made.webhook_id, made.task_ids) == (original.event_id, webhook.id, original.task_ids)
    assert (made.replay_of, made.created_at) == (original.id, NOW)
    assert made.progress == first_progress(7, now=NOW)
    assert made.id != original.id


def test_a_job_makes_a_delivery_of_each_under_a_name_that_only_the_two_have() -> None:
    webhook = make_webhook()
    jobs = [make_job(webhook), make_job(webhook)]
    originals = [make_delivery(webhook=webhook) for _ in range(3)]
    made = [replayed_by(job, each, max_attempts=1, now=NOW).id for job in jobs for each in originals]

    assert len(set(made)) == 6
    assert made == [replayed_by(job, each, max_attempts=9, now=NOW).id for job in jobs for each in originals]
