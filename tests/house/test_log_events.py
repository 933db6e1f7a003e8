"""Every log event is explained to operators, and none is explained that there is not."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}


def events_written() -> Iterator[str]:
    for path in (ROOT / "src" / "gatepost").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in LEVELS
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "log"
            ):
                event = node.args[0]
                assert isinstance(event, ast.Constant), f"{path.name}:{node.lineno} names no event"
                yield event.value


def events_explained() -> set[str]:
    page = (ROOT / "docs" / "operating.md").read_text()
    table = page[page.index("## Log events") :]
    return {
        event for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for event in re.findall(r"`([^`]+)`", row)
    }


def test_every_log_event_is_explained_and_no_other() -> None:
    written = set(events_written())

    assert written
    assert events_explained() == written
