"""What a group's webhooks ask for, in MongoDB, as those read it who match events against it."""

from gatepost.adapters.storage.mongo_driver import Mongo, fetch
from gatepost.adapters.storage.mongo_webhook_documents import SUBSCRIPTION_FIELDS, subscription_from_document
from gatepost.ports import Subscriptions

MOST_SUBSCRIPTIONS = 10_000  # quotas are far below
_MOST_ROUNDS = 5  # of reading them while others edit; an emit matched against the last is refused, and matches again


async def subscriptions_of(mongo: Mongo, group_id: str) -> Subscriptions:
    # The version first: items newer than it make an emit match again, items older than it would be believed. Read once
    # more after them, it tells whether they are all of one version.
    asked = {"group_id": group_id, "deleted": 0}
    version = await webhooks_version_of(mongo, group_id)
    rounds = 0
    while True:
        found = await fetch(mongo.webhooks.find(asked, SUBSCRIPTION_FIELDS).sort("id", 1).limit(MOST_SUBSCRIPTIONS))
        after, rounds = await webhooks_version_of(mongo, group_id), rounds + 1
        if after == version or rounds == _MOST_ROUNDS:
            return Subscriptions(version, tuple(subscription_from_document(each) for each in found))
        version = after


async def webhooks_version_of(mongo: Mongo, group_id: str) -> int:
    """Return the version of a group's subscriptions; 0 until it has had a webhook."""
    group = await mongo.groups.find_one({"_id": group_id}, {"webhooks_version": 1})
    return group["webhooks_version"] if group else 0
