"""The store on a MongoDB database: a standalone server, a replica set or a sharded cluster, all in the same way."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from gatepost.adapters.secretbox import SecretBox
from gatepost.adapters.storage.mongo_attempts import MongoAttempts
from gatepost.adapters.storage.mongo_deliveries import MongoDeliveries
from gatepost.adapters.storage.mongo_driver import Mongo
from gatepost.adapters.storage.mongo_events import MongoEvents
from gatepost.adapters.storage.mongo_groups import MongoGroups
from gatepost.adapters.storage.mongo_keys import MongoKeys
from gatepost.adapters.storage.mongo_lanes import MongoLanes
from gatepost.adapters.storage.mongo_owners import MongoOwners
from gatepost.adapters.storage.mongo_people import MongoPeople
from gatepost.adapters.storage.mongo_replays import MongoReplays
from gatepost.adapters.storage.mongo_requests import MongoRequests
from gatepost.adapters.storage.mongo_retention import MongoRetention
from gatepost.adapters.storage.mongo_schema import check_schema, make_schema
from gatepost.adapters.storage.mongo_stats import MongoStats
from gatepost.adapters.storage.mongo_swaps import MongoSwaps
from gatepost.adapters.storage.mongo_tasks import MongoTasks
from gatepost.adapters.storage.mongo_webhooks import MongoWebhooks
from gatepost.domain.deliveries import QueuedDelivery


class MongoStore(
    MongoGroups,
    MongoKeys,
    MongoPeople,
    MongoRequests,
    MongoTasks,
    MongoSwaps,
    MongoEvents,
    MongoWebhooks,
    MongoDeliveries,
    MongoReplays,
    MongoLanes,
    MongoAttempts,
    MongoOwners,
    MongoStats,
    MongoRetention,
):
    """Implements every store of `ports`.

    Shape: `on_poked` is never called: nobody tells us of other processes' commits, and the engine asks every second.
    """

    def __init__(self, mongo: Mongo, box: SecretBox) -> None:
        self._mongo = mongo
        self._box = box
        self.on_poked: Callable[[Sequence[str]], None] = _ignore

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        box: SecretBox,
        on_death: Callable[[BaseException], None] = lambda _: None,  # noqa: ARG003  # there is no thread to die
    ) -> "MongoStore":
        """Open a database that `migrate` has made ready.

        Shape:  the URL's path names the database, `gatepost` if it has none.
        Raises: StoreUnavailable, with a sentence for the operator.
        """
        mongo = Mongo(url)
        try:
            await mongo.read_for_operator(check_schema(mongo, box))
        except BaseException:
            await mongo.close()
            raise
        return cls(mongo, box)

    @classmethod
    async def migrate(cls, url: str, *, box: SecretBox) -> None:
        """Make the indexes, and what tells the schema's version and the key.

        Raises: StoreUnavailable, with a sentence for the operator.
        """
        mongo = Mongo(url)
        try:
            await mongo.read_for_operator(make_schema(mongo, box))
        finally:
            await mongo.close()

    async def close(self) -> None:
        """Finish what was asked for and let go of the server."""
        await self._mongo.close()

    @property
    def on_queued(self) -> Callable[[Sequence[QueuedDelivery]], set[str]]:
        """Called with deliveries just committed, before whoever wrote them goes on."""
        return self._mongo.hand_over.on_queued

    @on_queued.setter
    def on_queued(self, callback: Callable[[Sequence[QueuedDelivery]], set[str]]) -> None:
        self._mongo.hand_over.on_queued = callback

    async def server_time(self) -> datetime | None:
        answer = await self._mongo.read_lanes(self._mongo.client.admin.command("hello"))
        moment: datetime | None = answer.get("localTime")
        return moment and moment.replace(tzinfo=UTC)


def _ignore(_: Sequence[str]) -> None: ...
