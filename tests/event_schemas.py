"""What `GET /api/integrations/event-types` says of messages, held against messages."""

from typing import Any

import jsonschema

from gatepost.api import event_types

TYPES = {each.event: each for each in event_types.event_types()}


def must_fit(message: Any, event: str | None = None) -> None:
    """Raises: jsonschema.ValidationError, unless a message is as the schema of its event says."""
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    jsonschema.Draft202012Validator(TYPES[event or message["event"]].schema, format_checker=checker).validate(message)
