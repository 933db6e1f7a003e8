"""/api/tasks: any member of the group; approving and rejecting need an admin."""

import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Header, Path, Query, Response

from gatepost.api.answers import etag, page_json, parse_cursor, task_json
from gatepost.api.calls import Call, MemberCall, changing, creating
from gatepost.api.once import OnceRoute
from gatepost.api.openapi import Cursor, Limit, body_of, problems_of
from gatepost.api.schemas import tasks as schemas
from gatepost.api.schemas.shapes import id_pattern
from gatepost.domain.errors import invalid
from gatepost.domain.events import Json
from gatepost.domain.groups import Role
from gatepost.domain.tasks import PERSON_PATTERN, TaskStatus, as_json
from gatepost.ports import TaskQuery
from gatepost.services.tasks import TaskRecord

router = APIRouter(tags=["tasks"], route_class=OnceRoute)

S = TypeVar("S", schemas.TaskUpdate, schemas.TaskStep, schemas.TaskReject)

TaskId = Annotated[str, Path(alias="taskId", pattern=id_pattern("tsk"), description="The task.")]
IfMatch = Annotated[str | None, Header(alias="If-Match", description='The version last seen, such as "7".')]
Assignee = Annotated[
    str | None, Query(alias="assignedTo", pattern=f"^{PERSON_PATTERN}$", description="Those of this person only.")
]
Text = Annotated[
    str | None,
    Query(
        alias="q",
        min_length=1,
        max_length=100,
        pattern=r"^[^\x00-\x1f]*$",  # no NUL for PostgreSQL, and nothing that spans two fields
        description="Those whose title, description or external id has it, whatever its case.",
    ),
]
Create = Annotated[Call[schemas.TaskCreate], Depends(creating(schemas.TaskCreate, Role.MEMBER))]


def _stepping(model: type[S], role: Role) -> Callable[..., Awaitable[Call[S]]]:
    """Return the dependency of a change whose version may be given in `If-Match`, too; it ends up in the body."""

    async def enter(call: Annotated[Call[S], Depends(changing(model, role))], if_match: IfMatch = None) -> Call[S]:
        version = _expected_version(if_match, call.body.version)
        return replace(call, body=call.body.model_copy(update={"version": version}))

    return enter


def _expected_version(if_match: str | None, version: int | None) -> int | None:
    """Return the version that the caller saw, from the header or the body."""
    if if_match is None or if_match == "*":
        return version
    tag = re.fullmatch(r'"([1-9][0-9]{0,8})"', if_match, re.ASCII)
    if tag is None:
        raise invalid("If-Match", 'give the ETag of the task, such as "7"', code="etag")
    if version not in (None, int(tag[1])):
        raise invalid("version", "give the same version as If-Match, or one of the two", code="mismatch")
    return int(tag[1])


Update = Annotated[Call[schemas.TaskUpdate], Depends(_stepping(schemas.TaskUpdate, Role.MEMBER))]
Step = Annotated[Call[schemas.TaskStep], Depends(_stepping(schemas.TaskStep, Role.MEMBER))]
Approve = Annotated[Call[schemas.TaskStep], Depends(_stepping(schemas.TaskStep, Role.ADMIN))]
Reject = Annotated[Call[schemas.TaskReject], Depends(_stepping(schemas.TaskReject, Role.ADMIN))]


@router.post(
    "/api/tasks",
    operation_id="createTask",
    summary="Create a task",
    status_code=201,
    response_model=schemas.TaskDetail,
    openapi_extra=body_of(schemas.TaskCreate),
)
async def create_task(call: Create, response: Response) -> Any:
    return _answer(await call.services.tasks.create(call.caller, call.body.fields(), draws=call.draws), response)


@router.get(
    "/api/tasks",
    operation_id="listTasks",
    summary="List tasks, newest first",
    response_model=schemas.TaskPage,
)
async def list_tasks(
    call: MemberCall,
    status: Annotated[TaskStatus | None, Query(description="Those of this status only.")] = None,
    assigned_to: Assignee = None,
    text: Text = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Any:
    query = TaskQuery(status=status, assigned_to=assigned_to, text=text)
    page = await call.services.tasks.list(call.group_id, query, limit=limit, before=parse_cursor(cursor))
    return page_json(page, as_json)


@router.get(
    "/api/tasks/{taskId}",
    operation_id="getTask",
    summary="Look at one task and its history",
    response_model=schemas.TaskDetail,
)
async def get_task(call: MemberCall, task_id: TaskId, response: Response) -> Any:
    return _answer(await call.services.tasks.get(call.group_id, task_id), response)


@router.put(
    "/api/tasks/{taskId}",
    operation_id="updateTask",
    summary="Set some of a task's fields; what is absent stays, null clears",
    response_model=schemas.TaskDetail,
    openapi_extra=body_of(schemas.TaskUpdate, "version_conflict"),
)
async def update_task(call: Update, task_id: TaskId, response: Response) -> Any:
    updated = await call.services.tasks.update(call.caller, task_id, call.body.fields(), version=call.body.version)
    return _answer(updated, response)


@router.delete(
    "/api/tasks/{taskId}",
    operation_id="deleteTask",
    summary="Delete a task; nobody is told",
    status_code=204,
    openapi_extra=problems_of("version_conflict"),
)
async def delete_task(call: MemberCall, task_id: TaskId, if_match: IfMatch = None) -> None:
    await call.services.tasks.delete(call.caller, task_id, version=_expected_version(if_match, None))


@router.post(
    "/api/tasks/{taskId}/start",
    operation_id="startTask",
    summary="Start a task",
    response_model=schemas.TaskDetail,
    openapi_extra=body_of(schemas.TaskStep, "invalid_transition", "version_conflict"),
)
async def start_task(call: Step, task_id: TaskId, response: Response) -> Any:
    return _answer(await call.services.tasks.start(call.caller, task_id, version=call.body.version), response)


@router.post(
    "/api/tasks/{taskId}/complete",
    operation_id="completeTask",
    summary="Complete a task",
    response_model=schemas.TaskDetail,
    openapi_extra=body_of(schemas.TaskStep, "invalid_transition", "version_conflict"),
)
async def complete_task(call: Step, task_id: TaskId, response: Response) -> Any:
    return _answer(await call.services.tasks.complete(call.caller, task_id, version=call.body.version), response)


@router.post(
    "/api/tasks/{taskId}/approve",
    operation_id="approveTask",
    summary="Approve a completed task (admin)",
    response_model=schemas.TaskDetail,
    openapi_extra=body_of(schemas.TaskStep, "invalid_transition", "version_conflict"),
)
async def approve_task(call: Approve, task_id: TaskId, response: Response) -> Any:
    return _answer(await call.services.tasks.approve(call.caller, task_id, version=call.body.version), response)


@router.post(
    "/api/tasks/{taskId}/reject",
    operation_id="rejectTask",
    summary="Reject a completed task, with a reason (admin)",
    response_model=schemas.TaskDetail,
    openapi_extra=body_of(schemas.TaskReject, "invalid_transition", "version_conflict"),
)
async def reject_task(call: Reject, task_id: TaskId, response: Response) -> Any:
    rejected = await call.services.tasks.reject(call.caller, task_id, call.body.reason, version=call.body.version)
    return _answer(rejected, response)


def _answer(record: TaskRecord, response: Response) -> Json:
    response.headers["ETag"] = etag(record)
    return task_json(record)
