"""Changes of a password that break off, or come at the same moment as another's."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.fakes import FakeClock, ScriptedSender
from tests.integration.apis import PASSWORD, Api, Client, expect, fields_of, opened_api, problem, sign_in

from gatepost.domain.errors import StoreUnavailable
from gatepost.domain.people import Session
from gatepost.ports import Saved


@pytest.fixture
async def api(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Api]:
    async with opened_api(tmp_path, clock=clock, sender=ScriptedSender(clock)) as api:
        yield api


async def change(browser: Client, current: str, new: str) -> Any:
    return await browser.post("/api/auth/password", {"currentPassword": current, "newPassword": new})


async def test_no_session_outlives_a_password_whose_change_broke_off(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    browser, user = await api.signed_in()
    save = api.store.save_password

    async def save_and_crash(user_id: str, password_hash: str, *, expected: str) -> None:
        await save(user_id, password_hash, expected=expected)
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


async def test_a_password_that_is_reset_while_it_is_changed_stays_the_operators(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    thief, user = await api.signed_in()
    save = api.store.save_password

    async def reset_before(user_id: str, password_hash: str, *, expected: str) -> Saved:
        monkeypatch.setattr(api.store, "save_password", save)
        await api.services.people.reset_password(user.email, "an operator's", draws=api.services.requests.draws())
        return await save(user_id, password_hash, expected=expected)

    monkeypatch.setattr(api.store, "save_password", reset_before)
    refused = problem(await change(thief, PASSWORD, "another horse"), 422, "validation_failed")
    assert fields_of(refused) == ["currentPassword"]
    await sign_in(api.browser(), user.email, "an operator's")


async def test_an_operator_resets_a_password_that_is_changed_at_the_same_moment(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    thief, user = await api.signed_in()
    save = api.store.save_password

    async def change_before(user_id: str, password_hash: str, *, expected: str) -> Saved:
        monkeypatch.setattr(api.store, "save_password", save)
        await sign_in(thief, user.email)  # the reset has ended the session that there was
        expect(await change(thief, PASSWORD, "another horse"), 200)
        return await save(user_id, password_hash, expected=expected)

    monkeypatch.setattr(api.store, "save_password", change_before)
    await api.services.people.reset_password(user.email, "an operator's", draws=api.services.requests.draws())
    problem(await thief.get("/api/auth/me"), 401, "unauthenticated")
    await sign_in(api.browser(), user.email, "an operator's")
