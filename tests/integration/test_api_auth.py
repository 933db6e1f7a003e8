"""Signing in and out, passwords, and the sessions of browsers."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from tests.fakes import FakeClock, ScriptedSender
from tests.integration.apis import CHEAP, ORIGIN, PASSWORD, Api, Client, expect, fields_of, opened_api, problem, sign_in

from gatepost.adapters.passwords import Argon2Passwords
from gatepost.api.auth import COOKIE
from gatepost.api.peers import Peers
from gatepost.domain.errors import StoreUnavailable
from gatepost.domain.groups import Role
from gatepost.domain.people import IDLE, LIFETIME, session_text

EMAIL = "ann@example.com"
HOUR = timedelta(hours=1).total_seconds()
AFTER_WINDOW = 15 * 60 + 1


class WatchedPasswords(Argon2Passwords):
    """Counts what is asked, and does something before it answers."""

    def __init__(self) -> None:
        super().__init__(CHEAP)
        self.verified: list[bool] = []  # whether there was a hash to compare with
        self.meanwhile: Callable[[], Awaitable[object]] | None = None

    async def verify(self, password: str, password_hash: str | None) -> bool:
        self.verified.append(password_hash is not None)
        is_right = await super().verify(password, password_hash)
        if self.meanwhile is not None:
            await self.meanwhile()
        return is_right


@pytest.fixture
def passwords() -> WatchedPasswords:
    return WatchedPasswords()


@pytest.fixture
async def still(tmp_path: Path, clock: FakeClock, passwords: WatchedPasswords) -> AsyncIterator[Api]:
    """An API whose clock stands still."""
    async with opened_api(tmp_path, clock=clock, sender=ScriptedSender(clock), passwords=passwords) as api:
        yield api


async def try_to_sign_in(browser: Client, email: str = EMAIL, password: str = "a wrong one") -> Any:
    return await browser.post("/api/auth/login", {"email": email, "password": password})


async def signed_in_or_not(browser: Client) -> bool:
    answer = await browser.get("/api/auth/me")
    if answer.status_code == 200:
        return True
    problem(answer, 401, "unauthenticated")
    return False


# --- signing in ----------------------------------------------------------------------------------------------


async def test_who_signs_in_is_told_who_they_are_and_gets_a_cookie_for_this_site_only(api: Api) -> None:
    user = await api.new_account(email=EMAIL, name="Ann", role=Role.ADMIN)
    answer = await try_to_sign_in(browser := api.browser(), " Ann@Example.COM ", PASSWORD)
    assert expect(answer, 200) == {
        "id": user.id,
        "email": EMAIL,
        "name": "Ann",
        "isInstallationOwner": False,
        "groups": [{"id": api.group.id, "name": "Ours", "role": "admin"}],
    }
    cookie, *attributes = answer.headers["set-cookie"].split("; ")
    assert cookie.startswith(f"{COOKIE}=")
    assert set(attributes) == {"HttpOnly", "Max-Age=1209600", "Path=/", "SameSite=lax"}
    assert expect(await browser.get("/api/auth/me"), 200) == answer.json()


@pytest.mark.parametrize(
    ("peers", "headers", "secure"),
    [
        (Peers(public_url="https://hooks.example.com"), {"Origin": "https://hooks.example.com"}, True),
        (Peers(public_url="https://hooks.example.com"), {"Origin": "https://hooks.example.com:443"}, True),
        (Peers((ip_network("127.0.0.1/32"),)), {"Origin": "https://gatepost.test", "X-Forwarded-Proto": "https"}, True),
        (Peers(), {"Origin": ORIGIN, "X-Forwarded-Proto": "https"}, False),
    ],
)
async def test_the_cookie_is_never_sent_in_the_clear_once_it_came_by_https(
    tmp_path: Path, peers: Peers, headers: dict[str, str], secure: bool
) -> None:
    async with opened_api(tmp_path, peers=peers) as api:
        user, browser = await api.new_account(), api.browser()
        credentials = {"email": user.email, "password": PASSWORD}
        answer = await browser.post("/api/auth/login", credentials, headers=headers)
        expect(answer, 200)
        assert ("Secure" in answer.headers["set-cookie"].split("; ")) is secure
        cookie = f"{COOKIE}={answer.cookies[COOKIE]}"
        expect(await browser.post("/api/groups", {"name": "G"}, headers={**headers, "Cookie": cookie}), 201)


async def test_an_unknown_account_is_answered_like_a_wrong_password_after_the_same_work(
    still: Api, passwords: WatchedPasswords
) -> None:
    await still.new_account(email=EMAIL)
    answers = [
        await try_to_sign_in(still.browser(), *credentials)
        for credentials in [(EMAIL, "x"), (EMAIL, PASSWORD.upper()), ("nobody@example.com", PASSWORD), ("nobody", "")]
    ]
    [first, *others] = [problem(answer, 401, "unauthenticated") for answer in answers]
    assert all(other == first for other in others)
    assert all("set-cookie" not in answer.headers for answer in answers)
    assert passwords.verified == [True, True, False, False]


async def test_signing_in_again_ends_the_session_that_the_browser_had(api: Api) -> None:
    browser, user = await api.signed_in()
    before = api.browser()
    before.http.cookies.update(browser.http.cookies)
    other, _ = await api.signed_in()
    await sign_in(browser, user.email)
    assert await signed_in_or_not(browser)
    assert not await signed_in_or_not(before)
    assert await signed_in_or_not(other)


async def test_a_page_of_another_site_signs_nobody_in(api: Api) -> None:
    user = await api.new_account()
    credentials = {"email": user.email, "password": PASSWORD}
    for origin in ("https://evil.example", "null", "", f"{ORIGIN}/path", "http://[", "https://gatepost.test"):
        answer = await api.browser().post("/api/auth/login", credentials, headers={"Origin": origin})
        problem(answer, 403, "origin_mismatch")
    expect(await api.stranger.post("/api/auth/login", credentials), 200)  # no browser: they always send one


async def test_a_key_goes_before_a_cookie_and_comes_from_anywhere(api: Api) -> None:
    browser, _ = await api.signed_in(Role.MEMBER)
    headers = {"Authorization": f"Bearer {api.other_admin.key}", "Origin": "https://elsewhere.example"}
    assert expect(await browser.get("/api/auth/me", headers=headers), 200)["id"].startswith("key_")
    task = expect(await browser.post("/api/tasks", {"title": "T"}, headers=headers), 201)
    assert task["groupId"] == api.other_group.id
    problem(await browser.get("/api/auth/me", headers={"Authorization": "Bearer gp_none"}), 401, "unauthenticated")


async def test_what_a_person_does_is_theirs_and_comes_from_the_pages(api: Api) -> None:
    browser, user = await api.signed_in(Role.MEMBER)
    task = expect(await browser.post("/api/tasks", {"title": "T"}), 201)
    assert task["history"][0]["actorId"] == user.id
    [event] = expect(await api.admin.get("/api/integrations/events"), 200)["items"]
    assert (event["actorId"], event["origin"]) == (user.id, "ui")


async def test_a_key_sees_itself_in_the_shape_of_a_person(api: Api) -> None:
    me = expect(await api.admin.get("/api/auth/me"), 200)
    assert me.pop("id").startswith("key_")
    group = {"id": api.group.id, "name": "Ours", "role": "admin"}
    assert me == {"email": None, "name": None, "isInstallationOwner": False, "groups": [group]}


async def test_of_many_first_starts_one_makes_the_owner(api: Api) -> None:
    people, draws = api.services.people, api.services.requests.draws()
    made = await asyncio.gather(*(people.create_first(f"a{n}@example.com", None, draws=draws) for n in range(5)))
    [owner] = [each for each in made if each]
    me = await sign_in(api.browser(), owner.user.email, owner.password or "")
    assert me["isInstallationOwner"] is True
    assert {group["name"] for group in me["groups"]} == {"Ours", "Theirs"}
    assert await people.create_first("late@example.com", PASSWORD, draws=draws) is None


# --- guessing ------------------------------------------------------------------------------------------------


async def test_after_five_wrong_passwords_even_the_right_one_waits_and_nothing_is_hashed(
    still: Api, clock: FakeClock, passwords: WatchedPasswords
) -> None:
    await still.new_account(email=EMAIL)
    for _ in range(5):
        problem(await try_to_sign_in(still.browser()), 401, "unauthenticated")
    clock.advance(60)
    answer = await try_to_sign_in(still.browser(), EMAIL, PASSWORD)
    problem(answer, 429, "rate_limited")
    assert answer.headers["retry-after"] == str(14 * 60)
    assert len(passwords.verified) == 5
    expect(await try_to_sign_in(still.browser(address="192.0.2.1"), EMAIL, PASSWORD), 200)
    clock.advance(AFTER_WINDOW)
    expect(await try_to_sign_in(still.browser(), EMAIL, PASSWORD), 200)


async def test_guesses_at_once_are_no_more_than_guesses_in_turn(still: Api) -> None:
    await still.new_account(email=EMAIL)
    answers = await asyncio.gather(*(try_to_sign_in(still.browser()) for _ in range(20)))
    assert sorted(answer.status_code for answer in answers) == [401] * 5 + [429] * 15


async def test_the_right_password_forgives_the_wrong_ones_before_it(still: Api) -> None:
    await still.new_account(email=EMAIL)
    for _ in range(3):
        for _ in range(4):
            problem(await try_to_sign_in(still.browser()), 401, "unauthenticated")
        expect(await try_to_sign_in(still.browser(), EMAIL, PASSWORD), 200)


async def test_a_guess_that_was_not_judged_does_not_count(still: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async def unavailable(_: str) -> None:
        raise StoreUnavailable("the disk is full")

    await still.new_account(email=EMAIL)
    with monkeypatch.context() as patch:
        patch.setattr(still.store, "user_with_email", unavailable)
        for _ in range(6):
            problem(await try_to_sign_in(still.browser(), EMAIL, PASSWORD), 503, "store_unavailable")
    expect(await try_to_sign_in(still.browser(), EMAIL, PASSWORD), 200)


async def test_guesses_through_a_proxy_count_for_the_address_behind_it(tmp_path: Path) -> None:
    async with opened_api(tmp_path, peers=Peers((ip_network("10.0.0.0/8"),))) as api:
        await api.new_account(email=EMAIL)

        async def guess(address: str, password: str) -> int:
            credentials = {"email": EMAIL, "password": password}
            headers = {"X-Forwarded-For": address}
            browser = api.browser(address="10.0.0.1")
            return int((await browser.post("/api/auth/login", credentials, headers=headers)).status_code)

        assert [await guess("192.0.2.1", "wrong") for _ in range(6)] == [401] * 5 + [429]
        assert await guess("192.0.2.1", PASSWORD) == 429
        assert await guess("192.0.2.2", PASSWORD) == 200


# --- sessions ------------------------------------------------------------------------------------------------


async def test_who_signs_out_is_out_and_others_are_not(api: Api) -> None:
    browser, user = await api.signed_in()
    thief, elsewhere = api.browser(), api.browser()
    thief.http.cookies.update(browser.http.cookies)
    await sign_in(elsewhere, user.email)
    assert await signed_in_or_not(thief)
    answer = await browser.post("/api/auth/logout")
    assert answer.status_code == 204
    assert "Max-Age=0" in answer.headers["set-cookie"]
    assert COOKIE not in browser.http.cookies
    assert not await signed_in_or_not(thief)
    assert await signed_in_or_not(elsewhere)
    problem(await browser.post("/api/auth/logout"), 401, "unauthenticated")
    problem(await api.admin.post("/api/auth/logout"), 403, "forbidden")


async def test_a_session_ends_after_twelve_idle_hours(still: Api, clock: FakeClock) -> None:
    browser, _ = await still.signed_in()
    for _ in range(3):
        clock.advance(IDLE.total_seconds() - 1)
        assert await signed_in_or_not(browser)
        await still.services.close()
    clock.advance(IDLE.total_seconds())
    assert not await signed_in_or_not(browser)


async def test_a_session_ends_after_fourteen_days_however_much_it_is_used(still: Api, clock: FakeClock) -> None:
    browser, _ = await still.signed_in()
    for _ in range(int(LIFETIME.total_seconds() / HOUR) - 1):
        clock.advance(HOUR)
        assert await signed_in_or_not(browser)
        await still.services.close()
    clock.advance(HOUR)
    assert not await signed_in_or_not(browser)


async def test_sessions_are_listed_and_ended_one_by_one(still: Api, clock: FakeClock) -> None:
    browser, user = await still.signed_in()
    clock.advance(HOUR)
    elsewhere = still.browser()
    await sign_in(elsewhere, user.email)
    listed = expect(await elsewhere.get("/api/auth/sessions"), 200)
    assert listed["nextCursor"] is None
    [newest, oldest] = listed["items"]
    assert (newest["current"], oldest["current"]) == (True, False)
    assert oldest == {
        "id": oldest["id"],
        "createdAt": "2026-11-23T12:34:56.789Z",
        "lastUsedAt": "2026-11-23T12:34:56.789Z",
        "expiresAt": "2026-11-24T00:34:56.789Z",
        "current": False,
    }
    first = expect(await elsewhere.get("/api/auth/sessions?limit=1"), 200)
    rest = expect(await elsewhere.get(f"/api/auth/sessions?limit=1&cursor={first['nextCursor']}"), 200)
    assert (first["items"], rest) == ([newest], {"items": [oldest], "nextCursor": None})
    other, _ = await still.signed_in()
    problem(await other.delete(f"/api/auth/sessions/{oldest['id']}"), 404, "not_found")
    assert await signed_in_or_not(browser)
    assert (await elsewhere.delete(f"/api/auth/sessions/{oldest['id']}")).status_code == 204
    assert not await signed_in_or_not(browser)
    problem(await elsewhere.delete(f"/api/auth/sessions/{oldest['id']}"), 404, "not_found")
    clock.advance(IDLE.total_seconds())
    await sign_in(browser, user.email)
    assert len(expect(await browser.get("/api/auth/sessions"), 200)["items"]) == 1  # what has run out is not listed


async def test_all_sessions_are_ended_at_once_and_nobody_elses(api: Api) -> None:
    browser, user = await api.signed_in()
    elsewhere, (other, _) = api.browser(), await api.signed_in()
    await sign_in(elsewhere, user.email)
    answer = await browser.delete("/api/auth/sessions")
    assert (answer.status_code, COOKIE in browser.http.cookies) == (204, False)
    assert not await signed_in_or_not(elsewhere)
    assert await signed_in_or_not(other)


async def test_a_session_ended_by_another_process_lives_on_for_no_more_than_a_second(
    still: Api, clock: FakeClock
) -> None:
    browser, user = await still.signed_in()
    assert await signed_in_or_not(browser)
    await still.store.end_sessions(user.id)
    assert await signed_in_or_not(browser)
    clock.advance(1)
    assert not await signed_in_or_not(browser)


async def test_whoever_leaves_a_session_that_another_process_has_just_ended_is_not_bothered(still: Api) -> None:
    for leave in ("/api/auth/logout", "/api/auth/login"):
        browser, user = await still.signed_in()
        assert await signed_in_or_not(browser)
        await still.store.end_sessions(user.id)
        answer = await browser.post(leave, {"email": user.email, "password": PASSWORD})
        assert answer.status_code in (200, 204)
        assert await signed_in_or_not(browser) is (answer.status_code == 200)


async def test_a_session_opens_with_its_own_secret_only(api: Api) -> None:
    browser, _ = await api.signed_in()
    number, _, secret = browser.http.cookies[COOKIE].partition(".")
    for text in (number, f"{number}.", f"{number}.{'0' * 64}", session_text("ses_" + "0" * 32, bytes.fromhex(secret))):
        answer = await api.stranger.get("/api/auth/me", headers={"Cookie": f"{COOKIE}={text}"})
        problem(answer, 401, "unauthenticated")


# --- passwords -----------------------------------------------------------------------------------------------


async def change(browser: Client, current: str, new: str) -> Any:
    return await browser.post("/api/auth/password", {"currentPassword": current, "newPassword": new})


async def test_a_changed_password_ends_every_session_but_begins_a_new_one_here(api: Api) -> None:
    browser, user = await api.signed_in()
    thief, elsewhere = api.browser(), api.browser()
    thief.http.cookies.update(browser.http.cookies)
    await sign_in(elsewhere, user.email)
    assert expect(await change(browser, PASSWORD, "another horse"), 200)["id"] == user.id
    assert await signed_in_or_not(browser)
    assert not await signed_in_or_not(thief)
    assert not await signed_in_or_not(elsewhere)
    problem(await try_to_sign_in(elsewhere, user.email, PASSWORD), 401, "unauthenticated")
    await sign_in(elsewhere, user.email, "another horse")


async def test_a_password_is_changed_by_who_knows_it_to_one_that_is_fit(still: Api) -> None:
    browser, user = await still.signed_in()
    for new in ("short", "x" * 201):
        assert fields_of(problem(await change(browser, PASSWORD, new), 422, "validation_failed")) == ["newPassword"]
    for _ in range(5):
        document = problem(await change(browser, "a wrong one", "another horse"), 422, "validation_failed")
        assert fields_of(document) == ["currentPassword"]
    problem(await change(browser, PASSWORD, "another horse"), 429, "rate_limited")
    await sign_in(still.browser(address="192.0.2.1"), user.email)
    problem(await change(still.admin, PASSWORD, "another horse"), 403, "forbidden")


async def test_a_password_that_was_changed_meanwhile_signs_nobody_in(still: Api, passwords: WatchedPasswords) -> None:
    user = await still.new_account()

    async def meanwhile() -> None:
        await still.services.people.reset_password(user.email, "another horse", draws=still.services.requests.draws())

    passwords.meanwhile = meanwhile
    problem(await try_to_sign_in(still.browser(), user.email, PASSWORD), 401, "unauthenticated")
    assert await still.store.sessions(user.id) == []
