"""What is sealed at rest: of a webhook what is sent and what signs it, of a kept request its seed and its answer."""

import json
from base64 import b64decode, b64encode
from typing import Any

from gatepost.adapters.secretbox import SecretBox
from gatepost.adapters.storage.rows import from_ms_or_none, to_ms_or_none
from gatepost.domain.webhooks import Secret, Webhook
from gatepost.ports import KeptAnswer


def sealed_headers(box: SecretBox, webhook: Webhook) -> str:
    return _seal(box, webhook.headers, _place("headers", webhook.id, webhook.group_id))


def sealed_secrets(box: SecretBox, webhook: Webhook) -> str:
    secrets = [(secret.value, to_ms_or_none(secret.expires_at)) for secret in webhook.secrets]
    return _seal(box, secrets, _place("secrets", webhook.id, webhook.group_id))


def headers_from(box: SecretBox, sealed: str, webhook_id: str, group_id: str) -> tuple[tuple[str, str], ...]:
    headers = _unseal(box, sealed, _place("headers", webhook_id, group_id))
    return tuple((name, value) for name, value in headers)


def secrets_from(box: SecretBox, sealed: str, webhook_id: str, group_id: str) -> tuple[Secret, ...]:
    secrets = _unseal(box, sealed, _place("secrets", webhook_id, group_id))
    return tuple(Secret(value, from_ms_or_none(expires_at)) for value, expires_at in secrets)


def sealed_seed(box: SecretBox, request_id: str, seed: bytes) -> str:
    return box.seal(seed, _place_of_request("seed", request_id))


def seed_from(box: SecretBox, request_id: str, sealed: str) -> bytes:
    return box.open(sealed, _place_of_request("seed", request_id))


def sealed_answer(box: SecretBox, request_id: str, answer: KeptAnswer) -> str:
    value = [answer.status, answer.headers, b64encode(answer.body).decode()]
    return _seal(box, value, _place_of_request("answer", request_id))


def answer_from(box: SecretBox, request_id: str, sealed: str) -> KeptAnswer:
    status, headers, body = _unseal(box, sealed, _place_of_request("answer", request_id))
    return KeptAnswer(status, tuple((name, value) for name, value in headers), b64decode(body))


def _place(column: str, webhook_id: str, group_id: str) -> tuple[str, ...]:
    return ("webhooks", column, webhook_id, group_id)


def _place_of_request(column: str, request_id: str) -> tuple[str, ...]:
    return ("requests", column, request_id, "")  # of no group


def _seal(box: SecretBox, value: Any, place: tuple[str, ...]) -> str:
    return box.seal(json.dumps(value).encode(), place)


def _unseal(box: SecretBox, sealed: str, place: tuple[str, ...]) -> Any:
    return json.loads(box.open(sealed, place))
