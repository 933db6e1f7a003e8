import json
from datetime import datetime, timedelta, timezone

import pytest
from tests.builders import make_occasion
from tests.fakes import NOW

from gatepost.domain.errors import InvalidInput, PayloadTooLarge
from gatepost.domain.events import EVENT_LIMIT_BYTES, is_event_type, make_event, publish, rfc3339, to_json


def test_the_bytes_of_an_event_are_compact_json_in_the_documented_order() -> None:
    occasion = make_occasion(event_id="evt_1", actor_id="usr_1", origin="ui")

    event = make_event("task.completed", group_id="grp_1", occasion=occasion, data={"title": "Rosen gießen 🌹", "a": 1})

    assert (
        event.body
        == (
            '{"id":"evt_1","event":"task.completed","groupId":"grp_1","timestamp":"2026-11-23T12:34:56.789Z",'
            '"actorId":"usr_1","origin":"ui","data":{"title":"Rosen gießen 🌹","a":1}}'
        ).encode()
    )


def test_an_event_of_nobody_says_null() -> None:
    event = make_event("webhook.degraded", group_id="grp_1", occasion=make_occasion(actor_id=None), data={})

    assert json.loads(event.body)["actorId"] is None


def test_an_event_keeps_its_occasion_and_the_tasks_it_is_about() -> None:
    occasion = make_occasion(origin="inbound:jira", hop=3)
    about = (("tsk_1", 4), ("tsk_2", 7))

    event = make_event("task.swapped", group_id="grp_1", occasion=occasion, data={}, tasks=about)

    assert (event.id, event.created_at, event.origin, event.hop) == (occasion.event_id, NOW, "inbound:jira", 3)
    assert event.tasks == about
    assert event.task_ids == ("tsk_1", "tsk_2")


def test_an_event_of_exactly_the_limit_is_sent_whole() -> None:
    event = made_with(filling(0), thin_data={"id": 1})

    assert len(event.body) == EVENT_LIMIT_BYTES
    assert "truncated" not in json.loads(event.body)["data"]


def test_an_event_one_byte_over_the_limit_is_sent_thin() -> None:
    event = made_with(filling(1), thin_data={"id": 1})

    assert json.loads(event.body)["data"] == {"id": 1, "truncated": True}


def test_an_event_over_the_limit_without_a_thin_form_is_refused() -> None:
    with pytest.raises(PayloadTooLarge):
        made_with(filling(1), thin_data=None)


def test_the_limit_counts_bytes_and_not_characters() -> None:
    with pytest.raises(PayloadTooLarge):
        made_with("ü" * (EVENT_LIMIT_BYTES // 2), thin_data=None)


@pytest.mark.parametrize("name", ["task.created", "a.b", "a.b.c_1", "order_2.paid", "a." + "b" * 98])
def test_an_event_type_is_lower_case_words_with_dots(name: str) -> None:
    assert is_event_type(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "task",
        ".task",
        "task.",
        "task..created",
        "Task.created",
        "task.*",
        "*",
        "a-b.c",
        "a.b\n",
        "ä.b",
        "a." + "b" * 99,
    ],
)
def test_anything_else_is_no_event_type(name: str) -> None:
    assert not is_event_type(name)


def test_moments_on_the_wire_are_utc_with_milliseconds() -> None:
    in_delhi = datetime(2026, 11, 23, 18, 4, 56, 789_999, tzinfo=timezone(timedelta(hours=5, minutes=30)))

    assert rfc3339(in_delhi) == "2026-11-23T12:34:56.789Z"
    assert rfc3339(NOW.replace(microsecond=0)) == "2026-11-23T12:34:56.000Z"


def test_what_json_cannot_say_is_refused() -> None:
    with pytest.raises(ValueError):
        to_json({"difficulty": float("nan")})


def test_what_another_application_tells_is_sent_under_its_own_id() -> None:
    event = publish("order.paid", {"total": 49.9}, group_id="grp_1", occasion=make_occasion(event_id="order-1_A"))

    assert (event.id, event.event, event.tasks) == ("order-1_A", "order.paid", ())
    assert json.loads(event.body)["data"] == {"total": 49.9}


@pytest.mark.parametrize(
    ("event", "event_id", "field"),
    [
        ("order", "a", "event"),
        ("order.*", "a", "event"),
        ("a." + "b" * 99, "a", "event"),
        ("task.created", "a", "event"),
        ("task.mine", "a", "event"),
        ("webhook.test", "a", "event"),
        ("delivery.dead_lettered", "a", "event"),
        ("order.paid", "", "id"),
        ("order.paid", "x" * 65, "id"),
        ("order.paid", "a.b", "id"),
        ("order.paid", "ä", "id"),
        ("order.paid", "a\n", "id"),
    ],
)
def test_a_type_or_an_id_that_is_none_is_named(event: str, event_id: str, field: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        publish(event, {}, group_id="grp_1", occasion=make_occasion(event_id=event_id))
    assert [error.loc for error in refusal.value.errors] == [(field,)]


def test_a_type_that_only_begins_like_ours_may_be_published() -> None:
    for event in ("tasks.created", "task_list.created", "webhooks.x", "order.task.created"):
        assert publish(event, {}, group_id="grp_1", occasion=make_occasion()).event == event


def test_what_is_published_has_no_thin_form() -> None:
    with pytest.raises(PayloadTooLarge):
        publish("a.b", {"text": "x" * EVENT_LIMIT_BYTES}, group_id="grp_1", occasion=make_occasion())


@pytest.mark.parametrize("value", [float("nan"), [float("-inf")], {"a": "\ud800"}, [10**5000]])
def test_data_that_json_cannot_say_is_named(value: object) -> None:
    with pytest.raises(InvalidInput) as refusal:
        publish("a.b", {"value": value}, group_id="grp_1", occasion=make_occasion())
    assert [error.loc for error in refusal.value.errors] == [("data",)]


def test_data_of_too_many_levels_is_named() -> None:
    data: dict[str, object] = {}
    for _ in range(100_000):
        data = {"": data}
    with pytest.raises(InvalidInput):
        publish("a.b", data, group_id="grp_1", occasion=make_occasion())


def made_with(text: str, *, thin_data: dict[str, object] | None):
    return make_event("a.b", group_id="grp_1", occasion=make_occasion(), data={"text": text}, thin_data=thin_data)


def filling(bytes_over: int) -> str:
    """Return the text that makes an event so many bytes longer than the limit."""
    return "x" * (EVENT_LIMIT_BYTES - len(made_with("", thin_data=None).body) + bytes_over)
