"""Bulk replays of one webhook's deliveries: all of it needs an admin."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path
from starlette.responses import JSONResponse

from gatepost.api.answers import page_json, parse_cursor, replay_job_json, replay_preview_json
from gatepost.api.calls import AdminCall, Call, changing
from gatepost.api.once import OnceRoute
from gatepost.api.openapi import Cursor, Limit, body_of
from gatepost.api.routes.webhooks import WebhookId
from gatepost.api.schemas import replays as schemas
from gatepost.api.schemas.shapes import id_pattern
from gatepost.domain.groups import Role

router = APIRouter(tags=["deliveries"], route_class=OnceRoute)

JobId = Annotated[str, Path(alias="jobId", pattern=id_pattern("rpl"), description="The replay.")]
Start = Annotated[Call[schemas.ReplayStart], Depends(changing(schemas.ReplayStart, Role.ADMIN, keyed=True))]


@router.post(
    "/api/integrations/webhooks/{webhookId}/replays",
    operation_id="startReplay",
    summary="Send many deliveries once more, or say how many there are",
    status_code=202,
    response_model=schemas.ReplayJob,
    responses={200: {"model": schemas.ReplayPreview, "description": "With dryRun"}},
    openapi_extra=body_of(schemas.ReplayStart, "webhook_disabled", "quota_exceeded"),
)
async def start_replay(call: Start, webhook_id: WebhookId) -> Any:
    replays, wanted = call.services.replays, call.body.wanted()
    if call.body.dry_run:
        return JSONResponse(replay_preview_json(await replays.preview(call.group_id, webhook_id, wanted)))
    return replay_job_json(await replays.start(call.group_id, webhook_id, wanted, draws=call.draws))


@router.get(
    "/api/integrations/webhooks/{webhookId}/replays",
    operation_id="listReplays",
    summary="List the bulk replays of a webhook, newest first",
    response_model=schemas.ReplayJobPage,
)
async def list_replays(call: AdminCall, webhook_id: WebhookId, limit: Limit = 50, cursor: Cursor = None) -> Any:
    page = await call.services.replays.list(call.group_id, webhook_id, limit=limit, before=parse_cursor(cursor))
    return page_json(page, replay_job_json)


@router.get(
    "/api/integrations/webhooks/{webhookId}/replays/{jobId}",
    operation_id="getReplay",
    summary="Look how far a bulk replay has come",
    response_model=schemas.ReplayJob,
)
async def get_replay(call: AdminCall, webhook_id: WebhookId, job_id: JobId) -> Any:
    return replay_job_json(await call.services.replays.get(call.group_id, webhook_id, job_id))


@router.post(
    "/api/integrations/webhooks/{webhookId}/replays/{jobId}/cancel",
    operation_id="cancelReplay",
    summary="End a bulk replay; what it has queued is sent all the same",
    response_model=schemas.ReplayJob,
)
async def cancel_replay(call: AdminCall, webhook_id: WebhookId, job_id: JobId) -> Any:
    return replay_job_json(await call.services.replays.cancel(call.group_id, webhook_id, job_id))
