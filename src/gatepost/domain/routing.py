"""Why a webhook did or did not get an event."""

from enum import StrEnum

from gatepost.domain.events import Event
from gatepost.domain.operator_events import webhook_told_of
from gatepost.domain.samples import is_sample
from gatepost.domain.webhooks import Subscription, selects


class Verdict(StrEnum):
    QUEUED = "queued"  # it got the event
    NOT_SELECTED = "not_selected"  # its filter does not name it
    ORIGIN_IGNORED = "origin_ignored"
    DISABLED = "disabled"
    CREATED_LATER = "created_later"
    TEST_OF_ANOTHER = "test_of_another"  # a test is sent to one webhook, whatever the others ask for
    ABOUT_ITSELF = "about_itself"  # the event tells of this very webhook
    EDITED_MEANWHILE = "edited_meanwhile"  # it was being written at the moment of the event: either side is right


def verdict(subscription: Subscription | None, event: Event, *, webhook_id: str, has_delivery: bool) -> Verdict:
    """Return why an event did or did not go to a webhook.

    Shape: `subscription` is the webhook's as the event found it, None when there was none yet.
    """
    if has_delivery:
        return Verdict.QUEUED
    if is_sample(event):
        return Verdict.TEST_OF_ANOTHER
    if webhook_told_of(event) == webhook_id:
        return Verdict.ABOUT_ITSELF
    if subscription is None:
        return Verdict.CREATED_LATER
    if not subscription.enabled:
        return Verdict.DISABLED
    if not selects(subscription, event.event):
        return Verdict.NOT_SELECTED
    if event.origin in subscription.ignore_origins:
        return Verdict.ORIGIN_IGNORED
    return Verdict.EDITED_MEANWHILE
