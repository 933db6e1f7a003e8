"""The command `gatepost`. Exit codes and every option: docs/cli.md."""

import asyncio
import json
import sys
from collections.abc import Coroutine
from typing import Annotated, Any, NoReturn, TypeVar

import typer
import uvloop

from gatepost import __version__, bootstrap, config, logs, serving
from gatepost.config import InvalidSettings, Settings
from gatepost.domain.errors import GatepostError, InvalidInput
from gatepost.domain.groups import Role
from gatepost.services.accounts import NewKey
from gatepost.serving import CannotListen

T = TypeVar("T")

EXIT_FAILED = 1  # it was understood and could not be done
EXIT_USAGE = 2  # what was given cannot be used

app = typer.Typer(
    name="gatepost",
    help="Self-hosted webhook delivery: signed, retried, logged, and lost never.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # main() says in a sentence what is wrong; a bug shows its plain traceback
)
key = typer.Typer(name="key", help="API keys of a group.", no_args_is_help=True)
app.add_typer(key)

StoreOption = Annotated[
    str | None, typer.Option("--store", metavar="URL", help="sqlite:///PATH; else GATEPOST_STORE.", show_default=False)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def main() -> None:
    """Run the command; whatever can go wrong outside of us is told in one sentence, never a traceback."""
    try:
        app()
    except (InvalidSettings, InvalidInput) as error:
        _fail(str(error), EXIT_USAGE)
    except CannotListen as error:
        _fail(str(error), EXIT_FAILED)
    except GatepostError as error:
        _fail(error.detail, EXIT_FAILED)
    except BrokenPipeError:  # whoever read our output has seen enough
        sys.stderr.close()
        raise SystemExit(EXIT_FAILED) from None


@app.callback(invoke_without_command=True)
def version(
    shown: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if shown:
        typer.echo(f"gatepost {__version__}")
        raise typer.Exit


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on; else GATEPOST_HOST, 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; else GATEPOST_PORT, 8000.")] = None,
    store: StoreOption = None,
    engine: Annotated[str, typer.Option(metavar="on|off", help="Whether this process delivers, too.")] = "on",
) -> None:
    """Run the API and the delivery engine, until SIGTERM or Ctrl-C."""
    if engine not in ("on", "off"):
        raise typer.BadParameter("give on or off", param_hint="--engine")
    settings = _settings(host=host, port=port, store=store)
    _run(serving.serve(settings, with_engine=engine == "on"))


@app.command()
def migrate(store: StoreOption = None) -> None:
    """Bring a store's schema up to date; made when it is missing. An embedded store does so at every start, too."""
    settings = _settings(store=store)
    _run(_migrate(settings))
    typer.echo(f"{settings.store} is up to date.")


@key.command("create")
def create_key(
    group: Annotated[str, typer.Option(metavar="NAME", help="The group that the key acts in.")],
    role: Annotated[Role, typer.Option(help="What the key may do.")],
    create_group: Annotated[bool, typer.Option("--create-group", help="Make the group if there is none.")] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make an API key, straight in the store, whether a server is running on it or not. It is shown this once."""
    made = _run(_create_key(_settings(store=store), group, role, create_group=create_group))
    if as_json:
        typer.echo(json.dumps({"key": made.text, "groupId": made.key.group_id, "keyId": made.key.id}))
    else:
        typer.echo(made.text)


async def _migrate(settings: Settings) -> None:
    async with bootstrap.opened_store(settings):
        pass


async def _create_key(settings: Settings, group_name: str, role: Role, *, create_group: bool) -> NewKey:
    async with bootstrap.opened_store(settings) as store:
        accounts = bootstrap.accounts_of(store)
        group = await accounts.group_named(group_name)
        if group is None:
            if not create_group:
                _fail(f"There is no group named {group_name!r}: add --create-group to make it.", EXIT_FAILED)
            group = await accounts.create_group(group_name)
        return await accounts.create_key(group.id, role)


def _settings(**given: object) -> Settings:
    settings = config.load(**given)
    logs.configure(level=settings.log_level, format=settings.log_format)
    return settings


def _run(main: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


def _fail(sentence: str, code: int) -> NoReturn:
    typer.echo(f"gatepost: {sentence}", err=True)
    raise SystemExit(code)
