from dataclasses import replace
from datetime import timedelta

import pytest
from tests.builders import make_webhook, subscription_of
from tests.fakes import NOW

from gatepost.domain.errors import InvalidInput, ReservedHeader
from gatepost.domain.health import WELL, Condition, DisabledReason, Health
from gatepost.domain.retry import DEFAULT_POLICY
from gatepost.domain.signatures import make_secret
from gatepost.domain.webhooks import (
    Secret,
    Webhook,
    check_headers,
    checked,
    create,
    merged_headers,
    new_secret,
    wants,
    with_changes,
    with_new_secret,
    with_rotation_finalized,
)

LATER = NOW + timedelta(hours=1)
LATEST = LATER + timedelta(hours=1)
GRACE = timedelta(days=1)
NEW_SECRET = Secret(make_secret(b"n" * 32))
NEWEST_SECRET = Secret(make_secret(b"w" * 32))


# --- what a webhook wants ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patterns", "event", "wanted"),
    [
        (("task.created",), "task.created", True),
        (("task.created",), "task.created_again", False),
        (("task.created",), "task.updated", False),
        (("task.created", "task.updated"), "task.updated", True),
        (("task.*",), "task.created", True),
        (("task.*",), "task.created.twice", True),
        (("task.*",), "tasks.created", False),
        (("task.*",), "task", False),
        (("task.*",), "order.task.created", False),
        (("order.paid.*",), "order.paid.late", True),
        (("order.paid.*",), "order.paid", False),
        (("*",), "task.created", True),
        (("*",), "order.paid", True),
        (("*",), "webhook.disabled", False),
        (("*",), "delivery.dead_lettered", False),
        (("*",), "webhook.test", False),
        (("*",), "webhooks.created", True),
        (("webhook.*",), "webhook.disabled", True),
        (("webhook.*",), "delivery.dead_lettered", False),
        (("webhook.disabled",), "webhook.disabled", True),
        (("delivery.*",), "delivery.dead_lettered", True),
        (("*", "webhook.disabled"), "webhook.disabled", True),
    ],
)
def test_the_filter_decides_by_the_name_of_the_event(patterns: tuple[str, ...], event: str, wanted: bool) -> None:
    subscription = subscription_of(make_webhook(events=patterns))

    assert wants(subscription, event, "api") is wanted


def test_a_disabled_webhook_wants_nothing() -> None:
    assert not wants(subscription_of(make_webhook(enabled=False)), "task.created", "api")


@pytest.mark.parametrize(
    ("ignored", "origin", "wanted"),
    [
        ((), "inbound:jira", True),
        (("inbound:jira",), "inbound:jira", False),
        (("inbound:jira",), "inbound:jira2", True),
        (("inbound:jira",), "api", True),
        (("api", "ui"), "ui", False),
    ],
)
def test_an_ignored_origin_is_passed_over(ignored: tuple[str, ...], origin: str, wanted: bool) -> None:
    subscription = subscription_of(make_webhook(ignore_origins=ignored))

    assert wants(subscription, "task.created", origin) is wanted


# --- birth ---------------------------------------------------------------------------------------------------


def test_a_new_webhook_has_the_defaults_for_what_was_not_given() -> None:
    target = make_webhook().target

    webhook = create("wh_1", "grp_1", {"name": "Rota", "target": target, "events": ("*",)}, NEW_SECRET, now=NOW)

    assert (webhook.enabled, webhook.health, webhook.disabled_reason) == (True, Health.HEALTHY, None)
    assert (webhook.headers, webhook.ignore_origins, webhook.rate_limit_per_second) == ((), (), None)
    assert (webhook.timeout_seconds, webhook.max_concurrency, webhook.policy) == (15, 10, DEFAULT_POLICY)
    assert webhook.preserve_task_order is False
    assert (webhook.secrets, webhook.config_version) == ((NEW_SECRET,), 1)
    assert webhook.created_at == webhook.updated_at == webhook.enabled_at == NOW


def test_a_webhook_can_be_born_disabled_and_never_outside_its_limits() -> None:
    fields = {"name": "Rota", "target": make_webhook().target, "events": ("*",), "enabled": False}

    disabled = create("wh_1", "grp_1", fields, NEW_SECRET, now=NOW)

    assert (disabled.enabled, disabled.health, disabled.disabled_reason) == (False, Health.DISABLED, "admin")
    with pytest.raises(InvalidInput):
        create("wh_1", "grp_1", {**fields, "timeout_seconds": 31}, NEW_SECRET, now=NOW)


# --- edits ---------------------------------------------------------------------------------------------------


def test_an_edit_raises_the_version_by_one_and_says_when() -> None:
    webhook = make_webhook(config_version=4)

    edited = with_changes(webhook, now=LATER, name="Day shift")

    assert edited == replace(webhook, name="Day shift", config_version=5, updated_at=LATER)


def test_disabling_says_so_and_enabling_forgets_what_was_wrong() -> None:
    degraded = make_webhook(condition=Condition(streak=5, failing_since=NOW))

    disabled = with_changes(degraded, now=LATER, enabled=False)
    enabled = with_changes(disabled, now=LATEST, enabled=True)

    assert (degraded.health, degraded.disabled_reason) == (Health.DEGRADED, None)
    assert (disabled.health, disabled.disabled_reason) == (Health.DISABLED, DisabledReason.ADMIN)
    assert (enabled.health, enabled.disabled_reason) == (Health.HEALTHY, None)
    assert (enabled.condition, disabled.enabled_at, enabled.enabled_at) == (WELL, NOW, LATEST)


@pytest.mark.parametrize("enabled", [True, False])
def test_an_edit_that_leaves_enabled_alone_leaves_health_alone(enabled: bool) -> None:
    suspended = Condition(streak=9, failing_since=NOW - timedelta(days=1), suspended_at=NOW)
    reason = None if enabled else DisabledReason.GONE
    webhook = make_webhook(enabled=enabled, condition=suspended, disabled_reason=reason)

    edited = with_changes(webhook, now=LATER, name="Day shift", enabled=enabled)

    assert edited.health is (Health.SUSPENDED if enabled else Health.DISABLED)
    assert (edited.condition, edited.disabled_reason, edited.enabled_at) == (suspended, reason, NOW)


@pytest.mark.parametrize(
    ("field", "value", "loc"),
    [
        ("name", "", ("name",)),
        ("name", "   ", ("name",)),
        ("name", "x" * 101, ("name",)),
        ("name", "line\nbreak", ("name",)),
        ("name", "nul \x00", ("name",)),
        ("name", "bell \x1b[31m", ("name",)),
        ("timeout_seconds", 0, ("timeoutSeconds",)),
        ("timeout_seconds", 31, ("timeoutSeconds",)),
        ("max_concurrency", 0, ("maxConcurrency",)),
        ("max_concurrency", 101, ("maxConcurrency",)),
        ("rate_limit_per_second", 0, ("rateLimitPerSecond",)),
        ("rate_limit_per_second", 1001, ("rateLimitPerSecond",)),
        ("events", (), ("events",)),
        ("events", ("task.created",) * 51, ("events",)),
        ("events", ("task.created", "task"), ("events", 1)),
        ("events", ("task.*.created",), ("events", 0)),
        ("events", ("**",), ("events", 0)),
        ("events", (".*",), ("events", 0)),
        ("events", ("Task.created",), ("events", 0)),
        ("ignore_origins", ("api", "elsewhere"), ("ignoreOrigins", 1)),
        ("ignore_origins", ("api",) * 21, ("ignoreOrigins",)),
        ("ignore_origins", ("inbound:",), ("ignoreOrigins", 0)),
        ("ignore_origins", ("inbound:UP",), ("ignoreOrigins", 0)),
    ],
)
def test_a_field_outside_its_limits_is_refused_by_its_name_on_the_wire(
    field: str, value: object, loc: tuple[str | int, ...]
) -> None:
    with pytest.raises(InvalidInput) as refusal:
        with_changes(make_webhook(), now=LATER, **{field: value})

    assert [error.loc for error in refusal.value.errors] == [loc]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "x" * 100),
        ("name", "Größe 🌹"),
        ("timeout_seconds", 1),
        ("timeout_seconds", 30),
        ("max_concurrency", 1),
        ("max_concurrency", 100),
        ("rate_limit_per_second", 1),
        ("rate_limit_per_second", 1000),
        ("rate_limit_per_second", None),
        ("events", ("*", "task.*", "task.created", "order.paid.*", "webhook.disabled")),
        ("ignore_origins", ("api", "ui", "inbound:jira-2.cloud")),
    ],
)
def test_a_field_at_its_limits_is_taken(field: str, value: object) -> None:
    assert getattr(checked(make_webhook(**{field: value})), field) == value


# --- secrets and their rotation ------------------------------------------------------------------------------


def test_after_a_rotation_both_secrets_sign_until_the_grace_ends() -> None:
    webhook = make_webhook()
    old = webhook.secrets[0].value

    rotated = with_new_secret(webhook, NEW_SECRET, grace=GRACE, now=NOW)

    assert values(rotated, NOW) == [NEW_SECRET.value, old]
    assert values(rotated, NOW + GRACE - timedelta(milliseconds=1)) == [NEW_SECRET.value, old]
    assert values(rotated, NOW + GRACE) == [NEW_SECRET.value]
    assert rotated.config_version == webhook.config_version + 1


def test_a_rotation_without_grace_ends_the_old_secret_at_once() -> None:
    rotated = with_new_secret(make_webhook(), NEW_SECRET, grace=timedelta(0), now=NOW)

    assert rotated.secrets == (NEW_SECRET,)


def test_rotating_during_a_grace_drops_the_oldest() -> None:
    rotated = with_new_secret(make_webhook(), NEW_SECRET, grace=GRACE, now=NOW)

    again = with_new_secret(rotated, NEWEST_SECRET, grace=GRACE, now=LATER)

    assert again.secrets == (NEWEST_SECRET, replace(NEW_SECRET, expires_at=LATER + GRACE))


def test_finalizing_leaves_the_newest_secret_alone() -> None:
    rotated = with_new_secret(make_webhook(), NEW_SECRET, grace=GRACE, now=NOW)

    finalized = with_rotation_finalized(rotated, now=LATER)

    assert finalized.secrets == (NEW_SECRET,)
    assert finalized.config_version == rotated.config_version + 1


def test_finalizing_with_nothing_pending_changes_nothing() -> None:
    webhook = make_webhook()

    assert with_rotation_finalized(webhook, now=LATER) is webhook


@pytest.mark.parametrize("seconds", [-1, 604_801])
def test_a_grace_outside_seven_days_is_refused(seconds: int) -> None:
    with pytest.raises(InvalidInput):
        with_new_secret(make_webhook(), NEW_SECRET, grace=timedelta(seconds=seconds), now=NOW)


@pytest.mark.parametrize("seconds", [0, 604_800])
def test_a_grace_of_none_or_of_seven_days_is_taken(seconds: int) -> None:
    assert with_new_secret(make_webhook(), NEW_SECRET, grace=timedelta(seconds=seconds), now=NOW)


def test_a_secret_of_the_wrong_shape_is_refused() -> None:
    with pytest.raises(InvalidInput):
        new_secret("hunter2")


def test_the_hint_is_that_of_the_newest_secret() -> None:
    rotated = with_new_secret(make_webhook(), NEW_SECRET, grace=GRACE, now=NOW)

    assert rotated.secret_hint == "…" + NEW_SECRET.value.rstrip("=")[-4:]


def values(webhook: Webhook, now) -> list[str]:
    return [secret.value for secret in webhook.live_secrets(now)]


# --- headers -------------------------------------------------------------------------------------------------

RESERVED = """
    Host HOST content-type Content-Length content-anything transfer-encoding connection keep-alive te trailer trailers
    upgrade user-agent User_Agent webhook-id webhook-anything webhook_signature X-Signature x_signature X-Timestamp
    x-gatepost-event X_Gatepost_Anything x-forwarded-for forwarded proxy-authorization cookie expect accept
    accept-encoding
"""


@pytest.mark.parametrize("name", RESERVED.split())
def test_a_header_that_is_not_the_webhooks_to_set_is_refused(name: str) -> None:
    with pytest.raises(ReservedHeader) as refusal:
        check_headers([(name, "x")])

    assert refusal.value.errors[0].loc == ("headers", name)


@pytest.mark.parametrize("name", ["Authorization", "X-Api-Key", "accept-language", "x-forward", "!#$%&'*+.^_`|~9"])
def test_any_other_token_may_name_a_header(name: str) -> None:
    check_headers([(name, "x")])


@pytest.mark.parametrize(
    "name", ["", "X Key", "X-Key:", "X-Key\r\n", "X-Key\n", "X\x00", "X-Schlüssel", "x" * 101, "X/Y"]
)
def test_a_name_that_is_no_token_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        check_headers([(name, "x")])

    assert refusal.value.errors[0].code == "not_a_token"


@pytest.mark.parametrize("value", ["", " ", " x", "x ", "x\r\nHost: y", "x\n", "x\x00", "x\x7f", "grün", "x" * 4097])
def test_a_value_that_is_not_visible_ascii_is_refused_and_not_repeated(value: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        check_headers([("X-Key", value)])

    assert refusal.value.errors[0].code == "not_visible_ascii"
    assert value.strip() == "" or value not in refusal.value.detail.removeprefix("headers.X-Key")


@pytest.mark.parametrize("value", ["x", "Bearer abc", "a\tb", "~!", "x" * 4096])
def test_a_value_of_visible_ascii_is_taken(value: str) -> None:
    check_headers([("X-Key", value)])


def test_a_webhook_may_have_twenty_headers_and_no_more() -> None:
    headers = [(f"X-{n}", "x") for n in range(21)]

    check_headers(headers[:20])
    with pytest.raises(InvalidInput):
        check_headers(headers)


STORED = (("X-Key", "old"), ("X-Team", "red"))


@pytest.mark.parametrize(
    ("given", "keep_others", "merged"),
    [
        ({}, True, STORED),
        ({}, False, ()),
        ({"X-Key": None}, False, (("X-Key", "old"),)),
        ({"x-key": None}, False, (("x-key", "old"),)),
        ({"X-Key": "new"}, False, (("X-Key", "new"),)),
        ({"X-Key": "new"}, True, (("X-Key", "new"), ("X-Team", "red"))),
        ({"x-key": "new"}, True, (("x-key", "new"), ("X-Team", "red"))),
        ({"X-Key": ""}, True, (("X-Team", "red"),)),
        ({"x-key": ""}, True, (("X-Team", "red"),)),
        ({"X-New": ""}, True, STORED),
        ({"X-New": "1"}, True, (*STORED, ("X-New", "1"))),
        ({"X-Key": None, "X-Team": "blue"}, True, (("X-Key", "old"), ("X-Team", "blue"))),
    ],
)
def test_headers_merge_as_put_replaces_and_patch_keeps(
    given: dict[str, str | None], keep_others: bool, merged: tuple[tuple[str, str], ...]
) -> None:
    assert merged_headers(STORED, given, keep_others=keep_others, same_origin=True) == merged


@pytest.mark.parametrize("keep_others", [True, False])
def test_no_stored_value_follows_the_url_to_another_host(keep_others: bool) -> None:
    kept = merged_headers(STORED, {"X-Team": "blue"}, keep_others=keep_others, same_origin=False)

    assert kept == (("X-Team", "blue"),)
    with pytest.raises(InvalidInput) as refusal:
        merged_headers(STORED, {"X-Key": None}, keep_others=keep_others, same_origin=False)
    assert refusal.value.errors[0].code == "no_value"


@pytest.mark.parametrize("keep_others", [True, False])
def test_null_needs_a_stored_value_to_keep(keep_others: bool) -> None:
    with pytest.raises(InvalidInput) as refusal:
        merged_headers(STORED, {"X-New": None}, keep_others=keep_others, same_origin=True)

    assert refusal.value.errors[0].code == "no_value"


def test_an_empty_value_deletes_in_patch_only() -> None:
    with pytest.raises(InvalidInput):
        merged_headers(STORED, {"X-Key": ""}, keep_others=False, same_origin=True)


def test_merged_headers_keep_the_header_rules() -> None:
    with pytest.raises(ReservedHeader):
        merged_headers(STORED, {"Host": "x"}, keep_others=True, same_origin=True)
