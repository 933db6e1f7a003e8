"""Every setting there is. `docs/configuration.md` is generated from here: `python -m gatepost.config`."""

import base64
import binascii
import difflib
import resource
import ssl
import sys
import textwrap
from collections.abc import Iterable, Mapping
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    JsonValue,
    SecretStr,
    ValidationError,
    ValidationInfo,
)
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from gatepost.domain.errors import InvalidInput
from gatepost.domain.network import IpNetwork, parse_networks
from gatepost.domain.people import email_address, fit_password
from gatepost.domain.retention import DEFAULT_RETENTION, Retention
from gatepost.store_url import FIX as STORE_FIX
from gatepost.store_url import StoreUrl, parse_store_url

PREFIX = "GATEPOST_"
SECRET_KEY_BYTES = 32
_KEY_FIX = "give the base64 of exactly 32 random bytes, as `openssl rand -base64 32` prints it"
_ORIGIN_FIX = "write an origin such as https://hooks.example.com, without a path"
_CA_FIX = "name a readable file of certificates in PEM form"
SPARE_DESCRIPTORS = 256  # for the store, the listeners, their clients, name look-ups and logs

# Read by commands and tests, not by the server.
_OTHER_VARIABLES = frozenset({"GATEPOST_API_KEY", "GATEPOST_REQUIRE_SERVERS", "GATEPOST_TEST_MONGODB_URL"})


class InvalidSettings(ValueError):
    """Settings that cannot be used; the text names each one and its fix."""


class _NotSet(ValueError):
    """A setting that is needed and is not there."""


def _store(value: Any) -> Any:
    return parse_store_url(value) if isinstance(value, str) else value


def _networks(value: Any) -> Any:
    return parse_networks(value) if isinstance(value, str) else value


def _nameservers(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return tuple(_nameserver(part.strip()) for part in value.split(",") if part.strip())


def _nameserver(text: str) -> str:
    try:
        parts = urlsplit(f"//{text}" if text.count(":") < 2 or text.startswith("[") else f"//[{text}]")
        ip_address(parts.hostname or "")
        _ = parts.port
    except ValueError:
        raise ValueError(f"{text!r} is not an address: write 10.0.0.2, 10.0.0.2:5353 or [fd00::2]:53") from None
    return text


def _origin(value: str | None) -> str | None:
    if value is None:
        return None
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:
        raise ValueError(_ORIGIN_FIX) from None
    rest = (parts.path.rstrip("/"), parts.query, parts.fragment, parts.username, parts.password)
    if parts.scheme not in ("http", "https") or not parts.hostname or any(rest) or not value.isprintable():
        raise ValueError(_ORIGIN_FIX)
    return f"{parts.scheme}://{parts.netloc}"


def _email(value: str) -> str:
    try:
        return email_address(value)
    except InvalidInput as error:
        raise ValueError(error.errors[0].msg) from None


def _password(value: SecretStr | None) -> SecretStr | None:
    if value is not None:
        try:
            fit_password(value.get_secret_value())
        except InvalidInput as error:
            raise ValueError(error.errors[0].msg) from None
    return value


def _secret_key(value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
    if value is None:
        store: StoreUrl | None = info.data.get("store")  # None: refused already, for a reason of its own
        if store and not store.is_embedded:
            raise _NotSet(f"a store on {store.kind} needs it, the same in every process: {_KEY_FIX}")
        return None
    try:
        key = base64.b64decode(value.get_secret_value(), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != SECRET_KEY_BYTES:
        raise ValueError(_KEY_FIX)
    return value


def _ca_file(path: Path | None) -> Path | None:
    if path is None:
        return None
    try:
        ssl.create_default_context(cafile=str(path))
    except (OSError, ssl.SSLError):
        raise ValueError(_CA_FIX) from None
    return path


def _most_in_flight(asked: int) -> int:
    return min(asked, max(1, _descriptor_limit() - SPARE_DESCRIPTORS))


def _descriptor_limit() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 2**20 if soft == resource.RLIM_INFINITY else soft


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _setting(default: Any, description: str, *, unit: str, fix: str, **limits: Any) -> Any:
    extra: dict[str, JsonValue] = {"unit": unit, "fix": fix}
    return Field(default=default, description=description, json_schema_extra=extra, validate_default=True, **limits)


def _days(default: timedelta, description: str) -> Any:
    return _setting(default.days, description, unit="days", fix="give a whole number from 1 to 3650", ge=1, le=3650)


class Settings(BaseSettings):
    """What an operator decides, read once at start from `GATEPOST_…` environment variables."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="forbid", hide_input_in_errors=True
    )

    store: Annotated[StoreUrl, NoDecode, BeforeValidator(_store)] = _setting(
        "sqlite:///./gatepost.db",
        "Where everything is kept. `sqlite:///` and the path of a file, which is created when it is"
        " missing: the default, because it needs no other service. For several machines"
        " `postgresql://USER:PASSWORD@HOST/DATABASE` (needs the extra `gatepost[postgres]`) or"
        " `mongodb://USER:PASSWORD@HOST/DATABASE`, also `mongodb+srv://` (`gatepost[mongodb]`); several hosts"
        " stand with commas between, and `gatepost migrate` prepares the database. What is special in a"
        " password is percent-encoded. Logs show the URL without user, password and options.",
        unit="URL",
        fix=STORE_FIX,
    )
    host: str = _setting(
        "127.0.0.1",
        "The address that the API listens on. Loopback by default, because TLS belongs in front of it;"
        " `0.0.0.0` listens everywhere.",
        unit="address or host name",
        fix="give an address of this machine, such as 127.0.0.1 or 0.0.0.0",
        min_length=1,
    )
    port: int = _setting(
        8000,
        "The port that the API listens on; 0 lets the system choose one, which is logged at start.",
        unit="port",
        fix="give a whole number from 0 to 65535",
        ge=0,
        le=65535,
    )
    allowed_target_networks: Annotated[tuple[IpNetwork, ...], NoDecode, BeforeValidator(_networks)] = _setting(
        (),
        "Networks that webhooks may point into besides public addresses. Empty by default, because"
        " whoever may create a webhook could otherwise reach what only this machine should. Logged at"
        " start. Cloud metadata, link-local addresses and Gatepost's own listeners stay refused"
        " whatever is written here.",
        unit="comma-separated CIDRs",
        fix="write networks such as 10.0.0.0/8,fd00::/8",
    )
    https_only: bool = _setting(
        False,
        "Refuse webhooks whose URL is not https. Off by default, because receivers inside one's own"
        " network often have no certificate, and the signature protects the body either way.",
        unit="true or false",
        fix="give true or false",
    )
    lease_seconds: float = _setting(
        30.0,
        "How long a process owns the queue of a webhook before another may take it over; renewed every"
        " third of it. Shorter recovers sooner after a crash and tolerates shorter pauses of the process."
        " Below 2 a busy machine would lose its own leases.",
        unit="seconds",
        fix="give 2 to 3600 seconds",
        ge=2,
        le=3600,
        allow_inf_nan=False,
    )
    public_url: Annotated[str | None, AfterValidator(_origin)] = _setting(
        None,
        "Where browsers reach this installation. A change that comes with a cookie must come from a page of this"
        " origin, and with https the cookie is never sent in the clear. When it is not set, it is the scheme and"
        " the host of the request itself: right without a proxy, and with one that keeps `Host`.",
        unit="URL without a path",
        fix=_ORIGIN_FIX,
    )
    trusted_proxies: Annotated[tuple[IpNetwork, ...], NoDecode, BeforeValidator(_networks)] = _setting(
        (),
        "The proxies in front of Gatepost. `X-Forwarded-For` and `X-Forwarded-Proto` count only in requests that"
        " come from these; of the addresses listed, the right-most that is none of these is the client's. Empty by"
        " default, because anybody can write these headers.",
        unit="comma-separated CIDRs",
        fix="write networks such as 10.0.0.0/8,fd00::/8",
    )
    admin_email: Annotated[str, AfterValidator(_email)] = _setting(
        "admin@localhost",
        "Who owns the installation: `gatepost serve` makes this account while there is nobody yet, and only then.",
        unit="e-mail address",
        fix="give an e-mail address, such as ann@example.com",
    )
    admin_password: Annotated[SecretStr | None, AfterValidator(_password)] = _setting(
        None,
        "The password of that account. When it is not set, one is made and printed on standard output, once. It can"
        " be taken away after the first start.",
        unit="8 to 200 characters",
        fix="give 8 to 200 characters",
    )
    secret_key: Annotated[SecretStr | None, AfterValidator(_secret_key)] = _setting(
        None,
        "The key that signing secrets and header values are encrypted with in the store. PostgreSQL and"
        " MongoDB need it, the same in every process. For SQLite, when it is not set, a key file is made"
        " beside the store, named like it with `.key` at the end, readable by its owner only. Back it up"
        " apart from the store: without it the secrets in the store are lost.",
        unit="base64 of 32 bytes",
        fix=_KEY_FIX,
    )
    max_in_flight: Annotated[int, AfterValidator(_most_in_flight)] = _setting(
        8192,
        "How many requests may be under way at once, all webhooks together. Each needs a descriptor, so"
        f" it is cut to the process's hard limit (`ulimit -Hn`) less {SPARE_DESCRIPTORS}.",
        unit="requests",
        fix="give a whole number from 1 to 1000000",
        ge=1,
        le=1_000_000,
    )
    ca_file: Annotated[Path | None, AfterValidator(_ca_file)] = _setting(
        None,
        "Certificate authorities that receivers are checked against besides the system's: for receivers whose"
        " certificates come from an authority of one's own.",
        unit="path of a PEM file",
        fix=_CA_FIX,
    )
    nameservers: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_nameservers)] = _setting(
        (),
        "The name servers that receivers' names are looked up with, in place of the system's.",
        unit="comma-separated addresses",
        fix="write addresses such as 10.0.0.2,10.0.0.3:5353",
    )
    shutdown_seconds: float = _setting(
        35.0,
        "How long a stopping process waits for requests that are under way. The default is the longest"
        " timeout that a webhook can have, plus 5; what is cut off is sent again after the next start.",
        unit="seconds",
        fix="give 0 to 600 seconds",
        ge=0,
        le=600,
        allow_inf_nan=False,
    )
    retention_bodies_days: int = _days(
        DEFAULT_RETENTION.bodies,
        "How long heads and bodies of receivers' answers are kept after their delivery was finished; the status and"
        " the duration of each attempt are kept as long as the delivery. A store grows by them most.",
    )
    retention_deliveries_days: int = _days(
        DEFAULT_RETENTION.deliveries,
        "How long what got through is kept, events that no delivery is left of, and bulk replays that have ended."
        " Unfinished deliveries never go.",
    )
    retention_dead_letters_days: int = _days(
        DEFAULT_RETENTION.dead_letters, "How long dead letters are kept, with their events, to be replayed."
    )
    retention_stats_days: int = _days(
        DEFAULT_RETENTION.stats, "How long the counts that `GET /api/integrations/stats` shows are kept."
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)] = _setting(
        "info",
        "The least that is logged. `info` has one line for each attempt and each request; `warning` is"
        " for those who only want to hear of trouble.",
        unit="level",
        fix="give debug, info, warning or error",
    )
    log_format: Annotated[Literal["json", "console"] | None, BeforeValidator(_lower)] = _setting(
        None,
        "`json` writes one object per line, `console` lines for people. When it is not set: console on a"
        " terminal, else json. Logs go to standard error.",
        unit="json or console",
        fix="give json or console",
    )

    @property
    def retention(self) -> Retention:
        days = (self.retention_bodies_days, self.retention_deliveries_days, self.retention_dead_letters_days)
        return Retention(*(timedelta(days=each) for each in (*days, self.retention_stats_days)))

    @property
    def secret_key_bytes(self) -> bytes | None:
        return base64.b64decode(self.secret_key.get_secret_value()) if self.secret_key else None


def load(**given: object) -> Settings:
    """Return the settings of the environment; what is given and not None goes before it.

    Raises: InvalidSettings, with a line for each setting that cannot be used.
    """
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    try:
        return Settings(**chosen)
    except ValidationError as error:
        raise InvalidSettings("\n".join(_sentence(problem) for problem in error.errors())) from None


def unknown_variables(environment: Iterable[str]) -> Mapping[str, str | None]:
    """Return the `GATEPOST_…` variables that no setting reads, each with the one that was probably meant."""
    names = {PREFIX + name.upper() for name in Settings.model_fields}
    unknown = [name for name in environment if name.startswith(PREFIX) and name not in names | _OTHER_VARIABLES]
    return {name: next(iter(difflib.get_close_matches(name, names, n=1)), None) for name in unknown}


def _sentence(problem: Mapping[str, Any]) -> str:
    name = str(problem["loc"][0])
    told = problem.get("ctx", {}).get("error")  # what one of the validators above said
    if isinstance(told, _NotSet):
        return f"{PREFIX}{name.upper()} is not set: {told}."
    return f"{PREFIX}{name.upper()} cannot be used: {told or _extra(Settings.model_fields[name], 'fix')}."


def _extra(field: FieldInfo, key: str) -> str:
    extra = field.json_schema_extra
    return str(extra[key]) if isinstance(extra, dict) else ""


# --- docs/configuration.md ----------------------------------------------------------------------------------

_INTRODUCTION = """\
# Settings

Generated by `python -m gatepost.config > docs/configuration.md`; edit `src/gatepost/config.py` instead.

Gatepost reads environment variables, once, at start. A value that cannot be used stops the start with a
sentence that names the setting and the fix; an empty one counts as not set; a `GATEPOST_` variable that
no setting reads is logged as `setting.ignored`. An option of a command, such as `--port`, goes before its
variable.
"""


def as_markdown() -> str:
    """Return docs/configuration.md."""
    sections = (_section(name, field) for name, field in Settings.model_fields.items())
    return "\n".join([_INTRODUCTION, *sections])


def _section(name: str, field: FieldInfo) -> str:
    lines = [
        f"## `{PREFIX}{name.upper()}`",
        "",
        textwrap.fill(field.description or "", 110, break_on_hyphens=False, break_long_words=False),
        "",
        f"- Value: {_extra(field, 'unit')}",
        f"- Default: {_shown(field.default)}",
        "",
    ]
    return "\n".join(lines)


def _shown(default: object) -> str:
    if default is None or default == ():
        return "not set"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


if __name__ == "__main__":
    sys.stdout.write(as_markdown())
