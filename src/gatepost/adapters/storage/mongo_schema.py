"""What the database is made of: its indexes, its version, and the check of the key that seals it.

Only `_id` is unique, a text that the writer knows beforehand: `group/task`, `group/event`, `group/task/version`, the id
itself, or what nobody else may have, as a group's name. That holds on a sharded cluster too, as `_id` names the shard
key's fields, or goes with one value of them only. `id` repeats the plain id, for indexes and cursors: the
wire-compatible stand-in takes no `_id` in a compound one, and makes no index of `id` alone.

Shard keys, for the collections that grow without end (the others are small, and stay on one shard):

    tasks, events   group_id, id                 a group's lists, its relays and its repeats ask one shard
    history         group_id, task_id, version
    deliveries      webhook_id, id               a lane's reads and the recording of its outcomes ask one shard

What writes one document of these names the whole shard key, what reads or writes several its first field. Asked of all
shards are only the sweep, retention's walk through deliveries and its question whether an event has any left, and what
people ask about deliveries of several webhooks.
"""

from collections.abc import Mapping, Sequence

from pymongo import IndexModel

from gatepost.adapters.secretbox import SecretBox
from gatepost.adapters.storage.key_check import check_key, sealed_key_check
from gatepost.adapters.storage.mongo_driver import Document, Mongo
from gatepost.domain.errors import StoreUnavailable

SCHEMA_VERSION = 1

_SCHEMA = {"_id": "schema"}

# Each with the query that it serves. All end in what the query ranges over or sorts by. Descending lists walk them
# backwards.
INDEXES: Mapping[str, Sequence[tuple[str, ...]]] = {
    "memberships": (("user_id", "group_id"),),  # a person's groups
    "api_keys": (("group_id", "revoked_at", "id"),),  # a group's keys
    "users": (
        ("user_id",),  # one person, several, or all
        ("is_installation_owner", "user_id"),  # who owns the installation
    ),
    "sessions": (
        ("user_id", "id"),  # a person's sessions
        ("last_used_at",),  # those that have run out
    ),
    "requests": (("at",),),  # those to be forgotten
    "tasks": (
        ("group_id", "id"),  # the shard key
        ("group_id", "deleted", "id"),  # a group's tasks
        ("group_id", "deleted", "status", "id"),  # those of one status
        ("group_id", "deleted", "assigned_to", "id"),  # those of one person, whatever else is asked
        ("lock",),  # those that a swap holds, in all groups: few at a time
        ("pending_events",),  # the sweep: what somebody left in an outbox
    ),
    "history": (("group_id", "task_id", "version"),),  # a task's history
    "swaps": (
        ("group_id", "id"),  # a group's swaps
        ("group_id", "status", "id"),  # those of one status
        ("pending_events",),  # the sweep, as with tasks
    ),
    "events": (
        ("group_id", "id"),  # the shard key; events are read by `_id`
        ("group_id", "order"),  # a group's events
        ("group_id", "event", "order"),  # those of one type
        ("group_id", "task_ids", "order"),  # what is about a task
        ("pending_events",),  # the sweep, as with tasks
    ),
    "webhooks": (
        ("group_id", "deleted", "id"),  # a group's webhooks, and what they ask for
        ("deleted", "id"),  # the sweep: what deleted webhooks are owed
        ("told",),  # the sweep: writes whose group and lane have not heard of them
    ),
    "webhook_revisions": (("group_id", "from_version"),),  # what a group's webhooks asked for at a version
    "lanes": (
        ("free", "due_at", "hold_until"),  # leasing what nobody has; the next due; shares
        ("free", "lease_until"),  # leases that ended, or are absurd
        ("owner", "free"),  # an owner that leaves, and its share
    ),
    "workers": (("seen_at",),),  # who is alive
    "deliveries": (
        ("webhook_id", "open", "next_attempt_at", "id"),  # a lane: reading, releasing, burying, poking
        ("webhook_id", "open", "places"),  # what comes before, in order
        ("webhook_id", "id"),  # the list of a webhook
        ("group_id", "id"),  # the list of a group
        ("group_id", "status", "id"),  # its dead letters, say
        ("group_id", "task_ids", "id"),  # what is about a task
        ("group_id", "event_id", "id"),  # whom an event went to; retention: whether anybody is left
    ),
    "replay_jobs": (
        ("group_id", "webhook_id", "id"),  # a webhook's jobs
        ("active", "lease_until"),  # those that engines look after
    ),
    "stats": (
        ("webhook_id", "bucket_at"),  # a webhook's buckets
        ("bucket_at",),  # those to let go of
    ),
}


async def make_schema(mongo: Mongo, box: SecretBox) -> None:
    """Make what is missing; whoever does the same at the same moment makes the same.

    Raises: StoreUnavailable, when the database is newer than this version, or sealed with another key.
    """
    if (found := await mongo.meta.find_one(_SCHEMA)) is not None:
        _check(found, box)
    for name, indexes in INDEXES.items():
        await mongo.database[name].create_indexes([IndexModel([(field, 1) for field in each]) for each in indexes])
    # The last step: a database that has it has its indexes.
    made = {"$setOnInsert": {"sealed": sealed_key_check(box)}, "$set": {"version": SCHEMA_VERSION}}
    await mongo.meta.update_one(_SCHEMA, made, upsert=True)
    await check_schema(mongo, box)


async def check_schema(mongo: Mongo, box: SecretBox) -> None:
    """Raises: StoreUnavailable, with a sentence for the operator."""
    found = await mongo.meta.find_one(_SCHEMA)
    if found is None:
        raise StoreUnavailable(
            f"the database {mongo.database.name} was not made ready for Gatepost: run `gatepost migrate`"
        )
    _check(found, box)
    if found["version"] < SCHEMA_VERSION:
        raise StoreUnavailable("the database is of an older version: run `gatepost migrate` with this one")


def _check(found: Document, box: SecretBox) -> None:
    if found["version"] > SCHEMA_VERSION:
        raise StoreUnavailable(
            f"the database is newer than this Gatepost: it has schema {found['version']}, and this version knows"
            f" {SCHEMA_VERSION}; upgrade Gatepost, or restore the backup made before the upgrade"
        )
    check_key(found["sealed"], box)
