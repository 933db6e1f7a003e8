"""Programs that a test calls by name: without one a test is skipped, and in CI it fails."""

import os
import shutil
from typing import NoReturn

import pytest


def need(command: str) -> str:
    """Return where a program is; else skip, or fail where the run is to leave nothing out."""
    path = shutil.which(command)
    return path or missing(f"there is no {command} on this machine")


def missing(what: str) -> NoReturn:
    if os.environ.get("GATEPOST_REQUIRE_SERVERS") == "1":
        pytest.fail(f"{what}, and GATEPOST_REQUIRE_SERVERS=1 asks for it")
    pytest.skip(what)
