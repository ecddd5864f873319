"""Workflow events: what a process says of what it runs, among it the calls that it makes inside itself.

Of an execution of ours they are decoration: its status comes from its lease and its callback, and an event never
changes it. Of a call inside a process they are all there is.
"""

from __future__ import annotations

from uuid import UUID

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from controlplane.api import shapes
from controlplane.api.agentfield.callbacks import UNDER_WAY, VERDICTS
from controlplane.api.body import clean, payload, read_form
from controlplane.api.doors import Doors, doors_of, namespace_of
from controlplane.api.operation import NODE, READ, Operation
from controlplane.api.paging import limit_of
from controlplane.api.shapes import answer
from controlplane.api.whose import refusals
from controlplane.domain.ids import ExecutionId, bucket_of, is_execution, read_fenced, show_execution
from controlplane.domain.lease import Fence
from controlplane.domain.notice import moment
from controlplane.errors import ExecutionNotFound, Invalid, LeaseLost
from controlplane.reads import executions
from controlplane.reads import local as locals_read
from controlplane.reads.local import LocalView
from controlplane.stages import local
from controlplane.stages.local import LocalCall

PAYLOAD_BYTES_MAX = 1024 * 1024
DURATION_MAX_MS = 2**53


class EventForm(msgspec.Struct):
    """What became of one call. `error` and `result` are any JSON."""

    execution_id: str
    status: str
    run_id: str | None = None
    workflow_id: str | None = None
    reasoner_id: str | None = None
    type: str | None = None
    parent_execution_id: str | None = None
    status_reason: str | None = None
    duration_ms: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    input_data: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    result: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    error: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)


async def event(request: Request) -> Response:
    """Taken note of. A call inside a process is kept beside the execution it is part of."""
    doors, namespace = doors_of(request), namespace_of(request)
    form = await read_form(request, EventForm, doors.limits.body_bytes_max)
    clean(form.execution_id, where="body.execution_id")
    if is_execution(form.execution_id):
        return answer({"success": True, "updated": True})
    owner = await _owner(doors, namespace, form)
    if owner is None:
        return answer({"success": True, "updated": False, "message": "The execution it is part of is not known here."})
    if await refusals(request, [owner.execution_id]):
        return answer({"success": True, "updated": False, "message": "The execution it is part of is not known here."})
    doors.processes.keep_local(namespace, form.execution_id, owner)
    parent = form.parent_execution_id
    call = LocalCall(
        fence=owner,
        local_id=form.execution_id,
        parent_local_id=None if parent is None or is_execution(parent) else clean(parent, where="body.parent"),
        reasoner_id=clean(form.reasoner_id or form.type or "unknown", where="body.reasoner_id"),
        status=_status(form.status),
        status_reason=None if not form.status_reason else clean(form.status_reason, where="body.status_reason"),
        input=_kept(form.input_data, "body.input_data"),
        result=_kept(form.result, "body.result"),
        error=_kept(form.error, "body.error"),
        duration_ms=_milliseconds(form.duration_ms),
    )
    done = (await doors.run(local.keep, [call]))[0]
    return answer({"success": True, "updated": not isinstance(done, LeaseLost)})


async def calls(request: Request) -> Response:
    """The calls that the attempts of an execution made inside their processes, oldest first."""
    doors, namespace = doors_of(request), namespace_of(request)
    id_, _ = read_fenced(request.path_params["execution_id"], where="path/execution_id")
    if await doors.run(executions.read_parent, bucket_of(id_), id_, namespace=namespace) is None:
        raise ExecutionNotFound
    limit = limit_of(request, default=200, most=1_000)
    found = await doors.run(locals_read.page, bucket_of(id_), id_, namespace=namespace, limit=limit)
    return answer({"execution_id": show_execution(id_), "items": [_shape(one) for one in found]})


async def owner_of(doors: Doors, namespace: int, local_id: str, run_id: str | None) -> Fence | None:
    """The attempt that a call inside a process is part of, by the id that its SDK made up."""
    known = doors.processes.owner(namespace, local_id)
    if known is not None or not run_id:
        return known
    bucket = doors.placement.of_run(namespace, clean(run_id, where="run_id"))
    found: tuple[UUID, int] | None = await doors.run(locals_read.owner, bucket, namespace=namespace, local_id=local_id)
    return None if found is None else Fence(ExecutionId(found[0]), found[1])


async def _owner(doors: Doors, namespace: int, form: EventForm) -> Fence | None:
    parent = form.parent_execution_id
    if parent is None:
        return None
    if is_execution(parent):
        id_, attempt = read_fenced(parent, where="body.parent_execution_id")
        return None if attempt is None else Fence(id_, attempt)
    return await owner_of(doors, namespace, clean(parent, where="body.parent_execution_id"), form.run_id)


def _status(word: str) -> str:
    known = word.strip().lower()
    if known in VERDICTS:
        return VERDICTS[known].value
    if known in UNDER_WAY:
        return "running"
    raise Invalid("Not a status.", where="body.status", fix="One of running, succeeded, failed, cancelled.")


def _kept(raw: msgspec.Raw, where: str) -> bytes | None:
    return None if bytes(raw) in (b"", b"null") else payload(raw, where=where, bytes_max=PAYLOAD_BYTES_MAX)[0]


def _milliseconds(raw: msgspec.Raw) -> int | None:
    text = bytes(raw)
    return int(text) if text.isdigit() and len(text) < 16 else None


def _shape(view: LocalView) -> shapes.Shape:
    return shapes.present(
        {
            "execution_id": view.local_id,
            "parent_execution_id": view.parent_local_id,
            "reasoner_id": view.reasoner_id,
            "status": view.status,
            "status_reason": view.status_reason,
            "result": shapes.raw(view.result),
            "error": shapes.raw(view.error),
            "duration_ms": view.duration_ms,
            "created_at": moment(view.created_at),
            "updated_at": moment(view.updated_at),
        }
    )


REFUSALS = {400: "Malformed.", 413: "Too large.", 422: "Not valid.", 503: "Try again."}

OPERATIONS = [
    Operation(
        scope=NODE,
        method="POST",
        path="/api/v1/workflow/executions/events",
        handler=event,
        summary="What a node says of what it runs",
        tag="events",
        takes=EventForm,
        answers={200: "Taken note of."} | REFUSALS,
    ),
    Operation(
        scope=READ,
        method="GET",
        path="/api/v1/executions/{execution_id}/local-calls",
        handler=calls,
        summary="Calls that the node made inside its own process",
        tag="events",
        query={"limit": "1 to 1000, 200 by default"},
        answers={200: "The calls.", 404: "Unknown.", 422: "Not valid.", 503: "Try again."},
    ),
]
