"""What recording asks of an SQL database when nothing is wrong: no statement more than there was before health."""

from dataclasses import replace
from typing import Any

import pytest
from tests.builders import accepted, make_disabling, make_outcomes, make_queued, make_settled, make_webhook, refused
from tests.fakes import NOW

from gatepost.adapters.storage import sql_attempts, sql_stats
from gatepost.adapters.storage.rows import to_ms
from gatepost.domain.health import Condition
from gatepost.ports import LaneOutcomes, LeasedLane

LANE = LeasedLane("wh_1", token=7, pokes=0, unclean=0, window=3)
AS_EVER = [sql_attempts.STANDING, sql_attempts.ADD_ATTEMPTS, sql_attempts.MOVE, sql_stats.COUNT]


def test_plain_successes_leave_the_lane_and_the_webhook_alone() -> None:
    settled = [make_settled(make_queued(), accepted()) for _ in range(3)]

    assert asked_for(make_outcomes(LANE, settled)) == AS_EVER


@pytest.mark.parametrize(
    "changes", [{"window": 4}, {"condition": Condition(streak=1, failing_since=NOW)}, {"held_until": NOW}]
)
def test_what_the_lane_is_to_remember_is_written_when_it_changes(changes: dict[str, Any]) -> None:
    outcomes = make_outcomes(LANE, [make_settled()], **changes)

    assert asked_for(outcomes) == [*AS_EVER[:-1], sql_attempts.CLEAN, AS_EVER[-1]]


def test_webhooks_are_locked_before_their_lanes_and_only_to_disable_them() -> None:
    gone = replace(make_settled(make_queued(), refused(410)), disabling=make_disabling(make_webhook()))

    statements = asked_for(make_outcomes(LANE, [gone]))

    assert statements.index(sql_attempts.STANDING) == 1


def asked_for(outcomes: LaneOutcomes) -> list[str]:
    """Return the statements of recording these, answered as a database would in which all is as the lane has it."""
    script = sql_attempts._record([outcomes])
    asked: list[str] = []
    answer: Any = None
    while True:
        try:
            statement = script.send(answer)
        except StopIteration:
            return asked
        asked.append(statement.sql)
        is_standing = statement.sql == sql_attempts.STANDING
        standing = [(LANE.webhook_id, LANE.token, LANE.unclean, to_ms(NOW), LANE.window, 0, 0, None, None, 0)]
        answer = standing if is_standing else 0 if statement.kind.value == "execute" else len(statement.params)
