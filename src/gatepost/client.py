"""HTTP as commands need it: one request, one answer, and a sentence when it does not work out."""

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.parse import quote, urlsplit

TIMEOUT_SECONDS = 15.0
ANSWER_LIMIT_BYTES = 4 * 1024 * 1024
UNAVAILABLE = (502, 503, 504)  # also of a proxy before a server that is down
LOOKS_IN_VAIN = 120  # at a replay, one after the other: a minute or more, in which a server has started anew


class RequestFailed(Exception):
    """A request that was not answered as hoped; the text says what happened, and what to do."""


class Unavailable(RequestFailed):
    """Nobody could answer at that moment: a server that is started anew, a store that cannot be reached."""


class UnusableUrl(Exception):
    """What was given as a URL is none; the text says how to write one."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_arguments: Any) -> None:
        return None


# No proxy from the environment, and nobody is followed elsewhere with our key in hand.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects)


@dataclass(frozen=True, slots=True)
class Api:
    """Gatepost's API as one key sees it."""

    url: str
    key: str

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the JSON of a 2xx answer.

        Raises: RequestFailed, for every other answer, with what the API says is wrong; Unavailable.
        """
        headers = {"authorization": f"Bearer {self.key}", "content-type": "application/json"}
        content = None if body is None else json.dumps(body).encode()
        status, answer = request(method, self.url.rstrip("/") + path, headers, content)
        parsed = _object(answer)
        if not 200 <= status <= 299:
            detail = parsed.get("detail") or parsed.get("title") or "there was no explanation"
            failure = Unavailable if status in UNAVAILABLE else RequestFailed
            raise failure(f"{self.url} answered {status}: {detail}")
        return parsed


# The steps, after the creation, that lead to each event; `start` is a change like any other.
_ROUTES: Mapping[str, tuple[str, ...]] = {
    "task.created": (),
    "task.updated": ("start",),
    "task.completed": ("complete",),
    "task.approved": ("complete", "approve"),
    "task.rejected": ("complete", "reject"),
}
EVENTS = (*_ROUTES, "task.swapped")


def trigger(api: Api, event: str, *, title: str) -> dict[str, Any]:
    """Create a task, or two to swap, and drive it to an event, as a person would; return the task as it then is.

    Raises: RequestFailed, when a step is not answered with 2xx, or nobody is there to swap tasks between.
    """
    if event == "task.swapped":
        return _swapped(api, title)
    task = api.call("POST", "/api/tasks", {"title": title})
    for step in _ROUTES[event]:
        body = {"reason": "Triggered to see what a rejection looks like."} if step == "reject" else {}
        task = api.call("POST", f"/api/tasks/{task['id']}/{step}", body)
    return task


def _swapped(api: Api, title: str) -> dict[str, Any]:
    [group] = api.call("GET", "/api/groups")["items"]
    members = api.call("GET", f"/api/groups/{group['id']}/members?limit=2")["items"]
    if len(members) < 2:
        raise RequestFailed(f"The group {group['name']!r} needs two members: `gatepost group add-member` adds one.")
    task, other = [
        api.call("POST", "/api/tasks", {"title": title, "assignedTo": member["userId"]}) for member in members
    ]
    swap = api.call("POST", "/api/swaps", {"taskId": task["id"], "withTaskId": other["id"]})
    api.call("POST", f"/api/swaps/{swap['id']}/approve", {})
    return api.call("GET", f"/api/tasks/{task['id']}")


def preview_replay(api: Api, webhook_id: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return how many deliveries of a webhook there are to replay, and the first of them.

    Raises: RequestFailed.
    """
    return api.call("POST", _replays(webhook_id), {**wanted, "dryRun": True})


def replay(
    api: Api, webhook_id: str, wanted: Mapping[str, Any], *, wait: Callable[[], None]
) -> Iterator[dict[str, Any]]:
    """Start a bulk replay and tell how it stands, again and again until it has ended.

    Raises: RequestFailed; Unavailable, when nobody answers for long.
    """
    job = api.call("POST", _replays(webhook_id), wanted)
    path = f"{_replays(webhook_id)}/{job['id']}"
    yield job
    while job["status"] == "running":
        wait()
        job = _look_patiently(api, path, wait)
        yield job


def _look_patiently(api: Api, path: str, wait: Callable[[], None]) -> dict[str, Any]:
    for _ in range(LOOKS_IN_VAIN):
        try:
            return api.call("GET", path)
        except Unavailable:
            wait()
    return api.call("GET", path)


def _replays(webhook_id: str) -> str:
    return f"/api/integrations/webhooks/{quote(webhook_id, safe='')}/replays"


def checked_url(url: str) -> str:
    """Raises: UnusableUrl, when it is no http or https URL."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UnusableUrl(f"{url!r} is no URL to send to: write it as http://127.0.0.1:8000.")
    return url


def request(method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> tuple[int, bytes]:
    """Return status and body of the answer, whatever it is.

    Raises: Unavailable, when there is none.
    """
    asked = urllib.request.Request(url, data=body, headers=dict(headers), method=method)
    try:
        with _opener.open(asked, timeout=TIMEOUT_SECONDS) as answer:
            return answer.status, answer.read(ANSWER_LIMIT_BYTES)
    except urllib.error.HTTPError as answer:
        with answer:
            return answer.code, answer.read(ANSWER_LIMIT_BYTES)
    except urllib.error.URLError as error:
        reason = getattr(error.reason, "strerror", None) or error.reason
        raise Unavailable(f"{url} cannot be reached: {reason}. Is it running?") from None
    except (OSError, HTTPException) as error:
        raise Unavailable(f"{url} gave no usable answer: {error}.") from None


def _object(answer: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(answer)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}
