"""Tasks."""

from typing import Annotated, Any

from pydantic import ConfigDict, Field

from gatepost.api.schemas.shapes import Answer, Body, Moment, Version, WireMoment, without_defaults
from gatepost.domain.tasks import DESCRIPTION_LIMIT, MOST_DIFFICULT, REASON_LIMIT, TITLE_LIMIT, TaskStatus

Title = Annotated[str, Field(min_length=1, max_length=TITLE_LIMIT)]
Description = Annotated[str, Field(max_length=DESCRIPTION_LIMIT)]
Assignee = Annotated[str, Field(description="A member of the group.")]
Difficulty = Annotated[int, Field(ge=1, le=MOST_DIFFICULT)]


class TaskCreate(Body):
    title: Title
    description: Description | None = None
    assigned_to: Assignee | None = None
    difficulty: Difficulty | None = None
    due_at: Moment | None = None

    def fields(self) -> dict[str, Any]:
        return self.model_dump(exclude={"group_id"})


class TaskUpdate(Body):
    """What is absent stays, what is null is cleared."""

    model_config = ConfigDict(json_schema_extra=without_defaults)

    title: Title = ""
    description: Description | None = None
    assigned_to: Assignee | None = None
    difficulty: Difficulty | None = None
    due_at: Moment | None = None
    version: Version | None = None

    def fields(self) -> dict[str, Any]:
        return self.model_dump(exclude_unset=True, exclude={"group_id", "version"})


class TaskStep(Body):
    version: Version | None = None


class TaskReject(TaskStep):
    reason: Annotated[str, Field(min_length=1, max_length=REASON_LIMIT)]


class Task(Answer):
    id: str
    group_id: str
    title: str
    description: str | None
    status: TaskStatus
    assigned_to: str | None
    difficulty: int | None
    due_at: WireMoment | None
    external_id: str | None
    source: str | None
    version: int
    created_at: WireMoment
    updated_at: WireMoment
    completed_at: WireMoment | None


class HistoryEntry(Answer):
    version: int
    at: WireMoment
    actor_id: str | None
    event: str
    changes: dict[str, Any]
    reason: str | None


class TaskDetail(Task):
    history: list[HistoryEntry]


class TaskPage(Answer):
    items: list[Task]
    next_cursor: str | None
