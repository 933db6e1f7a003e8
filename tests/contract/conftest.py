"""The contract runs unchanged on every backend; here is how each test gets a fresh one."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.builders import GROUP_ID, make_group
from tests.contract.backends import BACKENDS, Backend, Store


@pytest.fixture(params=sorted(BACKENDS))
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    """The data of this test, empty but for the group that the builders use."""
    name: str = request.param
    request.node.user_properties.append(("backend", name))
    if reason := BACKENDS[name].missing():
        if os.environ.get("GATEPOST_REQUIRE_SERVERS") == "1":
            pytest.fail(f"{reason}, and GATEPOST_REQUIRE_SERVERS=1 asks for it")
        pytest.skip(reason)
    backend = BACKENDS[name](tmp_path)
    first = await backend.open()
    await first.add_group(make_group(id=GROUP_ID, name="the group of the builders"))
    yield backend
    await backend.close()


@pytest.fixture
async def store(backend: Backend) -> Store:
    return await backend.open()


@pytest.fixture
async def other_store(backend: Backend) -> Store:
    """A second handle on the same data, as a second process has."""
    return await backend.open()
