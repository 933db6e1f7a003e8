"""Nothing acknowledged is lost when the process is killed: the bench of that name, at a smaller size."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]


@pytest.mark.timeout(110)
def test_every_acknowledged_event_arrives_whatever_is_killed() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.kill9", "--events", "240", "--kills", "4"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )

    assert done.stdout, done.stderr
    report = json.loads(done.stdout)
    assert report["lost"] == 0
    assert report["phantom"] == 0
    assert report["underTwoIds"] == 0
    assert report["kills"] == 4
    assert report["acknowledged"] == 240
