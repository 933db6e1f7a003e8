"""What the integration tests share."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.integration.apis import Api, opened_api


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with opened_api(tmp_path) as opened:
        yield opened
