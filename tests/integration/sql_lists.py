"""The lists that people ask for, as the statements that both SQL stores run: their tests look at the indexes."""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

from gatepost.adapters.storage import sql_deliveries, sql_events, sql_replays, sql_swaps, sql_tasks
from gatepost.domain.deliveries import Status
from gatepost.domain.replays import ReplayFilter, ReplayJob
from gatepost.domain.swaps import SwapStatus
from gatepost.domain.tasks import TaskStatus
from gatepost.ports import DeliveryQuery, EventQuery, TaskQuery

DEAD = ReplayFilter(status=Status.DEAD_LETTER)
FROM_A_DAY = ReplayFilter(event="task.created", created_from=datetime(2026, 11, 23, tzinfo=UTC))


def replayable(wanted: ReplayFilter) -> Callable[[str | None], tuple[str, Any]]:
    """Return the statement that counts what there is to replay."""

    def statement(_: str | None) -> tuple[str, Any]:
        sql, params = sql_replays.replayable_statement("grp", "wh", wanted, 1)
        return f"SELECT id {sql} ORDER BY id LIMIT 5", params

    return statement


def part_of_a_job(wanted: ReplayFilter) -> Callable[[str | None], tuple[str, Any]]:
    """Return the statement for the deliveries that a step takes."""
    job = ReplayJob("rpl", "grp", "wh", wanted, 9, datetime(2026, 11, 23, tzinfo=UTC))
    return lambda before: sql_replays.part_statement(job, before or "", "~", 50)


# Each is asked for the statement of the page that begins there.
LISTS: dict[str, Callable[[str | None], tuple[str, Any]]] = {
    "deliveries": partial(sql_deliveries.deliveries_statement, "grp", DeliveryQuery()),
    "deliveries of a status": partial(sql_deliveries.deliveries_statement, "grp", DeliveryQuery(status=Status.FAILED)),
    "deliveries of a webhook": partial(sql_deliveries.deliveries_statement, "grp", DeliveryQuery(webhook_id="wh")),
    "deliveries of a task": partial(sql_deliveries.deliveries_statement, "grp", DeliveryQuery(task_id="tsk")),
    "deliveries of a task and a webhook": partial(
        sql_deliveries.deliveries_statement, "grp", DeliveryQuery(task_id="tsk", webhook_id="wh")
    ),
    "dead letters": partial(sql_deliveries.deliveries_statement, "grp", DeliveryQuery(status=Status.DEAD_LETTER)),
    "replayable": replayable(ReplayFilter()),
    "replayable from a day": replayable(FROM_A_DAY),
    "replayable dead letters": replayable(DEAD),
    "part of a replay": part_of_a_job(ReplayFilter()),
    "part of a replay from a day": part_of_a_job(FROM_A_DAY),
    "part of a replay of dead letters": part_of_a_job(DEAD),
    "tasks": partial(sql_tasks.tasks_statement, "grp", TaskQuery()),
    "tasks with a text": partial(sql_tasks.tasks_statement, "grp", TaskQuery(text="rose")),
    "tasks of a status": partial(sql_tasks.tasks_statement, "grp", TaskQuery(status=TaskStatus.PENDING)),
    "tasks of a person": partial(sql_tasks.tasks_statement, "grp", TaskQuery(assigned_to="usr", text="rose")),
    "swaps": partial(sql_swaps.swaps_statement, "grp", None),
    "pending swaps": partial(sql_swaps.swaps_statement, "grp", SwapStatus.PENDING),
    "swaps of a status": partial(sql_swaps.swaps_statement, "grp", SwapStatus.REJECTED),
    "events": partial(sql_events.events_statement, "grp", EventQuery()),
    "events of a type": partial(sql_events.events_statement, "grp", EventQuery(event="task.created")),
    "events of a task": partial(sql_events.events_statement, "grp", EventQuery(task_id="tsk")),
    "events of a task and a type": partial(
        sql_events.events_statement, "grp", EventQuery(task_id="tsk", event="task.created")
    ),
}
