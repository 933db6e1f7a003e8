"""Logs: one JSON object per line for machines, plain lines for people, on standard error, without secrets.

An event is a `noun.past_participle` with its facts as keys: ``log.info("webhook.created", webhook_id=…)``.
There is one line for each attempt, thousands a second: what runs on every line is written to be cheap.
"""

import json
import logging
import re
import sys
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal, TextIO

import structlog
from pydantic_core import to_json
from structlog.dev import ConsoleRenderer, plain_traceback
from structlog.typing import EventDict, Processor

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["json", "console"]

REDACTED = "[redacted]"

# A key with one of these words in it names something that must not be read in a log …
_SENSITIVE = re.compile(
    r"authorization|body|cookies?|credentials?|headers?|keys?|passw(?:or)?d|payload|secrets?|signatures?|tokens?"
)
# … unless it ends in one of these: facts about such things give nothing away.
_HARMLESS_ENDING = re.compile(r"at|bytes|class|count|hint|id|length|limit|name|path|seconds|truncated")
_WORD = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])")

# Ours by their shape, wherever they stand: in a URL, a traceback, a library's message.
_SECRET_SHAPES = re.compile(
    r"whsec_[A-Za-z0-9+/=_-]{8,}|gp_[0-9a-f]{32}_[0-9a-f]{64}|sha256=[0-9a-f]{64}|v1,[A-Za-z0-9+/]{43}="
)
_LONGEST_ID = len("grp_") + 32


def configure(*, level: Level, format: Format | None, stream: TextIO | None = None) -> None:
    """Set up every logger of the process, the standard library's too.

    Shape: without a format it is `console` on a terminal, else `json`.
    """
    stream = stream or sys.stderr
    console = format == "console" or (format is None and stream.isatty())
    threshold = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt=None, key="at"),
            structlog.processors.ExceptionRenderer(),  # plain: local variables could hold secrets
            redact,
            _console(colors=stream.isatty()) if console else _render_json,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=True,
    )
    _take_over_standard_library(threshold)


def redact(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Replace what must not be read: values under keys that name secrets, and whatever looks like one of ours."""
    for key, value in event.items():
        if _sensitive[key]:
            event[key] = REDACTED
        elif value.__class__ is str:
            # Ids are what most lines are made of, and every shape of a secret is longer than they are.
            if len(value) > _LONGEST_ID:
                event[key] = scrub(value)
        elif value.__class__ not in _NUMBERS:
            event[key] = _redacted(value)
    return event


def scrub(text: str) -> str:
    """Replace what has the shape of a secret, a key or a signature of ours.

    >>> scrub("refused gp_" + "0" * 32 + "_" + "f" * 64)
    'refused [redacted]'
    """
    return _SECRET_SHAPES.sub(REDACTED, text)


def is_sensitive(key: str) -> bool:
    """Say whether a key names something that must not be read in a log, however it is spelled.

    >>> [is_sensitive(key) for key in ("newSecret", "X-Signature", "response_body", "secretHint", "key_id")]
    [True, True, True, False, False]
    """
    words = [word.lower() for word in _WORD.findall(key)]
    return any(map(_SENSITIVE.fullmatch, words)) and not _HARMLESS_ENDING.fullmatch(words[-1])


class _Verdicts(dict[str, bool]):
    """What `is_sensitive` said; the keys of log lines are written in the code, so they are few."""

    def __missing__(self, key: str) -> bool:
        self[key] = is_sensitive(key)
        return self[key]


_sensitive = _Verdicts()
_NUMBERS = frozenset({int, float, bool, type(None)})


def _redacted(value: Any) -> Any:
    if isinstance(value, str):
        return scrub(value)
    if isinstance(value, dict):
        return {str(k): REDACTED if is_sensitive(str(k)) else _redacted(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_redacted(item) for item in value]
    return value if value.__class__ in _NUMBERS else scrub(str(value))


def _render_json(_logger: object, _method: str, event: EventDict) -> str:
    event["at"] = _stamp(event["at"])
    try:
        return to_json(event, inf_nan_mode="strings").decode()
    except ValueError:  # half a surrogate pair, which UTF-8 cannot say
        return json.dumps(event, ensure_ascii=True)


def _console(*, colors: bool) -> Processor:
    # Values are quoted, so that nobody's text can pretend to be a line of its own or move the cursor.
    renderer = ConsoleRenderer(
        colors=colors, exception_formatter=plain_traceback, timestamp_key="at", repr_native_str=True
    )

    def render(logger: Any, method: str, event: EventDict) -> str:
        event["at"] = _stamp(event["at"])
        return renderer(logger, method, event)

    return render


def _stamp(seconds: float) -> str:
    whole = int(seconds)
    return f"{_stamp_of_second(whole)}.{int((seconds - whole) * 1000):03d}Z"


@lru_cache(maxsize=2)
def _stamp_of_second(whole: int) -> str:
    return datetime.fromtimestamp(whole, UTC).strftime("%Y-%m-%dT%H:%M:%S")


# --- the standard library's loggers --------------------------------------------------------------------------


class _Forwarder(logging.Handler):
    """Gives what libraries log to the same pipeline."""

    def emit(self, record: logging.LogRecord) -> None:
        facts = {"library": record.name, "message": record.getMessage()}
        if record.exc_info:
            structlog.get_logger().log(record.levelno, "library.logged", **facts, exc_info=record.exc_info)
        else:
            structlog.get_logger().log(record.levelno, "library.logged", **facts)


def _take_over_standard_library(threshold: int) -> None:
    # What libraries tell of their progress is not ours to pass on; their warnings are.
    logging.basicConfig(handlers=[_Forwarder()], level=max(threshold, logging.WARNING), force=True)
    logging.captureWarnings(True)
