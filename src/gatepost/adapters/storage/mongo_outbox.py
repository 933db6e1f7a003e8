"""The outbox: how a change of one document comes to have its event, its history and its deliveries.

MongoDB changes one document at a time. So the document that a change is about takes what the change emits with it, in
`outbox.<event id>`: the event, the line of history, and the deliveries with their ids already drawn. That one write is
the commit. What follows copies it to where it is read, and anybody may do it, any number of times, at the same moment:
every copy is an insert under an `_id` that is known, and one that is there is done.

Copied are: event, history, deliveries; then the lanes are poked; then the entry is taken out of the outbox. Whoever
dies in between leaves `pending_events` above 0, which the next change of the same document, its repeat, or the sweep of
any process finds. Entries go in the order of their versions: no delivery is in the store before those of the versions
before it.

The event's document is also what answers a repeat: an event that is in the outbox, or in `events`, was committed. It is
there before its entry leaves the outbox, so there is no moment at which it is in neither.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from bson import encode
from pymongo import UpdateOne

from gatepost.adapters.storage.mongo_documents import delivery_document, event_document, history_document, key_of
from gatepost.adapters.storage.mongo_driver import Document, Mongo, insert_new
from gatepost.domain.deliveries import Delivery
from gatepost.domain.tasks import TaskChange

# What may wait in one document, whose own limit is 16 MiB.
MOST_PENDING_EVENTS = 50
MOST_PENDING_BYTES = 1024 * 1024

OUTBOX_FIELDS = {"_id": 1, "group_id": 1, "id": 1, "version": 1, "pending_events": 1, "pending_bytes": 1, "outbox": 1}


def entry_of(change: TaskChange, deliveries: Sequence[Delivery]) -> Document:
    """Return what a change puts into the outbox of its task."""
    entry: Document = {
        "version": change.task.version,
        "event": event_document(change.event),
        "history": history_document(change.task.group_id, change.task.id, change.history),
        "deliveries": [delivery_document(each) for each in deliveries],
    }
    return {**entry, "bytes": len(encode(entry))}


def waiting_in(task: Mapping[str, Any]) -> list[Document]:
    """Return the entries of a task's outbox in the order in which they are passed on."""
    return sorted(task["outbox"].values(), key=lambda entry: int(entry["version"]))


async def relay(mongo: Mongo, task: Mapping[str, Any]) -> None:
    """Pass on everything that waits in a task's outbox."""
    for entry in waiting_in(task):
        await insert_new(mongo.events, [entry["event"]])
        await insert_new(mongo.history, [entry["history"]])
        await insert_new(mongo.deliveries, entry["deliveries"])
        await poke(mongo, {each["webhook_id"]: each["next_attempt_at"] for each in entry["deliveries"]})
        await _take_out(mongo, task, entry)


async def _take_out(mongo: Mongo, task: Mapping[str, Any], entry: Mapping[str, Any]) -> None:
    # Of two that pass on the same entry only one finds it still there, so that it is counted down once.
    place = f"outbox.{entry['event']['id']}"
    await mongo.tasks.update_one(
        {**key_of(task["group_id"], task["id"]), f"{place}.version": entry["version"]},
        {"$unset": {place: ""}, "$inc": {"pending_events": -1, "pending_bytes": -entry["bytes"]}},
    )


async def poke(mongo: Mongo, moments: Mapping[str, int]) -> None:
    """Make lanes due at the given moments, unless they are earlier. Only ever lowers `due_at`."""
    if moments:
        pokes = [
            UpdateOne({"_id": webhook_id}, {"$inc": {"pokes": 1}, "$min": {"due_at": moment}})
            for webhook_id, moment in moments.items()
        ]
        await mongo.lanes.bulk_write(pokes, ordered=False)
