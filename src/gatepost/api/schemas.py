"""The shapes of bodies and answers, as the OpenAPI document shows them. Rules live in the domain."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from gatepost.domain.deliveries import Accepted, Blocked, DeadReason, ErrorClass, Refused, Status, Unreachable
from gatepost.domain.errors import invalid
from gatepost.domain.events import TEST_EVENT
from gatepost.domain.retry import (
    LONGEST_FIRST_BACKOFF_SECONDS,
    MOST_ATTEMPTS,
    MOST_RETRIES,
    SHORTEST_WAIT_SECONDS,
    RetryPolicy,
    exponential,
    scheduled,
)
from gatepost.domain.tasks import DESCRIPTION_LIMIT, MOST_DIFFICULT, REASON_LIMIT, TITLE_LIMIT, TaskStatus
from gatepost.domain.webhooks import (
    DEFAULTS,
    LONGEST_GRACE,
    LONGEST_TIMEOUT_SECONDS,
    MOST_CONCURRENCY,
    MOST_EVENTS,
    MOST_IGNORED_ORIGINS,
    MOST_PER_SECOND,
    NAME_LIMIT,
    Health,
)

_OUTCOMES = "|".join(outcome.kind for outcome in (Accepted, Refused, Unreachable, Blocked))
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def parse_moment(value: object) -> datetime:
    """Return an RFC 3339 timestamp as a moment in UTC."""
    if isinstance(value, str) and _MOMENT.fullmatch(value):
        try:
            return datetime.fromisoformat(value.upper()).astimezone(UTC)
        except (ValueError, OverflowError):
            pass
    raise PydanticCustomError("timestamp", "give an RFC 3339 time such as 2026-11-23T12:00:00Z")


def _not_yet(value: bool) -> bool:
    if value:
        raise PydanticCustomError(
            "not_available", "ordered delivery is not available in this version; leave it out or give false"
        )
    return value


_DATE_TIME = WithJsonSchema({"type": "string", "format": "date-time"})
Moment = Annotated[datetime, BeforeValidator(parse_moment), _DATE_TIME]
WireMoment = Annotated[str, _DATE_TIME]
Version = Annotated[int, Field(ge=1, description="The version last seen; 409 when it is another by now.")]
Title = Annotated[str, Field(min_length=1, max_length=TITLE_LIMIT)]
Description = Annotated[str, Field(max_length=DESCRIPTION_LIMIT)]
Difficulty = Annotated[int, Field(ge=1, le=MOST_DIFFICULT)]
Name = Annotated[str, Field(min_length=1, max_length=NAME_LIMIT)]
Events = Annotated[tuple[str, ...], Field(min_length=1, max_length=MOST_EVENTS, examples=[["task.*"]])]
Headers = Annotated[dict[str, str | None], Field(description="Values are never shown; null keeps one.")]
Given = Annotated[str, Field(max_length=100, description="A secret agreed with a partner; else one is made.")]


def _without_defaults(schema: dict[str, Any]) -> None:
    for field in schema["properties"].values():
        field.pop("default", None)


# --- bodies --------------------------------------------------------------------------------------------------


class Body(BaseModel):
    """What every body is: strict about types and names, and silent about values when something is wrong."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        alias_generator=to_camel,
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )

    group_id: str | None = None  # type: ignore[pydantic-alias]  # bodies are only parsed, never made


class TaskCreate(Body):
    title: Title
    description: Description | None = None
    assigned_to: str | None = None
    difficulty: Difficulty | None = None
    due_at: Moment | None = None

    def fields(self) -> dict[str, Any]:
        return self.model_dump(exclude={"group_id"})


class TaskUpdate(Body):
    """What is absent stays, what is null is cleared."""

    model_config = ConfigDict(json_schema_extra=_without_defaults)

    title: Title = ""
    description: Description | None = None
    assigned_to: str | None = None
    difficulty: Difficulty | None = None
    due_at: Moment | None = None
    version: Version | None = None

    def fields(self) -> dict[str, Any]:
        return self.model_dump(exclude_unset=True, exclude={"group_id", "version"})


class TaskStep(Body):
    version: Version | None = None


class TaskReject(TaskStep):
    reason: Annotated[str, Field(min_length=1, max_length=REASON_LIMIT)]


class RetryPolicyBody(BaseModel):
    """Either a schedule, or a number of attempts and a backoff that grows fourfold."""

    model_config = Body.model_config

    schedule: Annotated[tuple[float, ...], Field(max_length=MOST_RETRIES)] | None = None
    max_attempts: Annotated[int, Field(ge=1, le=MOST_ATTEMPTS)] | None = None
    backoff_seconds: Annotated[float, Field(ge=SHORTEST_WAIT_SECONDS, le=LONGEST_FIRST_BACKOFF_SECONDS)] | None = None

    def policy(self) -> RetryPolicy:
        """Raises: InvalidInput, unless it is the one or the other."""
        attempts, backoff = self.max_attempts, self.backoff_seconds
        if self.schedule is not None and attempts is None and backoff is None:
            return scheduled(self.schedule)
        if self.schedule is None and attempts is not None and backoff is not None:
            return exponential(attempts, backoff)
        raise invalid("retryPolicy", "give schedule, or maxAttempts and backoffSeconds")


class _WebhookFields(Body):
    enabled: bool = DEFAULTS["enabled"]
    headers: Headers = DEFAULTS["headers"]
    retry_policy: RetryPolicyBody = RetryPolicyBody(schedule=DEFAULTS["policy"].schedule)
    timeout_seconds: Annotated[int, Field(ge=1, le=LONGEST_TIMEOUT_SECONDS)] = DEFAULTS["timeout_seconds"]
    max_concurrency: Annotated[int, Field(ge=1, le=MOST_CONCURRENCY)] = DEFAULTS["max_concurrency"]
    rate_limit_per_second: Annotated[int, Field(ge=1, le=MOST_PER_SECOND)] | None = DEFAULTS["rate_limit_per_second"]
    preserve_task_order: Annotated[bool, AfterValidator(_not_yet)] = False
    ignore_origins: Annotated[tuple[str, ...], Field(max_length=MOST_IGNORED_ORIGINS)] = DEFAULTS["ignore_origins"]

    def fields(self) -> dict[str, Any]:
        """Return what was given, under the names that the service knows."""
        others = {"group_id", "preserve_task_order", "retry_policy", "secret"}
        given = self.model_dump(exclude_unset=True, exclude=others)
        if "retry_policy" in self.model_fields_set:
            given["policy"] = self.retry_policy.policy()
        return given


class WebhookReplace(_WebhookFields):
    """Everything about a webhook; what is absent gets its default."""

    name: Name
    target_url: str
    events: Events


class WebhookCreate(WebhookReplace):
    secret: Given | None = None


class WebhookUpdate(_WebhookFields):
    """What is absent stays. Headers are merged; an empty value deletes its name."""

    model_config = ConfigDict(json_schema_extra=_without_defaults)

    name: Name = ""
    target_url: str = ""
    events: Events = ()


class SecretRotate(Body):
    grace_period_seconds: Annotated[int, Field(ge=0, le=LONGEST_GRACE // timedelta(seconds=1))] = 86_400
    secret: Given | None = None


class SendTest(Body):
    event: Annotated[str, Field(description="The event to send a sample of.")] = TEST_EVENT


BODIES: tuple[type[Body], ...] = (
    TaskCreate,
    TaskUpdate,
    TaskStep,
    TaskReject,
    WebhookCreate,
    WebhookReplace,
    WebhookUpdate,
    SecretRotate,
    SendTest,
)


# --- answers -------------------------------------------------------------------------------------------------


class Answer(BaseModel):
    """What every answer is: all of its fields, always."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel)  # type: ignore[pydantic-alias]  # as above


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


class RetryPolicyAnswer(Answer):
    schedule: list[float]


class Webhook(Answer):
    id: str
    group_id: str
    name: str
    target_url: str
    enabled: bool
    events: list[str]
    headers: dict[str, None]
    retry_policy: RetryPolicyAnswer
    timeout_seconds: int
    max_concurrency: int
    rate_limit_per_second: int | None
    preserve_task_order: bool
    ignore_origins: list[str]
    health: Health
    disabled_reason: str | None
    created_at: WireMoment
    updated_at: WireMoment
    secret_hint: str


class WebhookCreated(Webhook):
    secret: Annotated[str, Field(description="Shown this once.")]


class WebhookPage(Answer):
    items: list[Webhook]
    next_cursor: str | None


class RotationFinalized(Answer):
    secret_hint: str
    previous_expires_at: WireMoment | None


class SecretRotated(RotationFinalized):
    secret: Annotated[str, Field(description="Shown this once.")]


class Delivery(Answer):
    id: str
    group_id: str
    webhook_id: str
    event_id: str
    event: str
    task_ids: list[str]
    status: Status
    attempt_count: int
    max_attempts: int
    next_attempt_at: WireMoment | None
    last_status_code: int | None
    last_error_class: ErrorClass | None
    dead_reason: DeadReason | None
    replay_of: str | None
    created_at: WireMoment
    finished_at: WireMoment | None


class DeliveryPage(Answer):
    items: list[Delivery]
    next_cursor: str | None


class DeliveryRequest(Answer):
    method: str
    url: str
    headers: dict[str, str]
    body: Annotated[str | None, Field(description="Null once it is no longer kept.")]


class Attempt(Answer):
    id: str
    number: int
    probe: bool
    started_at: WireMoment
    duration_ms: int
    outcome: Annotated[str, Field(pattern=f"^({_OUTCOMES})$")]
    error_class: ErrorClass | None
    status_code: int | None
    response_headers: dict[str, str] | None
    response_body: str | None
    response_truncated: bool


class DeliveryDetail(Delivery):
    request: DeliveryRequest
    attempts: list[Attempt]


class ReceivedResponse(Answer):
    status_code: int
    headers: dict[str, str]
    body: str
    truncated: bool


class SentTest(Answer):
    delivery_id: str
    request: DeliveryRequest
    response: ReceivedResponse | None
    error_class: ErrorClass | None


class ProblemField(Answer):
    loc: list[str | int]
    msg: str
    code: str


class Problem(BaseModel):
    """What every error is answered with: RFC 9457, with a code that never changes."""

    model_config = ConfigDict(alias_generator=to_camel)

    type: Annotated[str, Field(examples=["/problems/validation_failed"])]
    title: str
    status: int
    detail: str
    code: str
    errors: Annotated[list[ProblemField], Field(description="With status 422.")] = []  # type: ignore[pydantic-alias]


class EventMessage(Answer):
    """What a receiver is sent."""

    id: str
    event: str
    group_id: str
    timestamp: WireMoment
    actor_id: str | None
    origin: str
    data: dict[str, Any]
