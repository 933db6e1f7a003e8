"""How often somebody may guess a password."""

import pytest
from tests.fakes import FakeClock

from gatepost.domain.errors import RateLimited
from gatepost.services import throttle
from gatepost.services.throttle import (
    MOST_OF_ACCOUNT,
    MOST_OF_ACCOUNT_AND_ADDRESS,
    MOST_OF_ADDRESS,
    WINDOW_SECONDS,
    Throttle,
)


@pytest.fixture
def guesses(clock: FakeClock) -> Throttle:
    return Throttle(clock)


def wait_of(guesses: Throttle, account: str, address: str) -> int:
    with pytest.raises(RateLimited) as refused:
        guesses.take(account, address)
    return refused.value.retry_after_seconds


def test_each_guess_counts_for_a_quarter_of_an_hour(guesses: Throttle, clock: FakeClock) -> None:
    for _ in range(MOST_OF_ACCOUNT_AND_ADDRESS):
        guesses.take("ann", "192.0.2.1")
        clock.advance(60)
    assert wait_of(guesses, "ann", "192.0.2.1") == WINDOW_SECONDS - 60 * MOST_OF_ACCOUNT_AND_ADDRESS
    clock.advance(WINDOW_SECONDS - 60 * MOST_OF_ACCOUNT_AND_ADDRESS)
    guesses.take("ann", "192.0.2.1")
    assert wait_of(guesses, "ann", "192.0.2.1") == 60


def test_an_address_that_tries_many_accounts_waits_with_all_of_them(guesses: Throttle) -> None:
    for number in range(MOST_OF_ADDRESS):
        guesses.take(f"person {number}", "192.0.2.1")
    assert wait_of(guesses, "one more", "192.0.2.1") == WINDOW_SECONDS
    guesses.take("one more", "192.0.2.2")


def test_an_account_that_is_tried_from_many_addresses_waits_everywhere(guesses: Throttle) -> None:
    for number in range(MOST_OF_ACCOUNT):
        guesses.take("ann", f"192.0.2.{number}")
    assert wait_of(guesses, "ann", "198.51.100.1") == WINDOW_SECONDS
    guesses.take("ben", "198.51.100.1")


def test_what_is_refused_is_not_counted(guesses: Throttle, clock: FakeClock) -> None:
    for _ in range(MOST_OF_ACCOUNT_AND_ADDRESS):
        guesses.take("ann", "192.0.2.1")
    for _ in range(MOST_OF_ADDRESS):
        wait_of(guesses, "ann", "192.0.2.1")
    guesses.take("ben", "192.0.2.1")
    clock.advance(WINDOW_SECONDS)
    guesses.take("ann", "192.0.2.1")


def test_whoever_was_right_begins_anew_but_only_there(guesses: Throttle) -> None:
    for _ in range(MOST_OF_ACCOUNT_AND_ADDRESS):
        guesses.take("ann", "192.0.2.1")
    guesses.clear("ann", "192.0.2.1")
    for number in range(MOST_OF_ADDRESS - MOST_OF_ACCOUNT_AND_ADDRESS + 1):
        guesses.take(f"person {number}", "192.0.2.1")
    wait_of(guesses, "ann", "192.0.2.1")


def test_what_was_not_judged_is_given_back(guesses: Throttle) -> None:
    for _ in range(MOST_OF_ADDRESS * 2):
        guesses.take("ann", "192.0.2.1")
        guesses.give_back("ann", "192.0.2.1")
    guesses.take("ann", "192.0.2.1")


def test_an_ipv6_address_counts_by_the_network_that_one_party_has(guesses: Throttle) -> None:
    for number in range(MOST_OF_ACCOUNT_AND_ADDRESS):
        guesses.take("ann", f"2001:db8:0:1::{number}")
    wait_of(guesses, "ann", "2001:db8:0:1:ffff::1")
    guesses.take("ann", "2001:db8:0:2::1")


def test_a_peer_without_an_address_is_counted_too(guesses: Throttle) -> None:
    for _ in range(MOST_OF_ACCOUNT_AND_ADDRESS):
        guesses.take("ann", "None")
    wait_of(guesses, "ann", "None")


def test_what_is_counted_is_bounded(guesses: Throttle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "MOST_COUNTED", 10)
    for number in range(100):
        guesses.take(f"person {number}", f"192.0.2.{number}")
    for _ in range(MOST_OF_ACCOUNT_AND_ADDRESS - 1):
        guesses.take("person 99", "192.0.2.99")
    wait_of(guesses, "person 99", "192.0.2.99")
    for _ in range(MOST_OF_ACCOUNT_AND_ADDRESS):
        guesses.take("person 0", "192.0.2.0")  # forgotten
