"""Pages of lists."""

import re
from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol, TypeVar

from gatepost.adapters.storage.rows import to_ms
from gatepost.domain.errors import InvalidInput, invalid
from gatepost.domain.events import EVENT_ID_PATTERN, Event
from gatepost.domain.stats import Bucket
from gatepost.ports import Page, StatsQuery

AFTER_ALL = "~"  # sorts behind every id

_STATS_CURSOR = re.compile(r"wh_[0-9a-f]{32}(\.[0-9]{1,13})?", re.ASCII)
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
        raise _no_cursor()
    return int(match[1]), match[2]


def parse_stats_cursor(cursor: str | None) -> str:
    """Return what sorts behind the webhooks of a page of stats, and before those of the pages before.

    It is the last webhook of the page before; or, when that page did not have all of it, that and the moment from which
    on it had, with a dot between: which sorts behind that webhook, so that this page begins with it.

    Raises: InvalidInput, when it is no cursor of ours.
    """
    if cursor is None:
        return AFTER_ALL
    if not _STATS_CURSOR.fullmatch(cursor):
        raise _no_cursor()
    return cursor


def part_of_stats(found: Sequence[str], query: StatsQuery, limit: int, before: str) -> tuple[Sequence[str], int]:
    """Return the webhooks of a page of stats, and before when to look: what is left of one has a page of its own.

    Shape: `found` has one webhook more than `limit` when there is another page.
    Units: milliseconds.
    """
    begun, _, at = before.partition(".")
    if at and found[:1] == [begun]:
        return found[:1], min(int(at), to_ms(query.end))
    return found[:limit], to_ms(query.end)


def page_of_stats(
    found: Sequence[str], asked: Sequence[str], buckets: Sequence[Bucket], *, width: timedelta, is_cut: bool
) -> Page[Bucket]:
    """Return a page of stats. What was read last is not all there when reading was cut, and not shown.

    Shape: `found` and `asked` as in `part_of_stats`; of two buckets at least, when it is cut.
    """
    if not is_cut:
        return Page(buckets, asked[-1] if len(found) > len(asked) else None)
    last = buckets[-1]
    others = [each for each in buckets if each.webhook_id != last.webhook_id]
    if others:
        return Page(others, found[found.index(last.webhook_id) - 1])
    return Page(buckets[:-1], f"{last.webhook_id}.{to_ms(last.start_at + width)}")


def _no_cursor() -> InvalidInput:
    return invalid("cursor", "give the nextCursor of the page before, or leave it out", code="cursor")
