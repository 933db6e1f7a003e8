"""What the commands have in common: options, exit codes, and how they run and fail."""

import asyncio
from collections.abc import Coroutine
from typing import Annotated, Any, NoReturn, TypeVar

import typer
import uvloop

from gatepost import config, logs
from gatepost.client import Api, checked_url
from gatepost.config import Settings

T = TypeVar("T")

SERVED_AT = "http://127.0.0.1:8000"
EXIT_FAILED = 1  # it was understood and could not be done
EXIT_USAGE = 2  # what was given cannot be used

StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URL",
        help="sqlite:///PATH, postgresql://… or mongodb://…; else GATEPOST_STORE.",
        show_default=False,
    ),
]
UrlOption = Annotated[str, typer.Option(help="Where Gatepost serves.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, one object per line.")]


def settings_of(**given: object) -> Settings:
    """Return the settings, and log by them."""
    settings = config.load(**given)
    logs.configure(level=settings.log_level, format=settings.log_format)
    return settings


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a command on an event loop of its own."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


def api_of(url: str, key: str | None) -> Api:
    """Return the API that a command calls with a key; end without one."""
    if not key:
        fail("There is no API key: give --key, or set GATEPOST_API_KEY. `gatepost key create` makes one.", EXIT_USAGE)
    return Api(checked_url(url), key)


def fail(sentence: str, code: int) -> NoReturn:
    """Say what is wrong, and end."""
    typer.echo(f"gatepost: {sentence}", err=True)
    raise SystemExit(code)
