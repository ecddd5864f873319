"""Pause and resume: hold an execution back, and let it go on."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from controlplane.api import shapes
from controlplane.api.audited import Noted, audited
from controlplane.api.body import clean, read_form
from controlplane.api.doors import EVENTS_TOPIC, doors_of, namespace_of
from controlplane.api.operation import OPERATE, Handler, Operation
from controlplane.api.shapes import answer
from controlplane.domain.ids import ExecutionId, read_fenced, show_execution
from controlplane.domain.notice import moment
from controlplane.errors import ExecutionNotFound
from controlplane.reads import executions
from controlplane.stages import pause


class PauseForm(msgspec.Struct):
    reason: str | None = None


async def request_pause(request: Request) -> Response:
    """What runs of it runs on; what would run next waits until it is resumed."""
    doors = doors_of(request)
    form = await read_form(request, PauseForm, doors.limits.body_bytes_max)
    reason = clean(form.reason, where="body.reason", chars_max=1_000) if form.reason else None
    id_ = await _known(request)
    turned = await audited(
        request,
        lambda done: Noted(
            kind="execution",
            id=show_execution(id_),
            before={"status": done.previous.value},
            after={"status": "paused", "reason": reason},
        ),
        pause.request,
        id_,
        reason=reason,
    )
    doors.hints.tell(EVENTS_TOPIC)
    doors.admission.freed()
    shape = {
        "execution_id": show_execution(id_),
        "previous_status": turned.previous.value,
        "status": "paused",
        "reason": reason,
        "paused_at": moment(turned.at),
    }
    return answer(shapes.present(shape))


async def resume(request: Request) -> Response:
    """Let a paused execution go on."""
    doors, namespace = doors_of(request), namespace_of(request)
    await read_form(request, PauseForm, doors.limits.body_bytes_max)
    id_ = await _known(request)
    turned = await audited(
        request,
        lambda done: Noted(
            kind="execution",
            id=show_execution(id_),
            before={"status": "paused"},
            after={"status": "queued" if done.ready else "running"},
        ),
        pause.resume,
        id_,
    )
    if turned.ready:
        doors.ready(namespace, turned.target)
        doors.admission.blocked()  # perhaps
    doors.hints.tell(EVENTS_TOPIC)
    shape = {
        "execution_id": show_execution(id_),
        "previous_status": "paused",
        "status": "queued" if turned.ready else "running",
        "resumed_at": moment(turned.at),
    }
    return answer(shape)


async def _known(request: Request) -> ExecutionId:
    id_, _ = read_fenced(request.path_params["execution_id"], where="path/execution_id")
    if not await doors_of(request).run(executions.read, [id_], namespace=namespace_of(request)):
        raise ExecutionNotFound
    return id_


def _operation(prefix: str, verb: str, handler: Handler, summary: str, done: str) -> Operation:
    return Operation(
        scope=OPERATE,
        method="POST",
        path=f"/api/{prefix}/executions/{{execution_id}}/{verb}",
        handler=handler,
        audit=f"execution.{verb}d",
        summary=summary,
        tag="executions",
        takes=PauseForm,
        answers={
            200: done,
            400: "Malformed.",
            404: "Unknown.",
            409: "It is not in a state for that, which is named.",
            413: "Too large.",
            422: "Not valid.",
            503: "Try again.",
        },
    )


OPERATIONS = [
    one
    for prefix in ("v1", "ui/v1")
    for one in (
        _operation(prefix, "pause", request_pause, "Hold an execution back", "Held back."),
        _operation(prefix, "resume", resume, "Let a paused execution go on", "It goes on."),
    )
]
