"""Every error the core can raise has its HTTP answer."""

import json

import pytest
from tests.builders import every_error

from gatepost.api.problems import KINDS, internal_problem, problem_response
from gatepost.domain.errors import (
    FieldError,
    GatepostError,
    InvalidInput,
    RateLimited,
    ReservedHeader,
    StoreUnavailable,
)


@pytest.mark.parametrize("error", [GatepostError, *every_error()], ids=lambda error: error.__name__)
def test_every_error_of_the_tree_has_a_status(error: type[GatepostError]) -> None:
    assert 400 <= KINDS[error.code].status <= 599


def test_a_problem_says_what_is_wrong_and_where() -> None:
    error = InvalidInput(FieldError(("retryPolicy", "schedule", 2), "give seconds", "out_of_range"))
    response = problem_response(error)
    assert response.status_code == 422
    assert response.media_type == "application/problem+json"
    assert json.loads(response.body) == {
        "type": "/problems/validation_failed",
        "title": "Some fields are not right",
        "status": 422,
        "detail": "retryPolicy.schedule.2: give seconds",
        "code": "validation_failed",
        "errors": [{"loc": ["retryPolicy", "schedule", 2], "msg": "give seconds", "code": "out_of_range"}],
    }


def test_a_special_case_keeps_its_own_code() -> None:
    response = problem_response(ReservedHeader(FieldError(("headers", "Host"), "leave it out", "reserved")))
    assert json.loads(response.body)["code"] == "reserved_header"


def test_who_comes_too_often_is_told_when_to_come_back() -> None:
    assert problem_response(RateLimited("slower", retry_after_seconds=7)).headers["retry-after"] == "7"
    assert problem_response(StoreUnavailable("later")).headers["retry-after"] == "1"


def test_a_bug_of_ours_is_not_explained() -> None:
    document = json.loads(internal_problem().body)
    assert (document["code"], document["status"]) == ("internal", 500)
