"""Many processes on one store, killed and cut off: the bench of that name, at a smaller size."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests import postgres_servers, standin
from tests.tools import missing

CHECKOUT = Path(__file__).parents[2]
NOTHING_OF = ("lost", "unfinished", "phantom", "inconsistent", "deliveredWithoutArrival", "ofOtherBytes", "bugs")


@pytest.mark.timeout(110)
def test_whatever_worker_is_killed_and_though_postgresql_restarts_every_delivery_is_accounted_for() -> None:
    if lacking := postgres_servers.missing(18) and postgres_servers.missing(15):
        missing(lacking)

    report = fleet("--store", "postgres", "--events", "300", "--restarts", "1")

    assert_accounted_for(report, events=300)
    assert report["restarts"] == 1


@pytest.mark.timeout(110)
def test_whatever_worker_is_killed_on_mongodb_every_delivery_is_accounted_for() -> None:
    if lacking := standin.missing():
        missing(lacking)

    report = fleet("--store", "mongodb", "--events", "150")

    assert_accounted_for(report, events=150)


def assert_accounted_for(report: dict[str, Any], *, events: int) -> None:
    assert {name: report[name] for name in NOTHING_OF} == dict.fromkeys(NOTHING_OF, 0), report
    assert report["unexplained"] == []
    assert report["acknowledged"] >= events
    assert report["kills"] > 0
    assert report["ok"], report


def fleet(*arguments: str) -> dict[str, Any]:
    sizes = ("--workers", "2", "--apis", "1", "--webhooks", "6", "--lease", "2", "--kill-every", "0.7")
    done = subprocess.run(
        [sys.executable, "-m", "bench.fleet", *sizes, *arguments],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.stdout, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report
