"""Changes of a password that break off, or come at the same moment as another's."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.fakes import FakeClock, ScriptedSender
from tests.integration.apis import PASSWORD, Api, Client, opened_api, problem, sign_in

from gatepost.domain.errors import StoreUnavailable
from gatepost.domain.people import Session


@pytest.fixture
async def api(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Api]:
    async with opened_api(tmp_path, clock=clock, sender=ScriptedSender(clock)) as api:
        yield api


async def change(browser: Client, current: str, new: str) -> Any:
    return await browser.post("/api/auth/password", {"currentPassword": current, "newPassword": new})


async def test_no_session_outlives_a_password_whose_change_broke_off(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    browser, user = await api.signed_in()
    save = api.store.save_password

    async def save_and_crash(user_id: str, password_hash: str) -> None:
        await save(user_id, password_hash)
        raise StoreUnavailable("the plug was pulled")

    monkeypatch.setattr(api.store, "save_password", save_and_crash)
    problem(await change(browser, PASSWORD, "another horse"), 503, "store_unavailable")
    problem(await browser.get("/api/auth/me"), 401, "unauthenticated")
    await sign_in(browser, user.email, "another horse")


async def test_who_changes_a_password_while_it_is_reset_is_not_signed_in_by_that(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    thief, user = await api.signed_in()
    add = api.store.add_session

    async def reset_before(session: Session) -> None:
        await api.services.people.reset_password(user.email, "an operator's", draws=api.services.requests.draws())
        await add(session)

    monkeypatch.setattr(api.store, "add_session", reset_before)
    problem(await change(thief, PASSWORD, "another horse"), 401, "unauthenticated")
    assert await api.store.sessions(user.id) == []
