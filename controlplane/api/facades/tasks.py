"""`/agent`: start a task, be called back, ask how it stands. A task is an execution of one target."""

from __future__ import annotations

import msgspec
import orjson
from starlette.requests import Request
from starlette.responses import Response

from controlplane.api import shapes
from controlplane.api.body import decode, payload, read_body
from controlplane.api.doors import doors_of, namespace_of
from controlplane.api.executions import headers_of
from controlplane.api.facades.intake import Told, accept, id_of
from controlplane.api.operation import EXECUTE, READ, Operation
from controlplane.api.shapes import answer
from controlplane.domain.execution import Accepted, Wording
from controlplane.domain.facade import TASK_OF, TaskStatus, job_status, percent
from controlplane.domain.ids import show_execution
from controlplane.domain.notice import error_text
from controlplane.reads import executions
from controlplane.reads.executions import ExecutionView

NOT_FOUND = {"error": "Task not found"}


class PromptForm(msgspec.Struct, forbid_unknown_fields=True):
    """What the agent shall do. Its reasoner is given `prompt`."""

    prompt: str


class CallbackForm(msgspec.Struct, forbid_unknown_fields=True):
    """The same, and where to POST the end to."""

    prompt: str
    callback_url: str


async def start(request: Request) -> Response:
    """Accept a task; it is in the database when this answers."""
    accepted = await _accept(request)
    return answer({"task_id": show_execution(accepted.id), "status": "pending"}, 200, headers_of(accepted))


async def submit(request: Request) -> Response:
    """Accept a task, and answer nothing but its id."""
    accepted = await _accept(request)
    return answer({"task_id": show_execution(accepted.id)}, 200, headers_of(accepted))


async def submit_with_callback(request: Request) -> Response:
    """Accept a task whose end is POSTed to `callback_url`, as a webhook: checked now, and tried again until taken."""
    raw = await _body(request)
    form = decode(raw, CallbackForm)
    told = Told(form.callback_url, Wording.TASK, "body.callback_url")
    accepted = await accept(request, _target(request), _input(request, form.prompt), asked=raw, told=told)
    return answer({"task_id": show_execution(accepted.id), "status": "submitted"}, 200, headers_of(accepted))


async def status(request: Request) -> Response:
    """How a task stands: `pending`, `running`, `completed` or `failed`. Of an unknown one a 200 says `error`."""
    doors, namespace = doors_of(request), namespace_of(request)
    id_ = id_of(request, "task_id")
    if id_ is None:
        return answer(NOT_FOUND)
    views = await doors.run(executions.read, [id_], namespace=namespace)
    return answer(_shape(views[id_]) if id_ in views else NOT_FOUND)


def _shape(view: ExecutionView) -> shapes.Shape:
    job = job_status(view.status, reason=view.status_reason, failures=view.failures, begun=view.started_at is not None)
    task = TASK_OF[job]
    said = percent(None if view.progress is None else orjson.loads(view.progress))
    return {
        "id": show_execution(view.id),
        "status": task.value,
        "progress": 100 if task is TaskStatus.COMPLETED else said or 0,
        "result": None if view.result is None else shapes.raw(view.result),
        "error": (error_text(view.error) or job.value) if task is TaskStatus.FAILED else None,
    }


async def _accept(request: Request) -> Accepted:
    raw = await _body(request)
    form = decode(raw, PromptForm)
    return await accept(request, _target(request), _input(request, form.prompt), asked=raw)


async def _body(request: Request) -> bytes:
    return await read_body(request, doors_of(request).limits.body_bytes_max) or b"{}"


def _input(request: Request, prompt: str) -> bytes:
    kept, _ = payload(
        orjson.dumps({"prompt": prompt}), where="body.prompt", bytes_max=doors_of(request).limits.payload_bytes_max
    )
    return kept


def _target(request: Request) -> str:
    target = doors_of(request).facades.agent_target
    assert target is not None
    return target


HEADERS = {
    "Idempotency-Key": "The same key and body again answer with the first task, for 24 hours.",
    "X-Session-ID": "Scope of session memory.",
}
REFUSALS = {
    400: "Malformed.",
    404: "The parent is unknown.",
    409: "The parent attempt has lost its lease.",
    413: "Larger than a limit, which is named.",
    422: "Not valid; nothing was accepted.",
    503: "The database is out of reach; try again.",
}

OPERATIONS = [
    Operation(
        scope=EXECUTE,
        method="POST",
        path="/agent/start",
        handler=start,
        summary="Start a task",
        tag="agent",
        takes=PromptForm,
        headers=HEADERS,
        answers={200: "Accepted and durable."} | REFUSALS,
    ),
    Operation(
        scope=EXECUTE,
        method="POST",
        path="/agent/submit",
        handler=submit,
        summary="Submit a task",
        tag="agent",
        takes=PromptForm,
        headers=HEADERS,
        answers={200: "Accepted and durable."} | REFUSALS,
    ),
    Operation(
        scope=EXECUTE,
        method="POST",
        path="/agent/submit-with-callback",
        handler=submit_with_callback,
        summary="Submit a task whose end is POSTed to a URL",
        tag="agent",
        takes=CallbackForm,
        headers=HEADERS,
        answers={200: "Accepted and durable."} | REFUSALS,
    ),
    Operation(
        scope=READ,
        method="GET",
        path="/agent/status/{task_id}",
        handler=status,
        summary="How a task stands",
        tag="agent",
        answers={200: "How it stands, or that there is none.", 503: "Try again."},
    ),
]
