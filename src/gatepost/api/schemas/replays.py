"""Bulk replays."""

from typing import Annotated

from pydantic import Field

from gatepost.api.schemas.deliveries import Delivery
from gatepost.api.schemas.shapes import Answer, Body, Moment, WireMoment
from gatepost.domain.deliveries import Status
from gatepost.domain.events import EVENT_TYPE_LIMIT, EVENT_TYPE_PATTERN
from gatepost.domain.replays import REPLAYABLE, JobStatus, ReplayFilter

EventType = Annotated[str, Field(pattern=f"^{EVENT_TYPE_PATTERN}$", max_length=EVENT_TYPE_LIMIT)]


class ReplayStart(Body):
    """Which of the webhook's deliveries to send once more; what is absent asks nothing."""

    status: Annotated[Status | None, Field(description=f"Only those that are {' or '.join(REPLAYABLE)}.")] = None
    event: EventType | None = None
    created_from: Annotated[Moment | None, Field(alias="from", description="Created from this moment on.")] = None
    created_to: Annotated[Moment | None, Field(alias="to", description="Created before this moment.")] = None
    dry_run: Annotated[bool, Field(description="Only say how many there are, and show the first.")] = False

    def wanted(self) -> ReplayFilter:
        return ReplayFilter(self.status, self.event, self.created_from, self.created_to)


class ReplayWanted(Answer):
    """What a job was asked to take."""

    status: Status | None
    event: str | None
    created_from: Annotated[WireMoment | None, Field(alias="from")]
    created_to: Annotated[WireMoment | None, Field(alias="to")]


class ReplayJob(Answer):
    id: str
    group_id: str
    webhook_id: str
    status: JobStatus
    total: Annotated[int, Field(description="Deliveries found when it was started.")]
    done: Annotated[int, Field(description="Of those: how many it has come past.")]
    created_at: WireMoment
    finished_at: WireMoment | None
    filter: ReplayWanted


class ReplayJobPage(Answer):
    items: list[ReplayJob]
    next_cursor: str | None


class ReplayPreview(Answer):
    count: Annotated[int, Field(description="Deliveries that a replay started now would send once more.")]
    sample: Annotated[list[Delivery], Field(description="The first of them.")]
