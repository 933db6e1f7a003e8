"""Other people's implementations of both schemes, behind one shape."""

import base64
import hashlib
import hmac
import json
import subprocess
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from standardwebhooks.webhooks import Webhook, WebhookVerificationError
from tests.tools import missing, need

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Signed:
    """A request as it arrived, and the secret it was made with."""

    secret: str
    headers: dict[str, str]  # names in lower case
    body: bytes

    def with_flipped_bit(self) -> "Signed":
        body = bytearray(self.body)
        body[len(body) // 2] ^= 1
        return replace(self, body=bytes(body))

    def with_header(self, name: str, value: str) -> "Signed":
        return replace(self, headers={**self.headers, name: value})


class Verifier(Protocol):
    """Someone else's verifier, and the header that its signature stands in."""

    signature_header: str

    def accepts(self, signed: Signed) -> bool: ...


class PythonLibrary:
    """`standardwebhooks` for Python."""

    signature_header = "webhook-signature"

    def accepts(self, signed: Signed) -> bool:
        try:
            Webhook(signed.secret).verify(signed.body, signed.headers, json_parse=False)
        except WebhookVerificationError:
            return False
        return True

    def sign(self, secret: str, message_id: str, timestamp: int, body: bytes) -> str:
        moment = datetime.fromtimestamp(timestamp, UTC)
        return str(Webhook(secret).sign(message_id, moment, body.decode()))


class NodeLibrary:
    """`standardwebhooks` for Node."""

    signature_header = "webhook-signature"

    def __init__(self) -> None:
        need("node")
        if not (HERE / "node_modules" / "standardwebhooks").is_dir():
            missing("standardwebhooks for Node is not installed: make setup")

    def accepts(self, signed: Signed) -> bool:
        headers = signed.headers
        return bool(
            self._ask(
                do="verify",
                secret=signed.secret,
                id=headers["webhook-id"],
                timestamp=headers["webhook-timestamp"],
                signature=headers["webhook-signature"],
                body=signed.body.decode(),
            )["valid"]
        )

    def sign(self, secret: str, message_id: str, timestamp: int, body: bytes) -> str:
        asked = self._ask(do="sign", secret=secret, id=message_id, timestamp=timestamp, body=body.decode())
        return str(asked["signature"])

    def _ask(self, **question: Any) -> dict[str, Any]:
        done = subprocess.run(
            ["node", "verify.mjs"],
            input=json.dumps(question).encode(),
            cwd=HERE,
            capture_output=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr.decode()
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer


class OpenSsl:
    """The plain scheme, as docs/receiving.md tells people to check it by hand."""

    signature_header = "x-signature"

    def __init__(self) -> None:
        need("openssl")

    def accepts(self, signed: Signed) -> bool:
        content = signed.headers["x-timestamp"].encode() + b"." + signed.body
        command = ["openssl", "dgst", "-sha256", "-hmac", signed.secret]
        said = subprocess.run(command, input=content, capture_output=True, check=True, timeout=60).stdout.decode()
        made = "sha256=" + said.strip().split("= ")[-1]
        return made in signed.headers["x-signature"].split(",")

    def sign(self, secret: str, timestamp: int, body: bytes) -> str:
        """Sign with the standard library: nobody publishes this scheme as a package."""
        return "sha256=" + hmac.new(secret.encode(), b"%d." % timestamp + body, hashlib.sha256).hexdigest()


VERIFIERS = (PythonLibrary, NodeLibrary, OpenSsl)


def secret_of(key: bytes) -> str:
    return "whsec_" + base64.b64encode(key).decode()
