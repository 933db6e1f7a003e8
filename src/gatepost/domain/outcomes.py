"""How an attempt ends, and what that says about the receiver."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import ClassVar

from gatepost.domain.retry import parse_retry_after

READ_LIMIT_BYTES = 64 * 1024  # of a response body
KEPT_LIMIT_BYTES = 16 * 1024  # of what was read


class ErrorClass(StrEnum):
    TIMEOUT = "timeout"
    CONNECT = "connect"
    DNS = "dns"
    TLS = "tls"
    HTTP_3XX = "http_3xx"
    HTTP_4XX = "http_4xx"
    HTTP_5XX = "http_5xx"
    INVALID_RESPONSE = "invalid_response"
    BLOCKED_ADDRESS = "blocked_address"
    INVALID_TARGET = "invalid_target"
    INTERNAL_ERROR = "internal_error"


@dataclass(frozen=True, slots=True)
class Response:
    """What a receiver answered.

    Shape: `body` is at most 16 KiB of what was sent; `truncated` when there was more or it broke off. `headers` and
           `body` are None once they are no longer kept.
    """

    status_code: int
    headers: tuple[tuple[str, str], ...] | None
    body: bytes | None
    truncated: bool = False

    def header(self, name: str) -> str | None:
        """Return the first value of a header, whatever the case of its name."""
        return next((value for key, value in self.headers or () if key.lower() == name), None)


@dataclass(frozen=True, slots=True)
class Accepted:
    """The receiver answered 2xx."""

    kind: ClassVar[str] = "accepted"
    response: Response


@dataclass(frozen=True, slots=True)
class Refused:
    """The receiver answered, but not 2xx."""

    kind: ClassVar[str] = "refused"
    response: Response


@dataclass(frozen=True, slots=True)
class Unreachable:
    """No complete response head came back; `detail` is for the operator's log, never for the API."""

    kind: ClassVar[str] = "unreachable"
    error_class: ErrorClass
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Blocked:
    """We would not send it: the address or the target is not allowed."""

    kind: ClassVar[str] = "blocked"
    error_class: ErrorClass
    detail: str = ""


Outcome = Accepted | Refused | Unreachable | Blocked


def outcome_of(response: Response) -> Accepted | Refused:
    """Return what a complete response means: 2xx is accepted, all else refused, 3xx too.

    >>> outcome_of(Response(204, (), b"")).__class__.__name__
    'Accepted'
    >>> outcome_of(Response(302, (), b"")).__class__.__name__
    'Refused'
    """
    return Accepted(response) if 200 <= response.status_code <= 299 else Refused(response)


def response_of(outcome: Outcome) -> Response | None:
    """Return the response that an outcome came with, if there was one."""
    return outcome.response if isinstance(outcome, Accepted | Refused) else None


def error_class_of(outcome: Outcome) -> ErrorClass | None:
    """Return the class an outcome is counted under; None for success.

    >>> error_class_of(Refused(Response(503, (), b"")))
    <ErrorClass.HTTP_5XX: 'http_5xx'>
    """
    match outcome:
        case Accepted():
            return None
        case Refused(response):
            match response.status_code // 100:
                case 3:
                    return ErrorClass.HTTP_3XX
                case 4:
                    return ErrorClass.HTTP_4XX
                case 5:
                    return ErrorClass.HTTP_5XX
            return ErrorClass.INVALID_RESPONSE
        case Unreachable(error_class) | Blocked(error_class):
            return error_class


def retry_after(outcome: Outcome, *, now: datetime) -> timedelta | None:
    """Return the wait a receiver asked for with 429 or 503, if it asked for one that makes sense."""
    if isinstance(outcome, Refused) and outcome.response.status_code in (429, 503):
        asked = outcome.response.header("retry-after")
        return parse_retry_after(asked, now=now) if asked is not None else None
    return None


def slows_down(outcome: Outcome) -> bool:
    """Say whether an outcome is a sign that the receiver has too much to do."""
    if isinstance(outcome, Refused):
        return outcome.response.status_code == 429 or outcome.response.status_code >= 500
    return isinstance(outcome, Unreachable) and outcome.error_class in (
        ErrorClass.TIMEOUT,
        ErrorClass.CONNECT,
        ErrorClass.DNS,
        ErrorClass.TLS,
    )
