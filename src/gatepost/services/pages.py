"""Pages of what is read as a whole, since nobody has much of it."""

from collections.abc import Callable, Iterable
from typing import TypeVar

from gatepost.ports import Page

T = TypeVar("T")


def page_of(items: Iterable[T], id_of: Callable[[T], str], *, limit: int, before: str | None) -> Page[T]:
    """Return the page that comes after an id of items that are sorted by theirs, the greatest first.

    >>> page_of(["c", "b", "a"], str, limit=1, before="c")
    Page(items=['b'], next_cursor='b')
    """
    found = [item for item in items if before is None or id_of(item) < before]
    return Page(found[:limit], id_of(found[limit - 1]) if len(found) > limit else None)
