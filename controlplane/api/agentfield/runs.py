"""Whole runs: which are under way, and cancelling one with everything that grew from it."""

from __future__ import annotations

from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from controlplane.api.body import clean, read_form
from controlplane.api.doors import Doors, doors_of, namespace_of
from controlplane.api.executions import CancelForm, reason_of
from controlplane.api.operation import EXECUTE_OR_OPERATE, READ, Operation
from controlplane.api.runs import cancel_all, no_such_run, run_of
from controlplane.api.shapes import Shape, answer, present
from controlplane.domain.execution import Status
from controlplane.domain.ids import show, show_execution
from controlplane.domain.notice import moment
from controlplane.domain.target import parse
from controlplane.errors import InvalidParameter
from controlplane.reads import executions, runs
from controlplane.reads.executions import ExecutionView
from controlplane.reads.runs import ActiveRun

RUNS_DEFAULT = 100
RUNS_MAX = 200


async def active(request: Request) -> Response:
    """Runs with something unfinished, those with the newest first. What has ended is not counted."""
    doors, namespace = doors_of(request), namespace_of(request)
    limit = _limit(request)
    node_id, session_key = _text(request, "agent_id"), _text(request, "session_id")
    found: list[ActiveRun] = []
    for bucket in doors.placement.all():
        found += await doors.run(runs.active, bucket, namespace=namespace, node_id=node_id)
    found.sort(key=lambda run: run.newest_id, reverse=True)
    members = await _read(doors, namespace, [run.oldest_id for run in found[:RUNS_MAX]])
    shown = [
        (run, members[run.oldest_id])
        for run in found[:RUNS_MAX]
        if run.oldest_id in members and session_key in (None, members[run.oldest_id].session_key)
    ]
    roots = await _read(doors, namespace, [one.root_id for _, one in shown[:limit]])
    return answer(
        {
            "count": len(found) if session_key is None else len(shown),
            "runs": [_run(run, roots.get(one.root_id, one)) for run, one in shown[:limit]],
        }
    )


async def cancel_tree(request: Request) -> Response:
    """From here on every unfinished execution of the run can only end as cancelled, children before their parents."""
    doors, namespace = doors_of(request), namespace_of(request)
    run_id, bucket = run_of(request)
    reason = reason_of(await read_form(request, CancelForm, doors.limits.body_bytes_max))
    total = await doors.run(runs.size, bucket, run_id, namespace=namespace)
    if not total:
        raise no_such_run()
    cancelled, whole = await cancel_all(request, bucket, run_id, namespace, reason)
    shape = {
        "run_id": run_id,
        "workflow_id": run_id,
        "total_nodes": total,
        "cancelled_count": len(cancelled),
        "skipped_count": max(0, total - len(cancelled)),
        "error_count": 0,
        "truncated": not whole,
        "reason": reason,
        "nodes": [
            {
                "execution_id": show_execution(one.id),
                "previous_status": one.previous.value,
                "status": "cancelled",
                "settled": one.settled,
            }
            for one in cancelled
        ],
    }
    return answer(present(shape))


def _run(run: ActiveRun, root: ExecutionView) -> Shape:
    target = parse(root.target)
    return present(
        {
            "run_id": run.run_id,
            "root_execution_id": show("exec", root.id),
            "target": root.target,
            "agent_id": target.node_id,
            "reasoner_id": target.reasoner_id,
            "root_status": root.status.value,
            "active_executions": sum(run.counts.values()),
            "status_counts": {status.value: run.counts[status] for status in Status if status in run.counts},
            "session_id": root.session_key,
            "started_at": moment(root.started_at or root.created_at),
            "latest_activity": moment(run.active_at or root.created_at),
        }
    )


async def _read(doors: Doors, namespace: int, ids: list[UUID]) -> dict[UUID, ExecutionView]:
    return await doors.run(executions.read, list(dict.fromkeys(ids)), namespace=namespace)


def _limit(request: Request) -> int:
    said = request.query_params.get("limit", "")
    if not said:
        return RUNS_DEFAULT
    if not (said.isascii() and said.isdigit() and len(said) < 20 and int(said) >= 1):
        raise InvalidParameter("`limit`: a whole number from 1.", where="query/limit", parameter="limit")
    return min(int(said), RUNS_MAX)


def _text(request: Request, name: str) -> str | None:
    said = request.query_params.get(name)
    return clean(said, where=f"query/{name}") if said else None


OPERATIONS = [
    Operation(
        scope=READ,
        method="GET",
        path="/api/v1/executions/active",
        handler=active,
        summary="Runs that are under way",
        tag="executions",
        query={
            "agent_id": "Only what is unfinished on this node",
            "session_id": "Only runs with this session key",
            "limit": "1 to 200, 100 by default; more counts as 200",
        },
        answers={200: "The runs.", 400: "Not a limit.", 422: "A filter is not valid.", 503: "Try again."},
    ),
    Operation(
        scope=EXECUTE_OR_OPERATE,
        method="POST",
        path="/api/v1/workflows/{run_id}/cancel-tree",
        handler=cancel_tree,
        audit="run.cancelled",
        summary="Cancel everything unfinished of a run",
        tag="executions",
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
