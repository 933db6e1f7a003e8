"""The command `gatepost`. Exit codes and every option: docs/cli.md."""

import asyncio
import json
import re
import socket
import sys
from enum import StrEnum
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer

from gatepost import __version__, bootstrap, client, logs, receiver, serving, stores
from gatepost.cli.accounts import group_commands, key_commands, user_commands
from gatepost.cli.common import (
    EXIT_FAILED,
    EXIT_USAGE,
    SERVED_AT,
    JsonOption,
    StoreOption,
    UrlOption,
    api_of,
    fail,
    run,
    settings_of,
)
from gatepost.cli.replays import replay
from gatepost.client import RequestFailed, UnusableUrl
from gatepost.config import InvalidSettings
from gatepost.domain.errors import GatepostError, InvalidInput
from gatepost.domain.signatures import SigningKey, parse_secret, sign_plain, sign_standard
from gatepost.receiver import Message, Received, Receiver
from gatepost.serving import CannotListen

root = typer.Typer(
    name="gatepost",
    help="Self-hosted webhook delivery: signed, retried, logged, and lost never.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # main() says in a sentence what is wrong; a bug shows its plain traceback
)
for commands in (user_commands, group_commands, key_commands):
    root.add_typer(commands)
root.command()(replay)
bench_commands = typer.Typer(name="bench", help="How fast this machine delivers.", no_args_is_help=True)
root.add_typer(bench_commands)

SecretsOption = Annotated[
    list[str] | None, typer.Option(metavar="whsec_…", help="A secret of the webhook; as often as it has live ones.")
]
FileArgument = Annotated[str, typer.Argument(metavar="FILE", help="The raw body; - is standard input.")]
_HOP_BY_HOP = frozenset({"host", "connection", "content-length", "transfer-encoding", "keep-alive"})


class Scheme(StrEnum):
    """Which of the two signature schemes."""

    STANDARD = "standard"
    PLAIN = "plain"
    BOTH = "both"


def main() -> None:
    """Run the command; whatever can go wrong outside of us is told in one sentence, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a check mark must not end us on a terminal that has none
    try:
        root()
    except (InvalidSettings, InvalidInput, UnusableUrl) as error:
        fail(str(error), EXIT_USAGE)
    except (CannotListen, RequestFailed) as error:
        fail(str(error), EXIT_FAILED)
    except GatepostError as error:
        fail(error.detail, EXIT_FAILED)
    except BrokenPipeError:  # whoever read our output has seen enough
        sys.stderr.close()
        raise SystemExit(EXIT_FAILED) from None


@root.callback(invoke_without_command=True)
def version(
    shown: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if shown:
        typer.echo(f"gatepost {__version__}")
        raise typer.Exit


@root.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on; else GATEPOST_HOST, 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; else GATEPOST_PORT, 8000.")] = None,
    store: StoreOption = None,
    engine: Annotated[str, typer.Option(metavar="on|off", help="Whether this process delivers, too.")] = "on",
) -> None:
    """Run the API and the delivery engine, until SIGTERM or Ctrl-C."""
    if engine not in ("on", "off"):
        raise typer.BadParameter("give on or off", param_hint="--engine")
    serving.raise_descriptor_limit()
    settings = settings_of(host=host, port=port, store=store)
    run(serving.serve(settings, with_engine=engine == "on"))


@root.command()
def worker(
    store: StoreOption = None,
    http: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Answer /health/live and /health/ready there.")
    ] = None,
) -> None:
    """Run the delivery engine alone, until SIGTERM or Ctrl-C.

    As many as there is work for may share one store; on PostgreSQL and MongoDB from several machines.
    """
    address = _address(http) if http is not None else None
    serving.raise_descriptor_limit()
    run(serving.work(settings_of(store=store), http=address))


@root.command()
def migrate(store: StoreOption = None) -> None:
    """Bring a store's schema up to date.

    An SQLite file that is missing is made, and is also brought up to date at every start; a database on PostgreSQL or
    MongoDB only by this command.
    """
    settings = settings_of(store=store)
    run(stores.migrate(settings))
    typer.echo(f"{settings.store} is up to date.")


@root.command()
def listen(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 9000,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    secret: SecretsOption = None,
    forward_to: Annotated[str | None, typer.Option(metavar="URL", help="Pass requests on, and answers back.")] = None,
    fail_every: Annotated[
        int, typer.Option(metavar="N", min=0, help="Answer every N-th request with 503, to see a retry; 0 never.")
    ] = 0,
    as_json: JsonOption = False,
) -> None:
    """Receive deliveries: verify each, print a line, answer 204.

    What is not signed with one of the secrets is answered 401, with the reason in the line. Without a secret
    everything is taken, and marked as not verified.
    """
    logs.configure(level="warning", format=None)
    keys = [parse_secret(text) for text in secret or ()]
    if forward_to is not None:
        forward_to = client.checked_url(forward_to)

    def tell(received: Received) -> None:
        typer.echo(json.dumps(received.as_json()) if as_json else received.as_line())

    async def respond(received: Received) -> int:
        if fail_every and received.number % fail_every == 0:
            return 503
        return await _forward(forward_to, received) if forward_to else 204

    app = Receiver(keys, bootstrap.system_clock(), tell=tell, respond=respond)
    run(_listen(app, serving.bind(host, port)))


@root.command()
def trigger(
    event: Annotated[str, typer.Argument(metavar="EVENT", help=f"One of {', '.join(client.EVENTS)}.")],
    url: UrlOption = SERVED_AT,
    key: Annotated[
        str | None,
        typer.Option(envvar="GATEPOST_API_KEY", help="An API key; approving, rejecting and swapping need an admin's."),
    ] = None,
    title: Annotated[str, typer.Option(help="The title of the task.")] = "Triggered from the command line",
    as_json: JsonOption = False,
) -> None:
    """Create a task through the API, or two to swap, and drive it to an event."""
    if event not in client.EVENTS:
        raise typer.BadParameter(f"give one of {', '.join(client.EVENTS)}", param_hint="EVENT")
    task = client.trigger(api_of(url, key), event, title=title)
    typer.echo(json.dumps(task) if as_json else f"{event}: {task['id']} is {task['status']}, version {task['version']}")


@root.command()
def sign(
    file: FileArgument = "-",
    secret: SecretsOption = None,
    message_id: Annotated[str | None, typer.Option("--id", help="The webhook-id; else a new one.")] = None,
    timestamp: Annotated[int | None, typer.Option(help="Unix seconds; else now.", min=0, max=99_999_999_999)] = None,
    scheme: Annotated[Scheme, typer.Option(help="Which headers.")] = Scheme.BOTH,
    as_json: JsonOption = False,
) -> None:
    """Print the headers that a body is sent with."""
    keys = _keys(secret)
    if message_id is not None and not re.fullmatch(r"[!-~]{1,200}", message_id):
        fail("--id cannot be used: give up to 200 visible ASCII characters without spaces.", EXIT_USAGE)
    body = _read(file)
    if timestamp is None:
        timestamp = int(bootstrap.system_clock().now().timestamp())
    headers: dict[str, str] = {}
    if scheme is not Scheme.PLAIN:
        message_id = message_id or bootstrap.system_chance().new_id("evt")
        headers["webhook-id"] = message_id
        headers["webhook-timestamp"] = str(timestamp)
        headers["webhook-signature"] = sign_standard(keys, message_id, timestamp, body)
    if scheme is not Scheme.STANDARD:
        headers["X-Timestamp"] = str(timestamp)
        headers["X-Signature"] = sign_plain(keys, timestamp, body)
    typer.echo(json.dumps(headers) if as_json else "\n".join(f"{name}: {value}" for name, value in headers.items()))


@root.command()
def verify(
    file: FileArgument = "-",
    secret: SecretsOption = None,
    header: Annotated[
        list[str] | None, typer.Option(metavar="'NAME: VALUE'", help="A header of the request; as often as needed.")
    ] = None,
    at: Annotated[int | None, typer.Option(metavar="SECONDS", help="Unix seconds to judge at; else now.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Say whether a request is ours, and if not, exactly why.

    Exit code 0: valid; 1: not valid; 2: what was given cannot be judged.
    """
    keys = _keys(secret)
    message = Message(dict(_header(text) for text in header or ()), _read(file))
    now_seconds = bootstrap.system_clock().now().timestamp() if at is None else at
    findings = receiver.examine(message, keys, now_seconds=now_seconds)
    valid = receiver.is_valid(findings)
    if as_json:
        judged = [{"scheme": each.scheme, "verdict": each.verdict, "reason": each.reason} for each in findings]
        typer.echo(json.dumps({"valid": valid, "findings": judged}))
    else:
        for each in findings:
            typer.echo(f"{each.scheme}: {each.verdict}: {each.reason}")
    raise typer.Exit(0 if valid else EXIT_FAILED)


@root.command("demo")
def run_demo(
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port of the API; else 8000, or a free one when that is taken.")
    ] = None,
    seconds: Annotated[float | None, typer.Option(min=0, help="End after so many seconds; else with Ctrl-C.")] = None,
) -> None:
    """Show everything at once, on a store that is thrown away.

    Live traffic, a receiver that fails, one that is slow, and the deliveries that succeed all the same.
    """
    logs.configure(level="error", format=None)
    from gatepost.demo import demo

    run(demo(port, seconds))


@bench_commands.command("deliver")
def bench_deliver(
    deliveries: Annotated[int, typer.Option(min=100, help="Size of the backlog; a multiple of 100.")] = 20_000,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds that count, after one that warms up.")] = 3,
    as_json: JsonOption = False,
) -> None:
    """Drain a backlog from a durable store, beside the same sender without a store.

    Both run in turn against a receiver in a process of its own. Takes a minute or two.
    """
    logs.configure(level="error", format=None)
    from gatepost import benchmark

    figures = benchmark.report(run(benchmark.bench_deliver(deliveries // 100 * 100, rounds)))
    typer.echo(json.dumps(figures) if as_json else benchmark.table(figures))


@bench_commands.command("receiver", hidden=True)
def bench_receiver() -> None:
    """Answer 200 to everything; `bench deliver` runs this in a process of its own."""
    from gatepost import benchmark

    run(benchmark.serve_receiver())


async def _listen(app: Receiver, listener: socket.socket) -> None:
    with listener, serving.until_signal() as stopped:
        async with serving.listening(app, listener, grace_seconds=1):
            typer.echo(f"Listening on {serving.url_of(listener)}. Stop with Ctrl-C.", err=True)
            await stopped.wait()


async def _forward(url: str, received: Received) -> int:
    """Return what the receiver behind us answers, 502 when it does not."""
    headers = {name: value for name, value in received.message.headers.items() if name not in _HOP_BY_HOP}
    try:
        status, _ = await asyncio.to_thread(client.request, "POST", url, headers, received.message.body)
    except RequestFailed as error:
        typer.echo(f"    {error}", err=True)
        return 502
    return status


def _keys(secrets: list[str] | None) -> list[SigningKey]:
    if not secrets:
        fail("There is no secret: give --secret whsec_…, as the webhook's creation showed it.", EXIT_USAGE)
    return [parse_secret(text) for text in secrets]


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        fail(f"--header {text!r} cannot be used: write it as 'name: value'.", EXIT_USAGE)
    return name.strip().lower(), value.strip()


def _address(text: str) -> tuple[str, int]:
    found = re.fullmatch(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[^:\[\]\s]+)):(?P<port>\d{1,5})", text)
    if found is None or int(found["port"]) >= 2**16:
        raise typer.BadParameter("write HOST:PORT, such as 127.0.0.1:9100 or [::1]:9100", param_hint="--http")
    return found["v6"] or found["name"], int(found["port"])


def _read(file: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        fail(f"{file} cannot be read: {error.strerror}.", EXIT_USAGE)
