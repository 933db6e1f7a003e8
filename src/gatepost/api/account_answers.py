"""People, groups and API keys as the wire shows them. Password hashes and secrets never pass through here."""

from gatepost.domain.events import Json, rfc3339, rfc3339_or_none
from gatepost.domain.groups import ApiKey, Group, Member, Membership, Role
from gatepost.domain.people import Session
from gatepost.services.groups import NewMember
from gatepost.services.keys import NewKey
from gatepost.services.people import Profile


def profile_json(profile: Profile) -> Json:
    user = profile.user
    return {
        "id": user.id,
        "email": user.email,
        "name": user.name,
        "isInstallationOwner": user.is_installation_owner,
        "groups": [_own_group_json(membership) for membership in profile.memberships],
    }


def key_profile_json(key: ApiKey, group: Group) -> Json:
    """Return an API key as it sees itself, in the shape of a person."""
    return {
        "id": key.id,
        "email": None,
        "name": key.name,
        "isInstallationOwner": False,
        "groups": [_own_group_json(Membership(group, key.role))],
    }


def session_json(session: Session, *, current_id: str) -> Json:
    return {
        "id": session.id,
        "createdAt": rfc3339(session.created_at),
        "lastUsedAt": rfc3339(session.last_used_at),
        "expiresAt": rfc3339(session.expires_at),
        "current": session.id == current_id,
    }


def membership_json(membership: Membership) -> Json:
    return group_json(membership.group, membership.role)


def group_json(group: Group, role: Role) -> Json:
    return {"id": group.id, "name": group.name, "role": role, "createdAt": rfc3339(group.created_at)}


def member_json(member: Member) -> Json:
    return {
        "userId": member.user_id,
        "email": member.email,
        "name": member.name,
        "role": member.role,
        "joinedAt": rfc3339(member.joined_at),
    }


def new_member_json(made: NewMember) -> Json:
    """Return a member just added, the password that was made for them shown this once."""
    return {**member_json(made.member), "password": made.password}


def key_json(key: ApiKey) -> Json:
    return {
        "id": key.id,
        "groupId": key.group_id,
        "name": key.name,
        "role": key.role,
        "createdAt": rfc3339(key.created_at),
        "lastUsedAt": rfc3339_or_none(key.last_used_at),
    }


def new_key_json(made: NewKey) -> Json:
    """Return a key just made, its text shown this once."""
    return {**key_json(made.key), "key": made.text}


def _own_group_json(membership: Membership) -> Json:
    return {"id": membership.group.id, "name": membership.group.name, "role": membership.role}
