"""/api/groups: one's groups, and the people in them."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path

from gatepost.api.account_answers import group_json, member_json, membership_json, new_member_json
from gatepost.api.answers import page_json, parse_cursor
from gatepost.api.calls import AnybodysCall, Call, OwnCall, changing_group, reading_group, signed_in
from gatepost.api.once import OnceRoute
from gatepost.api.openapi import Cursor, Limit, body_of, problems_of
from gatepost.api.schemas import accounts as schemas
from gatepost.api.schemas.shapes import id_pattern
from gatepost.domain.groups import Membership, Role
from gatepost.ports import Page

router = APIRouter(tags=["groups"], route_class=OnceRoute)

UserId = Annotated[str, Path(alias="userId", pattern=id_pattern("usr"), description="The member.")]
Create = Annotated[OwnCall[schemas.GroupCreate], Depends(signed_in(schemas.GroupCreate, keyed=True))]
InGroup = Annotated[Call[None], Depends(reading_group(Role.MEMBER))]
Add = Annotated[Call[schemas.MemberAdd], Depends(changing_group(schemas.MemberAdd, Role.ADMIN, keyed=True))]
Change = Annotated[Call[schemas.MemberChange], Depends(changing_group(schemas.MemberChange, Role.ADMIN))]


@router.post(
    "/api/groups",
    operation_id="createGroup",
    summary="Create a group; whoever does becomes its owner",
    status_code=201,
    response_model=schemas.Group,
    openapi_extra=body_of(schemas.GroupCreate),
)
async def create_group(call: Create) -> Any:
    made = await call.services.groups.create(call.body.name, owner_ids=[call.actor_id], draws=call.draws)
    return group_json(made, Role.OWNER)


@router.get(
    "/api/groups",
    operation_id="listGroups",
    summary="List one's groups, newest first; of an API key its one",
    response_model=schemas.GroupPage,
)
async def list_groups(call: AnybodysCall, limit: Limit = 50, cursor: Cursor = None) -> Any:
    groups, before = call.services.groups, parse_cursor(cursor)
    if call.identity.session_id is None:
        [(group_id, role)] = call.identity.memberships.items()
        only = [Membership(await groups.get(group_id), role)] if before is None else []
        return page_json(Page(only, None), membership_json)
    return page_json(await groups.of_person(call.actor_id, limit=limit, before=before), membership_json)


@router.get(
    "/api/groups/{groupId}/members",
    operation_id="listMembers",
    summary="List who belongs to a group, the newest accounts first",
    response_model=schemas.MemberPage,
)
async def list_members(call: InGroup, limit: Limit = 50, cursor: Cursor = None) -> Any:
    page = await call.services.groups.members(call.group_id, limit=limit, before=parse_cursor(cursor))
    return page_json(page, member_json)


@router.post(
    "/api/groups/{groupId}/members",
    operation_id="addMember",
    summary="Let somebody into a group; whoever has no account gets one (admin)",
    status_code=201,
    response_model=schemas.MemberAdded,
    openapi_extra=body_of(schemas.MemberAdd),
)
async def add_member(call: Add) -> Any:
    body = call.body
    added = await call.services.groups.add_member(
        call.caller, body.email, body.role, name=body.name, password=body.password, draws=call.draws
    )
    return new_member_json(added)


@router.put(
    "/api/groups/{groupId}/members/{userId}",
    operation_id="changeMember",
    summary="Give a member another role (admin; only an owner gives or takes the role owner)",
    response_model=schemas.Member,
    openapi_extra=body_of(schemas.MemberChange, "last_owner"),
)
async def change_member(call: Change, user_id: UserId) -> Any:
    return member_json(await call.services.groups.save_role(call.caller, user_id, call.body.role))


@router.delete(
    "/api/groups/{groupId}/members/{userId}",
    operation_id="removeMember",
    summary="Take somebody out of a group (admin), or leave it",
    status_code=204,
    openapi_extra=problems_of("forbidden", "last_owner"),
)
async def remove_member(call: InGroup, user_id: UserId) -> None:
    await call.services.groups.remove_member(call.caller, user_id)
