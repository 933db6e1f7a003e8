"""Groups and the people in them."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from gatepost.domain.errors import Forbidden, LastOwner, NotFound, StoreUnavailable, invalid
from gatepost.domain.groups import Caller, Group, Member, Membership, Role, group_name
from gatepost.ports import Draws, GroupStore, Page, Saved
from gatepost.services.pages import page_of
from gatepost.services.people import People

NO_SUCH_MEMBER = "there is no such member in this group"
MOST_TRIES = 5


@dataclass(frozen=True, slots=True)
class NewMember:
    """Somebody who has just come into a group. Shape: `password` is the one that was made for them, shown once."""

    member: Member
    password: str | None


class Groups:
    """All groups.

    Raises: NotFound, when the group has no such member; Forbidden, unless an owner gives or takes the role owner;
            LastOwner, when the group would have no owner left.
    """

    def __init__(self, store: GroupStore, people: People) -> None:
        self._store = store
        self._people = people

    async def create(self, name: str, *, owner_ids: Sequence[str] | None = (), draws: Draws) -> Group:
        """Make a group; without a list, its owners are those who own the installation.

        Raises: InvalidInput, when the name is unfit or taken.
        """
        group = Group(draws.chance.new_id("grp"), group_name(name), draws.at)
        if await self._store.add_group(group, owner_ids=owner_ids) is Saved.EXISTS:
            raise invalid("name", "choose another name: this one is taken", code="taken")
        for owner_id in owner_ids or ():
            self._people.forget(owner_id)
        return group

    async def named(self, name: str) -> Group | None:
        """Return the group of that name."""
        return await self._store.group_named(group_name(name))

    async def get(self, group_id: str) -> Group:
        """Raises: NotFound."""
        group = await self._store.group(group_id)
        if group is None:
            raise NotFound("there is no such group")
        return group

    async def list(self, *, limit: int, before: str | None) -> Page[Group]:
        """Return all groups of the installation, newest first."""
        return await self._store.groups(limit=limit, before=before)

    async def of_person(self, user_id: str, *, limit: int, before: str | None) -> Page[Membership]:
        """Return the groups that a person belongs to, newest group first."""
        found = await self._store.memberships(user_id)
        return page_of(found, lambda membership: membership.group.id, limit=limit, before=before)

    async def members(self, group_id: str, *, limit: int, before: str | None) -> Page[Member]:
        """Return who belongs to a group, the newest accounts first."""
        return await self._store.members(group_id, limit=limit, before=before)

    async def add_member(
        self,
        caller: Caller,
        email: str,
        role: Role,
        *,
        name: str | None = None,
        password: str | None = None,
        draws: Draws,
    ) -> NewMember:
        """Let somebody into the caller's group, and make their account when they have none.

        Raises: InvalidInput, when they belong to it already, or when a name or a password is given for an account
                that there is.
        """
        _may_change(caller, role)
        return await self.admit(caller.group_id, email, role, name=name, password=password, draws=draws)

    async def admit(
        self,
        group_id: str,
        email: str,
        role: Role,
        *,
        name: str | None = None,
        password: str | None = None,
        draws: Draws,
    ) -> NewMember:
        """Do as `add_member`, on behalf of the operator."""
        user_id = draws.chance.new_id("usr")
        known = await self._people.with_email(email)
        made = None
        if known is None or known.id == user_id:  # made by this very request, when it is done again under its key
            made = await self._people.create(email, user_id=user_id, name=name, password=password, draws=draws)
        else:
            _must_be_absent(name=name, password=password)
        user = made.user if made else known
        assert user is not None
        saved = await self._store.add_member(group_id, user.id, role, now=draws.at)
        member = await self._member(group_id, user.id)
        # Let in before by this very request, they may have been given another role since.
        if saved is not Saved.DONE and made is None and member.joined_at != draws.at:
            raise invalid("email", "this person belongs to the group already", code="taken")
        self._people.forget(user.id)
        return NewMember(member, made.password if made else None)

    async def save_role(self, caller: Caller, user_id: str, role: Role) -> Member:
        """Give a member another role."""

        async def save(expected: Role) -> Saved:
            _may_change(caller, expected, role)
            return await self._store.save_role(caller.group_id, user_id, role, expected=expected)

        await self._change(caller.group_id, user_id, save)
        return await self._member(caller.group_id, user_id)

    async def remove_member(self, caller: Caller, user_id: str) -> None:
        """Take somebody out of the group; anybody may leave it.

        Raises: Forbidden, when a member that is no admin takes out somebody else.
        """
        leaves = user_id == caller.actor_id
        if not leaves and not caller.is_admin:
            raise Forbidden("this needs the role admin")

        async def remove(expected: Role) -> Saved:
            if not leaves:
                _may_change(caller, expected)
            return await self._store.remove_member(caller.group_id, user_id, expected=expected)

        await self._change(caller.group_id, user_id, remove)

    async def _change(self, group_id: str, user_id: str, change: Callable[[Role], Awaitable[Saved]]) -> None:
        """Judge the role that a member has and change it, again when it has become another meanwhile."""
        for _ in range(MOST_TRIES):
            member = await self._member(group_id, user_id)
            saved = await change(member.role)
            if saved is Saved.LAST_OWNER:
                raise LastOwner("the group needs an owner; make somebody else one first")
            if saved is Saved.DONE:
                self._people.forget(user_id)
                return
        raise StoreUnavailable("the member's role keeps changing; try again")

    async def _member(self, group_id: str, user_id: str) -> Member:
        member = await self._store.member(group_id, user_id)
        if member is None:
            raise NotFound(NO_SUCH_MEMBER)
        return member


def _may_change(caller: Caller, *roles: Role) -> None:
    if Role.OWNER in roles and caller.role is not Role.OWNER:
        raise Forbidden("only an owner of the group gives or takes the role owner")


def _must_be_absent(**fields: str | None) -> None:
    for field, value in fields.items():
        if value is not None:
            raise invalid(field, "this person has an account already; leave it out", code="unexpected")
