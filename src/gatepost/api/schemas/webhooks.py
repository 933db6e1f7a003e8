"""Webhooks, their secrets and their tests."""

from datetime import timedelta
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from gatepost.api.schemas.deliveries import DeliveryRequest
from gatepost.api.schemas.shapes import Answer, Body, WireMoment, without_defaults
from gatepost.domain.errors import invalid
from gatepost.domain.events import TEST_EVENT
from gatepost.domain.health import DisabledReason, Health
from gatepost.domain.outcomes import ErrorClass
from gatepost.domain.retry import (
    LONGEST_FIRST_BACKOFF_SECONDS,
    MOST_ATTEMPTS,
    MOST_RETRIES,
    SHORTEST_WAIT_SECONDS,
    RetryPolicy,
    exponential,
    scheduled,
)
from gatepost.domain.webhooks import (
    DEFAULTS,
    LONGEST_GRACE,
    LONGEST_TIMEOUT_SECONDS,
    MOST_CONCURRENCY,
    MOST_EVENTS,
    MOST_IGNORED_ORIGINS,
    MOST_PER_SECOND,
    NAME_LIMIT,
)

Name = Annotated[str, Field(min_length=1, max_length=NAME_LIMIT)]
_EVENTS = "Types, `task.*` for all that begin so, or `*` for all but `webhook.*` and `delivery.*`: name those."
Events = Annotated[
    tuple[str, ...], Field(min_length=1, max_length=MOST_EVENTS, examples=[["task.*"]], description=_EVENTS)
]
Headers = Annotated[dict[str, str | None], Field(description="Values are never shown; null keeps one.")]
Given = Annotated[str, Field(max_length=100, description="A secret agreed with a partner; else one is made.")]


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
    preserve_task_order: bool = DEFAULTS["preserve_task_order"]
    ignore_origins: Annotated[tuple[str, ...], Field(max_length=MOST_IGNORED_ORIGINS)] = DEFAULTS["ignore_origins"]

    def fields(self) -> dict[str, Any]:
        """Return what was given, under the names that the service knows."""
        others = {"group_id", "retry_policy", "secret"}
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

    model_config = ConfigDict(json_schema_extra=without_defaults)

    name: Name = ""
    target_url: str = ""
    events: Events = ()


class BacklogDiscarded(Answer):
    discarded: Annotated[int, Field(description="Deliveries that were waiting and are dead letters now.")]


class SecretRotate(Body):
    grace_period_seconds: Annotated[int, Field(ge=0, le=LONGEST_GRACE // timedelta(seconds=1))] = 86_400
    secret: Given | None = None


class SendTest(Body):
    event: Annotated[str, Field(description="The event to send a sample of.")] = TEST_EVENT


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
    disabled_reason: DisabledReason | None
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
