import json
from typing import Any

import jsonschema
import pytest
from tests.builders import GROUP_ID, make_event, make_occasion, make_operator_event, make_task, make_webhook
from tests.event_schemas import TYPES, must_fit

from gatepost.domain import tasks
from gatepost.domain.errors import InvalidInput
from gatepost.domain.events import TASK_EVENTS
from gatepost.domain.operator_events import OPERATOR_EVENTS
from gatepost.domain.samples import SAMPLE_EVENTS, is_sample, sample_event


def sample(event: str) -> Any:
    return json.loads(sample_event(event, GROUP_ID, make_occasion()).body)


def test_there_is_a_sample_and_a_type_of_everything_that_is_sent() -> None:
    assert set(SAMPLE_EVENTS) == set(TYPES) == {*TASK_EVENTS, *OPERATOR_EVENTS, "webhook.test"}


@pytest.mark.parametrize("event", SAMPLE_EVENTS)
def test_a_sample_fits_its_schema_and_is_about_no_task_of_anybodys(event: str) -> None:
    made = sample_event(event, GROUP_ID, make_occasion())
    assert (made.event, made.tasks) == (event, ())
    must_fit(json.loads(made.body))


@pytest.mark.parametrize("event", SAMPLE_EVENTS)
def test_a_sample_is_told_from_what_happened(event: str) -> None:
    assert is_sample(sample_event(event, GROUP_ID, make_occasion()))


def test_what_happened_is_no_sample() -> None:
    webhook = make_webhook()
    happened = [make_event(event=event) for event in TASK_EVENTS]
    happened += [make_operator_event(webhook, event) for event in OPERATOR_EVENTS]
    happened.append(make_event(event="order.paid", tasks=()))
    assert not [event for event in happened if is_sample(event)]


@pytest.mark.parametrize("event", OPERATOR_EVENTS)
def test_a_sample_of_what_gatepost_tells_of_itself_comes_from_nobody(event: str) -> None:
    assert (sample(event)["origin"], sample(event)["actorId"]) == ("system", None)


@pytest.mark.parametrize("event", ["", "task", "task.deleted", "webhook.healthy", "order.paid", "*"])
def test_of_anything_else_there_is_none(event: str) -> None:
    with pytest.raises(InvalidInput):
        sample_event(event, GROUP_ID, make_occasion())


@pytest.mark.parametrize("event", SAMPLE_EVENTS)
def test_a_schema_names_every_field_that_is_sent_and_no_other(event: str) -> None:
    schema, message = TYPES[event].schema, sample(event)
    assert list(schema["properties"]) == list(message)
    data = schema["properties"]["data"]
    whole = data["anyOf"][0] if "anyOf" in data else data
    assert set(whole["properties"]) == set(message["data"])


@pytest.mark.parametrize("event", SAMPLE_EVENTS)
def test_a_message_without_one_of_its_fields_does_not_fit(event: str) -> None:
    for part in ((), ("data",)):
        fields = sample(event)["data"] if part else sample(event)
        for field in fields:
            broken = sample(event)
            (broken["data"] if part else broken).pop(field)
            with pytest.raises(jsonschema.ValidationError):
                must_fit(broken, event)


def test_a_message_of_another_event_does_not_fit() -> None:
    with pytest.raises(jsonschema.ValidationError):
        must_fit({**sample("task.rejected"), "event": "task.swapped"})
    with pytest.raises(jsonschema.ValidationError):
        must_fit({**sample("task.created"), "event": "task.rejected"})


def test_a_thin_event_fits_the_schema_too() -> None:
    huge = make_task(description="🌹" * 20_000, status=tasks.TaskStatus.COMPLETED)
    for change in (tasks.approve(huge, make_occasion()), tasks.reject(huge, "No", make_occasion())):
        message = json.loads(change.event.body)
        assert message["data"]["truncated"] is True
        must_fit(message)
    message["data"]["truncated"] = False
    with pytest.raises(jsonschema.ValidationError):
        must_fit(message)
