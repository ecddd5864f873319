"""Steps: an attempt writes what it has done and begins what it will wait for; and what an execution has left so."""

from __future__ import annotations

import math
from typing import Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from controlplane.api import shapes
from controlplane.api.body import clean, payload, read_form
from controlplane.api.doors import EVENTS_TOPIC, Doors, doors_of, namespace_of, put_each
from controlplane.api.links import link_of
from controlplane.api.operation import NODE, READ_OR_NODE, Operation
from controlplane.api.paging import limit_of
from controlplane.api.problems import answer as problem
from controlplane.api.problems import status_of
from controlplane.api.shapes import answer
from controlplane.api.whose import refusals
from controlplane.domain.ids import bucket_of, read_execution, read_fenced
from controlplane.domain.lease import Fence
from controlplane.domain.step import (
    EVENT_MAX,
    NAME_MAX,
    SLEEP_MAX_SECONDS,
    AskApproval,
    AwaitEvent,
    Done,
    Sleep,
    Step,
    StepKind,
    StepOp,
    StepStatus,
    StepWrite,
)
from controlplane.errors import ControlPlaneError, ExecutionNotFound, Invalid, bare
from controlplane.reads import executions, steps
from controlplane.security.egress import URL_CHARS_MAX

OPS_MAX = 1_000
PAGE_DEFAULT = 200
PAGE_MAX = 1_000
TITLE_MAX = 1_000
APPROVAL_SECONDS = 72 * 3_600.0
"""How long people have to decide, unless the step says otherwise."""


class StepOpForm(msgspec.Struct, forbid_unknown_fields=True):
    """`done` keeps a `value`; `sleep`, `event` and `approval` begin a wait, or find it and its answer."""

    op: Literal["done", "sleep", "event", "approval"]
    name: str
    value: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    seconds: float | None = None
    event: str | None = None
    timeout_seconds: float | None = None
    title: str | None = None
    url: str | None = None
    expires_seconds: float | None = None
    request_id: str | None = None


class StepGroupForm(msgspec.Struct, forbid_unknown_fields=True):
    """Operations of one attempt that stand together or not at all."""

    execution_id: str
    attempt: int
    ops: list[StepOpForm]


class StepsWriteForm(msgspec.Struct, forbid_unknown_fields=True):
    writes: list[StepGroupForm]


async def write(request: Request) -> Response:
    """Every group whole or not at all, each answered by itself: how its steps stand now."""
    doors = doors_of(request)
    form = await read_form(request, StepsWriteForm, doors.limits.body_bytes_max)
    if not 1 <= sum(len(group.ops) for group in form.writes) <= OPS_MAX:
        raise Invalid(f"From 1 to {OPS_MAX} operations.", where="body.writes")
    groups = [_parsed(doors, group, f"body.writes[{n}]") for n, group in enumerate(form.writes)]
    refused_of = await refusals(request, {one.fence.execution_id for one in groups if isinstance(one, StepWrite)})
    groups = [refused_of.get(one.fence.execution_id, one) if isinstance(one, StepWrite) else one for one in groups]
    answers = await put_each(doors.lanes.steps, groups)
    if any(not isinstance(op, Done) for one in groups if isinstance(one, StepWrite) for op in one.ops):
        doors.hints.tell(EVENTS_TOPIC)
    if len(answers) == 1 and isinstance(answers[0], ControlPlaneError):
        return problem(answers[0])
    return answer({"results": [_result(doors, *one) for one in zip(groups, answers, strict=True)]})


async def page(request: Request) -> Response:
    """The steps of an execution in the order of their names; a call has the result of its execution."""
    doors, namespace = doors_of(request), namespace_of(request)
    id_, _ = read_fenced(request.path_params["execution_id"], where="path/execution_id")
    limit = limit_of(request, default=PAGE_DEFAULT, most=PAGE_MAX)
    after = clean(request.query_params.get("after", ""), where="query/after", chars_max=NAME_MAX, empty=True)
    found, more = await doors.run(steps.page, bucket_of(id_), id_, namespace=namespace, after=after, limit=limit)
    if not found and not await doors.run(executions.read, [id_], namespace=namespace):
        raise ExecutionNotFound
    return answer({"steps": [shapes.step(one) for one in found], "next_cursor": found[-1].name if more else None})


def _result(doors: Doors, group: StepWrite | ControlPlaneError, done: list[Step] | ControlPlaneError) -> shapes.Shape:
    if isinstance(done, ControlPlaneError):
        return {"http_status": status_of(done), "code": done.code, "message": done.detail} | dict(done.facts)
    assert isinstance(group, StepWrite)
    urls = {op.name: op.url for op in group.ops if isinstance(op, AskApproval)}
    shown = [shapes.step(one) | _link(doors, one, urls.get(one.name)) for one in done]
    return {"http_status": 200, "code": "committed", "steps": shown}


def _link(doors: Doors, step: Step, url: str | None) -> shapes.Shape:
    """Where people decide what this step asks them: at the page that the asker gave, or at ours."""
    if step.kind is not StepKind.APPROVAL or step.status is not StepStatus.PENDING or step.request_id is None:
        return {}
    return {"approval_request_url": url or link_of(doors, step.execution_id, step.request_id)}


def _parsed(doors: Doors, form: StepGroupForm, where: str) -> StepWrite | ControlPlaneError:
    """What is wrong with one group must not keep the others, of other executions, from being written."""
    try:
        if not 1 <= form.attempt < 2**31:
            raise Invalid("A whole number from 1.", where=f"{where}.attempt")
        if not form.ops:
            raise Invalid("At least one operation.", where=f"{where}.ops")
        fence = Fence(read_execution(form.execution_id, where=f"{where}.execution_id"), form.attempt)
        ops = tuple(_op(doors, op, f"{where}.ops[{n}]") for n, op in enumerate(form.ops))
    except ControlPlaneError as error:
        return bare(error)
    return StepWrite(fence=fence, ops=ops)


def _op(doors: Doors, form: StepOpForm, where: str) -> StepOp:
    name = clean(form.name, where=f"{where}.name", chars_max=NAME_MAX)
    match form.op:
        case "done":
            value = bytes(form.value) or b"null"
            kept, _ = payload(value, where=f"{where}.value", bytes_max=doors.limits.payload_bytes_max)
            return Done(name=name, value=kept)
        case "sleep":
            seconds = _seconds(form.seconds, f"{where}.seconds")
            if seconds is None:
                raise Invalid("How long?", where=f"{where}.seconds", fix="A number of seconds.")
            return Sleep(name=name, seconds=seconds)
        case "event":
            event = clean(form.event or "", where=f"{where}.event", chars_max=EVENT_MAX)
            if "/" in event:
                raise Invalid("A name without `/`: it is a part of the path of its signals.", where=f"{where}.event")
            return AwaitEvent(
                name=name, event=event, timeout_seconds=_seconds(form.timeout_seconds, f"{where}.timeout_seconds")
            )
        case "approval":
            title, url, asked = form.title, form.url, form.request_id
            expires = _seconds(form.expires_seconds, f"{where}.expires_seconds")
            return AskApproval(
                name=name,
                request_id=name if asked is None else clean(asked, where=f"{where}.request_id", chars_max=NAME_MAX),
                title=None if title is None else clean(title, where=f"{where}.title", chars_max=TITLE_MAX, empty=True),
                url=clean(url, where=f"{where}.url", chars_max=URL_CHARS_MAX) if url else None,
                expires_seconds=APPROVAL_SECONDS if expires is None else expires,
            )


def _seconds(said: float | None, where: str) -> float | None:
    if said is not None and not (math.isfinite(said) and 0 <= said <= SLEEP_MAX_SECONDS):
        raise Invalid(f"A number of seconds from 0 to {SLEEP_MAX_SECONDS:g}.", where=where)
    return said


OPERATIONS = [
    Operation(
        method="POST",
        scope=NODE,
        path="/api/v1/steps/write",
        handler=write,
        summary="Keep what an attempt has done, and begin what it waits for",
        tag="steps",
        takes=StepsWriteForm,
        answers={
            200: "An answer for each group: how its steps stand.",
            400: "Malformed.",
            409: "The attempt has lost its lease; nothing was written.",
            413: "Too large.",
            422: "Not valid.",
            503: "Try again.",
        },
    ),
    Operation(
        method="GET",
        scope=READ_OR_NODE,
        path="/api/v1/executions/{execution_id}/steps",
        handler=page,
        summary="What an execution has done, and what it waits for",
        tag="steps",
        query={"limit": "1 to 1000, 200 by default", "after": "next_cursor of the page before"},
        answers={200: "A page.", 404: "Unknown.", 422: "Not an id, or a limit is not valid.", 503: "Try again."},
    ),
]
