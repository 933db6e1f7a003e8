"""The log line of an attempt."""

from dataclasses import replace

from structlog.testing import capture_logs
from tests.builders import make_attempt, make_settled, refused

from gatepost.engine.attempt_log import log_attempt


def test_it_says_how_the_attempt_ended_and_whether_it_was_a_probe() -> None:
    settled = make_settled(outcome=refused(503))
    probe = replace(settled, attempt=make_attempt(outcome=refused(503), probe=True))

    with capture_logs() as lines:
        log_attempt(settled)
        log_attempt(probe)

    assert [line["probe"] for line in lines] == [False, True]
    assert {(line["event"], line["status_code"], line["outcome"]) for line in lines} == {
        ("delivery.attempted", 503, "refused")
    }
