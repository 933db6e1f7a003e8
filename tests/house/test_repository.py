"""The rules of the house that no other tool checks: what files may say, their length, that tools saw them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "src" / "gatepost").rglob("*.py"))
REQUIREMENTS = sorted((ROOT / "requirements").glob("*.txt"))
LONGEST_SOURCE_FILE = 400

# Written in pieces, so that this file does not break its own rules.
REGISTRY_HOST = re.compile(
    "|".join(
        re.escape("".join(parts))
        for parts in [
            ("pypi", ".org"),
            ("python", "hosted"),
            ("npm", "js.org"),
            ("npm", "js.com"),
            ("yarn", "pkg.com"),
            ("crates", ".io"),
            ("proxy.", "golang"),
            ("repo.", "maven"),
            ("maven", ".org"),
            ("deb.", "debian.org"),
        ]
    ),
    re.IGNORECASE,
)
MACHINE_PATH = re.compile(r"(?<![\w.~-])/(?:" + "|".join(["home", "root", "work", "Users"]) + r")/")

PIN = re.compile(r"^(?P<name>[a-z0-9][a-z0-9-]*)==(?P<version>[^\s;]+)(?: ; [^\\]+)? \\$")
HASH = re.compile(r"^    --hash=sha256:[0-9a-f]{64}(?: \\)?$")
ANNOTATION = re.compile(r"^    # via ")


def test_no_file_names_a_package_registry() -> None:
    assert lines_matching(REGISTRY_HOST) == []


def test_no_file_holds_a_path_of_somebodys_machine() -> None:
    assert lines_matching(MACHINE_PATH) == []


def test_no_source_file_is_longer_than_one_can_hold_in_the_head() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in SOURCES}
    assert lengths
    assert {name: length for name, length in lengths.items() if length > LONGEST_SOURCE_FILE} == {}


def test_the_import_rules_hold_and_looked_at_every_source_file() -> None:
    run = run_tool("lint-imports", "--no-cache")
    analysed = re.search(r"Analyzed (\d+) files", run.stdout)
    assert analysed, run.stdout + run.stderr
    assert int(analysed[1]) >= len(SOURCES) > 0
    assert run.returncode == 0, run.stdout


def test_the_linter_looks_at_every_source_file() -> None:
    seen = {Path(line) for line in run_tool("ruff", "check", "--show-files", "src").stdout.splitlines()}
    assert set(SOURCES) <= seen


@pytest.mark.parametrize("path", REQUIREMENTS, ids=lambda path: path.name)
def test_every_pin_has_a_hash_and_no_address(path: Path) -> None:
    hashes: dict[str, int] = {}
    pin = ""
    for line in path.read_text().splitlines():
        if found := PIN.match(line):
            pin = found["name"]
            hashes[pin] = 0
        elif HASH.match(line):
            hashes[pin] += 1
        else:
            assert ANNOTATION.match(line), f"neither a pin, a hash nor a note: {line!r}"
        assert "://" not in line
    assert hashes
    assert [name for name, count in hashes.items() if count == 0] == []


def test_the_development_set_contains_all_others_at_the_same_versions() -> None:
    everything = pins(ROOT / "requirements" / "dev.txt")
    for path in REQUIREMENTS:
        assert pins(path).items() <= everything.items(), path.name


def test_the_npm_lock_pins_by_content_and_holds_no_address() -> None:
    lock = json.loads((ROOT / "tests" / "interop" / "package-lock.json").read_text())
    packages = {name: package for name, package in lock["packages"].items() if name}
    assert packages
    assert [name for name, package in packages.items() if "resolved" in package] == []
    assert [name for name, package in packages.items() if "integrity" not in package] == []


def lines_matching(pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in files_of_the_repository()
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1)
        if pattern.search(line)
    ]


def files_of_the_repository() -> list[Path]:
    """List what is tracked, and what would be by the next commit."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    files = [ROOT / name for name in listed.split("\0") if name]
    assert files
    return [path for path in files if path.is_file()]


def run_tool(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    tool = Path(sys.executable).with_name(name)
    return subprocess.run([tool, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def pins(path: Path) -> dict[str, str]:
    found = (PIN.match(line) for line in path.read_text().splitlines())
    return {match["name"]: match["version"] for match in found if match}
