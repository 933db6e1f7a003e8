"""Webhooks: a group's standing request to be told. Filter, header rules, secrets and their rotation."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from gatepost.domain.errors import FieldError, InvalidInput, ReservedHeader, invalid
from gatepost.domain.events import is_event_type
from gatepost.domain.health import WELL, Condition, DisabledReason, Health
from gatepost.domain.network import Target
from gatepost.domain.retry import DEFAULT_POLICY, RetryPolicy
from gatepost.domain.signatures import SigningKey, parse_secret, secret_hint

NAME_LIMIT = 100
MOST_HEADERS = 20
HEADER_VALUE_LIMIT = 4096
MOST_EVENTS = 50
MOST_IGNORED_ORIGINS = 20
LONGEST_TIMEOUT_SECONDS = 30
MOST_CONCURRENCY = 100
MOST_PER_SECOND = 1000
LONGEST_GRACE = timedelta(days=7)

DEFAULTS: Mapping[str, Any] = {
    "enabled": True,
    "headers": {},
    "policy": DEFAULT_POLICY,
    "timeout_seconds": 15,
    "max_concurrency": 10,
    "rate_limit_per_second": None,
    "preserve_task_order": False,
    "ignore_origins": (),
}

OPERATOR_FAMILIES = ("webhook.", "delivery.")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")  # RFC 9110, section 5.6.2
_VISIBLE_ASCII = re.compile(r"[\x21-\x7e]([\x20\t\x21-\x7e]*[\x21-\x7e])?")
_ORIGIN = re.compile(r"api|ui|inbound:[a-z0-9_.-]{1,50}")

# fmt: off
_RESERVED_NAMES = frozenset({
    "host", "transfer-encoding", "connection", "keep-alive", "te", "trailer", "trailers", "upgrade",
    "user-agent", "x-signature", "x-timestamp", "cookie", "forwarded", "expect", "accept", "accept-encoding",
})
# fmt: on
_RESERVED_PREFIXES = ("content-", "webhook-", "x-gatepost-", "x-forwarded-", "proxy-")


@dataclass(frozen=True, slots=True)
class Secret:
    """A signing secret; one that is being replaced has an end."""

    value: str
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Webhook:
    """One webhook as configured.

    Shape: `secrets` newest first, two at most; `config_version` rises by one with each edit; `enabled_at` is when it
           was enabled last; `condition` is what its lane last wrote down, and no part of the configuration.
    """

    id: str
    group_id: str
    name: str
    target: Target
    enabled: bool
    events: tuple[str, ...]
    headers: tuple[tuple[str, str], ...]
    policy: RetryPolicy
    timeout_seconds: int
    max_concurrency: int
    rate_limit_per_second: int | None
    preserve_task_order: bool
    ignore_origins: tuple[str, ...]
    secrets: tuple[Secret, ...]
    disabled_reason: DisabledReason | None
    enabled_at: datetime
    config_version: int
    created_at: datetime
    updated_at: datetime
    condition: Condition = WELL

    @property
    def health(self) -> Health:
        return self.condition.health if self.enabled else Health.DISABLED

    @property
    def secret_hint(self) -> str:
        return secret_hint(self.secrets[0].value)

    def live_secrets(self, now: datetime) -> tuple[Secret, ...]:
        """Return the secrets that sign at this moment, newest first."""
        return tuple(secret for secret in self.secrets if secret.expires_at is None or now < secret.expires_at)

    def signing_keys(self, now: datetime) -> tuple[SigningKey, ...]:
        """Return the keys that sign at this moment, newest first."""
        return tuple(parse_secret(secret.value) for secret in self.live_secrets(now))


@dataclass(frozen=True, slots=True)
class Subscription:
    """The part of a webhook that decides which events it is owed."""

    webhook_id: str
    enabled: bool
    events: tuple[str, ...]
    ignore_origins: tuple[str, ...]
    max_attempts: int


def wants(webhook: Subscription, event: str, origin: str) -> bool:
    """Say whether an event of this type and origin is owed to a webhook."""
    return webhook.enabled and origin not in webhook.ignore_origins and selects(webhook, event)


def selects(webhook: Subscription, event: str) -> bool:
    """Say whether a webhook's filter names an event of this type."""
    return any(_matches(pattern, event) for pattern in webhook.events)


def watches(events: Iterable[str]) -> bool:
    """Say whether a filter names events about Gatepost itself."""
    return any(pattern.startswith(OPERATOR_FAMILIES) for pattern in events)


def _matches(pattern: str, event: str) -> bool:
    # Events about Gatepost itself go only to those who name them: `*` means everything about the group's work.
    if pattern == "*":
        return not event.startswith(OPERATOR_FAMILIES)
    return event == pattern or (pattern.endswith(".*") and event.startswith(pattern[:-1]))


def new_secret(text: str) -> Secret:
    """Return a secret to sign with from now on.

    Raises: InvalidInput, when it has the wrong shape.
    """
    parse_secret(text)
    return Secret(text)


def create(webhook_id: str, group_id: str, fields: Mapping[str, Any], secret: Secret, *, now: datetime) -> Webhook:
    """Return a new webhook, version 1.

    Shape:  `fields` are attributes by name, but `headers` as a mapping; what is absent gets its default.
    Raises: InvalidInput, naming every field that is wrong.
    """
    given = {**DEFAULTS, **fields}
    headers = merged_headers((), given.pop("headers"), keep_others=False, same_origin=True)
    return checked(
        Webhook(
            id=webhook_id,
            group_id=group_id,
            headers=headers,
            secrets=(secret,),
            disabled_reason=None if given["enabled"] else DisabledReason.ADMIN,
            enabled_at=now,
            config_version=1,
            created_at=now,
            updated_at=now,
            **given,
        )
    )


def with_changes(webhook: Webhook, *, now: datetime, **fields: object) -> Webhook:
    """Return the webhook edited, its version raised.

    Raises: InvalidInput, naming every field that is wrong.
    """
    edited = replace(webhook, **fields)  # type: ignore[arg-type]  # names and types come from our own schemas
    if edited.enabled and not webhook.enabled:
        edited = replace(edited, disabled_reason=None, enabled_at=now, condition=WELL)
    elif webhook.enabled and not edited.enabled:
        edited = replace(edited, disabled_reason=DisabledReason.ADMIN)
    return checked(replace(edited, config_version=webhook.config_version + 1, updated_at=now))


def with_new_secret(webhook: Webhook, secret: Secret, *, grace: timedelta, now: datetime) -> Webhook:
    """Return the webhook with a new secret; the one before signs too until the grace ends, older ones no more.

    Raises: InvalidInput, when the grace is over 7 days.
    """
    if not timedelta(0) <= grace <= LONGEST_GRACE:
        raise invalid("gracePeriodSeconds", f"give seconds between 0 and {LONGEST_GRACE // timedelta(seconds=1)}")
    previous = (replace(webhook.secrets[0], expires_at=now + grace),) if grace else ()
    return with_changes(webhook, now=now, secrets=(secret, *previous))


def with_rotation_finalized(webhook: Webhook, *, now: datetime) -> Webhook:
    """Return the webhook signing with its newest secret only; the same webhook when that is so already."""
    if len(webhook.secrets) == 1:
        return webhook
    return with_changes(webhook, now=now, secrets=webhook.secrets[:1])


def merged_headers(
    stored: Sequence[tuple[str, str]],
    given: Mapping[str, str | None],
    *,
    keep_others: bool,
    same_origin: bool,
) -> tuple[tuple[str, str], ...]:
    """Return a webhook's headers after a write that cannot read their values.

    Shape:  null keeps the stored value. `keep_others` (PATCH): names not given stay and ``""`` deletes.
            Without `same_origin` nothing stored survives: those values were meant for the old host.
    Raises: InvalidInput, for a null with nothing to keep; ReservedHeader and InvalidInput as `check_headers`.
    """
    kept = {name.lower(): (name, value) for name, value in stored} if same_origin else {}
    merged = dict(kept) if keep_others else {}
    for name, value in given.items():
        if value is None and name.lower() not in kept:
            raise invalid(f"headers.{name}", "there is no stored value to keep; give the value", code="no_value")
        if value == "" and keep_others:
            merged.pop(name.lower(), None)
        else:
            merged[name.lower()] = (name, kept[name.lower()][1] if value is None else value)
    headers = tuple(merged.values())
    check_headers(headers)
    return headers


def checked(webhook: Webhook) -> Webhook:
    """Return the webhook, if every field of it is within its limits.

    Raises: InvalidInput, naming every field that is not.
    """
    errors = [
        *_range_error("name", len(webhook.name.strip()), 1, NAME_LIMIT, "characters"),
        *_range_error("timeoutSeconds", webhook.timeout_seconds, 1, LONGEST_TIMEOUT_SECONDS, "seconds"),
        *_range_error("maxConcurrency", webhook.max_concurrency, 1, MOST_CONCURRENCY, "requests at once"),
        *_range_error("events", len(webhook.events), 1, MOST_EVENTS, "event names"),
        *(
            FieldError(("events", n), "give an event such as task.created, task.* or *", "unknown_event")
            for n, pattern in enumerate(webhook.events)
            if not _is_pattern(pattern)
        ),
        *_range_error("ignoreOrigins", len(webhook.ignore_origins), 0, MOST_IGNORED_ORIGINS, "origins"),
        *(
            FieldError(("ignoreOrigins", n), "give api, ui or inbound:<source>", "unknown_origin")
            for n, origin in enumerate(webhook.ignore_origins)
            if not _ORIGIN.fullmatch(origin)
        ),
    ]
    if webhook.rate_limit_per_second is not None:
        errors += _range_error("rateLimitPerSecond", webhook.rate_limit_per_second, 1, MOST_PER_SECOND, "a second")
    if "\x00" in webhook.name or not webhook.name.isprintable():
        errors.append(FieldError(("name",), "leave out control characters", "characters"))
    if errors:
        raise InvalidInput(*errors)
    check_headers(webhook.headers)
    return webhook


def check_headers(headers: Sequence[tuple[str, str]]) -> None:
    """Raises: InvalidInput, for names that are no tokens or values that are not visible ASCII of at most 4 KiB;
    ReservedHeader, for names that are Gatepost's to set. Source: RFC 9110, section 5.
    """
    if len(headers) > MOST_HEADERS:
        raise invalid("headers", f"give at most {MOST_HEADERS} headers")
    for name, value in headers:
        if not _TOKEN.fullmatch(name):
            raise InvalidInput(
                FieldError(("headers", name), "a name is letters, digits and -, without spaces", "not_a_token")
            )
        if is_reserved_header(name):
            raise ReservedHeader(FieldError(("headers", name), "Gatepost sets this header itself", "reserved"))
        if len(value) > HEADER_VALUE_LIMIT or not _VISIBLE_ASCII.fullmatch(value):
            raise InvalidInput(
                FieldError(
                    ("headers", name),
                    f"give 1 to {HEADER_VALUE_LIMIT} visible ASCII characters",
                    "not_visible_ascii",
                )
            )


def is_reserved_header(name: str) -> bool:
    """Say whether a header name is not the webhook's to set; ``_`` reads as ``-``, as many servers read it.

    >>> [is_reserved_header(name) for name in ("Host", "X_Signature", "webhook-id", "Authorization")]
    [True, True, True, False]
    """
    canonical = name.lower().replace("_", "-")
    return canonical in _RESERVED_NAMES or canonical.startswith(_RESERVED_PREFIXES)


def _is_pattern(pattern: str) -> bool:
    return pattern == "*" or is_event_type(pattern) or (pattern.endswith(".*") and is_event_type(pattern[:-1] + "x"))


def _range_error(field: str, number: int, least: int, most: int, unit: str) -> list[FieldError]:
    if least <= number <= most:
        return []
    return [FieldError((field,), f"give {least} to {most} {unit}", "out_of_range")]
