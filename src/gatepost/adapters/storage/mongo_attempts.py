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
"""

from collections.abc import Iterable, Mapping, Sequence

from pymongo import UpdateOne
from pymongo.errors import BulkWriteError

from gatepost.adapters.storage.mongo_documents import EXHAUSTED, OPEN, attempt_document, progress_fields
from gatepost.adapters.storage.mongo_driver import (
    NOT_BSON,
    Document,
    Mongo,
    Unstorable,
    error_codes,
    fetch,
    parts_of,
    said_by,
)
from gatepost.adapters.storage.recording import without_response
from gatepost.adapters.storage.rows import to_ms
from gatepost.domain.deliveries import Attempt
from gatepost.domain.errors import StoreUnavailable
from gatepost.domain.outcomes import ErrorClass
from gatepost.ports import LaneOutcomes, Settled

# Probes count for nothing, but are kept: one in ten minutes, by a clock that goes round in 20 of them. So the newest
# stay, and a probe that is recorded twice is there once.
_PROBES = 20
_PROBE_PERIOD_MS = 10 * 60 * 1000

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
    await _clean(mongo, standing, lanes)
    return lost


async def _lanes(mongo: Mongo, batch: Sequence[LaneOutcomes]) -> dict[str, Document]:
    lanes: dict[str, Document] = {}
    for part in parts_of({outcomes.webhook_id for outcomes in batch}):
        found = await fetch(mongo.lanes.find({"_id": {"$in": part}}, {"token": 1, "unclean": 1, "window": 1}))
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
        try:
            await mongo.deliveries.bulk_write([_update(each) for each in part], ordered=False)
        except NOT_BSON as error:
            raise Unstorable(said_by(error)) from error
        except BulkWriteError as error:
            refused = set(error_codes(error))
            if error.details.get("writeConcernErrors") or not refused or not refused <= _OF_THE_DOCUMENT:
                raise
            raise Unstorable(said_by(error)) from error


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


def _update(settled: Settled) -> UpdateOne:
    """Raises: UnicodeEncodeError, for half a surrogate pair in a header."""
    delivery, attempt = settled.delivery, settled.attempt
    asked: Document = {
        "_id": delivery.id,
        "webhook_id": delivery.webhook_id,
        "id": delivery.id,
        "attempt_count": attempt.number - 1,
        "open": OPEN,
    }
    if settled.amends:
        # The attempt written ahead of sending may have been the last one: what it finished is open to its amendment.
        # Nor does it take the place of what another owner knows better.
        written_ahead = {f"{_place_of(attempt)}.error_class": ErrorClass.INTERNAL_ERROR.value}
        asked |= {"attempt_count": attempt.number, "open": {"$in": [OPEN, EXHAUSTED]}, **written_ahead}
    changes: Document = {_place_of(attempt): attempt_document(attempt)}
    # A failed probe counts for nothing and moves nothing; one that got through finishes its delivery.
    if not attempt.probe or settled.progress.finished_at is not None:
        changes |= progress_fields(settled.progress)
    return UpdateOne(asked, {"$set": changes})


def _place_of(attempt: Attempt) -> str:
    if not attempt.probe:
        return f"attempts.{attempt.number}"
    period = to_ms(attempt.started_at) // _PROBE_PERIOD_MS
    return f"probes.{period % _PROBES}"


async def _clean(mongo: Mongo, standing: Sequence[LaneOutcomes], lanes: Mapping[str, Document]) -> None:
    """Note that the owner of a lane lives, and the window it has come to, where that is news."""
    cleaned = [
        UpdateOne(
            {"_id": outcomes.webhook_id, "token": outcomes.token},
            {"$set": {"unclean": 0, "window": outcomes.window}},
        )
        for outcomes in standing
        if lanes[outcomes.webhook_id]["unclean"] or lanes[outcomes.webhook_id]["window"] != outcomes.window
    ]
    if cleaned:
        await mongo.lanes.bulk_write(cleaned, ordered=False)
