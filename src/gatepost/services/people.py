"""People: their accounts, and the sessions that they sign in with."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

from gatepost.domain.errors import InvalidInput, NotFound, StoreUnavailable, Unauthenticated, invalid
from gatepost.domain.groups import Membership, fit_name
from gatepost.domain.people import (
    GENERATED_PASSWORD_BYTES,
    Session,
    User,
    email_address,
    fit_password,
    generated_password,
    is_live,
    parse_session,
    session_text,
)
from gatepost.ports import Chance, Clock, Draws, GroupStore, Page, Passwords, PeopleStore, Saved
from gatepost.services.pages import page_of
from gatepost.services.throttle import Throttle
from gatepost.services.trust import LastUses, Trusted

SESSION_SECRET_BYTES = 32
MOST_TRIES = 5


@dataclass(frozen=True, slots=True)
class SignedIn:
    """Somebody who has signed in, and the groups that they belong to."""

    session: Session
    memberships: Sequence[Membership]


@dataclass(frozen=True, slots=True)
class Profile:
    """Somebody as they see themselves."""

    user: User
    memberships: Sequence[Membership]


@dataclass(frozen=True, slots=True)
class NewSession:
    """A session just begun; its text is for the browser alone."""

    profile: Profile
    text: str


@dataclass(frozen=True, slots=True)
class NewUser:
    """Somebody who has just got an account. Shape: `password` is the one that was made for them, to be shown once."""

    user: User
    password: str | None


class People:
    """Everybody who may sign in."""

    def __init__(
        self, store: PeopleStore, groups: GroupStore, passwords: Passwords, clock: Clock, chance: Chance
    ) -> None:
        self._store = store
        self._groups = groups
        self._passwords = passwords
        self._clock = clock
        self._chance = chance
        self._throttle = Throttle(clock)
        self._trusted: Trusted[SignedIn] = Trusted(clock)
        self._uses = LastUses(clock, store.touch_sessions)

    # --- sessions --------------------------------------------------------------------------------------------

    async def authenticate(self, text: str) -> SignedIn | None:
        """Return who the session of this text belongs to, or None when it is none or has ended."""
        parsed = parse_session(text)
        if parsed is None:
            return None
        session_id, secret_hash = parsed
        signed_in = await self._trusted.get(session_id, self._read)
        if signed_in is None or not is_live(signed_in.session, secret_hash, now=self._clock.now()):
            return None
        self._uses.note(session_id, known=signed_in.session.last_used_at)
        return signed_in

    async def sign_in(self, email: str, password: str, *, address: str, replaced: str | None = None) -> NewSession:
        """Begin a session; the one whose text the browser still had, if any, ends.

        Raises: Unauthenticated, the same for an unknown account and a wrong password; RateLimited.
        """
        user = await self._judged(email, password, address)
        text = await self._begin(user)
        if replaced is not None and (before := await self.authenticate(replaced)):
            await self.sign_out(before.session.user_id, before.session.id)
        return NewSession(await self.profile(user.id), text)

    async def change_password(self, user_id: str, current: str, new: str, *, address: str) -> NewSession:
        """Set another password, end all sessions, and begin a new one.

        Raises: InvalidInput, when the current password is wrong or the new one unfit; RateLimited.
        """
        new = fit_password(new, field="newPassword")
        profile = await self.profile(user_id)
        try:
            user = await self._judged(profile.user.email, current, address)
        except Unauthenticated:
            raise _wrong_now() from None
        changed = replace(user, password_hash=await self._passwords.hash(new))
        if not await self._replace_password(user, changed.password_hash):
            raise _wrong_now()
        return NewSession(profile, await self._begin(changed))

    async def sessions(self, user_id: str, *, limit: int, before: str | None) -> Page[Session]:
        """Return somebody's sessions that have not ended, newest first."""
        now = self._clock.now()
        live = (session for session in await self._store.sessions(user_id) if now < session.expires_at)
        return page_of(live, lambda session: session.id, limit=limit, before=before)

    async def sign_out(self, user_id: str, session_id: str) -> None:
        """End the session that somebody is in, also when it has ended by now."""
        await self._store.end_sessions(user_id, [session_id])
        self.forget(user_id)

    async def end_session(self, user_id: str, session_id: str) -> None:
        """End one session.

        Raises: NotFound, when it is not one of this person's.
        """
        session = await self._store.session(session_id)
        if session is None or session.user_id != user_id:
            raise NotFound("you have no such session")
        await self.sign_out(user_id, session_id)

    async def end_sessions(self, user_id: str) -> None:
        """End all sessions of a person."""
        await self._store.end_sessions(user_id)
        self.forget(user_id)

    def forget(self, user_id: str) -> None:
        """Read who somebody is, and what they may do, again at their next request."""
        self._trusted.forget(lambda signed_in: signed_in.session.user_id == user_id)

    # --- accounts --------------------------------------------------------------------------------------------

    async def profile(self, user_id: str) -> Profile:
        """Return somebody and their groups.

        Raises: NotFound.
        """
        user = await self._store.user(user_id)
        if user is None:
            raise NotFound("there is no such person")
        return Profile(user, await self._groups.memberships(user_id))

    async def with_email(self, email: str) -> User | None:
        """Raises: InvalidInput, when it can be nobody's address."""
        return await self._store.user_with_email(email_address(email))

    async def list(self, *, limit: int, before: str | None) -> Page[User]:
        """Return everybody, the newest accounts first."""
        return await self._store.users(limit=limit, before=before)

    async def create(
        self,
        email: str,
        *,
        user_id: str | None = None,
        name: str | None = None,
        password: str | None = None,
        is_installation_owner: bool = False,
        draws: Draws,
    ) -> NewUser:
        """Make an account; without an id or a password one is made, too.

        Raises: InvalidInput, when the address is taken or anything is unfit.
        """
        user_id = user_id or draws.chance.new_id("usr")
        made = await self._drawn(User(user_id, email, name, "", draws.at, is_installation_owner), password, draws)
        if await self._store.add_user(made.user) is not Saved.DONE:
            raise invalid("email", "there is an account of this address already", code="taken")
        return made

    async def create_first(self, email: str, password: str | None, *, draws: Draws) -> NewUser | None:
        """Make the account of the installation's owner, unless there is anybody: who looks first need not hash."""
        if (await self._store.users(limit=1, before=None)).items:
            return None
        owner = User(draws.chance.new_id("usr"), email, None, "", draws.at, is_installation_owner=True)
        made = await self._drawn(owner, password, draws)
        return made if await self._store.add_first_user(made.user) is Saved.DONE else None

    async def reset_password(self, email: str, password: str | None, *, draws: Draws) -> NewUser:
        """Set a person's password, the one given or one that is made, and end their sessions.

        Raises: NotFound; InvalidInput, when it is unfit.
        """
        user = await self.with_email(email)
        if user is None:
            raise NotFound(f"There is nobody with the address {email}.")
        chosen, made = _chosen(password, draws)
        password_hash = await self._passwords.hash(chosen)
        for _ in range(MOST_TRIES):
            if await self._replace_password(user, password_hash):
                return NewUser(user, made)
            user = (await self.profile(user.id)).user
        raise StoreUnavailable("the password keeps changing; try again")

    async def close(self) -> None:
        """Write the last uses that are still waiting."""
        await self._uses.close()

    # --- what these are made of ------------------------------------------------------------------------------

    async def _read(self, session_id: str) -> SignedIn | None:
        session = await self._store.session(session_id)
        return None if session is None else SignedIn(session, await self._groups.memberships(session.user_id))

    async def _judged(self, email: str, password: str, address: str) -> User:
        """Return whose password it is: the same work, and the same refusal, whether there is such an account or not."""
        account = _account(email)
        self._throttle.take(account, address)
        try:
            user = await self._store.user_with_email(account) if account else None
        except StoreUnavailable:
            self._throttle.give_back(account, address)
            raise
        is_right = await self._passwords.verify(password, user.password_hash if user else None)
        if user is None or not is_right:
            raise _wrong()
        self._throttle.clear(account, address)
        return user

    async def _begin(self, user: User) -> str:
        """Begin a session of somebody whose password has just been judged or set; return its text."""
        now = self._clock.now()
        secret = self._chance.key_bytes(SESSION_SECRET_BYTES)
        session = Session(
            self._chance.new_id("ses"), user.id, sha256(secret).digest(), created_at=now, last_used_at=now
        )
        await self._store.add_session(session)
        latest = await self._store.user(user.id)
        if latest is None or latest.password_hash != user.password_hash:  # whoever changed it ended all sessions
            await self._store.end_sessions(user.id, [session.id])
            raise _wrong()
        return session_text(session.id, secret)

    async def _replace_password(self, user: User, password_hash: str) -> bool:
        """Set a password and end all sessions: before, lest a change that breaks off here leaves them, and after.

        Nothing is set when it is another by now than that of the account given.
        """
        await self.end_sessions(user.id)
        saved = await self._store.save_password(user.id, password_hash, expected=user.password_hash)
        if saved is Saved.DONE:
            await self.end_sessions(user.id)
        return saved is Saved.DONE

    async def _drawn(self, user: User, password: str | None, draws: Draws) -> NewUser:
        """Return the account with everything checked, and its password hashed."""
        email, name = email_address(user.email), None if user.name is None else fit_name("name", user.name)
        chosen, made = _chosen(password, draws)
        password_hash = await self._passwords.hash(chosen)
        return NewUser(replace(user, email=email, name=name, password_hash=password_hash), made)


def _chosen(password: str | None, draws: Draws) -> tuple[str, str | None]:
    """Return the password to set, and once more when it was made here.

    Raises: InvalidInput, when the one given is unfit.
    """
    if password is not None:
        return fit_password(password), None
    made = generated_password(draws.chance.key_bytes(GENERATED_PASSWORD_BYTES))
    return made, made


def _account(email: str) -> str:
    """Return the address as accounts have it, empty when it can be nobody's."""
    try:
        return email_address(email)
    except InvalidInput:
        return ""


def _wrong() -> Unauthenticated:
    return Unauthenticated("the e-mail address or the password is not right")


def _wrong_now() -> InvalidInput:
    return invalid("currentPassword", "give the password that you have now", code="wrong")
