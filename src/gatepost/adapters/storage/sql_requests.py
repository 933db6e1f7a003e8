"""Requests that may be made again, in SQL, their seeds and answers sealed."""

from datetime import timedelta

from gatepost.adapters.secretbox import SecretBox
from gatepost.adapters.storage.rows import from_ms, to_ms
from gatepost.adapters.storage.scripts import FORGOTTEN_AT_ONCE, LOCKED, Database, Script, execute, fetch
from gatepost.adapters.storage.sealing import answer_from, sealed_answer, sealed_seed, seed_from
from gatepost.ports import KeptAnswer, KeyedRequest

FORGET_REQUESTS = f"""
DELETE FROM requests WHERE id IN (SELECT id FROM requests WHERE at < ? ORDER BY at LIMIT ? {LOCKED})
"""
# One that counts as forgotten is replaced where it stands: of two who do that at once, the second finds the first's.
_REMEMBER = """
INSERT INTO requests (id, body_hash, seed, at) VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE
SET body_hash = excluded.body_hash, seed = excluded.seed, at = excluded.at, answer = NULL WHERE requests.at < ?
"""
REQUEST = "SELECT body_hash, seed, at, answer FROM requests WHERE id = ?"
KEEP_ANSWER = "UPDATE requests SET answer = ? WHERE id = ? AND answer IS NULL"
ANSWER = "SELECT answer FROM requests WHERE id = ?"


class SqlRequests:
    """Implements `ports.RequestStore`."""

    _database: Database
    _box: SecretBox

    async def remember_request(self, request: KeyedRequest, *, kept_for: timedelta) -> KeyedRequest:
        return await self._database.write(_remember(self._box, request, kept_for))

    async def keep_answer(self, request_id: str, answer: KeptAnswer) -> KeptAnswer:
        return await self._database.write(_keep_answer(self._box, request_id, answer))


def _remember(box: SecretBox, request: KeyedRequest, kept_for: timedelta) -> Script[KeyedRequest]:
    oldest = to_ms(request.at - kept_for)
    yield execute(FORGET_REQUESTS, (oldest, FORGOTTEN_AT_ONCE))
    seed = sealed_seed(box, request.id, request.seed)
    yield execute(_REMEMBER, (request.id, request.body_hash, seed, to_ms(request.at), oldest))
    [(body_hash, seed, at, answer)] = yield fetch(REQUEST, (request.id,))
    return KeyedRequest(
        id=request.id,
        body_hash=body_hash,
        seed=seed_from(box, request.id, seed),
        at=from_ms(at),
        answer=None if answer is None else answer_from(box, request.id, answer),
    )


def _keep_answer(box: SecretBox, request_id: str, answer: KeptAnswer) -> Script[KeptAnswer]:
    kept = yield execute(KEEP_ANSWER, (sealed_answer(box, request_id, answer), request_id))
    if kept:
        return answer
    rows = yield fetch(ANSWER, (request_id,))
    return answer_from(box, request_id, rows[0][0]) if rows else answer  # forgotten meanwhile: there is no other
