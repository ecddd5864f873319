"""Deliveries: what was sent to whom, what they said, and sending it again."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from controlplane.api import feed, shapes
from controlplane.api.audited import Noted, audited, seeing
from controlplane.api.doors import DELIVERIES_TOPIC, EVENTS_TOPIC, doors_of, namespace_of
from controlplane.api.executions import query_text
from controlplane.api.operation import OPERATE, READ, Operation
from controlplane.api.paging import limit_of, query_instant
from controlplane.api.shapes import answer
from controlplane.domain.ids import DeliveryId, bucket_of, read, read_fenced, show
from controlplane.errors import DeliveryNotFound, ExecutionNotFound, Invalid, NoWebhook
from controlplane.postgres.pool import Connection
from controlplane.reads import deliveries, executions
from controlplane.reads.deliveries import DeliveryFilter
from controlplane.stages import redrive


async def of_execution(request: Request) -> Response:
    """Every delivery of an execution with every attempt."""
    doors, namespace = doors_of(request), namespace_of(request)
    id_, _ = read_fenced(request.path_params["execution_id"], where="path/execution_id")
    found = await doors.run(deliveries.of_execution, bucket_of(id_), id_, namespace=namespace, callbacks=True)
    if not found and not await doors.run(executions.read, [id_], namespace=namespace):
        raise ExecutionNotFound
    return answer({"items": [shapes.delivery(one) for one in found]})


async def page(request: Request) -> Response:
    """The newest first; with `after` the feed instead, the oldest first."""
    if "after" in request.query_params:
        return await feed.page(request)
    doors, limit = doors_of(request), limit_of(request)
    for name in ("wait_seconds", "include"):
        if name in request.query_params:
            raise Invalid("Only of the feed.", where=f"query/{name}", fix="Say after=beginning, or leave it out.")
    cursor = request.query_params.get("cursor")
    wanted = DeliveryFilter(
        states=feed.states_of(request),
        event=query_text(request, "event"),
        target=query_text(request, "target"),
        node_id=query_text(request, "node_id"),
        run_id=query_text(request, "run_id"),
        execution_id=feed.execution_of(request),
        endpoint_id=feed.endpoint_of(request),
        host=query_text(request, "host"),
        created_after=query_instant(request, "created_after"),
        created_before=query_instant(request, "created_before"),
        ended_after=query_instant(request, "ended_after"),
        ended_before=query_instant(request, "ended_before"),
    )
    found = await doors.run(
        deliveries.newest,
        wanted,
        namespace=namespace_of(request),
        below=read("dlv", cursor, where="query/cursor") if cursor else None,
        limit=limit,
        placement=doors.placement,
    )
    return answer(
        {
            "items": [feed.shape(one) for one in found.items],
            "next_cursor": None if found.below is None else show("dlv", found.below),
        }
    )


async def look(request: Request) -> Response:
    """One delivery with every attempt and the body that is sent."""
    doors, namespace = doors_of(request), namespace_of(request)
    id_ = read("dlv", request.path_params["delivery_id"], where="path/delivery_id")
    found = await doors.run(deliveries.read, bucket_of(id_), id_, namespace=namespace)
    if found is None:
        raise DeliveryNotFound
    return answer(feed.shape(found))


async def retry(request: Request) -> Response:
    """Send one delivery again: the same id, the same bytes, the schedule from its beginning."""
    doors, namespace = doors_of(request), namespace_of(request)
    id_ = DeliveryId(read("dlv", request.path_params["delivery_id"], where="path/delivery_id"))
    await audited(
        request,
        lambda done: Noted(kind="delivery", id=show("dlv", id_), before={"state": done[0]}, after={"state": "pending"}),
        seeing(partial(redrive.lock_state, delivery_id=id_, namespace=namespace), redrive.retry),
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
        await redrive.retry(conn, id_, namespace=namespace)


OPERATIONS = [
    Operation(
        scope=READ,
        method="GET",
        path="/api/v1/deliveries",
        handler=page,
        summary="List webhook deliveries, newest first; or read all of them in order (the feed)",
        tag="deliveries",
        query={
            "after": "The feed, oldest first, behind this place: a cursor of an answer, beginning or now",
            "wait_seconds": f"Of the feed: how long to wait for the first, 0 to {feed.WAIT_MAX_SECONDS:g}",
            "include": "Of the feed: body, what is sent",
            "state": "pending, leased, delivered or dead; several, separated by commas",
            "event": "Of this event: execution.completed",
            "execution_id": "Of one execution",
            "endpoint_id": "To one registered endpoint",
            "host": "To this receiver: host:port",
            "created_after": "Planned from this moment on: 2030-01-31T09:00:00Z",
            "created_before": "Planned before this moment (not of the feed)",
            "target": "Of executions of this node_id.reasoner_name (not of the feed)",
            "node_id": "Of executions of one node (not of the feed)",
            "run_id": "Of executions of one run (not of the feed)",
            "ended_after": "Delivered or dead from this moment on (not of the feed)",
            "ended_before": "Delivered or dead before this moment (not of the feed)",
            "limit": "1 to 200, 50 by default",
            "cursor": "next_cursor of the page before (not of the feed)",
        },
        answers={200: "A page.", 422: "A filter or cursor is not valid.", 503: "Try again."},
    ),
    Operation(
        scope=READ,
        method="GET",
        path="/api/v1/deliveries/{delivery_id}",
        handler=look,
        summary="One webhook delivery: every attempt, and the body",
        tag="deliveries",
        answers={200: "The delivery.", 404: "Unknown.", 422: "Not an id.", 503: "Try again."},
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
