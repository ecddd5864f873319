"""Runs: list them, see how far one is and what grew in it, cancel all of it."""

from __future__ import annotations

from functools import partial
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from controlplane.api.audited import Noted, audited
from controlplane.api.body import clean, read_form
from controlplane.api.doors import CANCEL_TOPIC, EVENTS_TOPIC, doors_of, namespace_of
from controlplane.api.executions import CancelForm, query_text, reason_of
from controlplane.api.operation import EXECUTE_OR_OPERATE, READ, Operation
from controlplane.api.paging import LIMIT_DEFAULT, integer, limit_of
from controlplane.api.shapes import Shape, answer, present
from controlplane.domain.execution import Status
from controlplane.domain.ids import ExecutionId, read_execution, show, show_execution
from controlplane.domain.notice import milliseconds, moment
from controlplane.domain.target import parse
from controlplane.errors import NotFound
from controlplane.reads import runs
from controlplane.reads.runs import Member, RunView
from controlplane.stages import cancel
from controlplane.stages.cancel import Cancelled

MEMBERS_MAX = 1_000
"""Executions of a run in one answer."""
GOING = (Status.RUNNING, Status.WAITING, Status.QUEUED)
TREE_BATCH = 200
TREE_MAX = 10_000
"""Executions that one request cancels; asked again, it goes on."""


async def page(request: Request) -> Response:
    """The newest runs first, each with its first execution and how many of its executions are at each status.

    Where few match, a page may be short of them and yet not be the last.
    """
    doors, namespace = doors_of(request), namespace_of(request)
    limit = limit_of(request)
    found = await doors.run(
        runs.page,
        namespace=namespace,
        target=query_text(request, "target"),
        before=_cursor(request),
        limit=limit + 1,
        placement=doors.placement,
    )
    views = found.views
    after = views[limit - 1].root.id if len(views) > limit else found.reached
    return answer(
        {
            "items": [_run(view) for view in views[:limit]],
            "next_cursor": None if after is None else show_execution(after),
        }
    )


async def read(request: Request) -> Response:
    """How far a run is, and its executions, the oldest first: parents before their children."""
    doors, namespace = doors_of(request), namespace_of(request)
    run_id, bucket = run_of(request)
    limit = integer(request, "limit", default=LIMIT_DEFAULT, least=0, most=MEMBERS_MAX)
    after = _cursor(request)
    view = await doors.run(runs.read, bucket, run_id, namespace=namespace)
    if view is None:
        raise no_such_run()
    found: list[Member] = []
    if limit:
        found = await doors.run(runs.members, bucket, run_id, namespace=namespace, after=after, limit=limit + 1)
    more = len(found) > limit
    return answer(
        _run(view)
        | {
            "items": [_member(one) for one in found[:limit]],
            "next_cursor": show_execution(found[limit - 1].id) if more else None,
        }
    )


async def request_cancel(request: Request) -> Response:
    """From here on every unfinished execution of the run can only end as cancelled, children before their parents."""
    doors, namespace = doors_of(request), namespace_of(request)
    run_id, bucket = run_of(request)
    reason = reason_of(await read_form(request, CancelForm, doors.limits.body_bytes_max))
    if not await doors.run(runs.members, bucket, run_id, namespace=namespace, after=None, limit=1):
        raise no_such_run()
    cancelled, whole = await cancel_all(request, bucket, run_id, namespace, reason)
    shape = {
        "run_id": run_id,
        "cancelled": len(cancelled),
        "settled": sum(one.settled for one in cancelled),
        "truncated": not whole,
        "reason": reason,
    }
    return answer(present(shape))


def run_of(request: Request) -> tuple[str, int]:
    """The run in the path, and the bucket it lives in."""
    run_id = clean(request.path_params["run_id"], where="path/run_id")
    return run_id, doors_of(request).placement.of_run(namespace_of(request), run_id)


def no_such_run() -> NotFound:
    return NotFound("There is no such run.", where="path/run_id")


async def cancel_all(
    request: Request, bucket: int, run_id: str, namespace: int, reason: str | None
) -> tuple[list[Cancelled], bool]:
    """What was cancelled, and whether that is all. What parents submitted meanwhile is looked for until nothing is.

    The first of its transactions says in the audit log who asked.
    """
    doors = doors_of(request)
    noted: Noted | None = Noted(kind="run", id=run_id, after={"status": "cancelled", "reason": reason})
    done: list[Cancelled] = []
    seen: set[UUID] = set()
    fresh = True
    while fresh:
        fresh = False
        before: UUID | None = None
        while ids := await doors.run(
            runs.unfinished, bucket, run_id, namespace=namespace, before=before, limit=TREE_BATCH
        ):
            before = ids[-1]
            new = [id_ for id_ in ids if id_ not in seen]
            if len(seen) + len(new) > TREE_MAX:
                return done, False
            if new:
                seen.update(new)
                fresh = True
                done += await _cancel_some(request, new, reason, noted)
                noted = None
    if noted is not None:
        await _cancel_some(request, [], reason, noted)
    return done, True


async def _cancel_some(
    request: Request, ids: list[ExecutionId], reason: str | None, noted: Noted | None
) -> list[Cancelled]:
    doors = doors_of(request)
    ask = partial(cancel.request, ids=ids, reason=reason, make_id=doors.ids.new)
    said = await (doors.run(ask) if noted is None else audited(request, lambda _: noted, ask))
    some = [one for one in said if isinstance(one, Cancelled)]  # the others have ended in between
    doors.ended([one.id for one in some if one.settled])
    doors.hints.tell(CANCEL_TOPIC)
    doors.hints.tell(EVENTS_TOPIC)
    return some


def _run(view: RunView) -> Shape:
    unfinished = sum(n for status, n in view.counts.items() if not status.final)
    root = view.root
    # What its first execution says of a run is true of all of it only when nothing else is under way.
    going = next((status for status in GOING if view.counts.get(status)), None) if root.status.final else None
    return present(
        {
            "run_id": view.run_id,
            "root_execution_id": show_execution(root.id),
            "target": root.target,
            "status": (going or root.status).value,
            "status_reason": None if going else root.status_reason,
            "created_at": moment(root.created_at),
            "completed_at": None if going or root.finished_at is None else moment(root.finished_at),
            "executions": sum(view.counts.values()),
            "unfinished": unfinished,
            "counts": {status.value: view.counts[status] for status in Status if status in view.counts},
            "truncated": view.truncated,
        }
    )


def _member(one: Member) -> Shape:
    return present(
        {
            "execution_id": show_execution(one.id),
            "parent_execution_id": None if one.parent_id is None else show("exec", one.parent_id),
            "target": one.target,
            "node_id": parse(one.target).node_id,
            "type": one.type,
            "status": one.status.value,
            "status_reason": one.status_reason,
            "attempt": one.attempt,
            "created_at": moment(one.created_at),
            "started_at": None if one.started_at is None else moment(one.started_at),
            "completed_at": None if one.finished_at is None else moment(one.finished_at),
            "duration_ms": None if one.started_at is None else milliseconds(one.started_at, one.finished_at or one.now),
            "error_class": one.error_class,
        }
    )


def _cursor(request: Request) -> UUID | None:
    text = request.query_params.get("cursor")
    return read_execution(text, where="query/cursor") if text else None


OPERATIONS = [
    Operation(
        scope=READ,
        method="GET",
        path="/api/v1/runs",
        handler=page,
        summary="List runs, newest first, with how far each is",
        tag="runs",
        query={
            "target": "node_id.reasoner_name of the first execution",
            "limit": "1 to 200, 50 by default",
            "cursor": "next_cursor of the page before",
        },
        answers={200: "A page.", 422: "A filter is not valid.", 503: "Try again."},
    ),
    Operation(
        scope=READ,
        method="GET",
        path="/api/v1/runs/{run_id}",
        handler=read,
        summary="How far a run is, and the executions that grew in it",
        tag="runs",
        query={
            "limit": "Executions, 0 to 1,000, 50 by default; 0: only how many are at each status",
            "cursor": "next_cursor of the page before",
        },
        answers={200: "The run.", 404: "Unknown.", 422: "Not valid.", 503: "Try again."},
    ),
    Operation(
        scope=EXECUTE_OR_OPERATE,
        method="POST",
        path="/api/v1/runs/{run_id}/cancel",
        handler=request_cancel,
        audit="run.cancelled",
        summary="Cancel everything unfinished of a run",
        tag="runs",
        takes=CancelForm,
        answers={
            200: "All of it can only end as cancelled now; `truncated`: ask again.",
            400: "Malformed.",
            404: "Unknown.",
            413: "Too large.",
            422: "Not valid.",
            503: "Try again.",
        },
    ),
]
