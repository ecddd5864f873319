"""Deliveries: what was sent to whom, what they said, and sending it again."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from controlplane.api import shapes
from controlplane.api.audited import Noted, audited, seeing
from controlplane.api.doors import DELIVERIES_TOPIC, EVENTS_TOPIC, doors_of, namespace_of
from controlplane.api.executions import query_text
from controlplane.api.operation import OPERATE, READ, Operation
from controlplane.api.paging import limit_of, query_instant
from controlplane.api.shapes import answer
from controlplane.domain.delivery import DeliveryState
from controlplane.domain.ids import DeliveryId, bucket_of, read, read_fenced, show
from controlplane.errors import ExecutionNotFound, Invalid, NoWebhook
from controlplane.postgres.pool import Connection
from controlplane.reads import deliveries, executions
from controlplane.reads.deliveries import DeadFilter
from controlplane.stages import deliver


async def of_execution(request: Request) -> Response:
    """Every delivery of an execution with every attempt."""
    doors, namespace = doors_of(request), namespace_of(request)
    id_, _ = read_fenced(request.path_params["execution_id"], where="path/execution_id")
    found = await doors.run(deliveries.of_execution, bucket_of(id_), id_, namespace=namespace, callbacks=True)
    if not found and not await doors.run(executions.read, [id_], namespace=namespace):
        raise ExecutionNotFound
    return answer({"items": [shapes.delivery(one) for one in found]})


async def page(request: Request) -> Response:
    """Those that are dead, the newest first."""
    doors, limit = doors_of(request), limit_of(request)
    cursor = request.query_params.get("cursor")
    if query_text(request, "state") not in (None, DeliveryState.DEAD):
        raise Invalid(
            "Only dead deliveries are listed.",
            where="query/state",
            fix="Those of one execution: GET /api/v1/executions/{execution_id}/deliveries.",
        )
    wanted = DeadFilter(
        target=query_text(request, "target"),
        node_id=query_text(request, "node_id"),
        run_id=query_text(request, "run_id"),
        host=query_text(request, "host"),
        ended_after=query_instant(request, "ended_after"),
        ended_before=query_instant(request, "ended_before"),
        before=read("dlv", cursor, where="query/cursor") if cursor else None,
    )
    found = await doors.run(
        deliveries.dead, wanted, namespace=namespace_of(request), limit=limit + 1, placement=doors.placement
    )
    more = len(found) > limit
    return answer(
        {
            "items": [
                shapes.delivery(one.delivery)
                | {"execution_id": show("exec", one.delivery.execution_id), "target": one.target}
                for one in found[:limit]
            ],
            "next_cursor": show("dlv", found[limit - 1].delivery.id) if more else None,
        }
    )


async def retry(request: Request) -> Response:
    """Send one delivery again: the same id, the same bytes, the schedule from its beginning."""
    doors, namespace = doors_of(request), namespace_of(request)
    id_ = DeliveryId(read("dlv", request.path_params["delivery_id"], where="path/delivery_id"))
    await audited(
        request,
        lambda done: Noted(kind="delivery", id=show("dlv", id_), before={"state": done[0]}, after={"state": "pending"}),
        seeing(partial(deliver.lock_state, delivery_id=id_, namespace=namespace), deliver.retry),
        id_,
        namespace=namespace,
    )
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
    ids = sorted(one.id for one in found)
    await audited(
        request,
        lambda _: Noted(
            kind="execution", id=show("exec", id_), after={"deliveries": [show("dlv", one) for one in ids]}
        ),
        _retry_each,
        ids,
        namespace=namespace,
    )
    doors.hints.tell(DELIVERIES_TOPIC)
    doors.hints.tell(EVENTS_TOPIC)
    return answer({"status": "queued"}, 202)


async def _retry_each(conn: Connection, ids: Sequence[DeliveryId], *, namespace: int) -> None:
    for id_ in ids:
        await deliver.retry(conn, id_, namespace=namespace)


OPERATIONS = [
    Operation(
        scope=READ,
        method="GET",
        path="/api/v1/deliveries",
        handler=page,
        summary="List webhook deliveries that are dead, newest first",
        tag="deliveries",
        query={
            "state": "dead, which is also meant when it is left out",
            "target": "Of executions of this node_id.reasoner_name",
            "node_id": "Of executions of one node",
            "run_id": "Of executions of one run",
            "host": "To this receiver: host:port",
            "ended_after": "Those that died from this moment on: 2030-01-31T09:00:00Z",
            "ended_before": "Those that died up to this moment",
            "limit": "1 to 200, 50 by default",
            "cursor": "next_cursor of the page before",
        },
        answers={200: "A page.", 422: "A filter is not valid.", 503: "Try again."},
    ),
    Operation(
        scope=READ,
        method="GET",
        path="/api/v1/executions/{execution_id}/deliveries",
        handler=of_execution,
        summary="Webhook deliveries of one execution",
        tag="deliveries",
        answers={200: "With every attempt.", 404: "Unknown.", 422: "Not an id.", 503: "Try again."},
    ),
    Operation(
        scope=OPERATE,
        method="POST",
        path="/api/v1/deliveries/{delivery_id}/retry",
        handler=retry,
        audit="delivery.retried",
        summary="Send a webhook again",
        tag="deliveries",
        answers={202: "It is due now.", 404: "Unknown.", 422: "Not an id.", 503: "Try again."},
    ),
    Operation(
        scope=OPERATE,
        method="POST",
        path="/api/ui/v1/executions/{execution_id}/webhook/retry",
        handler=retry_execution,
        audit="delivery.retried",
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
