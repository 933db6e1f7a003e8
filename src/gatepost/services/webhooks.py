"""What admins do with webhooks. Every edit: load, apply, compare-and-set, and tell the engine."""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from gatepost.domain import webhooks as rules
from gatepost.domain.errors import NotFound, QuotaExceeded, VersionConflict
from gatepost.domain.network import Target, TargetPolicy, check_target, parse_target
from gatepost.domain.signatures import SECRET_KEY_BYTES, make_secret
from gatepost.domain.webhooks import (
    DEFAULTS,
    Secret,
    Webhook,
    merged_headers,
    new_secret,
    watches,
    with_changes,
    with_new_secret,
    with_rotation_finalized,
)
from gatepost.ports import Chance, Clock, Draws, EngineHints, Page, Saved, WebhookStore

MOST_TRIES = 5
QUOTA = 1000  # webhooks of one group
# Of those, how many may ask for events about Gatepost itself: a delivery that is given up is told to each of them, and
# one event may have been owed to all the others.
WATCHERS = 10
NO_SUCH_WEBHOOK = "there is no such webhook in this group"


async def existing(webhooks: WebhookStore, group_id: str, webhook_id: str) -> Webhook:
    """Return one webhook of a group.

    Raises: NotFound.
    """
    webhook = await webhooks.webhook(group_id, webhook_id)
    if webhook is None:
        raise NotFound(NO_SUCH_WEBHOOK)
    return webhook


class Webhooks:
    """The webhooks of all groups.

    Shape:  `fields` are attributes of `Webhook` by name, but `target_url` for its target, and `headers` as a
            mapping in which None keeps the stored value.
    Raises: NotFound, when the group has no such webhook; InvalidInput, naming every field that is wrong.
    """

    def __init__(
        self,
        webhooks: WebhookStore,
        *,
        hints: EngineHints,
        target_policy: TargetPolicy,
        clock: Clock,
        https_only: bool = False,
        quota: int = QUOTA,
        watchers: int = WATCHERS,
    ) -> None:
        self._webhooks = webhooks
        self._hints = hints
        self._target_policy = target_policy
        self._clock = clock
        self._https_only = https_only
        self._quota = quota
        self._watchers = watchers

    async def get(self, group_id: str, webhook_id: str) -> Webhook:
        """Return one webhook."""
        return await existing(self._webhooks, group_id, webhook_id)

    async def list(self, group_id: str, *, limit: int, before: str | None) -> Page[Webhook]:
        """Return the group's webhooks, newest first."""
        return await self._webhooks.webhooks(group_id, limit=limit, before=before)

    async def create(
        self, group_id: str, fields: Mapping[str, Any], *, secret: str | None = None, draws: Draws
    ) -> Webhook:
        """Add a webhook; its newest secret is the one given, or a new one.

        Raises: QuotaExceeded, when the group has as many as it may.
        """
        newest = _secret(secret, draws.chance)
        webhook_id = draws.chance.new_id("wh")
        await self._must_leave_few_watchers(group_id, webhook_id, fields)
        webhook = rules.create(webhook_id, group_id, self._aimed(fields), newest, now=draws.at)
        if await self._webhooks.add_webhook(group_id, webhook, quota=self._quota) is Saved.QUOTA_EXCEEDED:
            raise QuotaExceeded(f"the group has {self._quota} webhooks; delete one first")
        self._hints.webhook_changed(webhook.id)
        return webhook

    async def replace(self, group_id: str, webhook_id: str, fields: Mapping[str, Any]) -> Webhook:
        """Set every field, those not given to their defaults. Header names not given are removed."""
        await self._must_leave_few_watchers(group_id, webhook_id, fields)
        whole = {**DEFAULTS, **fields}
        return await self._edit(
            group_id, webhook_id, lambda stored, now: self._edited(stored, whole, now=now, keep_others=False)
        )

    async def update(self, group_id: str, webhook_id: str, fields: Mapping[str, Any]) -> Webhook:
        """Set the fields given and keep all others. Headers are merged: an empty value deletes its name."""
        await self._must_leave_few_watchers(group_id, webhook_id, fields)
        return await self._edit(
            group_id, webhook_id, lambda stored, now: self._edited(stored, fields, now=now, keep_others=True)
        )

    async def delete(self, group_id: str, webhook_id: str) -> None:
        """Delete a webhook; what it was still owed is buried by the engine."""
        deleted = await self._webhooks.delete_webhook(group_id, webhook_id, now=self._clock.now())
        if deleted is not Saved.DONE:
            raise NotFound(NO_SUCH_WEBHOOK)
        self._hints.webhook_changed(webhook_id)

    async def rotate_secret(
        self, group_id: str, webhook_id: str, *, grace: timedelta, secret: str | None = None, draws: Draws
    ) -> Webhook:
        """Sign with a new secret, and with the one before until the grace ends."""
        newest = _secret(secret, draws.chance)

        def rotated(stored: Webhook) -> Webhook:
            return with_new_secret(stored, newest, grace=grace, now=draws.at)

        def rotated_once(stored: Webhook, _: datetime) -> Webhook:
            # A secret that was drawn is this very request's. One that was given may also have been used long ago.
            known = stored.secrets[:1] if secret else stored.secrets
            return stored if newest.value in [each.value for each in known] else rotated(stored)

        edited = await self._edit(group_id, webhook_id, rotated_once)
        return edited if edited.secrets[0].value == newest.value else rotated(edited)  # as it was then

    async def finalize_rotation(self, group_id: str, webhook_id: str) -> Webhook:
        """Stop signing with any secret but the newest."""
        return await self._edit(group_id, webhook_id, lambda stored, now: with_rotation_finalized(stored, now=now))

    async def _edit(self, group_id: str, webhook_id: str, change: Callable[[Webhook, datetime], Webhook]) -> Webhook:
        for _ in range(MOST_TRIES):
            stored = await self.get(group_id, webhook_id)
            edited = change(stored, self._clock.now())
            if edited is stored:
                return stored
            if await self._webhooks.save_webhook(group_id, edited) is Saved.DONE:
                self._hints.webhook_changed(webhook_id)
                return edited
        raise VersionConflict("the webhook is being edited by others; read it and try again")

    async def _must_leave_few_watchers(self, group_id: str, webhook_id: str, fields: Mapping[str, Any]) -> None:
        """Raises: QuotaExceeded, when one more webhook would ask for events about Gatepost itself than may."""
        if not watches(fields.get("events", ())):
            return
        others = (await self._webhooks.subscriptions(group_id)).items
        watchers = [each for each in others if watches(each.events) and each.webhook_id != webhook_id]
        if len(watchers) >= self._watchers:
            raise QuotaExceeded(f"{self._watchers} webhooks of the group ask for webhook.* or delivery.* already")

    def _edited(self, stored: Webhook, fields: Mapping[str, Any], *, now: datetime, keep_others: bool) -> Webhook:
        changes = self._aimed(fields)
        target = changes.get("target", stored.target)
        changes["headers"] = merged_headers(
            stored.headers,
            fields.get("headers", {}),
            keep_others=keep_others,
            same_origin=target.origin == stored.target.origin,
        )
        return with_changes(stored, now=now, **changes)

    def _aimed(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields as the domain names them: the target in place of its URL."""
        named = {name: value for name, value in fields.items() if name != "target_url"}
        return named | ({"target": self._target(fields["target_url"])} if "target_url" in fields else {})

    def _target(self, url: str) -> Target:
        target = parse_target(url, https_only=self._https_only)
        check_target(target, self._target_policy)
        return target


def _secret(given: str | None, chance: Chance) -> Secret:
    return new_secret(make_secret(chance.key_bytes(SECRET_KEY_BYTES)) if given is None else given)
