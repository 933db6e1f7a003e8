"""Which webhooks of a group want an event: remembered, because it is asked at every change."""

from collections import OrderedDict
from dataclasses import dataclass, field

from gatepost.domain.webhooks import Subscription, wants
from gatepost.ports import Subscriptions, WebhookStore

MOST_GROUPS = 1000
MOST_KINDS = 256  # of (event, origin) remembered per group; sources of inbound tasks are named by outsiders


@dataclass(frozen=True, slots=True)
class Match:
    """The webhooks that want an event, and the version of the group's subscriptions that says so."""

    version: int
    subscriptions: tuple[Subscription, ...]


@dataclass(slots=True)
class _Known:
    subscriptions: Subscriptions
    matches: dict[tuple[str, str], Match] = field(default_factory=dict)


class Matcher:
    """Matches events to subscriptions, remembered per group.

    What it remembers may be stale. That is harmless: a store refuses a write whose subscriptions have moved, and
    the writer then calls `forget` and matches again.
    """

    def __init__(self, webhooks: WebhookStore) -> None:
        self._webhooks = webhooks
        self._groups: OrderedDict[str, _Known] = OrderedDict()

    async def match(self, group_id: str, event: str, origin: str) -> Match:
        """Return the webhooks of a group that are owed an event."""
        known = self._groups.get(group_id)
        if known is None:
            known = await self._read(group_id)
        else:
            self._groups.move_to_end(group_id)
        match = known.matches.get((event, origin))
        if match is None:
            wanting = tuple(item for item in known.subscriptions.items if wants(item, event, origin))
            match = Match(known.subscriptions.version, wanting)
            if len(known.matches) >= MOST_KINDS:
                known.matches.clear()
            known.matches[event, origin] = match
        return match

    def forget(self, group_id: str) -> None:
        """Read the group's subscriptions again at the next match."""
        self._groups.pop(group_id, None)

    async def _read(self, group_id: str) -> _Known:
        known = _Known(await self._webhooks.subscriptions(group_id))
        self._groups[group_id] = known
        if len(self._groups) > MOST_GROUPS:
            self._groups.popitem(last=False)
        return known
