"""Logs: one JSON object per line for machines, plain lines for people, on standard error, without secrets.

An event is a `noun.past_participle` with its facts as keys: ``log.info("webhook.created", webhook_id=…)``.
There is one line for each attempt, thousands a second: what runs on every line is written to be cheap.
"""

import json
import logging
import re
import sys
from contextlib import suppress
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

# Ours by their shape, wherever they stand: in a URL, a traceback, a library's message. A URL's user and password
# are among them: drivers may repeat the address of the store.
_SECRET_SHAPES = re.compile(
    r"://[^\s/@]+@|whsec_[A-Za-z0-9+/=_-]{8,}|gp_[0-9a-f]{32}_[0-9a-f]{64}|sha256=[0-9a-f]{64}|v1,[A-Za-z0-9+/]{43}="
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
            structlog.processors.TimeStamper(fmt=None, key="at"),
            redact,
            _console(colors=stream.isatty()) if console else _render_json,
        ],
        wrapper_class=_logger_from(threshold),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=True,
    )
    _take_over_standard_library(threshold)


class Logger(structlog.BoundLoggerBase):
    """structlog's bound logger without what it does on the way: it handed the facts on four times for each line."""

    def debug(self, event: str, **facts: Any) -> None:
        self._write("debug", event, facts)

    def info(self, event: str, **facts: Any) -> None:
        self._write("info", event, facts)

    def warning(self, event: str, **facts: Any) -> None:
        self._write("warning", event, facts)

    def error(self, event: str, **facts: Any) -> None:
        self._write("error", event, facts)

    def exception(self, event: str, **facts: Any) -> None:
        """Write an error with the exception that is being handled."""
        self.error(event, **{"exc_info": True, **facts})

    def critical(self, event: str, **facts: Any) -> None:
        self._write("critical", event, facts)

    def _write(self, level: str, event: str, facts: dict[str, Any]) -> None:
        line: Any = {"event": event, "level": level, **self._context, **facts}
        try:
            for processor in self._processors:
                line = processor(self._logger, level, line)
        except structlog.DropEvent:
            return
        # A log that cannot be written (a full disk, a pipe that nobody reads) must not end what it is about.
        with suppress(OSError, ValueError):
            self._logger.msg(line)


def _logger_from(threshold: int) -> type[Logger]:
    """Return the logger whose methods below a level do nothing."""

    def nothing(_self: Logger, _event: str, **_facts: Any) -> None:
        pass

    levels = logging.getLevelNamesMapping()
    silent = [name for name in ("debug", "info", "warning", "error") if levels[name.upper()] < threshold]
    return type("Logger", (Logger,), dict.fromkeys(silent, nothing))


def redact(logger: object, method: str, event: EventDict) -> EventDict:
    """Replace what must not be read: values under keys that name secrets, and whatever looks like one of ours."""
    if "exc_info" in event:
        event = _render_exception(logger, method, event)
    for key, value in event.items():
        if key not in _harmless and _is_redacted(key):
            event[key] = REDACTED
        elif value.__class__ is str:
            # Ids are what most lines are made of, and every secret of ours is longer than they are; a store's URL
            # with its password only comes in somebody else's sentence, which is longer, too.
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


def _is_redacted(key: str) -> bool:
    if is_sensitive(key):
        return True
    _harmless.add(key)
    return False


_harmless: set[str] = set()  # keys that were judged; they are written in the code, so they are few
_NUMBERS = frozenset({int, float, bool, type(None)})
_render_exception = structlog.processors.ExceptionRenderer()  # plain: local variables could hold secrets


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
        log = structlog.get_logger()
        write = log.critical if record.levelno >= logging.CRITICAL else log.error
        if record.levelno < logging.ERROR:
            write = log.warning
        facts = {"exc_info": record.exc_info} if record.exc_info else {}
        write("library.logged", library=record.name, message=record.getMessage(), **facts)


def _take_over_standard_library(threshold: int) -> None:
    # What libraries tell of their progress is not ours to pass on; their warnings are.
    logging.basicConfig(handlers=[_Forwarder()], level=max(threshold, logging.WARNING), force=True)
    logging.captureWarnings(True)
