"""Pages of lists."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

from gatepost.ports import Page


class _HasId(Protocol):
    @property
    def id(self) -> str: ...


Item = TypeVar("Item", bound=_HasId)


def page_of(items: Sequence[Item], limit: int) -> Page[Item]:
    """Return a page of at most `limit` of the items; one more than that says that there is another page."""
    if len(items) <= limit:
        return Page(items, None)
    return Page(items[:limit], items[limit - 1].id)
