"""What tasks cost in a large group, beside a small one: 10,000 tasks and 1,000 webhooks against 100 and 100.

    python -m bench.tasks --rounds 5

Two `gatepost serve` processes on a store each, asked in turn over one kept connection each. Of either group's webhooks
ten want every event, so that a write emits as much in both; the others have to be matched and passed over.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from typing import Any

import httpx2
from tests.installations import serving, settings_on

WANTING_ALL = 10
CALLS = 200


@dataclass
class Group:
    """A group of a size, and the connection to its server."""

    http: httpx2.Client
    tasks: int
    webhooks: int
    task_ids: list[str] = field(default_factory=list)

    def call(self, method: str, path: str, body: Any = None) -> Any:
        answer = self.http.request(method, path, json=body)
        answer.raise_for_status()
        return answer.json()

    def fill(self) -> None:
        for number in range(self.webhooks):
            events = ["*"] if number < WANTING_ALL else ["billing.paid"]
            body = {"name": f"Hook {number}", "targetUrl": f"https://hooks.example.com/{number}", "events": events}
            self.call("POST", "/api/integrations/webhooks", body)
        for number in range(self.tasks):
            self.task_ids.append(self.call("POST", "/api/tasks", {"title": f"Water plant {number}"})["id"])

    def next_task(self) -> str:
        """Return one task after the other: an answer has all of its history, and a task seldom has much."""
        self.task_ids.append(self.task_ids.pop(0))
        return self.task_ids[-1]


@contextmanager
def group(tasks: int, webhooks: int) -> Iterator[Group]:
    with TemporaryDirectory() as folder, serving(_quiet(folder)) as served:
        headers = {"Authorization": f"Bearer {served.key}"}
        with httpx2.Client(base_url=served.url, headers=headers, timeout=60) as http:
            yield Group(http, tasks, webhooks)


def _quiet(folder: str) -> Mapping[str, str]:
    # Nobody reads the log, whose pipe would fill up.
    return settings_on(f"sqlite:///{folder}/gatepost.db", GATEPOST_LOG_LEVEL="error")


Operation = Callable[[Group], Any]
_NUMBERS = count()

OPERATIONS: dict[str, Operation] = {
    "list, 50 newest": lambda group: group.call("GET", "/api/tasks"),
    "list, of one status": lambda group: group.call("GET", "/api/tasks?status=pending"),
    "list, a search that finds much": lambda group: group.call("GET", "/api/tasks?q=plant"),
    "list webhooks": lambda group: group.call("GET", "/api/integrations/webhooks"),
    "create a task": lambda group: group.call("POST", "/api/tasks", {"title": "Water one more"}),
    "update a task": lambda group: group.call(
        "PUT", f"/api/tasks/{group.next_task()}", {"title": f"Water {next(_NUMBERS)}"}
    ),
}


def timed(operation: Operation, group: Group) -> list[float]:
    """Return the milliseconds of each call."""
    taken = []
    for _ in range(CALLS):
        began = time.perf_counter()
        operation(group)
        taken.append((time.perf_counter() - began) * 1000)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--webhooks", type=int, default=1_000)
    asked = parser.parse_args()
    with group(100, 100) as small, group(asked.tasks, asked.webhooks) as large:
        for each in (small, large):
            each.fill()
        taken: dict[tuple[str, int], list[float]] = {}
        for _ in range(asked.rounds):
            for name, operation in OPERATIONS.items():
                for number, each in enumerate((small, large)):
                    taken.setdefault((name, number), []).extend(timed(operation, each))
    print(f"{'ms, median / p95':32} {'100 + 100':>16} {f'{asked.tasks:,} + {asked.webhooks:,}':>18} {'ratio':>12}")
    for name in OPERATIONS:
        cells = [(median(each), quantiles(each, n=20)[18]) for each in (taken[name, 0], taken[name, 1])]
        (few, few_95), (many, many_95) = cells
        print(
            f"{name:32} {f'{few:.2f} / {few_95:.2f}':>16} {f'{many:.2f} / {many_95:.2f}':>18}"
            f" {f'{many / few:.2f} / {many_95 / few_95:.2f}':>12}"
        )


if __name__ == "__main__":
    main()
