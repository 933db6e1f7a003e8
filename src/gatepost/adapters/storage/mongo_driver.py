"""The connection to MongoDB: what is waited for, and what leaves the adapter when that fails."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

from bson.errors import BSONError
from pymongo import AsyncMongoClient, UpdateOne
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.cursor import AsyncCursor
from pymongo.errors import BulkWriteError, ConnectionFailure, DocumentTooLarge, OperationFailure, PyMongoError

from gatepost.adapters.storage.handing_over import HandOver
from gatepost.adapters.storage.rows import to_ms
from gatepost.domain.errors import StoreUnavailable

T = TypeVar("T")
Item = TypeVar("Item")

REQUESTS_AT_ONCE = 16  # of one question: the pool has 100 connections, and others want some

Document = dict[str, Any]
Collection = AsyncCollection[Document]

DEFAULT_DATABASE = "gatepost"
# A server that is gone is an error, and not a hang.
FIND_SERVER_MS = 5_000
ANSWER_MS = 10_000

# What people ask takes turns, so that the engine always finds a connection among the driver's 100.
TURNS = 64
TURN_SECONDS = 30.0
ENDING_SECONDS = 15.0  # for writes that somebody else waits for: longer than a single one may take

MOST_IDS = 500  # in one `$in`
FEW = 40  # more than come in, so that few are left over; little enough for one write
DUPLICATE_KEY = 11000
MOST_QUOTED = 200  # characters of what a server says

# What the driver cannot even write down, whatever the server.
NOT_BSON = (BSONError, DocumentTooLarge, UnicodeError, OverflowError)


class Mongo:
    """One database, its collections, and the writes that are under way."""

    def __init__(self, url: str) -> None:
        self.client = _client(url)
        self.database = self.client.get_default_database(DEFAULT_DATABASE)
        self.hand_over = HandOver()
        self.meta = self.database["meta"]
        self.groups = self.database["groups"]
        self.group_names = self.database["group_names"]
        self.memberships = self.database["memberships"]
        self.api_keys = self.database["api_keys"]
        self.users = self.database["users"]
        self.sessions = self.database["sessions"]
        self.requests = self.database["requests"]
        self.tasks = self.database["tasks"]
        self.history = self.database["history"]
        self.swaps = self.database["swaps"]
        self.open_swaps = self.database["open_swaps"]
        self.events = self.database["events"]
        self.webhooks = self.database["webhooks"]
        self.webhook_revisions = self.database["webhook_revisions"]
        self.lanes = self.database["lanes"]
        self.workers = self.database["workers"]
        self.deliveries = self.database["deliveries"]
        self.replay_jobs = self.database["replay_jobs"]
        self.running_replays = self.database["running_replays"]
        self.stats = self.database["stats"]
        self._turns = asyncio.Semaphore(TURNS)
        # Owners that left this store: what they asked for before may still be under way, and takes nothing any more.
        self.left: set[str] = set()
        self._writing: set[asyncio.Task[Any]] = set()
        self._writing_lanes: set[asyncio.Task[Any]] = set()
        self._closed = False

    async def read(self, looking: Coroutine[Any, Any, T]) -> T:
        """Await reads; what goes wrong with the server is StoreUnavailable."""
        return await self._in_turn(looking)

    async def read_for_operator(self, looking: Coroutine[Any, Any, T]) -> T:
        """Await reads, and say of a server that cannot be reached what the driver says: the operator knows its name."""
        try:
            return await self.read(looking)
        except StoreUnavailable as error:
            if isinstance(error.__cause__, ConnectionFailure):
                reason = str(error.__cause__).partition(" (configured timeouts")[0].partition(", Timeout: ")[0]
                raise StoreUnavailable(f"{error.detail}: {reason}") from error
            raise

    async def write(self, writing: Coroutine[Any, Any, T]) -> T:
        """Await writes as `read` does; they go on to their end though the caller gives up.

        There is no transaction that would take a half back. The sweep would finish it, but half a minute later.
        """
        self._refuse_if_closed(writing)
        return await self._to_its_end(self._in_turn(writing))

    async def read_lanes(self, looking: Coroutine[Any, Any, T]) -> T:
        """Await reads of the engine, which never wait for what people ask."""
        return await _at_border(looking)

    async def repeat_lanes(self, doing: Coroutine[Any, Any, T]) -> T:
        """Await what the engine does again and again; it may be broken off anywhere, and nobody waits for its end."""
        self._refuse_if_closed(doing)
        return await _at_border(doing)

    async def write_lanes(self, writing: Coroutine[Any, Any, T]) -> T:
        """Await writes of the engine, which never wait for what people ask."""
        self._refuse_if_closed(writing)
        return await self._to_its_end(_at_border(writing), self._writing_lanes)

    async def lane_writes_ended(self) -> None:
        """Wait for the engine's writes that are under way now, though whoever asked for them has given up."""
        if self._writing_lanes:
            await asyncio.wait(set(self._writing_lanes), timeout=ENDING_SECONDS)

    def _refuse_if_closed(self, writing: Coroutine[Any, Any, Any]) -> None:
        if self._closed:
            writing.close()
            raise StoreUnavailable("the store is closed")

    async def _in_turn(self, asked: Coroutine[Any, Any, T]) -> T:
        try:
            async with asyncio.timeout(TURN_SECONDS):
                await self._turns.acquire()
        except BaseException as error:
            asked.close()
            if isinstance(error, TimeoutError):
                raise StoreUnavailable("the MongoDB database is too slow for all that is asked of it") from error
            raise
        try:
            return await _at_border(asked)
        finally:
            self._turns.release()

    async def _to_its_end(self, writing: Coroutine[Any, Any, T], *more: set[asyncio.Task[Any]]) -> T:
        task = asyncio.create_task(writing)
        for noted in (self._writing, *more):
            noted.add(task)
            task.add_done_callback(noted.discard)
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Finish what is being written, and disconnect."""
        self._closed = True
        if self._writing:
            await asyncio.wait(set(self._writing))
        await self.client.close()


class Unstorable(ValueError):
    """The database cannot hold one of the values; trying again would not help."""


async def _at_border(asked: Coroutine[Any, Any, T]) -> T:
    """Raises: StoreUnavailable, Unstorable; never what is the driver's own."""
    try:
        answer = await asked
    except PyMongoError as error:
        raise unavailable(error) from error
    except NOT_BSON as error:
        raise Unstorable(f"the database cannot hold this: {said_by(error)}") from error
    # The driver now and then answers a task that was cancelled meanwhile. The task would go on, and never end.
    if (task := asyncio.current_task()) and task.cancelling():
        raise asyncio.CancelledError
    return answer


def unavailable(error: PyMongoError) -> StoreUnavailable:
    """Return what the core may see of an error: never the driver's own."""
    if isinstance(error, ConnectionFailure):
        return StoreUnavailable(f"the MongoDB database cannot be reached ({said_by(error)})")
    return StoreUnavailable(f"the MongoDB database did not do what was asked: {said_by(error)}")


def said_by(error: Exception) -> str:
    """Return what an error may be quoted with, in logs and to callers: its type, and what a server says first.

    The driver's own words repeat whole documents: bodies, target URLs, sealed secrets. They name hosts, too.
    """
    name = type(error).__name__
    if not isinstance(error, OperationFailure):
        return name
    details = error.details or {}
    refused = [*details.get("writeErrors", []), *details.get("writeConcernErrors", [])]
    said = refused[0] if refused else details
    code, errmsg = said.get("code", error.code), said.get("errmsg", "")
    if code == DUPLICATE_KEY or not errmsg:  # which quotes the key
        return f"{name} {code}"
    return f"{name} {code}: {errmsg[:MOST_QUOTED]}"


def _client(url: str) -> AsyncMongoClient[Document]:
    """What the URL says about these options is overruled: the promises of the store rest on them."""
    try:
        return AsyncMongoClient(
            url,
            appname="gatepost",
            serverSelectionTimeoutMS=FIND_SERVER_MS,
            connectTimeoutMS=FIND_SERVER_MS,
            socketTimeoutMS=ANSWER_MS,
            waitQueueTimeoutMS=ANSWER_MS,
            # What was acknowledged survives the loss of a member, and a power cut of all of them.
            w="majority",
            journal=True,
            # Everything that is read here decides something: only what cannot be rolled back, from who may write.
            readConcernLevel="majority",
            readPreference="primary",
            # A standalone server has no retryable writes. So a write in doubt is an error everywhere, and is found
            # again by its ids when the caller repeats it: one way for every topology, the one that is tested.
            retryWrites=False,
            retryReads=False,
        )
    except (PyMongoError, ValueError) as error:
        # Without the driver's words, which may quote the URL and its password.
        reason = type(error).__name__
        raise StoreUnavailable(f"the URL is none of a MongoDB database ({reason})") from None


async def insert_new(collection: Collection, documents: Sequence[Document]) -> list[Document]:
    """Insert what is not there yet, and return that.

    An `_id` that is taken is the same write made before, so it is done already.
    The driver would add an `_id` to documents that have none; ours all have one.
    """
    if not documents:
        return []
    try:
        await collection.insert_many(documents, ordered=False)
    except BulkWriteError as error:
        if error.details.get("writeConcernErrors") or set(error_codes(error)) != {DUPLICATE_KEY}:
            raise
        taken = {each["index"] for each in error.details["writeErrors"]}
        return [document for index, document in enumerate(documents) if index not in taken]
    return list(documents)


async def raise_each(collection: Collection, field: str, moments: Mapping[str, datetime]) -> None:
    """Raise a moment of each document; never lower it, as two processes report in any order."""
    raising = [UpdateOne({"_id": each}, {"$max": {field: to_ms(moment)}}) for each, moment in moments.items()]
    await collection.bulk_write(raising, ordered=False)


async def delete_few(collection: Collection, field: str, *, below: int) -> None:
    """Delete some of the documents whose field is below that; the rest waits for the next occasion."""
    old = {field: {"$lt": below}}
    found = await fetch(collection.find(old, {"_id": 1}).sort(field, 1).limit(FEW))
    if found:
        await collection.delete_many({"_id": {"$in": [each["_id"] for each in found]}, **old})


def error_codes(error: BulkWriteError) -> list[int]:
    return [each["code"] for each in error.details.get("writeErrors", [])]


async def fetch(cursor: AsyncCursor[Document]) -> list[Document]:
    """Return every document of a cursor, and let go of it."""
    async with cursor:
        return await cursor.to_list()


def parts_of(ids: Iterable[str]) -> list[list[str]]:
    """Part ids into lists that are short enough for one query."""
    rest = list(ids)
    return [rest[start : start + MOST_IDS] for start in range(0, len(rest), MOST_IDS)]


async def several(ask: Callable[[Item], Awaitable[T]], items: Sequence[Item]) -> list[T]:
    """Ask for each of the items, a few at a time, and return the answers in order.

    Raises: the first error, once what was under way has ended; no more is asked after it.
    """
    gate = asyncio.Semaphore(REQUESTS_AT_ONCE)
    failed: list[Exception] = []

    async def one(item: Item) -> T:
        async with gate:
            if failed:
                raise failed[0]
            try:
                return await ask(item)
            except Exception as error:
                failed.append(error)
                raise

    answers = await asyncio.gather(*(one(each) for each in items), return_exceptions=True)
    if failed:
        raise failed[0]
    if stopped := next((each for each in answers if isinstance(each, BaseException)), None):
        raise stopped
    return [answer for answer in answers if not isinstance(answer, BaseException)]
