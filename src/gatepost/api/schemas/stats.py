"""What became of attempts, in numbers."""

from typing import Annotated

from pydantic import Field

from gatepost.api.schemas.shapes import Answer, WireMoment

_LATENCY = Field(description="How long so many of the attempts took at most; null when there were none.")


class StatsBucket(Answer):
    """The attempts that say something of the receiver: no `internal_error`, and no probe that failed."""

    webhook_id: str
    from_: Annotated[WireMoment, Field(alias="from")]
    to: WireMoment
    delivered: Annotated[int, Field(description="Attempts that got through.")]
    failed: Annotated[int, Field(description="Attempts that failed and are followed by another.")]
    dead: Annotated[int, Field(description="Attempts that failed and were the last.")]
    p50_ms: Annotated[int | None, _LATENCY]
    p95_ms: Annotated[int | None, _LATENCY]


class StatsPage(Answer):
    """What was counted for so many webhooks; for fewer, or for a part of one, when that is much."""

    items: Annotated[
        list[StatsBucket],
        Field(
            description="By webhook, then by time. Whole ones, at either end, too; those without attempts are left out."
        ),
    ]
    next_cursor: str | None
