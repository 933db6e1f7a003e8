"""Swaps."""

from typing import Annotated

from pydantic import Field

from gatepost.api.schemas.shapes import Answer, Body, WireMoment, id_pattern
from gatepost.domain.swaps import SwapStatus
from gatepost.domain.tasks import REASON_LIMIT

TaskId = Annotated[str, Field(pattern=id_pattern("tsk"))]


class SwapPropose(Body):
    task_id: TaskId
    with_task_id: TaskId
    reason: Annotated[str, Field(max_length=REASON_LIMIT)] | None = None


class Swap(Answer):
    id: str
    group_id: str
    task_id: str
    with_task_id: str
    assigned_to: Annotated[str, Field(description="Whom the task was assigned to when the swap was proposed.")]
    with_assigned_to: Annotated[str, Field(description="The same of the other task.")]
    reason: str | None
    status: SwapStatus
    proposed_by: str
    decided_by: str | None
    created_at: WireMoment
    decided_at: WireMoment | None


class SwapPage(Answer):
    items: list[Swap]
    next_cursor: str | None
