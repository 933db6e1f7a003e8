"""`gatepost replay`: a bulk replay, started and watched through the API."""

import json
import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import Annotated, Any

import typer

from gatepost import bootstrap, client
from gatepost.cli.common import EXIT_FAILED, SERVED_AT, JsonOption, UrlOption, api_of, fail, run
from gatepost.domain.replays import REPLAYABLE

LOOK_EVERY = timedelta(milliseconds=500)


def replay(  # noqa: PLR0913, PLR0917  # one for each option
    webhook_id: Annotated[str, typer.Argument(metavar="WEBHOOK_ID", help="The webhook, wh_….")],
    status: Annotated[
        str | None, typer.Option(metavar="|".join(REPLAYABLE), help="Only deliveries of this status.")
    ] = None,
    event: Annotated[str | None, typer.Option(help="Only those of this type of event.")] = None,
    created_from: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="Only those created from 2026-11-23T12:00:00Z on.")
    ] = None,
    created_to: Annotated[
        str | None, typer.Option("--to", metavar="TIME", help="Only those created before that time.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many there are.")] = False,
    url: UrlOption = SERVED_AT,
    key: Annotated[str | None, typer.Option(envvar="GATEPOST_API_KEY", help="An API key of an admin.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Send many of a webhook's deliveries once more, and watch until all of them are queued.

    A server does the work: it goes on when this command is interrupted.
    """
    api = api_of(url, key)
    asked = {"status": status, "event": event, "from": created_from, "to": created_to}
    wanted = {name: value for name, value in asked.items() if value is not None}
    if dry_run:
        preview = client.preview_replay(api, webhook_id, wanted)
        typer.echo(json.dumps(preview) if as_json else _preview_text(preview))
        return
    job = _watch(client.replay(api, webhook_id, wanted, wait=lambda: run(bootstrap.system_clock().sleep(LOOK_EVERY))))
    typer.echo(json.dumps(job) if as_json else f"{job['id']} is {job['status']}: {job['done']} of {job['total']}.")
    if job["status"] != "done":
        raise typer.Exit(EXIT_FAILED)


def _watch(jobs: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """Show how far a replay has come until it has ended; return it as it is then."""
    job = next(jobs)
    typer.echo(f"{job['id']}: {job['total']} to replay.", err=True)  # whatever becomes of us: it can be found again
    try:
        with typer.progressbar(length=max(job["total"], 1), label="Replaying", file=sys.stderr) as bar:
            for job in jobs:  # the same one, as it is by now
                bar.update(job["done"] - bar.pos)
    except KeyboardInterrupt:
        fail(f"{job['id']} goes on without this command. POST …/replays/{job['id']}/cancel ends it.", EXIT_FAILED)
    return job


def _preview_text(preview: dict[str, Any]) -> str:
    shown = [f"  {each['id']}  {each['event']}  {each['status']}  {each['createdAt']}" for each in preview["sample"]]
    more = preview["count"] - len(shown)
    return "\n".join([f"{preview['count']} to replay.", *shown, *([f"  and {more} more"] if more else [])])
