"""The lists that people ask for, as the statements that both SQL stores run: their tests look at the indexes."""

from collections.abc import Callable
from functools import partial
from typing import Any

from gatepost.adapters.storage import sql_deliveries, sql_events, sql_swaps, sql_tasks
from gatepost.domain.deliveries import Status
from gatepost.domain.swaps import SwapStatus
from gatepost.domain.tasks import TaskStatus
from gatepost.ports import DeliveryQuery, EventQuery, TaskQuery

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
