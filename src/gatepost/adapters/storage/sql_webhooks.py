"""Webhooks in SQL, their secrets sealed."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime

import structlog

from gatepost.adapters.secretbox import SecretBox
from gatepost.adapters.storage.paging import AFTER_ALL, page_of
from gatepost.adapters.storage.rows import (
    CONDITION_COLUMNS,
    NEVER_MS,
    Row,
    condition_from,
    from_ms,
    from_words,
    target_of,
    to_ms,
    to_words,
)
from gatepost.adapters.storage.scripts import (
    IN_LIST,
    LOCKED,
    Database,
    Script,
    execute,
    fetch,
    listed,
)
from gatepost.adapters.storage.sealing import headers_from, sealed_headers, sealed_secrets, secrets_from
from gatepost.domain.health import DisabledReason
from gatepost.domain.retry import RetryPolicy
from gatepost.domain.webhooks import Subscription, Webhook
from gatepost.ports import LaneMark, Page, Saved, Subscriptions

log = structlog.get_logger()

_WEBHOOKS_VERSION = "SELECT webhooks_version FROM groups WHERE id = ?"
# Every write of a webhook does this, so that an emit that matched the webhooks before it is refused.
_RAISE_WEBHOOKS_VERSION = "UPDATE groups SET webhooks_version = webhooks_version + 1 WHERE id = ?"
LAST_REVISION = """
SELECT enabled, events, ignore_origins, deleted FROM webhook_revisions
WHERE group_id = ? AND webhook_id = ? ORDER BY from_version DESC LIMIT 1
"""
_ADD_REVISION = """
INSERT INTO webhook_revisions (group_id, webhook_id, from_version, enabled, events, ignore_origins, deleted)
SELECT id, ?, webhooks_version, ?, ?, ?, ? FROM groups WHERE id = ?
"""
_DELETED = (0, "", "", 1)  # as a revision
_SUBSCRIPTIONS = """
SELECT id, enabled, events, ignore_origins, max_attempts FROM webhooks
WHERE group_id = ? AND deleted_at IS NULL ORDER BY id
"""

_COLUMNS = (
    "id, group_id, name, url, enabled, events, headers, schedule, max_attempts, timeout_seconds, max_concurrency,"
    " rate_limit_per_second, ignore_origins, secrets, preserve_task_order, disabled_reason, enabled_at, config_version,"
    " created_at, updated_at"
)
# With what its lane remembers of its receiver. CROSS JOIN: from the webhooks, one look-up for each.
_SELECT = f"""
SELECT {", ".join(f"webhooks.{column}" for column in _COLUMNS.split(", "))},
       {", ".join(f"lanes.{column}" for column in CONDITION_COLUMNS.split(", "))}
FROM webhooks CROSS JOIN lanes WHERE lanes.webhook_id = webhooks.id"""
WEBHOOK = f"{_SELECT} AND id = ? AND group_id = ? AND deleted_at IS NULL"
WEBHOOKS = f"{_SELECT} AND group_id = ? AND deleted_at IS NULL AND id < ? ORDER BY id DESC LIMIT ?"
_LOCK_GROUP = f"{_WEBHOOKS_VERSION} {LOCKED}"
IS_THERE = "SELECT 1 FROM webhooks WHERE id = ? AND group_id || '' = ?"
_COUNT = "SELECT count(*) FROM webhooks WHERE group_id = ? AND deleted_at IS NULL"
_ADD = f"""
INSERT INTO webhooks ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_ADD_LANE = f"INSERT INTO lanes (webhook_id, due_at, hold_until, enabled_at) VALUES (?, {NEVER_MS}, ?, ?)"

# All columns but the key, if nobody has written it since it was read.
_SAVE = """
UPDATE webhooks SET name = ?, url = ?, enabled = ?, events = ?, headers = ?, schedule = ?, max_attempts = ?,
       timeout_seconds = ?, max_concurrency = ?, rate_limit_per_second = ?, ignore_origins = ?, secrets = ?,
       preserve_task_order = ?, disabled_reason = ?, enabled_at = ?, config_version = ?, created_at = ?, updated_at = ?
WHERE id = ? AND group_id = ? AND deleted_at IS NULL AND config_version = ?
"""
# What signs nothing any more is not kept.
_DELETE = """
UPDATE webhooks SET deleted_at = ?, headers = '', secrets = ''
WHERE id = ? AND group_id = ? AND deleted_at IS NULL
"""
# What its receiver had done to it no longer counts.
DISABLE = """
UPDATE webhooks SET enabled = 0, disabled_reason = ?, config_version = config_version + 1, updated_at = ?
WHERE id = ? AND enabled = 1 AND coalesce(deleted_at, 0) = 0 AND enabled_at <= ?
"""
_HOLD = f"UPDATE lanes SET hold_until = {NEVER_MS} WHERE webhook_id = ?"
# Of an enabled webhook that was so before, the lane is held as its owner wants it.
_FREE = f"""
UPDATE lanes SET hold_until = 0, enabled_at = ?, streak = 0, failing_since = NULL, suspended_at = NULL, draining = 0
WHERE webhook_id = ? AND hold_until = {NEVER_MS}
"""
# Each write of a webhook pokes its lane: whoever has it looks again.
_POKE = """
UPDATE lanes SET pokes = pokes + 1, due_at = CASE WHEN due_at > ? THEN ? ELSE due_at END WHERE webhook_id = ?
"""

# Not `deleted_at IS NULL`: a group's index would do for that, and be walked for what is to be looked up by id.
_SERVED = "enabled = 1 AND coalesce(deleted_at, 0) = 0"
SERVED = f"{_SELECT} AND id {IN_LIST} AND {_SERVED}"
LANE_MARKS = f"""
SELECT w.id, w.config_version, l.pokes FROM webhooks w JOIN lanes l ON l.webhook_id = w.id
WHERE w.id {IN_LIST} AND {_SERVED}
"""


class SqlWebhooks:
    """Implements `ports.WebhookStore`, and what the engine asks about webhooks."""

    _database: Database
    _box: SecretBox

    async def subscriptions(self, group_id: str) -> Subscriptions:
        return await self._database.read(_subscriptions(group_id))

    async def webhook(self, group_id: str, webhook_id: str) -> Webhook | None:
        return await self._database.read(_webhook(self._box, group_id, webhook_id))

    async def webhooks(self, group_id: str, *, limit: int, before: str | None) -> Page[Webhook]:
        return await self._database.read(_webhooks(self._box, group_id, limit, before))

    async def add_webhook(self, group_id: str, webhook: Webhook, *, quota: int) -> Saved:
        return await self._database.write(_add(group_id, _row(self._box, webhook), quota))

    async def save_webhook(self, group_id: str, webhook: Webhook) -> Saved:
        return await self._database.write(_save(group_id, webhook, _row(self._box, webhook)))

    async def delete_webhook(self, group_id: str, webhook_id: str, *, now: datetime) -> Saved:
        return await self._database.write(_delete(group_id, webhook_id, to_ms(now)))

    async def lane_marks(self, webhook_ids: Sequence[str]) -> Mapping[str, LaneMark]:
        return await self._database.read_lanes(_lane_marks(webhook_ids))

    async def webhooks_to_serve(self, webhook_ids: Sequence[str]) -> Mapping[str, Webhook | None]:
        return await self._database.read_lanes(_webhooks_to_serve(self._box, webhook_ids))


def _subscriptions(group_id: str) -> Script[Subscriptions]:
    # The version first: items newer than it make an emit match again, items older than it would be believed.
    version = yield fetch(_WEBHOOKS_VERSION, (group_id,))
    rows = yield fetch(_SUBSCRIPTIONS, (group_id,))
    items = tuple(
        Subscription(webhook_id, bool(enabled), from_words(events), from_words(ignored), max_attempts)
        for webhook_id, enabled, events, ignored, max_attempts in rows
    )
    return Subscriptions(version[0][0] if version else 0, items)


def _webhook(box: SecretBox, group_id: str, webhook_id: str) -> Script[Webhook | None]:
    rows = yield fetch(WEBHOOK, (webhook_id, group_id))
    return _webhook_from(box, rows[0]) if rows else None


def _webhooks(box: SecretBox, group_id: str, limit: int, before: str | None) -> Script[Page[Webhook]]:
    rows = yield fetch(WEBHOOKS, (group_id, before or AFTER_ALL, limit + 1))
    return page_of([_webhook_from(box, row) for row in rows], limit)


def _lane_marks(webhook_ids: Sequence[str]) -> Script[Mapping[str, LaneMark]]:
    rows = yield fetch(LANE_MARKS, (listed(webhook_ids),))
    return {webhook_id: LaneMark(config_version, pokes) for webhook_id, config_version, pokes in rows}


def _webhooks_to_serve(box: SecretBox, webhook_ids: Sequence[str]) -> Script[Mapping[str, Webhook | None]]:
    rows = yield fetch(SERVED, (listed(webhook_ids),))
    served: dict[str, Webhook | None] = {}
    for row in rows:
        # One row that was damaged at rest stops its own lane, not the two hundred it is read with.
        try:
            served[row[0]] = _webhook_from(box, row)
        except Exception as error:  # noqa: BLE001  # whatever is wrong with it
            served[row[0]] = None
            log.error("webhook.damaged", webhook_id=row[0], group_id=row[1], reason=type(error).__name__)  # noqa: TRY400  # no bug: no trace
    return served


def _add(group_id: str, row: Row, quota: int) -> Script[Saved]:
    yield fetch(_LOCK_GROUP, (group_id,))  # of two who add the last one, the second is to count the first
    webhook_id, enabled = row[0], row[4]
    if (yield fetch(IS_THERE, (webhook_id, group_id))):
        return Saved.DONE
    [(live,)] = yield fetch(_COUNT, (group_id,))
    if live >= quota:
        return Saved.QUOTA_EXCEEDED
    yield execute(_ADD, row)
    yield execute(_ADD_LANE, (webhook_id, 0 if enabled else NEVER_MS, row[16]))
    yield from _raise_version(group_id, webhook_id, _asked_for(row))
    return Saved.DONE


def _save(group_id: str, webhook: Webhook, row: Row) -> Script[Saved]:
    saved = yield execute(_SAVE, (*row[2:], webhook.id, group_id, webhook.config_version - 1))
    if not saved:
        return Saved.STALE
    now = to_ms(webhook.updated_at)
    if webhook.enabled:
        yield execute(_FREE, (to_ms(webhook.enabled_at), webhook.id))
    else:
        yield execute(_HOLD, (webhook.id,))
    yield execute(_POKE, (now, now, webhook.id))
    yield from _raise_version(group_id, webhook.id, _asked_for(row))
    return Saved.DONE


def _delete(group_id: str, webhook_id: str, now: int) -> Script[Saved]:
    deleted = yield execute(_DELETE, (now, webhook_id, group_id))
    if not deleted:
        return Saved.STALE
    yield execute(_HOLD, (webhook_id,))
    yield execute(_POKE, (now, now, webhook_id))
    yield from _raise_version(group_id, webhook_id, _DELETED)
    return Saved.DONE


def disable(group_id: str, webhook_id: str, reason: DisabledReason, *, started_at: int, now: int) -> Script[bool]:
    """Disable a webhook, unless it was enabled after an attempt of that moment; False when nothing changed."""
    if not (yield execute(DISABLE, (reason.value, now, webhook_id, started_at))):
        return False
    yield execute(_HOLD, (webhook_id,))
    [(_, events, ignore_origins, _)] = yield fetch(LAST_REVISION, (group_id, webhook_id))
    yield from _raise_version(group_id, webhook_id, (0, events, ignore_origins, 0))
    return True


def _raise_version(group_id: str, webhook_id: str, asked: Row) -> Script[None]:
    """Raise the version of the group's webhooks; remember from which one on this webhook asks for something else."""
    yield execute(_RAISE_WEBHOOKS_VERSION, (group_id,))
    last = yield fetch(LAST_REVISION, (group_id, webhook_id))
    if not last or tuple(last[0]) != asked:
        yield execute(_ADD_REVISION, (webhook_id, *asked, group_id))


def _asked_for(row: Row) -> Row:
    enabled, events, ignore_origins = row[4], row[5], row[12]
    return enabled, events, ignore_origins, 0


# --- rows ----------------------------------------------------------------------------------------------------


def _row(box: SecretBox, webhook: Webhook) -> Row:
    return (
        webhook.id,
        webhook.group_id,
        webhook.name,
        webhook.target.url,
        int(webhook.enabled),
        to_words(webhook.events),
        sealed_headers(box, webhook),
        json.dumps(webhook.policy.schedule),
        webhook.policy.max_attempts,
        webhook.timeout_seconds,
        webhook.max_concurrency,
        webhook.rate_limit_per_second,
        to_words(webhook.ignore_origins),
        sealed_secrets(box, webhook),
        int(webhook.preserve_task_order),
        webhook.disabled_reason and webhook.disabled_reason.value,
        to_ms(webhook.enabled_at),
        webhook.config_version,
        to_ms(webhook.created_at),
        to_ms(webhook.updated_at),
    )


def _webhook_from(box: SecretBox, row: Row) -> Webhook:
    webhook_id, group_id = row[:2]
    return Webhook(
        id=webhook_id,
        group_id=group_id,
        name=row[2],
        target=target_of(row[3]),
        enabled=bool(row[4]),
        events=from_words(row[5]),
        headers=headers_from(box, row[6], webhook_id, group_id),
        policy=RetryPolicy(tuple(json.loads(row[7]))),
        timeout_seconds=row[9],
        max_concurrency=row[10],
        rate_limit_per_second=row[11],
        ignore_origins=from_words(row[12]),
        secrets=secrets_from(box, row[13], webhook_id, group_id),
        preserve_task_order=bool(row[14]),
        disabled_reason=None if row[15] is None else DisabledReason(row[15]),
        enabled_at=from_ms(row[16]),
        config_version=row[17],
        created_at=from_ms(row[18]),
        updated_at=from_ms(row[19]),
        condition=condition_from(row[20:]),
    )
