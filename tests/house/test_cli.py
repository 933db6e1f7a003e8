"""Every command and every option is in docs/cli.md, and none waits for what only the server needs."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import typer.main

from gatepost.cli import root

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "cli.md").read_text()
SECTIONS = dict(re.findall(r"^## `(gatepost [a-z -]+)`\n(.*?)(?=^## |\Z)", PAGE, flags=re.MULTILINE | re.DOTALL))


def commands(command: object, name: str) -> Iterator[tuple[str, object]]:
    """Walk the commands that do something, hidden ones left out."""
    subcommands = getattr(command, "commands", None)
    if subcommands is None:
        yield name, command
        return
    for word, subcommand in subcommands.items():
        if not subcommand.hidden:
            yield from commands(subcommand, f"{name} {word}")


COMMANDS = dict(commands(typer.main.get_command(root), "gatepost"))


def test_every_command_has_its_section_and_every_section_its_command() -> None:
    assert COMMANDS
    assert set(SECTIONS) == set(COMMANDS)


def test_every_option_is_in_the_section_of_its_command() -> None:
    for name, command in COMMANDS.items():
        options = [option for parameter in command.params for option in parameter.opts if option.startswith("--")]
        assert [option for option in options if option != "--help" and f"`{option}`" not in SECTIONS[name]] == [], name


def test_every_option_says_what_it_is_for() -> None:
    for name, command in COMMANDS.items():
        silent = [parameter.name for parameter in command.params if not getattr(parameter, "help", None)]
        assert silent == [], name


def test_no_command_waits_for_the_web_framework() -> None:
    program = "import sys, gatepost.cli; print('fastapi' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
