"""What admins do with deliveries: look at them, replay one, give up what waits, and send a test."""

import asyncio
import math
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from gatepost.domain.deliveries import Attempt, Delivery, after_attempt, queued, replayed, request_headers, sampled
from gatepost.domain.errors import NotFound, PayloadExpired, RateLimited, WebhookDisabled
from gatepost.domain.events import TEST_EVENT, Event
from gatepost.domain.groups import Caller
from gatepost.domain.network import TargetPolicy, check_target
from gatepost.domain.outcomes import ErrorClass, Outcome, Unreachable
from gatepost.domain.retry import ONE_ATTEMPT
from gatepost.domain.samples import sample_event
from gatepost.domain.webhooks import Webhook
from gatepost.ports import (
    Chance,
    Clock,
    DeliveryDetail,
    DeliveryLog,
    DeliveryQuery,
    Draws,
    Dropped,
    EngineHints,
    Outgoing,
    Page,
    Saved,
    Sender,
    WebhookStore,
)
from gatepost.services.emitting import occasion_of
from gatepost.services.webhooks import existing

TESTS_PER_MINUTE = 10
MOST_WEBHOOKS_COUNTED = 10_000
# A sender settles what it was given; past the request's own deadline and this, it has been stopped.
SETTLE_GRACE = timedelta(seconds=5)

Headers = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class ShownRequest:
    """A request as people may see it: the values of the webhook's own headers are masked."""

    url: str
    headers: Headers
    body: bytes | None


@dataclass(frozen=True, slots=True)
class ShownDelivery:
    """A delivery with its request and its attempts."""

    detail: DeliveryDetail
    request: ShownRequest


@dataclass(frozen=True, slots=True)
class SentTest:
    """A test that was sent, and what came of it."""

    delivery: Delivery
    request: ShownRequest
    outcome: Outcome


class Deliveries:
    """The deliveries of all groups.

    Raises: NotFound, when the group has no such webhook, or the webhook no such delivery.
    """

    def __init__(
        self,
        log: DeliveryLog,
        webhooks: WebhookStore,
        *,
        sender: Sender,
        hints: EngineHints,
        target_policy: TargetPolicy,
        clock: Clock,
        chance: Chance,
        user_agent: str,
    ) -> None:
        self._log = log
        self._webhooks = webhooks
        self._sender = sender
        self._hints = hints
        self._target_policy = target_policy
        self._clock = clock
        self._chance = chance
        self._user_agent = user_agent
        self._tests = _Allowance(clock)

    async def list(self, group_id: str, query: DeliveryQuery, *, limit: int, before: str | None) -> Page[Delivery]:
        """Return the group's deliveries, newest first; of one webhook only, when the query names it."""
        if query.webhook_id is not None:
            await existing(self._webhooks, group_id, query.webhook_id)
        return await self._log.deliveries(group_id, query, limit=limit, before=before)

    async def get(self, group_id: str, webhook_id: str, delivery_id: str) -> ShownDelivery:
        """Return one delivery; its request as the webhook is configured now, for its latest attempt."""
        webhook = await existing(self._webhooks, group_id, webhook_id)
        detail = await self._detail(group_id, webhook_id, delivery_id)
        return ShownDelivery(detail, self._shown_request(webhook, detail.delivery, detail.event))

    async def replay(self, group_id: str, webhook_id: str, delivery_id: str, *, draws: Draws) -> Delivery:
        """Queue the same event for the same webhook once more.

        Raises: WebhookDisabled; PayloadExpired, when the event's bytes are gone.
        """
        webhook = await existing(self._webhooks, group_id, webhook_id)
        original = (await self._detail(group_id, webhook_id, delivery_id)).delivery
        replay_id = draws.chance.new_id("dlv")
        if not webhook.enabled and await self._log.delivery(group_id, webhook_id, replay_id) is None:
            raise WebhookDisabled("the webhook is disabled; enable it first")
        replay = replayed(original, replay_id, max_attempts=webhook.policy.max_attempts, now=draws.at)
        # What was queued before, by this very request, is so whatever has become of webhook and event since.
        if await self._log.add_replay(group_id, replay) is not Saved.DONE:
            raise PayloadExpired("the event of this delivery is no longer kept")
        return replay

    async def discard_backlog(self, group_id: str, webhook_id: str) -> int:
        """Give up everything that waits to be sent to a webhook; return how much that was."""
        await existing(self._webhooks, group_id, webhook_id)
        discarded = await self._log.discard_backlog(group_id, webhook_id, now=self._clock.now())
        self._hints.webhook_changed(webhook_id)
        return discarded

    async def send_test(self, caller: Caller, webhook_id: str, event: str = TEST_EVENT) -> SentTest:
        """Send a sample event now, once, whether the webhook is enabled or not, and log it.

        Raises: RateLimited, past 10 a minute; TargetNotAllowed; InvalidInput, when there is no such event.
        """
        webhook = await existing(self._webhooks, caller.group_id, webhook_id)
        occasion = occasion_of(caller, self._chance.new_id("evt"), self._clock.now())
        sample = sample_event(event, caller.group_id, occasion)
        check_target(webhook.target, self._target_policy)
        self._tests.take(webhook_id)
        delivery = sampled(self._chance.new_id("dlv"), sample, webhook_id)
        headers = self._signed_headers(webhook, delivery, sample)
        attempt = await self._attempt(webhook, headers, sample.body)
        now = self._clock.now()
        finished = replace(delivery, progress=after_attempt(1, attempt.outcome, ONE_ATTEMPT, now=now, spread=0.0))
        await self._log.add_test(caller.group_id, sample, finished, attempt)
        shown = ShownRequest(webhook.target.url, _masked(headers, webhook), sample.body)
        return SentTest(finished, shown, attempt.outcome)

    async def _detail(self, group_id: str, webhook_id: str, delivery_id: str) -> DeliveryDetail:
        detail = await self._log.delivery(group_id, webhook_id, delivery_id)
        if detail is None:
            raise NotFound("this webhook has no such delivery")
        return detail

    async def _attempt(self, webhook: Webhook, headers: Headers, body: bytes) -> Attempt:
        settled = asyncio.Event()
        ended: list[tuple[Outcome | Dropped, float, float]] = []

        def settle(result: Outcome | Dropped, started: float, duration: float) -> None:
            ended.append((result, started, duration))
            settled.set()

        timeout = float(webhook.timeout_seconds)
        began = self._clock.boot()
        self._sender.submit([Outgoing(webhook.target, headers, body, timeout, lambda: math.inf, settle)])
        await self._clock.wait(settled, timedelta(seconds=timeout) + SETTLE_GRACE)
        elapsed = self._clock.boot() - began
        result, started, duration = ended[0] if ended else (Dropped(), began, elapsed)
        return Attempt(
            id=self._chance.new_id("att"),
            number=1,
            started_at=self._clock.now() - timedelta(seconds=max(0.0, self._clock.boot() - started)),
            duration=timedelta(seconds=duration),
            outcome=Unreachable(ErrorClass.INTERNAL_ERROR) if isinstance(result, Dropped) else result,
        )

    def _signed_headers(self, webhook: Webhook, delivery: Delivery, event: Event) -> Headers:
        now = self._clock.now()
        return request_headers(
            queued(delivery, body=event.body, hop=event.hop),
            keys=webhook.signing_keys(now),
            own_headers=webhook.headers,
            user_agent=self._user_agent,
            timestamp=int(now.timestamp()),
        )

    def _shown_request(self, webhook: Webhook, delivery: Delivery, event: Event | None) -> ShownRequest:
        """Return the request of the latest attempt, or of the first when there was none yet."""
        sent = queued(delivery, body=event.body if event else b"", hop=event.hop if event else 1)
        headers = request_headers(
            replace(sent, attempt_count=max(0, sent.attempt_count - 1)),
            keys=(),
            own_headers=webhook.headers,
            user_agent=self._user_agent,
            timestamp=0,
        )
        lasting = [(name, value) for name, value in headers if name.lower() not in _FRESH_PER_ATTEMPT]
        return ShownRequest(webhook.target.url, _masked(lasting, webhook), event.body if event else None)


_FRESH_PER_ATTEMPT = frozenset({"webhook-timestamp", "webhook-signature", "x-timestamp", "x-signature"})


def _masked(headers: Headers, webhook: Webhook) -> Headers:
    own = {name.lower() for name, _ in webhook.headers}
    return [(name, "…" if name.lower() in own else value) for name, value in headers]


class _Allowance:
    """How many tests each webhook may still send this minute."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._sends: OrderedDict[str, deque[float]] = OrderedDict()

    def take(self, webhook_id: str) -> None:
        """Raises: RateLimited, when the minute's tests are used up."""
        now = self._clock.boot()
        sends = self._sends.setdefault(webhook_id, deque(maxlen=TESTS_PER_MINUTE))
        self._sends.move_to_end(webhook_id)
        if len(sends) == TESTS_PER_MINUTE and now - sends[0] < 60:
            raise RateLimited(
                f"a webhook sends at most {TESTS_PER_MINUTE} tests a minute",
                retry_after_seconds=math.ceil(60 - (now - sends[0])),
            )
        sends.append(now)
        if len(self._sends) > MOST_WEBHOOKS_COUNTED:
            self._sends.popitem(last=False)
