"""Examples of bodies and answers, made from their schemas and from what fields of each name are like."""

from typing import Any

from gatepost.api.answers import event_type_json
from gatepost.api.event_types import event_types
from gatepost.domain.events import Json

_EVENT = event_types()[0]
_MESSAGE = _EVENT.example
_LEFT_OUT: Any = object()  # of an example; the field need not be given

_ANN = "usr_019ab0c0b1e27000b1c2d3e4f5061728"
_BEN = "usr_019ab0c0b1e37000a0b1c2d3e4f50617"
_TASK_ID = "tsk_019ab0c3d4e57000c1d2e3f405162738"
_WEBHOOK_ID = "wh_019ab0c1c2d37000d1e2f30415263748"
_CREATED = "2026-11-23T12:00:00.000Z"
_CHANGED = "2026-11-23T12:34:56.123Z"
_SECRET = "whsec_C2FVsBQIhrscChlQIMVtb5sSYspob7oDazEwMZmvGH0="
_SENT_HEADERS = {
    "Content-Type": "application/json",
    "User-Agent": "Gatepost/0.1.0",
    "webhook-id": _MESSAGE["id"],
    "X-Gatepost-Event": _MESSAGE["event"],
    "X-Gatepost-Attempt": "1",
    "Authorization": "…",
}

# By the name of a field; where fields of one name differ, by the model, too. In the order of the names.
_VALUES: Json = {
    "actorId": _ANN,
    "assignedTo": _ANN,
    "at": _CHANGED,
    "attemptCount": 1,
    "body": "noted",
    "DeliveryRequest.body": '{"id":"evt_…","event":"task.created",…}',
    "changes": {"status": {"from": "pending", "to": "in_progress"}},
    "completedAt": None,
    "createdAt": _CREATED,
    "current": True,
    "currentPassword": "correct horse battery",
    "Event.data": _MESSAGE["data"],
    "EventPublish.data": {"orderId": "A-1017", "total": 49.9, "currency": "EUR"},
    "count": 5_000,
    "deadReason": None,
    "decidedAt": None,
    "decidedBy": None,
    "deliveryId": "dlv_019ab0c4f1a37000f102132435465768",
    "description": "Not the cactus",
    "difficulty": 3,
    "disabledReason": None,
    "StatsBucket.dead": 1,
    "StatsBucket.delivered": 940,
    "discarded": 120,
    "done": 2_150,
    "dryRun": False,
    "dueAt": "2026-11-30T18:00:00.000Z",
    "durationMs": 42,
    "email": "ann@example.com",
    "Member.email": "ben@example.com",
    "MemberAdd.email": "ben@example.com",
    "enabled": True,
    "WebhookUpdate.enabled": True,
    "errorClass": None,
    "event": _MESSAGE["event"],
    "EventPublish.event": "order.paid",
    "HistoryEntry.event": "task.updated",
    "SendTest.event": "task.completed",
    "eventId": _MESSAGE["id"],
    "events": ["task.*"],
    "expiresAt": "2026-11-24T00:34:56.123Z",
    "externalId": None,
    "filter": {"status": "dead-letter", "event": None, "from": _CREATED, "to": None},
    "finishedAt": _CHANGED,
    "ReplayJob.finishedAt": None,
    "from": _CREATED,
    "gracePeriodSeconds": 86_400,
    "groupId": _MESSAGE["groupId"],
    "GroupCreate.groupId": _LEFT_OUT,
    "Login.groupId": _LEFT_OUT,
    "PasswordChange.groupId": _LEFT_OUT,
    "headers": {"Authorization": None},
    "DeliveryRequest.headers": _SENT_HEADERS,
    "ReceivedResponse.headers": {"content-type": "text/plain"},
    "WebhookCreate.headers": {"Authorization": "Bearer partner-token"},
    "WebhookReplace.headers": {"Authorization": None},
    "WebhookUpdate.headers": {"X-Tenant": "berlin"},
    "health": "healthy",
    "ApiKey.id": "key_019ab0c0b1e47000c1d2e3f405162738",
    "Attempt.id": "att_019ab0c4f2b37000e1f2031425364758",
    "Delivery.id": "dlv_019ab0c4f1a37000f102132435465768",
    "Event.id": _MESSAGE["id"],
    "EventPublish.id": "order-A-1017-paid",
    "EventPublished.id": "order-A-1017-paid",
    "Group.id": _MESSAGE["groupId"],
    "Me.id": _ANN,
    "OwnGroup.id": _MESSAGE["groupId"],
    "ReplayJob.id": "rpl_019ab0c6b7c87000b3c4d5e6f7081920",
    "Session.id": "ses_019ab0c0c2d37000e4f5061728394a5b",
    "Swap.id": "swp_019ab0c5a6b77000a2b3c4d5e6f70819",
    "Task.id": _TASK_ID,
    "Webhook.id": _WEBHOOK_ID,
    "ignoreOrigins": [],
    "isInstallationOwner": False,
    "EventTypePage.items": [event_type_json(_EVENT)],
    "joinedAt": _CREATED,
    "key": "gp_019ab0c0b1e47000c1d2e3f405162738_" + "5ca1ab1e" * 8,
    "lastErrorClass": None,
    "lastStatusCode": 204,
    "lastUsedAt": _CHANGED,
    "maxAttempts": 10,
    "maxConcurrency": 10,
    "method": "POST",
    "name": "Rota",
    "ApiKey.name": "Nightly import",
    "Group.name": "Night shift",
    "GroupCreate.name": "Night shift",
    "KeyCreate.name": "Nightly import",
    "Me.name": "Ann",
    "Member.name": "Ben",
    "MemberAdd.name": "Ben",
    "OwnGroup.name": "Night shift",
    "newPassword": "a staple, perhaps",
    "nextAttemptAt": None,
    "nextCursor": None,
    "number": 1,
    "origin": "api",
    "Attempt.outcome": "accepted",
    "password": "correct horse battery",
    "MemberAdd.password": _LEFT_OUT,
    "preserveTaskOrder": False,
    "previousExpiresAt": "2026-11-24T12:34:56.123Z",
    "RotationFinalized.previousExpiresAt": None,
    "probe": False,
    "proposedBy": _ANN,
    "rateLimitPerSecond": None,
    "HistoryEntry.reason": None,
    "Swap.reason": "Ben is on holiday",
    "SwapPropose.reason": "Ben is on holiday",
    "TaskReject.reason": "The balcony is still dry",
    "replayOf": None,
    "responseBody": "noted",
    "responseHeaders": {"content-type": "text/plain"},
    "responseTruncated": False,
    "retryPolicy": {"schedule": [5.0, 300.0, 1800.0]},
    "role": "member",
    "ApiKey.role": "member",
    "Group.role": "owner",
    "KeyCreate.role": "member",
    "MemberChange.role": "admin",
    "OwnGroup.role": "owner",
    "secret": _SECRET,
    "SecretRotate.secret": _LEFT_OUT,
    "WebhookCreate.secret": _LEFT_OUT,
    "secretHint": "…vGH0",
    "source": None,
    "p50Ms": 42,
    "p95Ms": 380,
    "startedAt": _CHANGED,
    "StatsBucket.failed": 12,
    "StatsBucket.from": "2026-11-23T12:30:00.000Z",
    "StatsBucket.to": "2026-11-23T12:35:00.000Z",
    "Delivery.status": "delivered",
    "HealthStatus.status": "ok",
    "ReplayJob.status": "running",
    "ReplayStart.status": "dead-letter",
    "ReplayWanted.status": "dead-letter",
    "Swap.status": "pending",
    "Task.status": "in_progress",
    "statusCode": 204,
    "targetUrl": "https://hooks.example.com/in",
    "taskId": _TASK_ID,
    "taskIds": [_TASK_ID],
    "timeoutSeconds": 15,
    "timestamp": _MESSAGE["timestamp"],
    "title": "Water the plants",
    "to": _CHANGED,
    "total": 5_000,
    "truncated": False,
    "updatedAt": _CHANGED,
    "url": "https://hooks.example.com/in",
    "Member.userId": _BEN,
    "verdict": "queued",
    "version": 2,
    "TaskReject.version": 1,
    "TaskStep.version": 1,
    "TaskUpdate.version": 1,
    "webhookId": _WEBHOOK_ID,
    "withAssignedTo": _BEN,
    "withTaskId": "tsk_019ab0c3d4e67000d1e2f30415263748",
}


def example_of(model: str, schemas: Json) -> Any:
    """Return an example of a model.

    Raises: LookupError, when a field of it is of a name that nothing is known of.
    """
    schema = schemas[model]
    if "properties" not in schema:
        return schema["enum"][0]
    examples = {name: _field(model, name, field, schemas) for name, field in schema["properties"].items()}
    return {name: value for name, value in examples.items() if value is not _LEFT_OUT}


def _field(model: str, name: str, schema: Json, schemas: Json) -> Any:
    for known in (f"{model}.{name}", *(f"{each}.{name}" for each in _LIKE.get(model, ())), name):
        if known in _VALUES:
            return _VALUES[known]
    if schema.get("type") == "array":
        return [_field(model, name, schema["items"], schemas)]
    for option in (schema, *schema.get("anyOf", ())):
        if "$ref" in option:
            return example_of(option["$ref"].rpartition("/")[2], schemas)
    raise LookupError(f"what is {model}.{name} like? Say it in api/examples.py")


# Models that have the fields of others.
_LIKE = {
    "ApiKeyCreated": ("ApiKey",),
    "MemberAdded": ("Member",),
    "TaskDetail": ("Task",),
    "WebhookCreated": ("Webhook",),
    "DeliveryDetail": ("Delivery",),
}
