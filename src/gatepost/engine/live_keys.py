"""The keys that sign for a webhook, made once and not for each request."""

from datetime import datetime

from gatepost.domain.signatures import SigningKey
from gatepost.domain.webhooks import Webhook


class LiveKeys:
    """Keeps the keys until one of their secrets ends."""

    def __init__(self, webhook: Webhook) -> None:
        self._webhook = webhook
        self._keys: tuple[SigningKey, ...] | None = None
        self._until: datetime | None = None

    def at(self, now: datetime) -> tuple[SigningKey, ...]:
        """Return the keys that sign at this moment, newest first."""
        if self._keys is None or (self._until is not None and now >= self._until):
            self._keys = self._webhook.signing_keys(now)
            ends = [secret.expires_at for secret in self._webhook.live_secrets(now)]
            self._until = min((end for end in ends if end is not None), default=None)
        return self._keys
