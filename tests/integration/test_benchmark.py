"""The benchmark measures what it says: every delivery of both variants arrives. Its figures are nobody's assertion."""

import json
import subprocess
import sys


def test_the_benchmark_delivers_everything_and_reports_both_variants() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gatepost", "bench", "deliver", "--deliveries", "200", "--rounds", "1", "--json"],
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )

    figures = json.loads(done.stdout)
    assert set(figures["variants"]) == {"sender alone", "engine on SQLite"}
    assert {variant["cpuMicrosPerDelivery"] > 0 for variant in figures["variants"].values()} == {True}
    assert [measured["deliveries"] for measured in figures["rounds"]] == [200, 200]
