"""Everything the core refuses, by name. Errors carry a stable code and never know HTTP.

GatepostError
├─ MalformedRequest       malformed_request
│  └─ MalformedJson       malformed_json
├─ UnsupportedMediaType   unsupported_media_type
├─ Unauthenticated        unauthenticated
├─ Forbidden              forbidden
│  └─ OriginMismatch      origin_mismatch
├─ NotFound               not_found
├─ Conflict
│  ├─ InvalidTransition   invalid_transition
│  ├─ VersionConflict     version_conflict
│  ├─ SwapDecided         swap_decided
│  ├─ SwapStale           swap_stale
│  ├─ LastOwner           last_owner
│  ├─ QuotaExceeded       quota_exceeded
│  ├─ WebhookDisabled     webhook_disabled
│  └─ IdempotencyInProgress  idempotency_in_progress
├─ PayloadExpired         payload_expired
├─ PayloadTooLarge        payload_too_large
├─ InvalidInput           validation_failed       names each field and the fix
│  ├─ TargetNotAllowed    target_not_allowed
│  ├─ ReservedHeader      reserved_header
│  └─ IdempotencyMismatch idempotency_mismatch
├─ RateLimited            rate_limited            says when to come back
└─ StoreUnavailable       store_unavailable
"""

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class FieldError:
    """One thing wrong with one field.

    Shape: `loc` is the path to the field, such as ``("retryPolicy", "schedule", 2)``; `msg` names the fix.
    """

    loc: tuple[str | int, ...]
    msg: str
    code: str


class GatepostError(Exception):
    """The root of the tree above."""

    code: ClassVar[str] = "internal"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class MalformedRequest(GatepostError):
    code = "malformed_request"


class MalformedJson(MalformedRequest):
    code = "malformed_json"


class UnsupportedMediaType(GatepostError):
    code = "unsupported_media_type"


class Unauthenticated(GatepostError):
    code = "unauthenticated"


class Forbidden(GatepostError):
    code = "forbidden"


class OriginMismatch(Forbidden):
    code = "origin_mismatch"


class NotFound(GatepostError):
    code = "not_found"


class Conflict(GatepostError):
    """The request is well formed but the thing it is about is not in a state that allows it."""


class InvalidTransition(Conflict):
    code = "invalid_transition"


class VersionConflict(Conflict):
    code = "version_conflict"


class SwapDecided(Conflict):
    code = "swap_decided"


class SwapStale(Conflict):
    code = "swap_stale"


class LastOwner(Conflict):
    code = "last_owner"


class QuotaExceeded(Conflict):
    code = "quota_exceeded"


class WebhookDisabled(Conflict):
    code = "webhook_disabled"


class IdempotencyInProgress(Conflict):
    code = "idempotency_in_progress"


class PayloadExpired(GatepostError):
    code = "payload_expired"


class PayloadTooLarge(GatepostError):
    code = "payload_too_large"


class InvalidInput(GatepostError):
    code = "validation_failed"

    def __init__(self, *errors: FieldError, detail: str | None = None) -> None:
        super().__init__(detail or "; ".join(f"{'.'.join(map(str, e.loc))}: {e.msg}" for e in errors))
        self.errors = errors


class TargetNotAllowed(InvalidInput):
    code = "target_not_allowed"


class ReservedHeader(InvalidInput):
    code = "reserved_header"


class IdempotencyMismatch(InvalidInput):
    code = "idempotency_mismatch"


class RateLimited(GatepostError):
    code = "rate_limited"

    def __init__(self, detail: str, *, retry_after_seconds: int) -> None:
        super().__init__(detail)
        self.retry_after_seconds = retry_after_seconds


class StoreUnavailable(GatepostError):
    code = "store_unavailable"


def invalid(field: str, msg: str, *, code: str = "invalid") -> InvalidInput:
    """Return the error for one field, named as the caller spells it (camelCase, dots between levels)."""
    return InvalidInput(FieldError(loc=tuple(field.split(".")), msg=msg, code=code))
