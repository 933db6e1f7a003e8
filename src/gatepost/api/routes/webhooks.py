"""/api/integrations/webhooks: all of it needs an admin."""

from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path

from gatepost.api.answers import (
    new_secret_json,
    new_webhook_json,
    page_json,
    parse_cursor,
    rotation_json,
    sent_test_json,
    webhook_json,
)
from gatepost.api.calls import AdminCall, Call, changing, creating
from gatepost.api.once import OnceRoute
from gatepost.api.openapi import Cursor, Limit, body_of, problems_of
from gatepost.api.schemas import webhooks as schemas
from gatepost.api.schemas.shapes import id_pattern
from gatepost.domain.groups import Role

router = APIRouter(tags=["webhooks"], route_class=OnceRoute)

WebhookId = Annotated[str, Path(alias="webhookId", pattern=id_pattern("wh"), description="The webhook.")]
Create = Annotated[Call[schemas.WebhookCreate], Depends(creating(schemas.WebhookCreate, Role.ADMIN))]
Replace = Annotated[Call[schemas.WebhookReplace], Depends(changing(schemas.WebhookReplace, Role.ADMIN))]
Update = Annotated[Call[schemas.WebhookUpdate], Depends(changing(schemas.WebhookUpdate, Role.ADMIN))]
Rotate = Annotated[Call[schemas.SecretRotate], Depends(changing(schemas.SecretRotate, Role.ADMIN, keyed=True))]
SendTest = Annotated[Call[schemas.SendTest], Depends(changing(schemas.SendTest, Role.ADMIN))]


@router.post(
    "/api/integrations/webhooks",
    operation_id="createWebhook",
    summary="Create a webhook; its secret is shown this once",
    status_code=201,
    response_model=schemas.WebhookCreated,
    openapi_extra=body_of(schemas.WebhookCreate, "target_not_allowed", "reserved_header", "quota_exceeded"),
)
async def create_webhook(call: Create) -> Any:
    made = await call.services.webhooks.create(
        call.group_id, call.body.fields(), secret=call.body.secret, draws=call.draws
    )
    return new_webhook_json(made)


@router.get(
    "/api/integrations/webhooks",
    operation_id="listWebhooks",
    summary="List webhooks, newest first",
    response_model=schemas.WebhookPage,
)
async def list_webhooks(call: AdminCall, limit: Limit = 50, cursor: Cursor = None) -> Any:
    page = await call.services.webhooks.list(call.group_id, limit=limit, before=parse_cursor(cursor))
    return page_json(page, webhook_json)


@router.get(
    "/api/integrations/webhooks/{webhookId}",
    operation_id="getWebhook",
    summary="Look at one webhook",
    response_model=schemas.Webhook,
)
async def get_webhook(call: AdminCall, webhook_id: WebhookId) -> Any:
    return webhook_json(await call.services.webhooks.get(call.group_id, webhook_id))


@router.put(
    "/api/integrations/webhooks/{webhookId}",
    operation_id="replaceWebhook",
    summary="Set everything about a webhook; what is absent gets its default",
    response_model=schemas.Webhook,
    openapi_extra=body_of(schemas.WebhookReplace, "target_not_allowed", "reserved_header", "version_conflict"),
)
async def replace_webhook(call: Replace, webhook_id: WebhookId) -> Any:
    return webhook_json(await call.services.webhooks.replace(call.group_id, webhook_id, call.body.fields()))


@router.patch(
    "/api/integrations/webhooks/{webhookId}",
    operation_id="updateWebhook",
    summary="Set some of a webhook's fields; what is absent stays",
    response_model=schemas.Webhook,
    openapi_extra=body_of(schemas.WebhookUpdate, "target_not_allowed", "reserved_header", "version_conflict"),
)
async def update_webhook(call: Update, webhook_id: WebhookId) -> Any:
    return webhook_json(await call.services.webhooks.update(call.group_id, webhook_id, call.body.fields()))


@router.delete(
    "/api/integrations/webhooks/{webhookId}",
    operation_id="deleteWebhook",
    summary="Delete a webhook; what it is still owed is not sent",
    status_code=204,
)
async def delete_webhook(call: AdminCall, webhook_id: WebhookId) -> None:
    await call.services.webhooks.delete(call.group_id, webhook_id)


@router.post(
    "/api/integrations/webhooks/{webhookId}/rotate-secret",
    operation_id="rotateWebhookSecret",
    summary="Sign with a new secret, and with the old one until the grace ends",
    response_model=schemas.SecretRotated,
    openapi_extra=body_of(schemas.SecretRotate, "version_conflict"),
)
async def rotate_webhook_secret(call: Rotate, webhook_id: WebhookId) -> Any:
    grace = timedelta(seconds=call.body.grace_period_seconds)
    rotated = await call.services.webhooks.rotate_secret(
        call.group_id, webhook_id, grace=grace, secret=call.body.secret, draws=call.draws
    )
    return new_secret_json(rotated)


@router.post(
    "/api/integrations/webhooks/{webhookId}/finalize-rotation",
    operation_id="finalizeWebhookRotation",
    summary="Sign with the newest secret only, from now on",
    response_model=schemas.RotationFinalized,
    openapi_extra=problems_of("version_conflict"),
)
async def finalize_webhook_rotation(call: AdminCall, webhook_id: WebhookId) -> Any:
    return rotation_json(await call.services.webhooks.finalize_rotation(call.group_id, webhook_id))


@router.post(
    "/api/integrations/webhooks/{webhookId}/discard-backlog",
    operation_id="discardWebhookBacklog",
    summary="Give up everything that waits to be sent: it becomes dead letters",
    response_model=schemas.BacklogDiscarded,
)
async def discard_webhook_backlog(call: AdminCall, webhook_id: WebhookId) -> Any:
    return {"discarded": await call.services.deliveries.discard_backlog(call.group_id, webhook_id)}


@router.post(
    "/api/integrations/webhooks/{webhookId}/test",
    operation_id="testWebhook",
    summary="Send a sample event now and show what came back",
    response_model=schemas.SentTest,
    openapi_extra=body_of(schemas.SendTest, "target_not_allowed", "rate_limited"),
)
async def send_test(call: SendTest, webhook_id: WebhookId) -> Any:
    return sent_test_json(await call.services.deliveries.send_test(call.caller, webhook_id, call.body.event))
