"""Positions in a lane's queue, as stores have them: where a look through it begins, and where it ended."""

from typing import NamedTuple

from gatepost.adapters.storage.rows import from_ms, to_ms
from gatepost.ports import Position

# In SQL: of a task, how many versions back an unfinished one is looked for. A task may have had any number of them, and
# each that is free to go would walk them all.
MOST_VERSIONS = 1000


class Place(NamedTuple):
    """A due time, in milliseconds, and a delivery's id."""

    due_ms: int
    delivery_id: str


HEAD = Place(0, "")  # before all


def place_of(position: Position | None) -> Place:
    return HEAD if position is None else Place(to_ms(position.due_at), position.delivery_id)


def position_of(place: Place | None) -> Position | None:
    return None if place is None else Position(from_ms(place.due_ms), place.delivery_id)
