"""`gatepost demo`: all of it at once, on a throw-away store, with receivers of which one fails and one is slow."""

import asyncio
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text
from starlette.types import ASGIApp, Receive, Scope, Send

from gatepost import bootstrap, config, serving
from gatepost.client import Api
from gatepost.config import Settings
from gatepost.domain.groups import Role
from gatepost.domain.signatures import parse_secret
from gatepost.ports import Chance, Clock
from gatepost.receiver import Received, Receiver, Respond, not_found

GROUP = "Demo"
OWNER = "admin@localhost"
TEAM = {"ann@localhost": "Ann", "ben@localhost": "Ben", "cleo@localhost": "Cleo"}
RETRY_SCHEDULE_SECONDS = [1, 2, 4, 8]  # so short that a person sees a retry succeed
LOOK_EVERY = timedelta(seconds=0.25)
ACT_EVERY = timedelta(seconds=0.8)
MOST_LOOKED_AT = 200
MOST_SHOWN = 16
TITLES = (
    "Sweep the stairs",
    "Answer the suppliers",
    "Water the plants",
    "Renew the certificate",
    "Count the stock",
    "Invite the new colleague",
    "Repair the printer",
    "Book the meeting room",
)


async def demo(port: int | None, seconds: float | None) -> None:
    """Run until a signal, or for so long; nothing is kept.

    Raises: CannotListen, when the port that was asked for is taken; without one a free port is found.
    """
    with TemporaryDirectory(prefix="gatepost-demo-") as folder, serving.until_signal() as stopped:
        async with AsyncExitStack() as stack:
            listener = stack.enter_context(_listener(port))
            settings = config.load(
                store=f"sqlite:///{folder}/gatepost.db",
                allowed_target_networks="127.0.0.0/8",  # the receivers are here; a real installation keeps this empty
                https_only=False,
                shutdown_seconds=5,
            )
            cast = await _cast(settings)
            own = [listener.getsockname()[:2]]
            gatepost = await stack.enter_async_context(bootstrap.running(settings, listeners=own))
            await stack.enter_async_context(serving.listening(gatepost.app, listener, grace_seconds=1))
            api = Api(serving.url_of(listener), cast.key)
            show = Show(api, cast, bootstrap.system_clock(), bootstrap.system_chance())
            receivers = stack.enter_context(serving.bind("127.0.0.1", 0))
            await stack.enter_async_context(serving.listening(show.receivers, receivers, grace_seconds=1))
            await show.run(serving.url_of(receivers), stopped, None if seconds is None else timedelta(seconds=seconds))
            gatepost.stop()


@dataclass(frozen=True, slots=True)
class Cast:
    """Who takes part: the owner's password, the ids of the team, and an API key of an admin."""

    password: str
    team: Sequence[str]
    key: str


async def _cast(settings: Settings) -> Cast:
    async with bootstrap.opened_accounts(settings) as accounts:
        owner = await accounts.people.create(OWNER, is_installation_owner=True, draws=accounts.draws)
        key = await accounts.create_key(GROUP, Role.ADMIN, create_group=True)
        team = []
        for email, name in TEAM.items():
            added = await accounts.groups.admit(key.key.group_id, email, Role.MEMBER, name=name, draws=accounts.draws)
            team.append(added.member.user_id)
        return Cast(owner.password or "", team, key.text)


def _listener(port: int | None) -> Any:
    if port is not None:
        return serving.bind("127.0.0.1", port)
    try:
        return serving.bind("127.0.0.1", 8000)
    except serving.CannotListen:
        return serving.bind("127.0.0.1", 0)


@dataclass(slots=True)
class Row:
    """One delivery as the audience sees it. Shape: `verified` is what its receiver found at the last attempt."""

    event: str
    title: str
    webhook: str
    attempt: int
    status: str
    problem: str
    next_attempt_at: datetime | None
    verified: bool | None

    @property
    def is_over(self) -> bool:
        return self.next_attempt_at is None


@dataclass(slots=True)
class Show:
    """The receivers, the traffic and the view."""

    api: Api
    cast: Cast
    clock: Clock
    chance: Chance
    apps: dict[str, ASGIApp] = field(default_factory=dict)
    webhooks: dict[str, str] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)
    verified: dict[str, bool | None] = field(default_factory=dict)
    rows: dict[str, Row] = field(default_factory=dict)
    tasks: list[dict[str, Any]] = field(default_factory=list)
    created: int = 0

    async def run(self, receivers_url: str, stopped: asyncio.Event, length: timedelta | None) -> None:
        console = Console()
        await self._subscribe(receivers_url, "Team chat", ["task.*"], self._prompt)
        await self._subscribe(
            receivers_url, "Billing", ["task.created", "task.completed", "task.approved"], self._failing
        )
        await self._subscribe(receivers_url, "Archive", ["task.updated", "task.rejected"], self._slow)
        console.print(Text(self._introduction()), soft_wrap=True)
        watch = self._watch_live(console) if console.is_terminal else self._watch_plainly()
        work = [asyncio.create_task(self._act()), asyncio.create_task(watch)]
        ends = asyncio.create_task(self._wait(stopped, length))
        done, _ = await asyncio.wait([*work, ends], return_when=asyncio.FIRST_COMPLETED)
        for task in (*work, ends):
            task.cancel()
        await asyncio.gather(*work, ends, return_exceptions=True)
        for task in done:
            task.result()
        console.print(Text(self._summary()), soft_wrap=True)

    async def receivers(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve each webhook's own receiver at its own path."""
        await self.apps.get(scope["path"], not_found)(scope, receive, send)

    # --- the receivers ---------------------------------------------------------------------------------------

    async def _subscribe(self, receivers_url: str, name: str, events: list[str], respond: Respond) -> None:
        path = f"/{name.lower().replace(' ', '-')}"
        webhook = await self._call(
            "POST",
            "/api/integrations/webhooks",
            {
                "name": name,
                "targetUrl": receivers_url + path,
                "events": events,
                "retryPolicy": {"schedule": RETRY_SCHEDULE_SECONDS},
            },
        )
        keys = [parse_secret(webhook["secret"])]
        self.apps[path] = Receiver(keys, self.clock, tell=self._told, respond=respond)
        self.webhooks[webhook["id"]] = name

    async def _prompt(self, _received: Received) -> int:
        return 204

    async def _failing(self, received: Received) -> int:
        """Fail the very first request, most first attempts, some second ones, and no later ones."""
        likely = {"1": 0.7, "2": 0.4}.get(received.header("x-gatepost-attempt"), 0.0)
        if received.number == 1 or self.chance.draw() < likely:
            return 503 if self.chance.draw() < 0.5 else 500
        return 204

    async def _slow(self, _received: Received) -> int:
        await self.clock.sleep(timedelta(seconds=0.3 + self.chance.draw()))
        return 204

    def _told(self, received: Received) -> None:
        self.verified[received.header("x-gatepost-delivery")] = received.verified

    # --- the traffic -----------------------------------------------------------------------------------------

    async def _act(self) -> None:
        while True:
            await self._act_once()
            await self.clock.sleep(ACT_EVERY)

    async def _act_once(self) -> None:
        """Create a task, or drive one of those there are a step further."""
        if len(self.tasks) < 3 or self.chance.draw() < 0.3:
            title = TITLES[self.created % len(TITLES)]
            assignee = self.cast.team[self.created % len(self.cast.team)]
            self.created += 1
            task = await self._call("POST", "/api/tasks", {"title": title, "assignedTo": assignee})
            self.titles[task["id"]] = title
        else:
            task = self.tasks.pop(int(self.chance.draw() * len(self.tasks)))
            step, body = self._next_step(task["status"])
            task = await self._call("POST", f"/api/tasks/{task['id']}/{step}", body)
        if task["status"] != "approved":
            self.tasks.append(task)

    def _next_step(self, status: str) -> tuple[str, dict[str, str]]:
        if status == "completed":
            if self.chance.draw() < 0.2:
                return "reject", {"reason": "Please look again."}
            return "approve", {}
        return ("start" if status == "pending" else "complete"), {}

    # --- the view --------------------------------------------------------------------------------------------

    async def _watch_live(self, console: Console) -> None:
        with Live(console=console, auto_refresh=False, transient=True) as live:
            while True:
                await self._look()
                live.update(self._table(min(MOST_SHOWN, console.height - 6)), refresh=True)
                await self.clock.sleep(LOOK_EVERY)

    async def _watch_plainly(self) -> None:
        while True:
            for row in await self._look():
                sys.stdout.write(self._line(row) + "\n")
            sys.stdout.flush()
            await self.clock.sleep(LOOK_EVERY)

    async def _look(self) -> list[Row]:
        """Read the deliveries; return those that something happened to, oldest first."""
        page = await self._call("GET", f"/api/integrations/deliveries?limit={MOST_LOOKED_AT}")
        changed = []
        for delivery in reversed(page["items"]):
            row = self._row(delivery)
            if row.attempt and row != self.rows.get(delivery["id"]):
                self.rows.pop(delivery["id"], None)
                self.rows[delivery["id"]] = row  # last in the order of dict: the latest to change
                changed.append(row)
        return changed

    def _row(self, delivery: dict[str, Any]) -> Row:
        next_at = delivery["nextAttemptAt"]
        return Row(
            event=delivery["event"],
            title=self.titles.get(next(iter(delivery["taskIds"]), ""), "a task of yours"),
            webhook=self.webhooks.get(delivery["webhookId"], "a webhook of yours"),
            attempt=delivery["attemptCount"],
            status=delivery["status"],
            problem=str(delivery["lastStatusCode"] or delivery["lastErrorClass"] or ""),
            next_attempt_at=datetime.fromisoformat(next_at) if next_at else None,
            verified=self.verified.get(delivery["id"]),
        )

    def _table(self, rows: int) -> Group:
        table = Table(expand=True, box=SIMPLE_HEAD, padding=0)
        for heading, width in (("Event", 14), ("Task", None), ("To", 9), ("Try", 3), ("Outcome", 22), ("Receiver", 10)):
            table.add_column(heading, no_wrap=True, width=width, ratio=None if width else 1)
        for row in self._shown_rows()[:rows]:
            outcome, next_attempt = self._outcome(row)
            color = "green" if row.status == "delivered" else "yellow" if row.status == "failed" else "red"
            colored = Text(f"{outcome}, {next_attempt}" if next_attempt else outcome, style=color)
            plain = [Text(cell) for cell in (row.event, row.title, row.webhook, str(row.attempt))]
            table.add_row(*plain, colored, Text(_said(row)))
        return Group(table, Text(self._counts() + "   Stop with Ctrl-C."))

    def _shown_rows(self) -> Sequence[Row]:
        """Those still waiting first, then those that changed last."""
        latest_first = list(reversed(self.rows.values()))
        return sorted(latest_first, key=lambda row: row.is_over)

    def _line(self, row: Row) -> str:
        outcome, next_attempt = self._outcome(row)
        facts = [
            f"{row.event:<15}",
            f"{row.title:<25}",
            f"{row.webhook:<10}",
            f"attempt {row.attempt}",
            f"{outcome:<13}",
        ]
        return "  ".join([*facts, f"{next_attempt:<16}", _said(row)]).rstrip()

    def _outcome(self, row: Row) -> tuple[str, str]:
        if row.next_attempt_at is None:
            return ("✓ delivered" if row.status == "delivered" else f"✗ {row.status}"), ""
        wait = max((row.next_attempt_at - self.clock.now()).total_seconds(), 0.0)
        return f"✗ {row.problem}", f"again in {wait:.1f} s"

    def _introduction(self) -> str:
        return f"""\
Gatepost is serving at {self.api.url}, the API's documentation at {self.api.url}/api/docs
Three webhooks point at receivers in this process: one is prompt, one often fails, one is slow.
Each verifies what it gets as docs/receiving.md says. Everything is thrown away at the end.

  Sign in: POST {self.api.url}/api/auth/login as {OWNER} with the password {self.cast.password}
  API key (admin of the group {GROUP!r}):
  {self.api.key}

  Create a task of your own in another terminal, and see it delivered:
  curl -X POST {self.api.url}/api/tasks -H 'Authorization: Bearer {self.api.key}' \
-H 'Content-Type: application/json' -d '{{"title": "A task of mine"}}'
"""

    def _counts(self) -> str:
        over = [row for row in self.rows.values() if row.status == "delivered"]
        retried = sum(row.attempt > 1 for row in over)
        return f"{len(over)} delivered, {retried} of them after a retry; {len(self.rows) - len(over)} not yet."

    def _summary(self) -> str:
        return f"\n{self._counts()} That was the demo; nothing of it is kept."

    # --- the rest --------------------------------------------------------------------------------------------

    async def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        return await asyncio.to_thread(partial(self.api.call, method, path, body))

    async def _wait(self, stopped: asyncio.Event, length: timedelta | None) -> None:
        if length is None:
            await stopped.wait()
        else:
            await self.clock.wait(stopped, length)


def _said(row: Row) -> str:
    return {None: "", True: "verified ✓", False: "REFUSED"}[row.verified]
