"""Deliveries and their attempts."""

from typing import Annotated

from pydantic import Field

from gatepost.api.schemas.shapes import Answer, Body, WireMoment
from gatepost.domain.deliveries import DeadReason, Status
from gatepost.domain.outcomes import Accepted, Blocked, ErrorClass, Refused, Unreachable

_OUTCOMES = "|".join(outcome.kind for outcome in (Accepted, Refused, Unreachable, Blocked))
_KEPT = Field(description="Null when nothing came back, and once it is no longer kept.")


class Replay(Body):
    """Nothing, or the group."""


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
    response_headers: Annotated[dict[str, str] | None, _KEPT]
    response_body: Annotated[str | None, _KEPT]
    response_truncated: bool


class DeliveryDetail(Delivery):
    request: DeliveryRequest
    attempts: list[Attempt]
