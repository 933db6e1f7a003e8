import re

import pytest
from tests.builders import every_error

from gatepost.domain import errors
from gatepost.domain.errors import FieldError, InvalidInput, invalid


def test_the_tree_at_the_top_of_the_file_is_the_tree_of_the_classes() -> None:
    assert errors.__doc__ is not None
    drawn = re.findall(r"[├└]─ (\w+)(?: +([a-z_]+))?", errors.__doc__)

    assert {name for name, _ in drawn} == {error.__name__ for error in every_error()}
    assert {name: code for name, code in drawn if code} == {
        error.__name__: error.code for error in every_error() if error.__name__ != "Conflict"
    }


@pytest.mark.parametrize(("name", "parent"), [("InvalidTransition", "Conflict"), ("ReservedHeader", "InvalidInput")])
def test_what_stands_under_another_in_the_tree_is_one_of_it(name: str, parent: str) -> None:
    assert issubclass(getattr(errors, name), getattr(errors, parent))


def test_no_two_errors_share_a_code() -> None:
    codes = [error.code for error in every_error() if error.__name__ != "Conflict"]

    assert len(codes) == len(set(codes)) > 10


def test_an_error_of_fields_names_each_of_them() -> None:
    error = InvalidInput(
        FieldError(("retryPolicy", "schedule", 2), "give seconds", "out_of_range"),
        FieldError(("name",), "give a name", "length"),
    )

    assert error.detail == str(error) == "retryPolicy.schedule.2: give seconds; name: give a name"


def test_a_field_inside_another_is_named_by_its_path() -> None:
    error = invalid("retryPolicy.maxAttempts", "give a number", code="out_of_range")

    assert error.errors == (FieldError(("retryPolicy", "maxAttempts"), "give a number", "out_of_range"),)
