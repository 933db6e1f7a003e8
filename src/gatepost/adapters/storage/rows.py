"""Values to rows and back."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from gatepost.domain.deliveries import Attempt, DeadReason, Delivery, Progress, QueuedDelivery, Status
from gatepost.domain.events import Event
from gatepost.domain.health import Condition
from gatepost.domain.network import parse_target
from gatepost.domain.outcomes import Accepted, Blocked, ErrorClass, Outcome, Refused, Response, Unreachable
from gatepost.domain.swaps import Swap, SwapSide, SwapStatus
from gatepost.domain.tasks import HistoryEntry, Task, TaskStatus

Row = tuple[Any, ...]

NEVER_MS = 253_402_300_799_999  # 9999-12-31T23:59:59.999Z: later than every moment, still a moment

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_MICROSECOND = timedelta(microseconds=1)

# The same URLs again and again, as lanes are leased and left: to parse one takes as long as the rest of its webhook.
target_of = lru_cache(maxsize=8192)(parse_target)

_to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def to_ms(moment: datetime) -> int:
    """Return a moment as whole milliseconds since 1970.

    >>> to_ms(datetime(2026, 11, 23, 12, 34, 56, 123999, tzinfo=UTC))
    1795437296123
    """
    return (moment - _EPOCH) // _MILLISECOND


def from_ms(milliseconds: int) -> datetime:
    """Return the moment.

    >>> from_ms(1795437296123)
    datetime.datetime(2026, 11, 23, 12, 34, 56, 123000, tzinfo=datetime.timezone.utc)
    """
    return _EPOCH + milliseconds * _MILLISECOND


def to_ms_or_none(moment: datetime | None) -> int | None:
    return None if moment is None else to_ms(moment)


def from_ms_or_none(milliseconds: int | None) -> datetime | None:
    return None if milliseconds is None else from_ms(milliseconds)


def to_words(words: Sequence[str]) -> str:
    return " ".join(words)


def from_words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# --- tasks and events ----------------------------------------------------------------------------------------

TASK_COLUMNS = (
    "group_id, id, title, description, status, assigned_to, difficulty, due_at, external_id, source, version,"
    " created_at, updated_at, completed_at"
)


def task_row(task: Task) -> Row:
    return (
        task.group_id,
        task.id,
        task.title,
        task.description,
        task.status.value,
        task.assigned_to,
        task.difficulty,
        to_ms_or_none(task.due_at),
        task.external_id,
        task.source,
        task.version,
        to_ms(task.created_at),
        to_ms(task.updated_at),
        to_ms_or_none(task.completed_at),
    )


def task_from(row: Row) -> Task:
    return Task(
        group_id=row[0],
        id=row[1],
        title=row[2],
        description=row[3],
        status=TaskStatus(row[4]),
        assigned_to=row[5],
        difficulty=row[6],
        due_at=from_ms_or_none(row[7]),
        external_id=row[8],
        source=row[9],
        version=row[10],
        created_at=from_ms(row[11]),
        updated_at=from_ms(row[12]),
        completed_at=from_ms_or_none(row[13]),
    )


def searched_in(task: Task) -> str:
    """Return what a search looks through, its case folded."""
    return "\n".join(text for text in (task.title, task.description, task.external_id) if text).casefold()


HISTORY_COLUMNS = "task_id, version, group_id, at, actor_id, event, changes, reason"


def history_row(group_id: str, task_id: str, entry: HistoryEntry) -> Row:
    changes = _to_json(entry.changes)
    return (
        task_id,
        entry.version,
        group_id,
        to_ms(entry.at),
        entry.actor_id,
        entry.event,
        changes,
        entry.reason,
    )


def history_from(row: Row) -> HistoryEntry:
    version, at, actor_id, event, changes, reason = row
    return HistoryEntry(version, from_ms(at), actor_id, event, json.loads(changes), reason)


SWAP_COLUMNS = (
    "group_id, id, task_id, assigned_to, version, with_task_id, with_assigned_to, with_version, reason, status,"
    " proposed_by, created_at, decided_by, decided_at"
)


def swap_row(swap: Swap) -> Row:
    return (
        swap.group_id,
        swap.id,
        *_side_row(swap.task),
        *_side_row(swap.with_task),
        swap.reason,
        swap.status.value,
        swap.proposed_by,
        to_ms(swap.created_at),
        swap.decided_by,
        to_ms_or_none(swap.decided_at),
    )


def swap_from(row: Row) -> Swap:
    return Swap(
        group_id=row[0],
        id=row[1],
        task=SwapSide(*row[2:5]),
        with_task=SwapSide(*row[5:8]),
        reason=row[8],
        status=SwapStatus(row[9]),
        proposed_by=row[10],
        created_at=from_ms(row[11]),
        decided_by=row[12],
        decided_at=from_ms_or_none(row[13]),
    )


def _side_row(side: SwapSide) -> Row:
    return side.task_id, side.assigned_to, side.version


EVENT_COLUMNS = "group_id, id, event, created_at, actor_id, origin, hop, body"


def event_row(event: Event) -> Row:
    return (
        event.group_id,
        event.id,
        event.event,
        to_ms(event.created_at),
        event.actor_id,
        event.origin,
        event.hop,
        event.body,
    )


def event_from(row: Row, tasks: tuple[tuple[str, int], ...]) -> Event:
    group_id, event_id, event, created_at, actor_id, origin, hop, body = row
    return Event(event_id, group_id, event, from_ms(created_at), actor_id, origin, hop, tasks, body)


# --- deliveries ----------------------------------------------------------------------------------------------

DELIVERY_COLUMNS = (
    "id, group_id, webhook_id, event_id, event, task_ids, status, attempt_count, max_attempts, next_attempt_at,"
    " last_status_code, last_error_class, dead_reason, replay_of, created_at, finished_at, not_before"
)
# The last is the replay key's.
DELIVERY_TYPES = (
    "text text text text text text text bigint bigint bigint bigint text text text bigint bigint bigint text"
)
PROGRESS_TYPES = "text bigint bigint bigint bigint text text bigint bigint"


def delivery_row(delivery: Delivery) -> Row:
    """Return the values of `DELIVERY_COLUMNS`, then the replay key."""
    progress = delivery.progress
    return (
        delivery.id,
        delivery.group_id,
        delivery.webhook_id,
        delivery.event_id,
        delivery.event,
        to_words(delivery.task_ids),
        progress.status.value,
        progress.attempt_count,
        progress.max_attempts,
        to_ms_or_none(progress.next_attempt_at),
        progress.last_status_code,
        progress.last_error_class and progress.last_error_class.value,
        progress.dead_reason and progress.dead_reason.value,
        delivery.replay_of,
        to_ms(delivery.created_at),
        to_ms_or_none(progress.finished_at),
        to_ms_or_none(progress.not_before),
        "" if delivery.replay_of is None else delivery.id,
    )


def delivery_from(row: Row) -> Delivery:
    error_class, dead_reason = row[11], row[12]
    return Delivery(
        id=row[0],
        group_id=row[1],
        webhook_id=row[2],
        event_id=row[3],
        event=row[4],
        task_ids=from_words(row[5]),
        progress=Progress(
            status=Status(row[6]),
            attempt_count=row[7],
            max_attempts=row[8],
            next_attempt_at=from_ms_or_none(row[9]),
            last_status_code=row[10],
            last_error_class=None if error_class is None else ErrorClass(error_class),
            dead_reason=None if dead_reason is None else DeadReason(dead_reason),
            finished_at=from_ms_or_none(row[15]),
            not_before=from_ms_or_none(row[16]),
        ),
        replay_of=row[13],
        created_at=from_ms(row[14]),
    )


PROGRESS_COLUMNS = (
    "status, attempt_count, max_attempts, next_attempt_at, last_status_code, last_error_class, dead_reason,"
    " finished_at, not_before"
)


def progress_values(progress: Progress) -> Row:
    error_class, dead_reason = progress.last_error_class, progress.dead_reason
    next_at, finished_at, not_before = progress.next_attempt_at, progress.finished_at, progress.not_before
    return (
        progress.status.value,
        progress.attempt_count,
        progress.max_attempts,
        None if next_at is None else to_ms(next_at),
        progress.last_status_code,
        None if error_class is None else error_class.value,
        None if dead_reason is None else dead_reason.value,
        None if finished_at is None else to_ms(finished_at),
        None if not_before is None else to_ms(not_before),
    )


def queued_from(row: Row) -> QueuedDelivery:
    delivery_id, group_id, webhook_id, event_id, event, body, hop, attempt_count, created_at = row
    return QueuedDelivery(
        delivery_id, group_id, webhook_id, event_id, event, body, hop, attempt_count, from_ms(created_at)
    )


# --- attempts ------------------------------------------------------------------------------------------------

ATTEMPT_COLUMNS = (
    "delivery_id, number, probe, probe_key, id, started_at, duration_us, outcome, status_code, headers, body,"
    " truncated, error_class, detail"
)
ATTEMPT_TYPES = "text bigint bigint text text bigint bigint text bigint bytea bytea bigint text text"


def attempt_row(delivery_id: str, attempt: Attempt, *, moves: bool = True) -> Row:
    """Return the row of an attempt; of those that move nothing there may be many with the same number.

    Raises: UnicodeEncodeError, for half a surrogate pair in a header.
    """
    return (
        delivery_id,
        attempt.number,
        1 if attempt.probe else 0,
        "" if moves else attempt.id,
        attempt.id,
        to_ms(attempt.started_at),
        attempt.duration // _MICROSECOND,
        *_outcome_row(attempt.outcome),
    )


def attempt_from(row: Row) -> Attempt:
    _, number, probe, _, attempt_id, started_at, duration_us, *outcome = row
    return Attempt(
        attempt_id,
        number,
        from_ms(started_at),
        timedelta(microseconds=duration_us),
        _outcome_from(*outcome),
        bool(probe),
    )


def _outcome_row(outcome: Outcome) -> Row:
    if isinstance(outcome, Accepted | Refused):
        response = outcome.response
        return (
            outcome.kind,
            response.status_code,
            None if response.headers is None else _header_lines(response.headers),
            response.body,
            1 if response.truncated else 0,
            None,
            "",
        )
    return (outcome.kind, None, None, None, 0, outcome.error_class.value, outcome.detail)


def _outcome_from(
    kind: str,
    status_code: int | None,
    headers: bytes | None,
    body: bytes | None,
    truncated: int,
    error_class: str | None,
    detail: str,
) -> Outcome:
    if status_code is None:
        unsent = Blocked if kind == Blocked.kind else Unreachable
        return unsent(ErrorClass(error_class or ErrorClass.INTERNAL_ERROR), detail)
    response = Response(status_code, None if headers is None else _headers_from(headers), body, bool(truncated))
    return Accepted(response) if kind == Accepted.kind else Refused(response)


def _header_lines(headers: Sequence[tuple[str, str]]) -> bytes:
    return "\n".join([f"{name}: {value}" for name, value in headers]).encode()


def _headers_from(text: bytes) -> tuple[tuple[str, str], ...]:
    lines = text.decode().split("\n") if text else []
    return tuple((name, value) for name, _, value in (line.partition(": ") for line in lines))


# --- lanes ---------------------------------------------------------------------------------------------------

CONDITION_COLUMNS = "streak, failing_since, suspended_at, draining"
CONDITION_TYPES = "bigint bigint bigint bigint"


def condition_row(condition: Condition) -> Row:
    return (
        condition.streak,
        to_ms_or_none(condition.failing_since),
        to_ms_or_none(condition.suspended_at),
        int(condition.draining),
    )


def condition_from(row: Sequence[Any]) -> Condition:
    streak, failing_since, suspended_at, draining = row
    return Condition(streak, from_ms_or_none(failing_since), from_ms_or_none(suspended_at), bool(draining))
