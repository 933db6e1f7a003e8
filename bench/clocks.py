"""Deliver from workers whose clocks are half a minute apart, and count what is sent twice.

    python -m bench.clocks --store postgres-18 --deliveries 10000

Run from a checkout, on the servers of the tests. It is the scenario of `tests/integration/test_engine_sharing.py`:
engines with handles of their own on one store, on machines a whole lease apart; half-way one clock is set back by two
leases, and another engine takes the place of the first. Time is simulated, so that nothing depends on this machine's
speed. `--uncorrected` deliveries are then made without following the clock of the store, to show that the figure means
something. Prints a JSON report and exits 1 unless nothing was sent twice with one clock, everything was delivered, and
something was sent twice without.
"""

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.contract.backends import BACKENDS
from tests.integration.fleets import Fleet, deliver_on_wrong_clocks, fleet_on
from tests.integration.rigs import LEASE

from gatepost import logs


async def measured(store: str, deliveries: int, *, follows: bool) -> dict[str, Any]:
    """Run the scenario on an empty store; return what came of it."""
    began = time.monotonic()
    with TemporaryDirectory(prefix="gatepost-clocks-") as folder:
        async with fleet_on(store, Path(folder)) as fleet:
            await deliver_on_wrong_clocks(fleet, deliveries=deliveries, follows=follows)
            return {**await figures(fleet), "seconds": round(time.monotonic() - began, 1)}


async def figures(fleet: Fleet) -> dict[str, Any]:
    sent = fleet.sent
    return {
        "deliveries": len({delivery_id for delivery_id, _ in sent}),
        "requests": sum(sent.values()),
        "sentTwice": len(fleet.sent_twice),
        "unfinished": await fleet.unfinished(),
        "requestsByWorker": [len(worker.sender.sent) for worker in fleet.workers],
    }


async def run(store: str, deliveries: int, uncorrected: int) -> dict[str, Any]:
    corrected = await measured(store, deliveries, follows=True)
    without = await measured(store, uncorrected, follows=False)
    return {
        "store": store,
        "secondsApart": LEASE.total_seconds(),
        "leaseSeconds": LEASE.total_seconds(),
        "corrected": corrected,
        "withoutCorrection": without,
        "ok": corrected["sentTwice"] == 0
        and corrected["requests"] == corrected["deliveries"] == deliveries
        and not corrected["unfinished"]
        and min(corrected["requestsByWorker"]) > 0
        and without["sentTwice"] > 0,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", choices=sorted(BACKENDS), default="postgres-18")
    parser.add_argument("--deliveries", type=int, default=10_000)
    parser.add_argument("--uncorrected", type=int, default=1_000, help="deliveries without one clock")
    options = parser.parse_args()
    if lacking := BACKENDS[options.store].missing():
        sys.exit(f"It cannot run here: {lacking}.")
    logs.configure(level="error", format=None)
    report = asyncio.run(run(options.store, options.deliveries, options.uncorrected))
    print(json.dumps(report, indent=2))
    sys.exit(0 if report["ok"] else 1)


if __name__ == "__main__":
    main()
