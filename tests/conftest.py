"""What every folder of tests shares."""

from collections import Counter, defaultdict

import pytest
from hypothesis import settings
from tests.fakes import FakeClock, NumberedChance, ScriptedSender

# Deadlines measure the machine, not the code; the count keeps the unit folder under three seconds.
settings.register_profile("gatepost", deadline=None, max_examples=50)
settings.register_profile("nightly", deadline=None, max_examples=2_000)
settings.load_profile("gatepost")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def chance() -> NumberedChance:
    return NumberedChance()


@pytest.fixture
def sender(clock: FakeClock) -> ScriptedSender:
    return ScriptedSender(clock)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which store backends the contract ran on, so that a skipped one is not taken for a tested one."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for outcome in ("passed", "failed", "skipped", "error"):
        for report in terminalreporter.getreports(outcome):
            for name, value in getattr(report, "user_properties", ()):
                if name == "backend":
                    counts[value][outcome] += 1
    if counts:
        terminalreporter.section("store backends")
    for backend, of in sorted(counts.items()):
        terminalreporter.line(f"{backend}: " + ", ".join(f"{n} {outcome}" for outcome, n in of.items()))
