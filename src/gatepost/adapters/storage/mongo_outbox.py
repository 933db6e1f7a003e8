"""The outbox: how a change of one document comes to have its event, its history and its deliveries.

MongoDB changes one document at a time. So the document that a change is about takes what the change emits with it, in
`outbox.<event id>`: the event, the lines of history, and the deliveries with their ids already drawn. That one write is
the commit. What follows copies it to where it is read, and anybody may do it, any number of times, at the same moment:
every copy is an insert under an `_id` that is known, and one that is there is done.

Three kinds of documents emit: a task that changes, a swap that is approved (`mongo_swaps.py`), and an event that comes
of neither, be it published or an operator's: it is there itself and brings its deliveries along.

Copied are: event, history, deliveries; then the lanes are poked; then the tasks that a swap changes are written; then
the entry is taken out of the outbox. Whoever dies in between leaves `pending_events` above 0, which the next change of
the same document, its repeat, or the sweep of any process finds. Entries go in the order of their versions: no delivery
is in the store before those of the versions before it. A swap keeps that order, too: it takes hold of tasks in whose
outbox nothing waits, and lets go of them after all it emits is copied.

The event's document is also what answers a repeat: an event that is in the outbox, or in `events`, was committed. It is
there before its entry leaves the outbox, so there is no moment at which it is in neither.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from bson import encode
from pymongo import UpdateOne

from gatepost.adapters.storage.mongo_documents import delivery_document, event_document, history_document, key_of
from gatepost.adapters.storage.mongo_driver import Collection, Document, Mongo, insert_new, said_by
from gatepost.domain.deliveries import Delivery
from gatepost.domain.events import Event
from gatepost.domain.tasks import HistoryEntry, Task

log = structlog.get_logger()

# What may wait in one document, whose own limit is 16 MiB.
MOST_PENDING_EVENTS = 50
MOST_PENDING_BYTES = 1024 * 1024

_PUBLICATION = "publication"  # what such an entry is called: ids are chosen by others, and may be no names of fields

OUTBOX_FIELDS = {"_id": 1, "group_id": 1, "id": 1, "pending_events": 1, "outbox": 1}


def emitted_entry(event: Event, deliveries: Sequence[Delivery], *, webhooks_version: int) -> Document:
    """Return what an event puts into the outbox of the document that emits it."""
    return {
        "events": [event_document(event, webhooks_version) | NOTHING_WAITS],
        "deliveries": [delivery_document(each, tasks=event.tasks) for each in deliveries],
    }


def emitting_document(event: Event, deliveries: Sequence[Delivery], *, webhooks_version: int) -> Document:
    """Return an event that nothing but itself emits, with its deliveries in its own outbox."""
    document = event_document(event, webhooks_version)
    if not deliveries:
        return document | NOTHING_WAITS
    owed = emitted_entry(event, deliveries, webhooks_version=webhooks_version)["deliveries"]
    return document | waits_in_new(_PUBLICATION, sealed_entry(deliveries=owed))


def history_rows(*lines: tuple[Task, HistoryEntry]) -> list[Document]:
    """Return the lines of history that an entry brings along."""
    return [history_document(task.group_id, task.id, line) for task, line in lines]


def sealed_entry(version: int = 0, **parts: list[Document]) -> Document:
    """Return an entry as it is kept: all its parts, and its size."""
    entry: Document = {"version": version, "events": [], "history": [], "deliveries": [], "tasks": [], **parts}
    return {**entry, "bytes": len(encode(entry))}


def waits_in_new(name: str, entry: Document) -> Document:
    """Return the fields of a new document in which one entry waits."""
    return {"pending_events": 1, "pending_bytes": entry["bytes"], "outbox": {name: entry}}


NOTHING_WAITS: Document = {"pending_events": 0, "pending_bytes": 0, "outbox": {}}


def waits_from_now_on(name: str, entry: Document, **fields: Any) -> Document:
    """Return the update that sets these fields and leaves an entry to be passed on."""
    return {
        "$set": {**fields, f"outbox.{name}": entry},
        "$inc": {"pending_events": 1, "pending_bytes": entry["bytes"]},
    }


def waiting_in(document: Mapping[str, Any]) -> list[Document]:
    """Return the entries of an outbox in the order in which they are passed on."""
    return [entry for _, entry in _named(document)]


async def relayed(mongo: Mongo, collection: Collection, document: Mapping[str, Any]) -> bool:
    """Pass on what waits; say whether that went well. If not, the change is saved all the same: the sweep will."""
    try:
        await relay(mongo, collection, document)
    except Exception as error:  # noqa: BLE001  # nothing may unsay what is committed
        log_not_relayed(collection, document, error)
        return False
    return True


async def relay(mongo: Mongo, collection: Collection, document: Mapping[str, Any]) -> None:
    """Pass on everything that waits in the outbox of a document of this collection."""
    for name, entry in _named(document):
        await insert_new(mongo.events, entry["events"])
        await insert_new(mongo.history, entry["history"])
        await insert_new(mongo.deliveries, entry["deliveries"])
        await poke(mongo, {each["webhook_id"]: each["next_attempt_at"] for each in entry["deliveries"]})
        for task in entry["tasks"]:
            await _write_held(mongo, task)
        await collection.update_one(*_taking_out(document, name, entry))


async def relay_new_events(mongo: Mongo, events: Sequence[Mapping[str, Any]]) -> None:
    """Pass on what waits in events that nothing but themselves emits, of all of them at once."""
    waiting = [(event, *named) for event in events for named in _named(event)]
    if not waiting:
        return
    deliveries = [each for _, _, entry in waiting for each in entry["deliveries"]]
    await insert_new(mongo.deliveries, deliveries)
    moments: dict[str, int] = {}
    for each in deliveries:
        due_at = each["next_attempt_at"]
        moments[each["webhook_id"]] = min(due_at, moments.get(each["webhook_id"], due_at))
    await poke(mongo, moments)
    await mongo.events.bulk_write([UpdateOne(*_taking_out(*each)) for each in waiting], ordered=False)


async def _write_held(mongo: Mongo, task: Mapping[str, Any]) -> None:
    """Write a task as its swap leaves it, and let go of it; somebody may have done so."""
    key = key_of(task["group_id"], task["id"])
    after = {field: value for field, value in task.items() if field not in key}
    before = {**key, "version": task["version"] - 1, "lock": task["lock"]}
    await mongo.tasks.update_one(before, {"$set": {**after, "lock": ""}})


def _taking_out(document: Mapping[str, Any], name: str, entry: Mapping[str, Any]) -> tuple[Document, Document]:
    """Return the update that takes an entry out, and what it compares."""
    # Of two that pass on the same entry only one finds it still there, so that it is counted down once.
    place = f"outbox.{name}"
    return (
        {**key_of(document["group_id"], document["id"]), f"{place}.version": entry["version"]},
        {"$unset": {place: ""}, "$inc": {"pending_events": -1, "pending_bytes": -entry["bytes"]}},
    )


def _named(document: Mapping[str, Any]) -> list[tuple[str, Document]]:
    return sorted(document["outbox"].items(), key=lambda named: int(named[1]["version"]))


async def poke(mongo: Mongo, moments: Mapping[str, int]) -> None:
    """Make lanes due at the given moments, unless they are earlier. Only ever lowers `due_at`."""
    if moments:
        pokes = [
            UpdateOne({"_id": webhook_id}, {"$inc": {"pokes": 1}, "$min": {"due_at": moment}})
            for webhook_id, moment in moments.items()
        ]
        await mongo.lanes.bulk_write(pokes, ordered=False)


def log_not_relayed(collection: Collection, document: Mapping[str, Any], error: Exception) -> None:
    log.warning(
        "outbox.not_relayed",
        of=collection.name,
        id=document["id"],
        group_id=document["group_id"],
        reason=said_by(error),
    )
