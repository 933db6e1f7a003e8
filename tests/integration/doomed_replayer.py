"""A process that advances bulk replays as fast as it can, says so after each round, and waits to be killed.

python -m tests.integration.doomed_replayer BACKEND FOLDER
"""

import asyncio
import sys
from pathlib import Path

from tests.contract.backends import BACKENDS
from tests.fakes import NOW, FakeClock

from gatepost.engine.replays import Replays


async def main(backend: str, folder: str) -> None:
    store = await BACKENDS[backend](Path(folder)).open()
    replays = Replays(store, FakeClock(NOW), owner="owner-doomed")
    while await replays.advance() is not None:
        sys.stdout.write(".\n")
        sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)  # ends when whoever started us is gone


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
