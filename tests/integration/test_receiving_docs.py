"""What docs/receiving.md tells receivers to run does what it says, in every language that this machine has."""

import base64
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.builders import GROUP_ID, make_occasion
from tests.event_schemas import must_fit
from tests.tools import need

from gatepost.domain.retry import DEFAULT_POLICY
from gatepost.domain.samples import SAMPLE_EVENTS, sample_event
from gatepost.domain.signatures import TOLERANCE_SECONDS, parse_secret, sign_plain, sign_standard

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "receiving.md").read_text()
BLOCKS = dict(re.findall(r"^```\w+ ([\w.-]+)\n(.*?)\n```$", PAGE, flags=re.MULTILINE | re.DOTALL))
SECRET = BLOCKS["sample-secret"]
BODY = BLOCKS["sample-body"].encode()
HEADERS = dict(line.split(": ", 1) for line in BLOCKS["sample-headers"].splitlines())
SIGNED_AT = int(HEADERS["webhook-timestamp"])

# Each language gets a program that calls the page's function with: secret, id, timestamp, signature, body, now.
PROGRAMS = {
    "python": (
        "verify.py",
        "main.py",
        """
import base64, sys
from verify import verify
secret, id, timestamp, signature, body, now = sys.argv[1:]
headers = {"webhook-id": id, "webhook-timestamp": timestamp, "webhook-signature": signature}
print(str(verify(secret, headers, base64.b64decode(body), int(now))).lower())
""",
        [sys.executable, "main.py"],
    ),
    "node": (
        "verify.mjs",
        "main.mjs",
        """
import { verify } from "./verify.mjs";
const [secret, id, timestamp, signature, body, now] = process.argv.slice(2);
const headers = { "webhook-id": id, "webhook-timestamp": timestamp, "webhook-signature": signature };
console.log(verify(secret, headers, Buffer.from(body, "base64"), Number(now)));
""",
        ["node", "main.mjs"],
    ),
    "go": (
        "verify.go",
        "main.go",
        """
package main

import (
	"encoding/base64"
	"fmt"
	"os"
	"strconv"
	"time"
)

func main() {
	a := os.Args[1:]
	headers := map[string]string{"webhook-id": a[1], "webhook-timestamp": a[2], "webhook-signature": a[3]}
	body, _ := base64.StdEncoding.DecodeString(a[4])
	now, _ := strconv.ParseInt(a[5], 10, 64)
	fmt.Println(verify(a[0], func(name string) string { return headers[name] }, body, time.Unix(now, 0)))
}
""",
        ["go", "run", "verify.go", "main.go"],
    ),
    "php": (
        "verify.php",
        "main.php",
        """<?php
require 'verify.php';
[, $secret, $id, $timestamp, $signature, $body, $now] = $argv;
$headers = ['webhook-id' => $id, 'webhook-timestamp' => $timestamp, 'webhook-signature' => $signature];
echo json_encode(verify($secret, $headers, base64_decode($body), (int) $now)), "\\n";
""",
        ["php", "main.php"],
    ),
    "java": (
        "Verify.java",
        "Main.java",
        """
import java.time.Instant;
import java.util.Base64;
import java.util.Map;

public final class Main {
    public static void main(String[] a) throws Exception {
        var headers = Map.of("webhook-id", a[1], "webhook-timestamp", a[2], "webhook-signature", a[3]);
        var now = Instant.ofEpochSecond(Long.parseLong(a[5]));
        System.out.println(Verify.verify(a[0], headers::get, Base64.getDecoder().decode(a[4]), now));
    }
}
""",
        ["java", "-cp", ".", "Main"],
    ),
}

Verify = Callable[..., bool]


@pytest.fixture(params=PROGRAMS, scope="module")
def verify(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Verify:
    """Return the page's function in one language."""
    snippet, program, source, command = PROGRAMS[request.param]
    if request.param != "python":  # ours has a path of its own
        need("javac" if request.param == "java" else command[0])
    folder = tmp_path_factory.mktemp(request.param)
    (folder / snippet).write_text(BLOCKS[snippet] + "\n")
    (folder / program).write_text(source)
    if request.param == "go":
        run(["go", "build", "-o", "main", snippet, program], folder)
        command = ["./main"]
    if request.param == "java":
        run(["javac", snippet, program], folder)

    def judge(
        *,
        secret: str = SECRET,
        message_id: str = HEADERS["webhook-id"],
        timestamp: str = HEADERS["webhook-timestamp"],
        signature: str = HEADERS["webhook-signature"],
        body: bytes = BODY,
        now: int = SIGNED_AT,
    ) -> bool:
        encoded = base64.b64encode(body).decode()
        said = run([*command, secret, message_id, timestamp, signature, encoded, str(now)], folder)
        return {"true": True, "false": False}[said]

    return judge


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_sample_is_what_gatepost_would_send() -> None:
    keys = [parse_secret(SECRET)]
    assert HEADERS["webhook-signature"] == sign_standard(keys, HEADERS["webhook-id"], SIGNED_AT, BODY)
    assert HEADERS["X-Signature"] == sign_plain(keys, SIGNED_AT, BODY)
    assert HEADERS["X-Timestamp"] == HEADERS["webhook-timestamp"]


def test_the_sample_is_accepted_within_five_minutes_and_not_beyond(verify: Verify) -> None:
    assert verify() is True
    assert verify(now=SIGNED_AT + TOLERANCE_SECONDS) is True
    assert verify(now=SIGNED_AT + TOLERANCE_SECONDS + 1) is False
    assert verify(now=SIGNED_AT - TOLERANCE_SECONDS - 1) is False


def test_one_flipped_bit_is_refused_wherever_it_is(verify: Verify) -> None:
    flipped = bytearray(BODY)
    flipped[len(BODY) // 2] ^= 1
    assert verify(body=bytes(flipped)) is False
    assert verify(message_id=HEADERS["webhook-id"][:-1] + "5") is False
    assert verify(timestamp=str(SIGNED_AT + 1)) is False
    assert verify(signature=HEADERS["webhook-signature"].replace("pTkp", "pTkq")) is False
    assert verify(secret="whsec_" + base64.b64encode(bytes(32)).decode()) is False


def test_either_signature_of_a_rotation_is_accepted(verify: Verify) -> None:
    other = parse_secret("whsec_" + base64.b64encode(bytes(32)).decode())
    both = [other, parse_secret(SECRET)]
    assert verify(signature=sign_standard(both, HEADERS["webhook-id"], SIGNED_AT, BODY)) is True


def test_malformed_headers_are_refused_without_a_crash(verify: Verify) -> None:
    assert verify(timestamp="soon") is False
    assert verify(signature="") is False
    assert verify(signature="v1,short v2," + "A" * 43 + "= garbage") is False


def test_the_openssl_line_makes_the_plain_signature(tmp_path: Path) -> None:
    need("openssl")
    (tmp_path / "body.json").write_bytes(BODY)
    said = run(["sh", "-c", BLOCKS["verify.sh"]], tmp_path)
    assert said.split("= ")[-1] == HEADERS["X-Signature"].removeprefix("sha256=")


def test_the_table_of_retries_is_the_schedule() -> None:
    waits = re.findall(r"^\| \d+ \| (\d+) (s|min|h) \|", PAGE, flags=re.MULTILINE)
    units = {"s": 1, "min": 60, "h": 3600}
    assert tuple(int(number) * units[unit] for number, unit in waits) == DEFAULT_POLICY.schedule


@pytest.mark.parametrize("event", SAMPLE_EVENTS)
def test_the_page_says_when_each_event_is_sent(event: str) -> None:
    assert re.search(rf"^\| [^|]*`{re.escape(event)}`[^|]* \| \S", PAGE, flags=re.MULTILINE)


@pytest.mark.parametrize(
    ("block", "event"), [("health-data", "webhook.suspended"), ("dead-letter-data", "delivery.dead_lettered")]
)
def test_what_the_page_shows_of_an_operator_event_is_what_is_sent(block: str, event: str) -> None:
    message = json.loads(sample_event(event, GROUP_ID, make_occasion()).body)
    shown = json.loads(BLOCKS[block].replace("_…", "_" + "0" * 32))
    assert list(shown) == list(message["data"])
    must_fit({**message, "data": shown})
