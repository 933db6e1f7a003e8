"""The first start, and the commands that manage people, groups and keys straight in the store."""

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from tests.commands import PATIENCE_SECONDS, Running, run, running

PASSWORD = "correct horse battery"


class Store:
    """A store in a folder of its own, and commands about it."""

    def __init__(self, folder: Path) -> None:
        self.settings = {"GATEPOST_STORE": f"sqlite:///{folder}/gatepost.db", "GATEPOST_PORT": "0"}

    def __call__(self, *arguments: str, stdin: str = "") -> str:
        """Return what a command that succeeds prints."""
        done = run(*arguments, stdin=stdin.encode(), environment=self.settings)
        assert done.returncode == 0, done.stderr
        return done.stdout.decode()

    def json(self, *arguments: str, stdin: str = "") -> Any:
        """Return the one object that it prints."""
        return json.loads(self(*arguments, "--json", stdin=stdin))

    def rows(self, *arguments: str) -> list[Any]:
        """Return the objects that it prints, one a line."""
        return [json.loads(line) for line in self(*arguments, "--json").splitlines()]

    def refused(self, *arguments: str, stdin: str = "") -> tuple[int, str]:
        done = run(*arguments, stdin=stdin.encode(), environment=self.settings)
        assert done.stdout == b""
        return done.returncode, done.stderr.decode()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def started(process: Running) -> tuple[str, list[str]]:
    """Return where a server listens, and what it logged before."""
    logged = []
    for line in process.process.stderr or ():
        logged.append(line)
        if "server.started" in line:
            return json.loads(line)["url"], logged
    raise AssertionError(logged)


def sign_in(url: str, email: str, password: str) -> Any:
    body = json.dumps({"email": email, "password": password}).encode()
    asked = urllib.request.Request(f"{url}/api/auth/login", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(asked, timeout=PATIENCE_SECONDS) as answer:
        return json.load(answer)


# --- the first start -----------------------------------------------------------------------------------------


def test_the_first_start_makes_an_owner_and_shows_the_password_once_and_not_in_the_log(store: Store) -> None:
    key = store.json("key", "create", "--group", "Team", "--create-group", "--role", "admin")
    with running("serve", environment=store.settings) as process:
        words = process.until("The first account").split()
        password = words[-1]
        url, logged = started(process)
        assert "admin@localhost" in words
        assert password not in "".join(logged)
        assert any("owner.created" in line for line in logged)
        me = sign_in(url, "admin@localhost", password)
        assert me["isInstallationOwner"] is True
        assert me["groups"] == [{"id": key["groupId"], "name": "Team", "role": "owner"}]
        assert process.stop() == 0
    with running("serve", environment=store.settings) as process:
        _, logged = started(process)
        assert process.stop() == 0
        assert process.process.stdout
        assert process.process.stdout.read() == ""
        assert not any("owner.created" in line for line in logged)


def test_a_password_of_the_settings_is_shown_nowhere(store: Store) -> None:
    store.settings |= {"GATEPOST_ADMIN_EMAIL": " Ann@Example.com", "GATEPOST_ADMIN_PASSWORD": PASSWORD}
    with running("serve", "--engine", "off", environment=store.settings) as process:
        url, logged = started(process)
        assert sign_in(url, "ann@example.com", PASSWORD)["isInstallationOwner"] is True
        assert process.stop() == 0
        assert process.process.stdout
        assert process.process.stdout.read() == ""
        assert PASSWORD not in "".join(logged)


def test_a_worker_makes_nobody(store: Store) -> None:
    with running("worker", environment=store.settings) as process:
        process.until("worker.started", stream="stderr")
        assert process.stop() == 0
    assert store.rows("user", "list") == []


# --- people --------------------------------------------------------------------------------------------------


def test_people_are_made_listed_and_let_back_in_while_the_server_runs(store: Store) -> None:
    made = store.json("user", "create", "Ann@Example.com", "--name", "Ann", "--owner")
    assert made["email"] == "ann@example.com"
    given = store("user", "create", "ben@example.com", "--password-stdin", stdin=f"{PASSWORD}\n")
    assert given == "The password of ben@example.com is set.\n"
    people = store.rows("user", "list")
    assert [(each["email"], each["name"], each["isInstallationOwner"]) for each in people] == [
        ("ben@example.com", None, False),
        ("ann@example.com", "Ann", True),
    ]
    assert store("user", "list").splitlines()[1] == "ann@example.com\tAnn\towner of the installation"
    with running("serve", "--engine", "off", environment=store.settings) as process:
        url, _ = started(process)
        assert sign_in(url, "ann@example.com", made["password"])["id"] == made["id"]
        sign_in(url, "ben@example.com", PASSWORD)
        new = store("user", "password", "ben@example.com").strip()
        with pytest.raises(urllib.error.HTTPError, match="401"):
            sign_in(url, "ben@example.com", PASSWORD)
        sign_in(url, "ben@example.com", new)
        store("user", "password", "ben@example.com", "--password-stdin", stdin=PASSWORD)
        sign_in(url, "ben@example.com", PASSWORD)
        assert process.stop() == 0


def test_what_cannot_be_done_to_people_is_told_in_a_sentence(store: Store) -> None:
    store("user", "create", "ann@example.com")
    assert store.refused("user", "create", "ANN@example.com") == (
        2,
        "gatepost: email: there is an account of this address already\n",
    )
    assert store.refused("user", "password", "ben@example.com") == (
        1,
        "gatepost: There is nobody with the address ben@example.com.\n",
    )
    code, said = store.refused("user", "password", "ann@example.com", "--password-stdin", stdin="short\n")
    assert (code, "8 to 200 characters" in said) == (2, True)


# --- groups and keys -----------------------------------------------------------------------------------------


def test_groups_and_their_members_are_made_and_listed(store: Store) -> None:
    owner = store.json("user", "create", "ann@example.com", "--owner")
    group = store.json("group", "create", " Night shift ")
    assert group["name"] == "Night shift"
    assert store("group", "create", "Day shift").startswith("grp_")
    assert [each["name"] for each in store.rows("group", "list")] == ["Day shift", "Night shift"]
    assert f"{group['id']}\tNight shift\n" in store("group", "list")
    new = store.json("group", "add-member", "Night shift", "ben@example.com", "--role", "member", "--name", "Ben")
    assert (new["name"], new["role"], len(new["password"])) == ("Ben", "member", 29)
    known = store("group", "add-member", "Day shift", "ben@example.com", "--role", "admin")
    assert known == "ben@example.com belongs to Day shift as admin.\n"
    members = store.rows("group", "members", "Night shift")
    assert [(each["userId"], each["role"]) for each in members] == [(new["userId"], "member"), (owner["id"], "owner")]
    assert store("group", "members", "Night shift") == "member\tben@example.com\tBen\nowner\tann@example.com\n"
    code, said = store.refused("group", "members", "Nobody")
    assert (code, said) == (1, "gatepost: There is no group named 'Nobody'.\n")


def test_keys_are_named_listed_and_revoked(store: Store) -> None:
    made = store.json("key", "create", "--group", "Team", "--create-group", "--role", "member", "--name", "CI")
    [listed] = store.rows("key", "list", "--group", "Team")
    assert (listed["id"], listed["name"], listed["role"], listed["lastUsedAt"]) == (
        made["keyId"],
        "CI",
        "member",
        None,
    )
    assert store("key", "list", "--group", "Team") == f"{made['keyId']}\tmember\tnever used\tCI\n"
    assert store.json("key", "revoke", made["keyId"]) == {"keyId": made["keyId"], "revoked": True}
    assert store.rows("key", "list", "--group", "Team") == []
    code, said = store.refused("key", "revoke", made["keyId"])
    assert (code, "no such key" in said) == (1, True)
