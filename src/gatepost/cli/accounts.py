"""`gatepost user`, `group` and `key`: straight in the store, whether a server is running on it or not."""

import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from enum import StrEnum
from typing import Annotated, Any, Protocol, TypeVar

import typer

from gatepost import bootstrap
from gatepost.api.account_answers import key_json, member_json, new_member_json
from gatepost.bootstrap import Accounts
from gatepost.cli.common import JsonOption, StoreOption, run, settings_of
from gatepost.domain.events import rfc3339
from gatepost.domain.groups import ApiKey, Group, Member, Role
from gatepost.domain.people import User
from gatepost.ports import Page

PAGE = 200

user_commands = typer.Typer(name="user", help="People who may sign in.", no_args_is_help=True)
group_commands = typer.Typer(name="group", help="Groups and who belongs to them.", no_args_is_help=True)
key_commands = typer.Typer(name="key", help="API keys of a group.", no_args_is_help=True)

T = TypeVar("T")


class KeyRole(StrEnum):
    """What a key may be; owners are people."""

    ADMIN = "admin"
    MEMBER = "member"


EmailArgument = Annotated[str, typer.Argument(metavar="EMAIL", help="The address that they sign in with.")]
GroupArgument = Annotated[str, typer.Argument(metavar="GROUP", help="The group's name.")]
PersonNameOption = Annotated[str | None, typer.Option("--name", help="What they are called.")]
StdinOption = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from standard input; else one is made and printed.")
]


# --- people --------------------------------------------------------------------------------------------------


@user_commands.command("create")
def create_user(
    email: EmailArgument,
    name: PersonNameOption = None,
    owner: Annotated[bool, typer.Option("--owner", help="They own the installation.")] = False,
    password_stdin: StdinOption = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make an account, and print its password if it was made here, this once."""
    password = _password(password_stdin)

    async def create(accounts: Accounts) -> None:
        made = await accounts.people.create(
            email, name=name, password=password, is_installation_owner=owner, draws=accounts.draws
        )
        _tell_password(made.user, made.password, as_json=as_json)

    _do(store, create)


@user_commands.command("list")
def list_users(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """List everybody, the newest accounts first."""

    async def tell(accounts: Accounts) -> None:
        async for user in _all(accounts.people.list):
            owner = "owner of the installation" if user.is_installation_owner else ""
            _tell(_user_json(user), (user.email, user.name or "", owner), as_json=as_json)

    _do(store, tell)


@user_commands.command("password")
def set_password(
    email: EmailArgument,
    password_stdin: StdinOption = False,
    prompt: Annotated[bool, typer.Option("--prompt", help="Ask for the password, without showing it.")] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Set a person's password, print it if it was made here, and end all of their sessions."""
    password = _password(password_stdin)
    if prompt:
        password = typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)

    async def reset(accounts: Accounts) -> None:
        made = await accounts.people.reset_password(email, password, draws=accounts.draws)
        _tell_password(made.user, made.password, as_json=as_json)

    _do(store, reset)


# --- groups --------------------------------------------------------------------------------------------------


@group_commands.command("create")
def create_group(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name that no other group has.")],
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a group; it belongs to those who own the installation."""

    async def create(accounts: Accounts) -> None:
        group = await accounts.create_group(name)
        _tell(_group_json(group), (group.id,), as_json=as_json)

    _do(store, create)


@group_commands.command("list")
def list_groups(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """List all groups, newest first."""

    async def tell(accounts: Accounts) -> None:
        async for group in _all(accounts.groups.list):
            _tell(_group_json(group), (group.id, group.name), as_json=as_json)

    _do(store, tell)


@group_commands.command("members")
def list_members(name: GroupArgument, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """List who belongs to a group, the newest accounts first."""

    async def tell(accounts: Accounts) -> None:
        group = await accounts.group_named(name)

        async def members(*, limit: int, before: str | None) -> Page[Member]:
            return await accounts.groups.members(group.id, limit=limit, before=before)

        async for member in _all(members):
            _tell(member_json(member), (member.role, member.email, member.name or ""), as_json=as_json)

    _do(store, tell)


@group_commands.command("add-member")
def add_member(
    group: GroupArgument,
    email: EmailArgument,
    role: Annotated[Role, typer.Option(help="What they may do in the group.")],
    name: PersonNameOption = None,
    password_stdin: StdinOption = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let somebody into a group. Whoever has no account gets one, and its password is printed, this once."""
    password = _password(password_stdin)

    async def add(accounts: Accounts) -> None:
        group_id = (await accounts.group_named(group)).id
        added = await accounts.groups.admit(group_id, email, role, name=name, password=password, draws=accounts.draws)
        plain = added.password or f"{added.member.email} belongs to {group} as {added.member.role}."
        _tell(new_member_json(added), (plain,), as_json=as_json)

    _do(store, add)


# --- API keys ------------------------------------------------------------------------------------------------


@key_commands.command("create")
def create_key(
    group: Annotated[str, typer.Option(metavar="NAME", help="The group that the key acts in.")],
    role: Annotated[KeyRole, typer.Option(help="What the key may do.")],
    create_group: Annotated[bool, typer.Option("--create-group", help="Make the group if there is none.")] = False,
    name: Annotated[str | None, typer.Option("--name", help="What the key is for.")] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make an API key and show it, this once."""

    async def create(accounts: Accounts) -> None:
        made = await accounts.create_key(group, Role(role), name, create_group=create_group)
        _tell({"key": made.text, "groupId": made.key.group_id, "keyId": made.key.id}, (made.text,), as_json=as_json)

    _do(store, create)


@key_commands.command("list")
def list_keys(
    group: Annotated[str, typer.Option(metavar="NAME", help="Whose keys.")],
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the keys of a group that are not revoked, newest first."""

    async def tell(accounts: Accounts) -> None:
        group_id = (await accounts.group_named(group)).id

        async def keys(*, limit: int, before: str | None) -> Page[ApiKey]:
            return await accounts.keys.list(group_id, limit=limit, before=before)

        async for key in _all(keys):
            used = f"last used {rfc3339(key.last_used_at)}" if key.last_used_at else "never used"
            _tell(key_json(key), (key.id, key.role, used, key.name or ""), as_json=as_json)

    _do(store, tell)


@key_commands.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(metavar="KEY_ID", help="`key_…`, as `gatepost key list` shows it.")],
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Refuse a key from now on; running servers do within a second."""

    async def revoke(accounts: Accounts) -> None:
        key = await accounts.keys.get(key_id)
        await accounts.keys.revoke(key.group_id, key.id)
        _tell({"keyId": key.id, "revoked": True}, (f"{key.id} is revoked.",), as_json=as_json)

    _do(store, revoke)


# --- what these are made of ----------------------------------------------------------------------------------


class _List(Protocol[T]):
    """A list, asked for page by page."""

    def __call__(self, *, limit: int, before: str | None) -> Awaitable[Page[T]]: ...


def _do(store: str | None, command: Callable[[Accounts], Awaitable[None]]) -> None:
    async def done() -> None:
        async with bootstrap.opened_accounts(settings_of(store=store)) as accounts:
            await command(accounts)

    run(done())


async def _all(pages: _List[T]) -> AsyncIterator[T]:
    before = None
    while True:
        page = await pages(limit=PAGE, before=before)
        for item in page.items:
            yield item
        before = page.next_cursor
        if before is None:
            return


def _password(from_stdin: bool) -> str | None:
    return sys.stdin.readline().rstrip("\r\n") if from_stdin else None


def _tell(found: Mapping[str, Any], plain: tuple[str, ...], *, as_json: bool) -> None:
    typer.echo(json.dumps(found) if as_json else "\t".join(plain).rstrip())


def _tell_password(user: User, made: str | None, *, as_json: bool) -> None:
    plain = made or f"The password of {user.email} is set."
    _tell({"id": user.id, "email": user.email, "password": made}, (plain,), as_json=as_json)


def _user_json(user: User) -> dict[str, Any]:
    return {
        "id": user.id,
        "email": user.email,
        "name": user.name,
        "isInstallationOwner": user.is_installation_owner,
        "createdAt": rfc3339(user.created_at),
    }


def _group_json(group: Group) -> dict[str, Any]:
    return {"id": group.id, "name": group.name, "createdAt": rfc3339(group.created_at)}
