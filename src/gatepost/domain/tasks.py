"""Tasks and their lifecycle. Every change gives the new task, its history entry and its one event.

pending ──start──▶ in_progress ──complete──▶ completed ──approve──▶ approved
   │                    ▲   ▲                    ▲ │
   └──────complete──────│───┼────────────────────┘ └──reject──▶ rejected
                        │   └──────────start────────────────────────┤
                        └ (rejected may also be completed again) ───┘
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from gatepost.domain.errors import FieldError, InvalidInput, InvalidTransition
from gatepost.domain.events import Event, Json, Occasion, make_event, rfc3339

TITLE_LIMIT = 100
DESCRIPTION_LIMIT = 1000
REASON_LIMIT = 1000
MOST_DIFFICULT = 10
PERSON_PATTERN = r"usr_[0-9A-Za-z_-]{1,64}"


class TaskStatus(StrEnum):
    PENDING = "pending"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    APPROVED = "approved"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class Task:
    """One task as it stands; `version` rises by one with each change."""

    id: str
    group_id: str
    title: str
    description: str | None
    status: TaskStatus
    assigned_to: str | None
    difficulty: int | None
    due_at: datetime | None
    external_id: str | None
    source: str | None
    version: int
    created_at: datetime
    updated_at: datetime
    completed_at: datetime | None


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One line of a task's history.

    Shape: `changes` maps a field as the wire spells it to ``{"from": …, "to": …}``.
    """

    version: int
    at: datetime
    actor_id: str | None
    event: str
    changes: Json
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class TaskChange:
    """What one change leaves behind, to be written as a whole."""

    task: Task
    event: Event
    history: HistoryEntry

    @property
    def expected_version(self) -> int:
        """The version that the store must still hold; 0 when the task must not exist yet."""
        return self.task.version - 1


@dataclass(frozen=True, slots=True)
class TaskDeletion:
    """What the deletion of a task leaves behind: its last version, and the line of history that says so."""

    task: Task
    history: HistoryEntry

    @property
    def expected_version(self) -> int:
        """The version that the store must still hold."""
        return self.task.version - 1


# The fields people set, with their names on the wire. `status` moves by the verbs below only.
EDITABLE = {
    "title": "title",
    "description": "description",
    "assigned_to": "assignedTo",
    "difficulty": "difficulty",
    "due_at": "dueAt",
}
_TRACKED = EDITABLE | {"status": "status", "external_id": "externalId", "source": "source"}

_FROM = {
    "start": (TaskStatus.PENDING, TaskStatus.REJECTED),
    "complete": (TaskStatus.PENDING, TaskStatus.IN_PROGRESS, TaskStatus.REJECTED),
    "approve": (TaskStatus.COMPLETED,),
    "reject": (TaskStatus.COMPLETED,),
}


def create(task_id: str, group_id: str, fields: Mapping[str, Any], occasion: Occasion) -> TaskChange:
    """Return a new pending task, version 1.

    Raises: InvalidInput, naming every field that is wrong.
    """
    _check({"title": None, **fields})
    task = Task(
        id=task_id,
        group_id=group_id,
        title=fields["title"],
        description=fields.get("description"),
        status=TaskStatus.PENDING,
        assigned_to=fields.get("assigned_to"),
        difficulty=fields.get("difficulty"),
        due_at=_milliseconds(fields.get("due_at")),
        external_id=None,
        source=None,
        version=0,
        created_at=occasion.at,
        updated_at=occasion.at,
        completed_at=None,
    )
    return _changed(None, task, "task.created", occasion)


def update(task: Task, fields: Mapping[str, Any], occasion: Occasion) -> TaskChange | None:
    """Return the task with the given fields set, or None when that changes nothing.

    Raises: InvalidInput, naming every field that is wrong.
    """
    _check(fields)
    if "due_at" in fields:
        fields = {**fields, "due_at": _milliseconds(fields["due_at"])}
    updated = replace(task, **fields)
    return None if updated == task else _changed(task, updated, "task.updated", occasion)


def start(task: Task, occasion: Occasion) -> TaskChange:
    """Raises: InvalidTransition, unless pending or rejected."""
    _must_allow("start", task)
    started = replace(task, status=TaskStatus.IN_PROGRESS, completed_at=None)
    return _changed(task, started, "task.updated", occasion)


def complete(task: Task, occasion: Occasion) -> TaskChange:
    """Raises: InvalidTransition, unless pending, in progress or rejected."""
    _must_allow("complete", task)
    completed = replace(task, status=TaskStatus.COMPLETED, completed_at=occasion.at)
    return _changed(task, completed, "task.completed", occasion)


def approve(task: Task, occasion: Occasion) -> TaskChange:
    """Raises: InvalidTransition, unless completed."""
    _must_allow("approve", task)
    return _changed(task, replace(task, status=TaskStatus.APPROVED), "task.approved", occasion)


def reject(task: Task, reason: str, occasion: Occasion) -> TaskChange:
    """Raises: InvalidTransition, unless completed; InvalidInput, without a reason."""
    _must_allow("reject", task)
    check_text("reason", reason, 1, REASON_LIMIT)
    rejected = replace(task, status=TaskStatus.REJECTED)
    return _changed(task, rejected, "task.rejected", occasion, reason=reason)


def delete(task: Task, occasion: Occasion) -> TaskDeletion:
    """Return the task as it is left behind, one version further. Nobody is told."""
    after = replace(task, version=task.version + 1, updated_at=occasion.at)
    return TaskDeletion(after, HistoryEntry(after.version, occasion.at, occasion.actor_id, "task.deleted", {}))


def as_json(task: Task) -> Json:
    """Return the task as events and answers show it, without its history."""
    return {
        "id": task.id,
        "groupId": task.group_id,
        "title": task.title,
        "description": task.description,
        "status": task.status.value,
        "assignedTo": task.assigned_to,
        "difficulty": task.difficulty,
        "dueAt": _wire(task.due_at),
        "externalId": task.external_id,
        "source": task.source,
        "version": task.version,
        "createdAt": rfc3339(task.created_at),
        "updatedAt": rfc3339(task.updated_at),
        "completedAt": _wire(task.completed_at),
    }


def _changed(
    before: Task | None, after: Task, event: str, occasion: Occasion, *, reason: str | None = None
) -> TaskChange:
    after = replace(after, version=after.version + 1, updated_at=occasion.at)
    changes = _changes(before, after)
    data = {**as_json(after), "changes": changes} | ({"reason": reason} if reason is not None else {})
    return TaskChange(
        task=after,
        event=make_event(
            event,
            group_id=after.group_id,
            occasion=occasion,
            data=data,
            tasks=((after.id, after.version),),
            thin_data={"id": after.id, "status": after.status.value, "version": after.version},
        ),
        history=HistoryEntry(after.version, occasion.at, occasion.actor_id, event, changes, reason),
    )


def _changes(before: Task | None, after: Task) -> Json:
    pairs = {
        name: (_wire(getattr(before, field, None)), _wire(getattr(after, field))) for field, name in _TRACKED.items()
    }
    return {name: {"from": old, "to": new} for name, (old, new) in pairs.items() if old != new}


def _must_allow(verb: str, task: Task) -> None:
    if task.status not in _FROM[verb]:
        allowed = " or ".join(_FROM[verb])
        raise InvalidTransition(f"a task that is {task.status} cannot {verb}; it must be {allowed}")


def _check(fields: Mapping[str, Any]) -> None:
    errors: list[FieldError | None] = []
    if "title" in fields:
        errors.append(_text_error("title", fields["title"], 1, TITLE_LIMIT))
    if fields.get("description") is not None:
        errors.append(_text_error("description", fields["description"], 0, DESCRIPTION_LIMIT))
    if fields.get("assigned_to") is not None and not re.fullmatch(PERSON_PATTERN, fields["assigned_to"]):
        errors.append(FieldError(("assignedTo",), "give the usr_ id of a person", "invalid_id"))
    difficulty = fields.get("difficulty")
    if difficulty is not None and not 1 <= difficulty <= MOST_DIFFICULT:
        errors.append(FieldError(("difficulty",), f"give a whole number from 1 to {MOST_DIFFICULT}", "out_of_range"))
    due_at = fields.get("due_at")
    if due_at is not None and due_at.tzinfo is None:
        errors.append(FieldError(("dueAt",), "give a time with its zone, such as 2026-11-23T12:00:00Z", "no_zone"))
    _raise_if_any(errors)


def check_text(field: str, text: str, shortest: int, longest: int) -> None:
    """Raises: InvalidInput, unless the text has so many characters, and none that some store cannot hold."""
    _raise_if_any([_text_error(field, text, shortest, longest)])


def _text_error(field: str, text: str | None, shortest: int, longest: int) -> FieldError | None:
    if text is None or not shortest <= len(text.strip() if shortest else text) or len(text) > longest:
        return FieldError((field,), f"give {shortest} to {longest} characters", "length")
    # NUL is refused by PostgreSQL's text, half a surrogate pair by UTF-8.
    if "\x00" in text or any("\ud800" <= character <= "\udfff" for character in text):
        return FieldError((field,), "leave out NUL characters and unpaired surrogates", "characters")
    return None


def _raise_if_any(errors: list[FieldError | None]) -> None:
    found = [error for error in errors if error is not None]
    if found:
        raise InvalidInput(*found)


def _milliseconds(moment: datetime | None) -> datetime | None:
    """Cut a moment to what every store keeps, so that a value read back equals the one written."""
    if moment is None:
        return None
    moment = moment.astimezone(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def _wire(value: Any) -> Any:
    return rfc3339(value) if isinstance(value, datetime) else value.value if isinstance(value, StrEnum) else value
