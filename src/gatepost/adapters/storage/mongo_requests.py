"""Requests that may be made again, in MongoDB, their seeds and answers sealed."""

from datetime import timedelta

from gatepost.adapters.secretbox import SecretBox
from gatepost.adapters.storage.mongo_driver import Document, Mongo, delete_few, insert_new
from gatepost.adapters.storage.rows import from_ms, to_ms
from gatepost.adapters.storage.sealing import answer_from, sealed_answer, sealed_seed, seed_from
from gatepost.domain.errors import StoreUnavailable
from gatepost.ports import KeptAnswer, KeyedRequest

_MOST_TRIES = 100


class MongoRequests:
    """Implements `ports.RequestStore`."""

    _mongo: Mongo
    _box: SecretBox

    async def remember_request(self, request: KeyedRequest, *, kept_for: timedelta) -> KeyedRequest:
        return await self._mongo.write(_remember(self._mongo, self._box, request, kept_for))

    async def keep_answer(self, request_id: str, answer: KeptAnswer) -> KeptAnswer:
        return await self._mongo.write(_keep_answer(self._mongo, self._box, request_id, answer))


async def _remember(mongo: Mongo, box: SecretBox, request: KeyedRequest, kept_for: timedelta) -> KeyedRequest:
    oldest, document = to_ms(request.at - kept_for), _document(box, request)
    await delete_few(mongo.requests, "at", below=oldest)
    for _ in range(_MOST_TRIES):
        if await insert_new(mongo.requests, [document]):
            return _request_from(box, document)
        found = await mongo.requests.find_one({"_id": request.id})
        if found is None:
            continue  # somebody else has forgotten it just now
        if found["at"] >= oldest:
            return _request_from(box, found)
        # One that counts as forgotten is replaced where it stands: of two who do that, the second finds the first's.
        fields = {field: value for field, value in document.items() if field != "_id"}
        replaced = await mongo.requests.update_one({"_id": request.id, "at": found["at"]}, {"$set": fields})
        if replaced.matched_count:
            return _request_from(box, document)
    raise StoreUnavailable("too many make the same request at this moment; try again")


async def _keep_answer(mongo: Mongo, box: SecretBox, request_id: str, answer: KeptAnswer) -> KeptAnswer:
    sealed = {"$set": {"answer": sealed_answer(box, request_id, answer)}}
    kept = await mongo.requests.update_one({"_id": request_id, "answer": ""}, sealed)
    if kept.matched_count:
        return answer
    found = await mongo.requests.find_one({"_id": request_id}, {"answer": 1})
    # Forgotten meanwhile: there is no other.
    return answer_from(box, request_id, found["answer"]) if found and found["answer"] else answer


# --- documents -----------------------------------------------------------------------------------------------


def _document(box: SecretBox, request: KeyedRequest) -> Document:
    return {
        "_id": request.id,
        "body_hash": request.body_hash,
        "seed": sealed_seed(box, request.id, request.seed),
        "at": to_ms(request.at),
        "answer": "",
    }


def _request_from(box: SecretBox, document: Document) -> KeyedRequest:
    request_id, answer = document["_id"], document["answer"]
    return KeyedRequest(
        id=request_id,
        body_hash=bytes(document["body_hash"]),
        seed=seed_from(box, request_id, document["seed"]),
        at=from_ms(document["at"]),
        answer=answer_from(box, request_id, answer) if answer else None,
    )
