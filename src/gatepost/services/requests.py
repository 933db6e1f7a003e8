"""Requests that their callers may make again: the same write, and the first answer."""

from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256

from gatepost.domain.errors import FieldError, IdempotencyInProgress, IdempotencyMismatch
from gatepost.ports import Chance, Clock, Draws, KeptAnswer, KeyedRequest, RequestStore

KEPT_FOR = timedelta(hours=24)
SEED_BYTES = 32


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a request under its key.

    Shape: `answer` is the one that was kept of an earlier run, None when there is none; `draws` are the same for each.
    """

    request_id: str
    draws: Draws
    answer: KeptAnswer | None


def request_id(actor_id: str, method: str, path: str, key: str) -> str:
    """Return what tells a request from every other; the key is the caller's own, so it comes last."""
    return sha256("\n".join((actor_id, method, path, key)).encode()).hexdigest()


class Requests:
    """What requests draw, and what was answered to those that were made under an Idempotency-Key (ADR 0010)."""

    def __init__(self, store: RequestStore, clock: Clock, chance: Chance) -> None:
        self._store = store
        self._clock = clock
        self._chance = chance
        self._running: set[str] = set()

    def draws(self) -> Draws:
        """Return what a request draws that is made once."""
        return Draws(self._clock.now(), self._chance)

    async def begin(self, request_id: str, body_hash: bytes) -> Run:
        """Remember a request, or recognise it; whoever gets a run must `end` it, however it turns out.

        Raises: IdempotencyInProgress, while this process is still at it; IdempotencyMismatch, when it had another body.
        """
        if request_id in self._running:
            raise IdempotencyInProgress("the first request with this Idempotency-Key is not answered yet")
        self._running.add(request_id)
        try:
            return await self._remembered(request_id, body_hash)
        except BaseException:
            self._running.discard(request_id)
            raise

    async def keep(self, run: Run, answer: KeptAnswer) -> KeptAnswer:
        """Keep the answer of a run, and return the first that was kept: another process may have been quicker."""
        return await self._store.keep_answer(run.request_id, answer)

    def end(self, run: Run) -> None:
        """Let the request be made again."""
        self._running.discard(run.request_id)

    async def _remembered(self, request_id: str, body_hash: bytes) -> Run:
        asked = KeyedRequest(request_id, body_hash, self._chance.key_bytes(SEED_BYTES), self._clock.now())
        request = await self._store.remember_request(asked, kept_for=KEPT_FOR)
        if request.body_hash != body_hash:
            raise IdempotencyMismatch(
                FieldError(("Idempotency-Key",), "use a new key for a new request, or send the same body", "mismatch")
            )
        draws = Draws(request.at, self._chance.repeatable(request.seed, request.at))
        return Run(request_id, draws, request.answer)
