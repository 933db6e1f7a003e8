"""Stretches of time that people ask about."""

from datetime import datetime

from gatepost.domain.errors import invalid


def check_stretch(begins_at: datetime | None, ends_at: datetime | None) -> None:
    """Raises: InvalidInput, when the end is not after the beginning."""
    if begins_at is not None and ends_at is not None and ends_at <= begins_at:
        raise invalid("to", "give a moment after `from`", code="range")
