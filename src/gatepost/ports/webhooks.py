"""Webhooks and their deliveries, as people see them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from gatepost.domain.deliveries import Attempt, Delivery, Status
from gatepost.domain.events import Event
from gatepost.domain.webhooks import Subscription, Webhook
from gatepost.ports.results import Page, Saved


@dataclass(frozen=True, slots=True)
class Subscriptions:
    """What a group's webhooks ask for; `version` changes with every write of any of them."""

    version: int
    items: tuple[Subscription, ...]


@dataclass(frozen=True, slots=True)
class DeliveryQuery:
    """Which deliveries to list; None asks nothing. `created_from` is inclusive, `created_to` exclusive."""

    webhook_id: str | None = None
    status: Status | None = None
    event: str | None = None
    task_id: str | None = None
    created_from: datetime | None = None
    created_to: datetime | None = None


@dataclass(frozen=True, slots=True)
class DeliveryDetail:
    """A delivery with all that is kept of it; the event is None once its bytes are gone."""

    delivery: Delivery
    event: Event | None
    attempts: Sequence[Attempt]


class WebhookStore(Protocol):
    """Webhooks as people configure them. Header values and secrets are sealed at rest."""

    async def subscriptions(self, group_id: str) -> Subscriptions:
        """Return what the group's webhooks ask for, disabled ones too, deleted ones not."""

    async def webhook(self, group_id: str, webhook_id: str) -> Webhook | None:
        """Return a webhook of this group that is not deleted."""

    async def webhooks(self, group_id: str, *, limit: int, before: str | None) -> Page[Webhook]:
        """Return the group's webhooks that are not deleted, newest first."""

    async def add_webhook(self, group_id: str, webhook: Webhook, *, quota: int) -> Saved:
        """Add a webhook and its lane: DONE, also when one of this id was added before; QUOTA_EXCEEDED when the group
        has `quota` live ones."""

    async def save_webhook(self, group_id: str, webhook: Webhook) -> Saved:
        """Write an edited webhook: DONE, or STALE unless the stored version is one below `config_version`.

        Its lane is held while it is disabled, freed when it is enabled, and poked.
        """

    async def delete_webhook(self, group_id: str, webhook_id: str, *, now: datetime) -> Saved:
        """Delete a webhook softly: DONE, or STALE when there is none. Its lane is held until the sweep buries
        what it was still owed."""


class DeliveryLog(Protocol):
    """Deliveries as people look at them."""

    async def deliveries(
        self, group_id: str, query: DeliveryQuery, *, limit: int, before: str | None
    ) -> Page[Delivery]:
        """Return the group's deliveries, newest first."""

    async def delivery(self, group_id: str, webhook_id: str, delivery_id: str) -> DeliveryDetail | None:
        """Return a delivery of this webhook of this group, its attempts in the order they were made."""

    async def add_replay(self, group_id: str, delivery: Delivery) -> Saved:
        """Add a new delivery of a stored event: DONE, also when one of this id was added before; STALE when the event
        is gone. Pokes and hands over."""

    async def discard_backlog(self, group_id: str, webhook_id: str, *, now: datetime) -> int:
        """Make dead, as discarded, what the webhook is owed by now; return how many. In steps, each its own write.

        `config_version` rises with the first, and once more when an owner may have read some of it since: what was read
        at the version that it ends with was not discarded. What is under way and then accepted counts as delivered all
        the same.
        """

    async def add_test(self, group_id: str, event: Event, delivery: Delivery, attempt: Attempt) -> None:
        """Write a test send that is over: its event, its finished delivery and its one attempt; nothing happens when
        they are there already."""
