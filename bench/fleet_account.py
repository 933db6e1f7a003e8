"""The account of `fleet.py`: what arrived, what lies in the store, and whether every repetition is explained.

A request is repeated rightly only if nobody could know how the one before it had ended: it was in flight, from its
arrival until its outcome was committed, when its worker was killed or the database was away. So of each repetition

* the outcome of the request before must not be in the store, told by the start that is stored for that attempt; and
* that request's own connection must have ended at a kill (`KILL_SLACK_SECONDS`: this process notices it late), or the
  database must have been away between its arrival and `UNRECORDED_SECONDS` after its answer.

Whatever else comes again is unexplained. A retry after a stored failure is no repetition.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import quantiles
from typing import Any

from bench.fleet_receiver import Arrival
from bench.fleet_stores import Stored

KILL_SLACK_SECONDS = 0.5
UNRECORDED_SECONDS = 1.0  # the longest that an answer may wait for its commit while the database is there
WALL = time.time() - time.monotonic()


@dataclass(frozen=True, slots=True)
class Disturbance:
    """Units: moments of `time.monotonic`."""

    began: float
    ended: float


@dataclass(slots=True)
class Events:
    """What came of the calls: the tasks acknowledged, with their groups' webhooks, and the calls refused by status."""

    acknowledged: dict[str, Sequence[str]] = field(default_factory=dict)
    refused: Counter[int] = field(default_factory=Counter)


@dataclass(slots=True)
class Repetitions:
    """Repetitions by why they are right; `recovery` has the seconds from each kill to what was repeated for it."""

    by_reason: Counter[str] = field(default_factory=Counter)
    unexplained: list[str] = field(default_factory=list)
    recovery: list[float] = field(default_factory=list)
    longest_unrecorded: float = 0.0
    of_lanes: Counter[tuple[float, str]] = field(default_factory=Counter)  # by kill and webhook


@dataclass(frozen=True, slots=True)
class Account:
    """Everything that is known after a run."""

    events: Events
    arrivals: Sequence[Arrival]
    stored: Sequence[Stored]
    kills: Sequence[Disturbance]
    outages: Sequence[Disturbance]

    def figures(self) -> dict[str, Any]:
        repetitions = self._repetitions()
        refused = {str(status): count for status, count in sorted(self.events.refused.items())}
        return {
            "acknowledged": len(self.events.acknowledged),
            "refused": refused,
            **self._stored_figures(),
            "arrivals": len(self.arrivals),
            "kills": len(self.kills),
            "restarts": len(self.outages),
            "repeatedUnanswered": repetitions.by_reason["unanswered"],
            "duplicatesAllowed": repetitions.by_reason["kill"] + repetitions.by_reason["outage"],
            "duplicatesOfKills": repetitions.by_reason["kill"],
            "duplicatesOfOutages": repetitions.by_reason["outage"],
            "duplicatesUnexplained": len(repetitions.unexplained),
            "unexplained": repetitions.unexplained[:10],
            "mostRepeatedOfOneLaneAtOneKill": max(repetitions.of_lanes.values(), default=0),
            "longestUnrecordedSeconds": round(repetitions.longest_unrecorded, 3),
            "attributionSeconds": {"kill": KILL_SLACK_SECONDS, "unrecorded": UNRECORDED_SECONDS},
            "recoverySeconds": _spread(repetitions.recovery),
            "recoveryAfterRestartSeconds": _spread(self._first_arrivals(self.outages)),
        }

    # --- the store -------------------------------------------------------------------------------------------

    def _stored_figures(self) -> dict[str, int]:
        known = {each.id for each in self.stored}
        by_delivery = _by_delivery(self.arrivals)
        accepted = {each.delivery_id for each in self.arrivals if each.status == 200}
        statuses = Counter(each.status for each in self.stored)
        queued = {(each.task_id, each.webhook_id): each for each in self.stored}
        owed = [(task, webhook) for task, webhooks in self.events.acknowledged.items() for webhook in webhooks]
        return {
            "deliveries": len(self.stored),
            "ofUnacknowledged": sum(each.task_id not in self.events.acknowledged for each in self.stored),
            "deadLetters": statuses["dead-letter"],
            "lost": sum(not _is_settled(queued.get(each), accepted) for each in owed),
            "unfinished": len(self.stored) - statuses["delivered"] - statuses["dead-letter"],
            "phantom": sum(delivery_id not in known for delivery_id in by_delivery),
            "deliveredWithoutArrival": sum(
                each.status == "delivered" and each.id not in accepted for each in self.stored
            ),
            "inconsistent": sum(not each.is_consistent for each in self.stored),
            "ofOtherBytes": sum(len({each.body for each in of}) > 1 for of in by_delivery.values()),
        }

    # --- repetitions -----------------------------------------------------------------------------------------

    def _repetitions(self) -> Repetitions:
        found = Repetitions()
        stored = {each.id: each for each in self.stored}
        for delivery_id, arrivals in _by_delivery(self.arrivals).items():
            for before, after in pairwise(arrivals):
                if delivery := stored.get(delivery_id):
                    self._explain(before, after, arrivals, delivery, found)
        return found

    def _explain(
        self, before: Arrival, after: Arrival, arrivals: Sequence[Arrival], delivery: Stored, found: Repetitions
    ) -> None:
        is_stored = _is_stored(before, arrivals, delivery)
        if is_stored and before.status != 200 and after.number > before.number:
            return  # a retry
        kill = self._kill_of(before)
        is_answered = before.answered < before.connection_ended
        if is_stored or (kill is None and not self._met_an_outage(before)):
            found.unexplained.append(_told(before, after, delivery, is_stored=is_stored))
        elif kill is None:
            found.by_reason["outage" if is_answered else "unanswered"] += 1
        else:
            found.by_reason["kill" if is_answered else "unanswered"] += 1
            found.recovery.append(after.at - kill.began)
            found.of_lanes[kill.began, delivery.webhook_id] += 1
            if is_answered and not self._met_an_outage(before):
                found.longest_unrecorded = max(found.longest_unrecorded, kill.began - before.answered)

    def _kill_of(self, arrival: Arrival) -> Disturbance | None:
        ended = arrival.connection_ended
        for kill in self.kills:
            if kill.began <= ended <= kill.ended + KILL_SLACK_SECONDS and (
                arrival.answered > kill.began - UNRECORDED_SECONDS or self._met_an_outage(arrival)
            ):
                return kill
        return None

    def _met_an_outage(self, arrival: Arrival) -> bool:
        until = min(arrival.answered, arrival.connection_ended) + UNRECORDED_SECONDS
        return any(arrival.at <= outage.ended and until >= outage.began for outage in self.outages)

    def _first_arrivals(self, disturbances: Iterable[Disturbance]) -> list[float]:
        moments = [each.at for each in self.arrivals]
        return [
            min((at for at in moments if at >= each.ended), default=each.ended) - each.ended for each in disturbances
        ]


def _is_settled(delivery: Stored | None, accepted: set[str]) -> bool:
    """Say whether what an acknowledged task owes was accepted, or is a dead letter."""
    return delivery is not None and (
        delivery.status == "dead-letter" or (delivery.status == "delivered" and delivery.id in accepted)
    )


def _is_stored(arrival: Arrival, arrivals: Sequence[Arrival], delivery: Stored) -> bool:
    """Say whether the outcome that is stored for an attempt is of this request, and not of a repetition of it."""
    attempt = delivery.attempts.get(arrival.number)
    if attempt is None or attempt.status != arrival.status:
        return False
    of_number = [each for each in arrivals if each.number == arrival.number]
    return min(of_number, key=lambda each: abs(each.at + WALL - attempt.started)) is arrival


def _by_delivery(arrivals: Iterable[Arrival]) -> Mapping[str, list[Arrival]]:
    found: dict[str, list[Arrival]] = defaultdict(list)
    for each in arrivals:
        found[each.delivery_id].append(each)
    return found


def _told(before: Arrival, after: Arrival, delivery: Stored, *, is_stored: bool) -> str:
    stored = {number: round(each.started - WALL, 3) for number, each in delivery.attempts.items()}
    return (
        f"{delivery.id} of {delivery.webhook_id}: attempt {before.number} came at {before.at:.3f}, was answered"
        f" {before.status} at {before.answered:.3f}, its connection ended at {before.connection_ended:.3f}; attempt"
        f" {after.number} came at {after.at:.3f}; stored is {stored}, the first of them: {is_stored}"
    )


def _spread(seconds: Sequence[float]) -> dict[str, float]:
    if not seconds:
        return {}
    cuts = quantiles(seconds, n=100, method="inclusive") if len(seconds) > 1 else [seconds[0]] * 99
    return {"p50": round(cuts[49], 3), "p99": round(cuts[98], 3), "max": round(max(seconds), 3)}
