"""How lists and conditional writes are answered."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A page of a list, newest first; pass `next_cursor` as `before` to get the one after, None at the end."""

    items: Sequence[T]
    next_cursor: str | None


class Saved(Enum):
    """How a conditional write ended. Whatever is not DONE has changed nothing."""

    DONE = "done"
    STALE = "stale"  # the version expected is not the one stored
    WEBHOOKS_MOVED = "webhooks_moved"  # a webhook of the group was written since its events were matched
    EXISTS = "exists"
    LAST_OWNER = "last_owner"
    QUOTA_EXCEEDED = "quota_exceeded"
