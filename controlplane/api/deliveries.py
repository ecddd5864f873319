"""Deliveries: what was sent to whom, what they said, and sending it again."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from controlplane.api import shapes
from controlplane.api.doors import DELIVERIES_TOPIC, EVENTS_TOPIC, doors_of, namespace_of
from controlplane.api.operation import Operation
from controlplane.api.shapes import answer
from controlplane.domain.ids import DeliveryId, bucket_of, read, read_fenced, show
from controlplane.errors import ExecutionNotFound, NoWebhook
from controlplane.reads import deliveries, executions
from controlplane.stages import deliver


async def of_execution(request: Request) -> Response:
    """Every delivery of an execution with every attempt."""
    doors, namespace = doors_of(request), namespace_of(request)
    id_, _ = read_fenced(request.path_params["execution_id"], where="path/execution_id")
    found = await doors.run(deliveries.of_execution, bucket_of(id_), id_, namespace=namespace, callbacks=True)
    if not found and not await doors.run(executions.read, [id_], namespace=namespace):
        raise ExecutionNotFound
    return answer({"items": [shapes.delivery(one) for one in found]})


async def retry(request: Request) -> Response:
    """Send one delivery again: the same id, the same bytes, the schedule from its beginning."""
    doors, namespace = doors_of(request), namespace_of(request)
    id_ = DeliveryId(read("dlv", request.path_params["delivery_id"], where="path/delivery_id"))
    await doors.run(deliver.retry, id_, namespace=namespace)
    doors.hints.tell(DELIVERIES_TOPIC)
    doors.hints.tell(EVENTS_TOPIC)
    return answer({"delivery_id": show("dlv", id_), "state": "pending"}, 202)


async def retry_execution(request: Request) -> Response:
    """Send every delivery of an execution again (AgentField's path)."""
    doors, namespace = doors_of(request), namespace_of(request)
    id_, _ = read_fenced(request.path_params["execution_id"], where="path/execution_id")
    found = await doors.run(deliveries.of_execution, bucket_of(id_), id_, namespace=namespace)
    if not found:
        views = await doors.run(executions.read, [id_], namespace=namespace)
        if id_ not in views:
            raise ExecutionNotFound
        if views[id_].webhooks:
            raise NoWebhook("This execution has not ended; its webhook is sent when it does.")
        raise NoWebhook("No webhook was registered with this execution.")
    for one in found:
        await doors.run(deliver.retry, one.id, namespace=namespace)
    doors.hints.tell(DELIVERIES_TOPIC)
    doors.hints.tell(EVENTS_TOPIC)
    return answer({"status": "queued"}, 202)


OPERATIONS = [
    Operation(
        method="GET",
        path="/api/v1/executions/{execution_id}/deliveries",
        handler=of_execution,
        summary="Webhook deliveries of one execution",
        tag="deliveries",
        answers={200: "With every attempt.", 404: "Unknown.", 422: "Not an id.", 503: "Try again."},
    ),
    Operation(
        method="POST",
        path="/api/v1/deliveries/{delivery_id}/retry",
        handler=retry,
        summary="Send a webhook again",
        tag="deliveries",
        answers={202: "It is due now.", 404: "Unknown.", 422: "Not an id.", 503: "Try again."},
    ),
    Operation(
        method="POST",
        path="/api/ui/v1/executions/{execution_id}/webhook/retry",
        handler=retry_execution,
        summary="Send the webhooks of an execution again",
        tag="deliveries",
        answers={
            202: "They are due now.",
            400: "No webhook was registered, or it has not ended.",
            404: "Unknown.",
            422: "Not an id.",
            503: "Try again.",
        },
    ),
]
