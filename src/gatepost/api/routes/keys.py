"""/api/groups/{groupId}/api-keys: all of it needs an admin."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path

from gatepost.api.account_answers import key_json, new_key_json
from gatepost.api.answers import page_json, parse_cursor
from gatepost.api.calls import Call, changing_group, reading_group
from gatepost.api.once import OnceRoute
from gatepost.api.openapi import Cursor, Limit, body_of
from gatepost.api.schemas import accounts as schemas
from gatepost.api.schemas.shapes import id_pattern
from gatepost.domain.groups import Role

router = APIRouter(tags=["api-keys"], route_class=OnceRoute)

KeyId = Annotated[str, Path(alias="keyId", pattern=id_pattern("key"), description="The API key.")]
Look = Annotated[Call[None], Depends(reading_group(Role.ADMIN))]
Create = Annotated[Call[schemas.KeyCreate], Depends(changing_group(schemas.KeyCreate, Role.ADMIN, keyed=True))]


@router.post(
    "/api/groups/{groupId}/api-keys",
    operation_id="createApiKey",
    summary="Create an API key; it is shown this once",
    status_code=201,
    response_model=schemas.ApiKeyCreated,
    openapi_extra=body_of(schemas.KeyCreate),
)
async def create_api_key(call: Create) -> Any:
    body = call.body
    return new_key_json(await call.services.keys.create(call.group_id, Role(body.role), body.name, draws=call.draws))


@router.get(
    "/api/groups/{groupId}/api-keys",
    operation_id="listApiKeys",
    summary="List the keys that are not revoked, newest first",
    response_model=schemas.ApiKeyPage,
)
async def list_api_keys(call: Look, limit: Limit = 50, cursor: Cursor = None) -> Any:
    page = await call.services.keys.list(call.group_id, limit=limit, before=parse_cursor(cursor))
    return page_json(page, key_json)


@router.delete(
    "/api/groups/{groupId}/api-keys/{keyId}",
    operation_id="revokeApiKey",
    summary="Revoke a key for good",
    status_code=204,
)
async def revoke_api_key(call: Look, key_id: KeyId) -> None:
    await call.services.keys.revoke(call.group_id, key_id)
