"""Log lines: one per event, readable by machines or people, and never with a secret in them (T3, T8)."""

import io
import json
import logging
import warnings
from collections.abc import Iterator

import pytest
import structlog

from gatepost import logs

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
KEY = f"gp_{'0' * 32}_{'f' * 64}"
SIGNATURE = "sha256=" + "ab" * 32
PASSWORD = "postgresql://gatepost:hunter2@"
STANDARD_SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.fixture(autouse=True)
def _leave_logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(False)
    structlog.reset_defaults()


def configured(level: logs.Level = "info", format: logs.Format = "json") -> io.StringIO:
    stream = io.StringIO()
    logs.configure(level=level, format=format, stream=stream)
    return stream


def only_line(stream: io.StringIO) -> dict[str, object]:
    (line,) = stream.getvalue().splitlines()
    return json.loads(line)


def test_a_line_is_one_object_with_its_moment_and_level() -> None:
    stream = configured()
    structlog.get_logger().info("webhook.created", webhook_id="wh_1", count=2, ratio=0.5, missing=None)
    line = only_line(stream)
    assert str(line.pop("at")).endswith("Z")
    assert line == {
        "event": "webhook.created",
        "level": "info",
        "webhook_id": "wh_1",
        "count": 2,
        "ratio": 0.5,
        "missing": None,
    }


@pytest.mark.parametrize(
    "key",
    [
        "secret", "new_secret", "newSecret", "signature", "X-Signature", "webhook-signature", "authorization",
        "Authorization", "password", "adminPassword", "body", "response_body", "headers", "requestHeaders", "cookie",
        "set-cookie", "payload", "token", "metrics_token", "key", "api_key", "apiKey", "secret_key", "SECRET_KEY",
        "credentials",
    ],
)  # fmt: skip
def test_a_key_that_names_a_secret_hides_its_value_at_any_depth(key: str) -> None:
    stream = configured()
    structlog.get_logger().info("request.refused", **{key: "hunter2"}, nested={"list": [{key: ["hunter2"]}]})
    assert "hunter2" not in stream.getvalue()
    assert only_line(stream)[key] == logs.REDACTED


@pytest.mark.parametrize(
    "key",
    ["secret_hint", "body_bytes", "key_id", "keyId", "header_count", "response_truncated", "monkey", "error_class"],
)
def test_facts_about_secrets_are_told(key: str) -> None:
    stream = configured()
    structlog.get_logger().info("request.refused", **{key: "…LaSw"})
    assert only_line(stream)[key] == "…LaSw"


@pytest.mark.parametrize("secret", [SECRET, KEY, SIGNATURE, STANDARD_SIGNATURE, PASSWORD])
def test_what_looks_like_a_secret_of_ours_is_replaced_wherever_it_stands(secret: str) -> None:
    stream = configured()
    log = structlog.get_logger()
    log.info("request.refused", path=f"/api/tasks?x={secret}", seen=[f"{secret} and more"], cause=ValueError(secret))
    try:
        raise RuntimeError(f"unexpected {secret}")
    except RuntimeError:
        log.exception("delivery.crashed")
    logging.getLogger("library").warning("cannot use %s", secret)
    assert secret not in stream.getvalue()
    assert "hunter2" not in stream.getvalue()
    assert stream.getvalue().count(logs.REDACTED) >= 5


def test_an_exception_shows_no_local_variables() -> None:
    for format in ("json", "console"):
        stream = configured(format=format)
        try:
            hunter = "hunter" + str(2)
            raise RuntimeError(len(hunter))
        except RuntimeError:
            structlog.get_logger().exception("delivery.crashed")
        assert "RuntimeError: 7" in stream.getvalue()
        assert "hunter2" not in stream.getvalue()


@pytest.mark.parametrize("format", ["json", "console"])
def test_nobodys_text_can_make_a_line_of_its_own(format: logs.Format) -> None:
    stream = configured(format=format)
    structlog.get_logger().info("task.created", title='x"\n{"event":"faked"}\r\x1b[2J\x00')
    assert len(stream.getvalue().splitlines()) == 1
    assert "\x1b" not in stream.getvalue()


def test_any_value_can_be_written() -> None:
    stream = configured()
    structlog.get_logger().info("value.written", a="\ud800", b=float("nan"), c=object(), d={1: b"\xff"}, e={3})
    line = only_line(stream)
    assert line["event"] == "value.written"


def test_what_is_below_the_level_is_not_written() -> None:
    stream = configured(level="warning")
    structlog.get_logger().info("attempt.made")
    structlog.get_logger().warning("lane.lost")
    assert only_line(stream)["event"] == "lane.lost"


def test_libraries_speak_through_the_same_pipeline() -> None:
    stream = configured()
    logging.getLogger("uvicorn.error").info("Started server process")
    logging.getLogger("uvicorn.error").warning("odd\nrequest")
    line = only_line(stream)
    assert (line["event"], line["library"], line["message"]) == ("library.logged", "uvicorn.error", "odd\nrequest")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    assert len(stream.getvalue().splitlines()) == 2


def test_people_get_lines_they_can_read() -> None:
    stream = configured(format="console")
    structlog.get_logger().info("server.started", url="http://127.0.0.1:8000")
    assert "server.started" in stream.getvalue()
    assert "url='http://127.0.0.1:8000'" in stream.getvalue()
    assert not stream.getvalue().startswith("{")


def test_a_log_that_cannot_be_written_does_not_end_what_it_is_about() -> None:
    class Full(io.StringIO):
        def write(self, _: str) -> int:
            raise OSError(28, "No space left on device")

    logs.configure(level="info", format="json", stream=Full())

    structlog.get_logger().info("delivery.attempted", delivery_id="dlv_1")
