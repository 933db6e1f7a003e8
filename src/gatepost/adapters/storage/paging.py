"""Pages of lists."""

import re
from collections.abc import Sequence
from typing import Protocol, TypeVar

from gatepost.adapters.storage.rows import to_ms
from gatepost.domain.errors import invalid
from gatepost.domain.events import EVENT_ID_PATTERN, Event
from gatepost.ports import Page

AFTER_ALL = "~"  # sorts behind every id

_EVENT_CURSOR = re.compile(rf"([0-9]{{1,15}})\.({EVENT_ID_PATTERN})", re.ASCII)


class _HasId(Protocol):
    @property
    def id(self) -> str: ...


Item = TypeVar("Item", bound=_HasId)


def page_of(items: Sequence[Item], limit: int) -> Page[Item]:
    """Return a page of at most `limit` of the items; one more than that says that there is another page."""
    if len(items) <= limit:
        return Page(items, None)
    return Page(items[:limit], items[limit - 1].id)


def page_of_events(events: Sequence[Event], limit: int) -> Page[Event]:
    """Return a page as `page_of` does. Others choose the ids of their events: these sort by their moments first."""
    if len(events) <= limit:
        return Page(events, None)
    last = events[limit - 1]
    return Page(events[:limit], f"{to_ms(last.created_at)}.{last.id}")


def parse_event_cursor(cursor: str) -> tuple[int, str]:
    """Return the moment and the id of the last event of the page before.

    Raises: InvalidInput, when it is no cursor of ours.
    """
    match = _EVENT_CURSOR.fullmatch(cursor)
    if match is None:
        raise invalid("cursor", "give the nextCursor of the page before, or leave it out", code="cursor")
    return int(match[1]), match[2]
