"""Attempts in MongoDB: they ride in the document of their delivery, so that one write keeps both.

The token of a lane is read before each batch, and a lane that was lost records nothing. But no write of one document
can be made to depend on another, so the lane can be lost between that and the write. What holds then:

* At most one outcome for (delivery, number): the write that keeps an attempt compares `attempt_count` with the one
  before it and raises it. Of two owners that record the same number, one matches.
* The outcome of the owner before may be the one that is kept, if its write comes first. It is a true outcome: it sent
  the request while its lease was good (a request leaves within 80 % of it). The new owner may have read the delivery
  before that and send it again, as after any loss of a lane, and its outcome counts as recorded already.

* An amendment takes the place of an `internal_error` only, which is what is written ahead: it does not name the one it
  amends. So it spares what another owner has recorded under its number, unless that is an `internal_error` as well.

To stamp each delivery with the token when it is read would close that, for a write per read of a lane. It is left open.

What an attempt means for others, operator events and the end of its webhook, is written before it, under ids that make
that happen once; what its lane is to remember is written after it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from bson import ObjectId
from pymongo import UpdateOne
from pymongo.errors import BulkWriteError

from gatepost.adapters.storage.mongo_disabling import disable
from gatepost.adapters.storage.mongo_documents import (
    DISCARDED,
    EXHAUSTED,
    OPEN,
    attempt_document,
    deliveries_key,
    progress_fields,
    same,
)
from gatepost.adapters.storage.mongo_driver import (
    NOT_BSON,
    Document,
    Mongo,
    Unstorable,
    error_codes,
    fetch,
    parts_of,
    said_by,
    several,
)
from gatepost.adapters.storage.mongo_operator_events import emit_operator_events
from gatepost.adapters.storage.mongo_probes import probes_of
from gatepost.adapters.storage.mongo_stats import count
from gatepost.adapters.storage.mongo_webhook_documents import CONDITION_FIELDS, condition_fields
from gatepost.adapters.storage.recording import PROBES_KEPT, without_response
from gatepost.adapters.storage.rows import NEVER_MS, to_ms
from gatepost.domain.deliveries import Status
from gatepost.domain.errors import StoreUnavailable
from gatepost.domain.outcomes import ErrorClass
from gatepost.ports import LaneOutcomes, Settled

_AWAITED_FIELDS = dict.fromkeys(("attempt_count", "open", "last_error_class"), 1)
_LANE_FIELDS = dict.fromkeys(("token", "unclean", "window", "hold_until", "enabled_at"), 1) | CONDITION_FIELDS

# What a server says of the document it was given, and would say of it for ever. Whatever else it says, known or not, is
# about itself, and another time it may take the same document.
# Source: error_codes.yml of the server: BadValue, InvalidLength, InvalidBSON, Overflow, PathNotViable,
# DollarPrefixedFieldName, EmptyFieldName, DottedFieldName, DocumentValidationFailure, and sizes by several names.
_OF_THE_DOCUMENT = frozenset({2, 15, 16, 22, 28, 52, 56, 57, 121, 357, 378, 10334, 17419, 17420})


class MongoAttempts:
    """Implements the recording of `ports.LaneStore`."""

    _mongo: Mongo

    async def record_attempts(self, batch: Sequence[LaneOutcomes]) -> set[str]:
        self._mongo.hand_over.recorded({each.delivery.id for outcomes in batch for each in outcomes.settled})
        return await self._mongo.write_lanes(_record(self._mongo, batch))


async def _record(mongo: Mongo, batch: Sequence[LaneOutcomes]) -> set[str]:
    lanes = await _lanes(mongo, batch)
    standing, lost = _parted(batch, lanes)
    try:
        await _write([each for outcomes in standing for each in outcomes.settled], mongo)
    except Unstorable:
        lost |= await _record_singly(mongo, standing)
    await _note(mongo, standing, lanes)
    return lost


async def _lanes(mongo: Mongo, batch: Sequence[LaneOutcomes]) -> dict[str, Document]:
    lanes: dict[str, Document] = {}
    for part in parts_of({outcomes.webhook_id for outcomes in batch}):
        found = await fetch(mongo.lanes.find({"_id": {"$in": part}}, _LANE_FIELDS))
        lanes |= {lane["_id"]: lane for lane in found}
    return lanes


def _parted(batch: Sequence[LaneOutcomes], lanes: Mapping[str, Document]) -> tuple[list[LaneOutcomes], set[str]]:
    """Return what may be recorded, and the lanes that were lost."""
    tokens = {webhook_id: lane["token"] for webhook_id, lane in lanes.items()}
    standing = [outcomes for outcomes in batch if tokens.get(outcomes.webhook_id) == outcomes.token]
    return standing, {outcomes.webhook_id for outcomes in batch if tokens.get(outcomes.webhook_id) != outcomes.token}


async def _record_singly(mongo: Mongo, batch: Sequence[LaneOutcomes]) -> set[str]:
    """Write one by one, so that what the store cannot hold is written without its response."""
    lost: set[str] = set()
    for outcomes in batch:
        for settled in outcomes.settled:
            standing, newly_lost = _parted([outcomes], await _lanes(mongo, [outcomes]))
            lost |= newly_lost
            if not standing:
                break
            try:
                await _write([settled], mongo)
            except Unstorable:
                await _write_bare(settled, mongo)
    return lost


async def _write_bare(settled: Settled, mongo: Mongo) -> None:
    try:
        await _write([without_response(settled)], mongo)
    except Unstorable as error:  # nothing in it is the receiver's: the server is wrong, and may get over it
        raise StoreUnavailable("the MongoDB database takes an outcome not even without its response") from error


async def _write(settled: Iterable[Settled], mongo: Mongo) -> None:
    """Raises: Unstorable, for one of them; the others may have been written, and may be written again."""
    for part in _rounds(settled):
        await _bring_about(mongo, part)
        probes = await _probes(mongo, part)
        stamp = str(ObjectId())
        try:
            updates = [_update(each, probes.get(each.delivery.id, []), stamp) for each in part]
            written = await mongo.deliveries.bulk_write(updates, ordered=False)
        except (*NOT_BSON, BulkWriteError) as error:
            await count(mongo, await _moved(mongo, part, stamp))  # the others are not moved by the next try
            if isinstance(error, BulkWriteError) and not _is_of_the_document(error):
                raise
            raise Unstorable(said_by(error)) from error
        is_whole = written.matched_count == len(part)
        moved = part if is_whole else await _moved(mongo, part, stamp)
        await count(mongo, [each for each in moved if each.progress is not None])


def _is_of_the_document(error: BulkWriteError) -> bool:
    refused = set(error_codes(error))
    return bool(refused) and refused <= _OF_THE_DOCUMENT and not error.details.get("writeConcernErrors")


async def _moved(mongo: Mongo, settled: Sequence[Settled], stamp: str) -> list[Settled]:
    """Return what a write has recorded, which its answer does not tell, but for probes that failed.

    What has been recorded of the same deliveries since is missing.
    """
    recorded = {each["_id"] for each in await _stored(mongo, settled, {"_id": 1}, recorded_by=same(stamp))}
    return [each for each in settled if each.delivery.id in recorded]


async def _stored(mongo: Mongo, settled: Iterable[Settled], fields: Document, **asked: Any) -> list[Document]:
    """Return the deliveries of attempts, each at most once, as far as they are as asked."""
    webhooks = _webhooks_of(settled)
    found: list[Document] = []
    for part in parts_of(webhooks):
        key = deliveries_key({each: webhooks[each] for each in part})
        found += await fetch(mongo.deliveries.find(key | asked, fields))
    return found


def _webhooks_of(settled: Iterable[Settled]) -> dict[str, str]:
    return {each.delivery.id: each.delivery.webhook_id for each in settled}


def _rounds(settled: Iterable[Settled]) -> list[list[Settled]]:
    """Part a batch so that each part has a delivery once: a part is written in any order."""
    rounds: list[list[Settled]] = []
    earlier: dict[str, int] = {}
    for each in settled:
        number = earlier.get(each.delivery.id, 0)
        earlier[each.delivery.id] = number + 1
        if number == len(rounds):
            rounds.append([])
        rounds[number].append(each)
    return rounds


async def _bring_about(mongo: Mongo, settled: Sequence[Settled]) -> None:
    """Write what attempts mean for others, before they are recorded: done twice it does no harm."""
    movable = await _movable(mongo, [each for each in settled if each.given_up])
    told = [
        (event, each.delivery.webhook_id)
        for each in settled
        for event in (each.given_up if each.delivery.id in movable else None, each.of_health)
        if event is not None
    ]
    await emit_operator_events(mongo, told)
    # Of a webhook's attempts the latest decides: if it began before the webhook was enabled again, they all did.
    by_age = sorted(settled, key=lambda each: each.attempt.started_at)
    latest = {each.delivery.webhook_id: each for each in by_age if each.disabling}
    await several(lambda each: disable(mongo, each), list(latest.values()))


async def _movable(mongo: Mongo, settled: Sequence[Settled]) -> set[str]:
    """Return which deliveries their attempts are going to move: what was discarded before, say, is not given up."""
    if not settled:
        return set()
    awaited = {each.delivery.id: _awaited(each) for each in settled}
    stored = await _stored(mongo, settled, _AWAITED_FIELDS)
    return {
        each["_id"] for each in stored if all(each[field] in values for field, values in awaited[each["_id"]].items())
    }


async def _probes(mongo: Mongo, settled: Iterable[Settled]) -> dict[str, list[str]]:
    """Return the ids of the failed probes that deliveries have, the newest first, where there is one more."""
    probed = [each for each in settled if each.progress is None]
    return await probes_of(mongo, _webhooks_of(probed)) if probed else {}


def _update(settled: Settled, probes: Sequence[str], stamp: str) -> UpdateOne:
    """Return what records an attempt of a delivery that has these failed probes.

    Raises: UnicodeEncodeError, for half a surrogate pair in a header.
    """
    asked, attempt = _awaiting(settled), settled.attempt
    if settled.progress is None:  # a probe that failed
        change: Document = {"$set": {f"probes.{attempt.id}": attempt_document(attempt)}}
        if attempt.id not in probes and (oldest := probes[PROBES_KEPT - 1 :]):
            change["$unset"] = {f"probes.{each}": "" for each in oldest}
        return UpdateOne(asked, change)
    place = {f"attempts.{attempt.number}": attempt_document(attempt)}
    return UpdateOne(asked, {"$set": place | progress_fields(settled.progress) | {"recorded_by": stamp}})


def _awaiting(settled: Settled) -> Document:
    """Return what finds the delivery of an attempt as long as that can be recorded."""
    delivery = settled.delivery
    key = {"_id": delivery.id, "webhook_id": delivery.webhook_id, "id": delivery.id}
    return key | {field: {"$in": values} for field, values in _awaited(settled).items()}


def _awaited(settled: Settled) -> dict[str, list[Any]]:
    """Return what a delivery has to be for an attempt of it to be recorded: of each field the values that are right."""
    delivers = settled.progress is not None and settled.progress.status is Status.DELIVERED
    number, open_to = settled.attempt.number, [OPEN, DISCARDED] if delivers else [OPEN]
    if not settled.amends:
        return {"attempt_count": [number - 1], "open": open_to}
    # The attempt written ahead of sending may have been the last one: what it finished is open to its amendment, once.
    # Nor does that take the place of what another owner knows better.
    written_ahead = [ErrorClass.INTERNAL_ERROR.value]
    return {"attempt_count": [number], "open": [*open_to, EXHAUSTED], "last_error_class": written_ahead}


# --- lanes ---------------------------------------------------------------------------------------------------


async def _note(mongo: Mongo, standing: Sequence[LaneOutcomes], lanes: Mapping[str, Document]) -> None:
    """Note that the owner of a lane lives, and what it has come to, where that is news."""
    noted = [each for outcomes in standing for each in _notes(outcomes, lanes[outcomes.webhook_id])]
    if noted:
        await mongo.lanes.bulk_write(noted, ordered=False)


def _notes(outcomes: LaneOutcomes, lane: Document) -> Iterator[UpdateOne]:
    ours = {"_id": outcomes.webhook_id, "token": outcomes.token}
    lives = {"unclean": 0, "window": outcomes.window}
    if _is_news(lives, lane):
        yield UpdateOne(ours, {"$set": lives})
    if outcomes.enabled_at is None:
        return
    same_epoch = {**ours, "enabled_at": to_ms(outcomes.enabled_at)}  # the webhook was not enabled again since
    condition = condition_fields(outcomes.condition)
    if _is_news(condition, lane):
        yield UpdateOne(same_epoch, {"$set": condition})
    held = {"hold_until": 0 if outcomes.held_until is None else to_ms(outcomes.held_until)}
    if _is_news(held, lane):
        yield UpdateOne(same_epoch | {"hold_until": {"$lt": NEVER_MS}}, {"$set": held})  # nor disabled


def _is_news(fields: Document, lane: Document) -> bool:
    return any(lane[field] != value for field, value in fields.items())
