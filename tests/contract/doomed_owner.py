"""A process that joins, leases every lane, says how many, and waits to be killed. It cleans nothing up.

python -m tests.contract.doomed_owner BACKEND FOLDER OWNER
"""

import asyncio
import sys
from pathlib import Path

from tests.contract.backends import BACKENDS
from tests.contract.steps import lease
from tests.fakes import NOW


async def main(backend: str, folder: str, owner: str) -> None:
    store = await BACKENDS[backend](Path(folder)).open()
    await store.join(owner, now=NOW)
    sys.stdout.write(f"{len(await lease(store, owner))}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)  # ends when whoever started us is gone


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
