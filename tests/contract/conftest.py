"""The contract runs unchanged on every backend; here is how each test gets a fresh one."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.contract.backends import BACKENDS, Backend, Store, data_on


@pytest.fixture(params=sorted(BACKENDS))
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    """The data of this test, empty but for the group that the builders use."""
    name: str = request.param
    request.node.user_properties.append(("backend", name))
    async with data_on(name, tmp_path) as backend:
        yield backend


@pytest.fixture
async def store(backend: Backend) -> Store:
    return await backend.open()


@pytest.fixture
async def other_store(backend: Backend) -> Store:
    """A second handle on the same data, as a second process has."""
    return await backend.open()
