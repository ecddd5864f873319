"""Signals: somebody outside tells an execution that something has happened."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from controlplane.api.audited import Noted, audited
from controlplane.api.body import clean, payload, read_body
from controlplane.api.doors import EVENTS_TOPIC, doors_of, namespace_of
from controlplane.api.operation import EXECUTE_OR_OPERATE, Operation
from controlplane.api.shapes import answer
from controlplane.domain.ids import bucket_of, read_execution, show, show_execution
from controlplane.domain.step import EVENT_MAX
from controlplane.stages import signal
from controlplane.stages.signal import Signal


async def send(request: Request) -> Response:
    """The body is the payload, any JSON. A signal that nobody waits for yet is kept."""
    doors, namespace = doors_of(request), namespace_of(request)
    id_ = read_execution(request.path_params["execution_id"], where="path/execution_id")
    event = clean(request.path_params["event"], where="path/event", chars_max=EVENT_MAX)
    key = request.headers.get("idempotency-key")
    raw = await read_body(request, doors.limits.body_bytes_max)
    kept, _ = payload(raw or b"null", where="body", bytes_max=doors.limits.payload_bytes_max)
    one = Signal(
        id=doors.ids.new(bucket_of(id_)),
        execution_id=id_,
        namespace=namespace,
        event=event,
        payload=kept,
        idempotency_key=None if key is None else clean(key, where="Idempotency-Key"),
    )
    sent = await audited(
        request,
        lambda done: Noted(
            kind="execution", id=show_execution(id_), after={"signal_id": show("sig", done.id), "event": event}
        ),
        signal.send,
        one,
    )
    doors.woken(sent.ready)
    doors.hints.tell(EVENTS_TOPIC)
    shape = {
        "signal_id": show("sig", sent.id),
        "execution_id": show_execution(id_),
        "event": event,
        "delivered": sent.delivered,
    }
    return answer(shape, 202, {"Idempotent-Replayed": "true"} if sent.replayed else {})


OPERATIONS = [
    Operation(
        method="POST",
        scope=EXECUTE_OR_OPERATE,
        path="/api/v1/executions/{execution_id}/signals/{event}",
        handler=send,
        audit="execution.signalled",
        summary="Tell an execution that something has happened",
        tag="steps",
        headers={"Idempotency-Key": "The same key and payload again are the same signal."},
        answers={
            202: "Kept; `delivered` when a step has taken it.",
            400: "The payload is malformed.",
            404: "Unknown.",
            409: "It has ended, is being cancelled, or keeps too many signals.",
            413: "Too large.",
            422: "Not valid, or the key was used with another signal.",
            503: "Try again. With an idempotency key that is always safe.",
        },
    ),
]
