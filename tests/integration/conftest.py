"""What the integration tests share."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.contract.backends import BACKENDS, MongoBackend, Postgres18Backend
from tests.integration.apis import Api, opened_api
from tests.integration.fleets import SHARED_ON, Fleet, fleet_on
from tests.integration.mongodb_rigs import mongodb_database
from tests.integration.postgres_rigs import postgres_database
from tests.integration.rigs import Rig, engine_rig
from tests.integration.senders import CLOCK, LOOPBACK, Make, Sending
from tests.receivers import Receiver
from tests.tools import missing

from gatepost.adapters.resolver import Resolver
from gatepost.adapters.sender import CurlSender
from gatepost.domain.network import TargetPolicy


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with opened_api(tmp_path) as opened:
        yield opened


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    made: list[Sending] = []

    def _make(policy: TargetPolicy = LOOPBACK, resolver: Any = None, **options: Any) -> Sending:
        deaths: list[BaseException] = []
        sender = CurlSender(policy, resolver or Resolver(CLOCK), CLOCK, on_thread_death=deaths.append, **options)
        made.append(Sending(sender, deaths))
        return made[-1]

    yield _make
    for sending in made:
        await sending.sender.close()
        assert sending.deaths == []


@pytest.fixture
def send(make: Make) -> Sending:
    return make()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        yield receiver


@pytest.fixture
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    """A rig on SQLite, or on the backend that a test names by parametrizing this."""
    async with engine_rig(tmp_path, on=getattr(request, "param", "sqlite")) as rig:
        yield rig


@pytest.fixture(params=SHARED_ON)
async def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Fleet]:
    if lacking := BACKENDS[request.param].missing():
        missing(lacking)
    async with fleet_on(request.param, tmp_path) as fleet:
        yield fleet


@pytest.fixture
async def mongodb(tmp_path: Path) -> AsyncIterator[MongoBackend]:
    async with mongodb_database(tmp_path) as backend:
        yield backend


@pytest.fixture
async def postgres(tmp_path: Path) -> AsyncIterator[Postgres18Backend]:
    async with postgres_database(tmp_path) as backend:
        yield backend
