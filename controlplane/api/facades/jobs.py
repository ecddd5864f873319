"""`/jobs`: a queue for the work of an agent. A job is an execution of one target, given `type` and `params`."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Sequence
from uuid import UUID

import msgspec
import orjson
from starlette.requests import Request
from starlette.responses import Response

from controlplane.api import events, live, shapes
from controlplane.api.audited import cancel_audited
from controlplane.api.body import clean, decode, payload, read_body
from controlplane.api.doors import Doors, doors_of, namespace_of
from controlplane.api.executions import headers_of
from controlplane.api.facades.intake import Told, accept, id_of
from controlplane.api.operation import EXECUTE, EXECUTE_OR_OPERATE, READ, Operation
from controlplane.api.paging import LIMIT_MAX, limit_of
from controlplane.api.shapes import answer
from controlplane.api.streams import Cursor, Said
from controlplane.domain.execution import Status, Wording
from controlplane.domain.facade import (
    HEAD_BYTES,
    STATUSES_OF,
    JobStatus,
    job_input,
    job_status,
    percent,
    type_of,
)
from controlplane.domain.ids import ExecutionId, bucket_of, show_execution
from controlplane.domain.notice import error_text, moment
from controlplane.errors import AlreadyFinished, ExecutionNotFound, Invalid
from controlplane.reads import executions, jobs
from controlplane.reads.executions import ExecutionView, Filter

NOT_FOUND = "Job not found"
LIMIT_DEFAULT = 10
PAGES_MAX = 10
"""Pages that one list looks through: not all that is queued to us is, say, `retrying`."""


class JobForm(msgspec.Struct, forbid_unknown_fields=True):
    """What shall be done. Its reasoner is given `type` and `params`.

    `webhook_url`: where to POST the end to. `session_id`: who hears of it on `/ws/{session_id}`.
    """

    type: str
    params: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"{}"))
    webhook_url: str | None = None
    session_id: str | None = None


async def create(request: Request) -> Response:
    """Accept a job; it is in the database when this answers."""
    doors = doors_of(request)
    raw = await read_body(request, doors.limits.body_bytes_max) or b"{}"
    form = decode(raw, JobForm)
    input_ = _input(form, doors.limits.payload_bytes_max)
    session = request.headers.get("x-session-id") if form.session_id is None else form.session_id
    if session is not None:
        where = "X-Session-ID" if form.session_id is None else "body.session_id"
        clean(session, where=where)
    told = None if form.webhook_url is None else Told(form.webhook_url, Wording.JOB, "body.webhook_url")
    accepted = await accept(request, target_of(doors), input_, asked=raw, told=told, session=session)
    return answer({"job_id": show_execution(accepted.id), "status": "pending"}, 200, headers_of(accepted))


async def read(request: Request) -> Response:
    """How a job stands. What has failed says why in `result`."""
    doors, namespace = doors_of(request), namespace_of(request)
    return answer(await _shape(doors, namespace, _id(request)))


async def request_cancel(request: Request) -> Response:
    """From here on the job can only end as cancelled. Asking again changes nothing."""
    doors, namespace = doors_of(request), namespace_of(request)
    id_ = _id(request)
    await _view(doors, namespace, id_)
    try:
        done = await cancel_audited(request, id_, None)
    except AlreadyFinished as error:
        if error.facts.get("status") == Status.CANCELLED:
            return answer({"status": "cancelled"})
        raise
    if done.settled:
        doors.ended([id_])
    else:
        doors.cancelling()
    return answer({"status": "cancelled"})


async def page(request: Request) -> Response:
    """The newest jobs first, without their results."""
    doors, namespace = doors_of(request), namespace_of(request)
    limit = limit_of(request, default=LIMIT_DEFAULT)
    word = _word(request)
    views = await _page(doors, namespace, word, limit)
    types = await _types(doors, namespace, [view.id for view in views])
    return answer([{"job_id": show_execution(view.id)} | _facts(view, types.get(view.id)) for view in views])


async def stream(request: Request) -> Response:
    """How a job stands, at once and whenever that changes, until it has ended (SSE)."""
    doors, namespace = doors_of(request), namespace_of(request)
    id_ = _id(request)
    await _view(doors, namespace, id_)
    after = live.resumed_from(request)
    if after is not None and await events.is_over(doors, namespace, id_, after):
        return Response(status_code=204)  # what ends an EventSource: it would come back for ever
    return live.sse(_standings(doors, namespace, id_, after))


async def _standings(
    doors: Doors, namespace: int, id_: ExecutionId, after: Cursor | None
) -> AsyncGenerator[tuple[str | None, shapes.Shape]]:
    heard = doors.streams.follow(
        after, wants=events.wants(namespace, id_), page=events.life(id_), buckets=(bucket_of(id_),)
    )
    last: shapes.Shape | None = None
    async with contextlib.aclosing(heard):
        async for said, cursor in heard:
            shape = await _shape(doors, namespace, id_)
            if shape == last and not isinstance(said, Said):
                continue
            last = shape
            yield cursor or None, shape
            if JobStatus(shape["status"]).final:
                return


async def _page(doors: Doors, namespace: int, word: JobStatus | None, limit: int) -> list[ExecutionView]:
    """The newest jobs of this status; fewer than there are when they lie far apart."""
    found: list[ExecutionView] = []
    before: UUID | None = None
    for _ in range(PAGES_MAX):
        statuses = () if word is None else STATUSES_OF[word]
        wanted = Filter(statuses=statuses, target=target_of(doors), before=before)
        rows = limit if word is None else LIMIT_MAX
        views = await doors.run(executions.page, wanted, namespace=namespace, limit=rows, placement=doors.placement)
        found += [view for view in views if word in (None, _status(view))]
        if len(found) >= limit or len(views) < rows:
            break
        before = views[-1].id
    return found[:limit]


async def _view(doors: Doors, namespace: int, id_: ExecutionId) -> ExecutionView:
    views = await doors.run(executions.read, [id_], namespace=namespace)
    if id_ not in views:
        raise ExecutionNotFound(NOT_FOUND, where="path/job_id")
    return views[id_]


async def _shape(doors: Doors, namespace: int, id_: ExecutionId) -> shapes.Shape:
    """The job whole."""
    view = await _view(doors, namespace, id_)
    types = await _types(doors, namespace, [id_])
    shape = _facts(view, types.get(id_))
    if view.status is Status.SUCCEEDED:
        shape["result"] = None if view.result is None else shapes.raw(view.result)
    elif view.status.final:
        shape["result"] = error_text(view.error)
    elif shape["status"] == JobStatus.RETRYING.value:
        said = await doors.run(jobs.last_retry, bucket_of(id_), id_, namespace=namespace)
        shape["result"] = _error_in(said)
    return shapes.present(shape)


def _facts(view: ExecutionView, type_: str | None) -> shapes.Shape:
    progress = None if view.progress is None else orjson.loads(view.progress)
    updated_at = view.finished_at or view.progress_at or view.started_at
    return shapes.present(
        {
            "status": _status(view).value,
            "created_at": moment(view.created_at),
            "type": type_,
            "updated_at": None if updated_at is None else moment(updated_at),
            "progress": percent(progress),
            "progress_message": None if progress is None else progress.get("message"),
        }
    )


def _status(view: ExecutionView) -> JobStatus:
    return job_status(view.status, reason=view.status_reason, failures=view.failures, begun=view.started_at is not None)


def _error_in(data: bytes | None) -> str | None:
    error = None if data is None else orjson.loads(data).get("error")
    return error if error is None or isinstance(error, str) else orjson.dumps(error).decode()


async def _types(doors: Doors, namespace: int, ids: Sequence[UUID]) -> dict[UUID, str | None]:
    heads = await doors.run(jobs.heads, ids, namespace=namespace, head_bytes=HEAD_BYTES)
    return {id_: type_of(head) for id_, head in heads.items()}


def target_of(doors: Doors) -> str:
    target = doors.facades.jobs_target
    assert target is not None
    return target


def _input(form: JobForm, bytes_max: int) -> bytes:
    type_ = clean(form.type, where="body.type")
    _, params = payload(form.params, where="body.params", bytes_max=bytes_max)
    if not isinstance(params, dict):
        raise Invalid("An object: the parameters by name.", where="body.params")
    kept, _ = payload(job_input(type_, bytes(form.params)), where="body.params", bytes_max=bytes_max)
    return kept


def _id(request: Request) -> ExecutionId:
    id_ = id_of(request, "job_id")
    if id_ is None:
        raise ExecutionNotFound(NOT_FOUND, where="path/job_id")
    return id_


def _word(request: Request) -> JobStatus | None:
    text = request.query_params.get("status")
    if text is None:
        return None
    try:
        return JobStatus(text)
    except ValueError:
        raise Invalid(f"One of {', '.join(JobStatus)}.", where="query/status") from None


READ_ANSWERS = {200: "How it stands.", 404: "Job not found.", 503: "Try again."}

OPERATIONS = [
    Operation(
        scope=EXECUTE,
        method="POST",
        path="/jobs",
        handler=create,
        summary="Queue a job",
        tag="jobs",
        takes=JobForm,
        headers={
            "Idempotency-Key": "The same key and body again answer with the first job, for 24 hours.",
            "X-Session-ID": "The same as session_id.",
        },
        answers={
            200: "Accepted and durable.",
            400: "Malformed.",
            404: "The parent is unknown.",
            409: "The parent attempt has lost its lease.",
            413: "Larger than a limit, which is named.",
            422: "Not valid; nothing was accepted.",
            503: "The database is out of reach; try again.",
        },
    ),
    Operation(
        scope=READ,
        method="GET",
        path="/jobs",
        handler=page,
        summary="The newest jobs",
        tag="jobs",
        query={"status": "Only those of this status", "limit": f"1 to {LIMIT_MAX}, else {LIMIT_DEFAULT}"},
        answers={200: "A list.", 422: "Not valid.", 503: "Try again."},
    ),
    Operation(
        scope=READ,
        method="GET",
        path="/jobs/{job_id}",
        handler=read,
        summary="How a job stands",
        tag="jobs",
        answers=READ_ANSWERS,
    ),
    Operation(
        scope=EXECUTE_OR_OPERATE,
        method="POST",
        path="/jobs/{job_id}/cancel",
        handler=request_cancel,
        audit="execution.cancelled",
        summary="Cancel a job",
        tag="jobs",
        answers={
            200: "It can only end as cancelled now.",
            404: "Job not found.",
            409: "It has ended already.",
            503: "Try again.",
        },
    ),
    Operation(
        scope=READ,
        streams=True,
        method="GET",
        path="/jobs/{job_id}/stream",
        handler=stream,
        summary="How a job stands, live (SSE)",
        tag="jobs",
        query={"after": "Resume after this cursor (as Last-Event-ID)"},
        headers={"Last-Event-ID": "Resume after this event"},
        answers={200: "text/event-stream.", 204: "The end has been read."} | {404: "Job not found.", 422: "Not valid."},
    ),
]
