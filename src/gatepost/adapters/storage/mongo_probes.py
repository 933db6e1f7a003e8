"""Failed probes in MongoDB: they ride in the document of their delivery, beside its attempts, under their own ids."""

from collections.abc import Mapping

from gatepost.adapters.storage.mongo_documents import deliveries_key
from gatepost.adapters.storage.mongo_driver import Mongo

_AT_ONCE = 20  # deliveries, whose probes are read with all that they hold


async def probes_of(mongo: Mongo, webhooks: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the ids of the failed probes of deliveries, given with their webhooks; the newest first."""
    kept: dict[str, list[str]] = {delivery_id: [] for delivery_id in webhooks}
    asked = mongo.deliveries.find(deliveries_key(webhooks), {"probes": 1})
    async with asked.batch_size(_AT_ONCE) as cursor:
        async for each in cursor:
            probes = each["probes"]
            newest_first = sorted(probes, key=lambda probe_id: (probes[probe_id]["started_at"], probe_id), reverse=True)
            kept[each["_id"]] = newest_first
    return kept
