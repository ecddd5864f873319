"""Attempts: every try at an execution, where it ran and how it ended."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from controlplane.api.doors import doors_of, namespace_of
from controlplane.api.operation import READ, Operation
from controlplane.api.paging import integer, limit_of
from controlplane.api.shapes import Shape, answer, present, raw
from controlplane.domain.ids import bucket_of, read_fenced
from controlplane.domain.notice import milliseconds, moment
from controlplane.errors import ExecutionNotFound
from controlplane.reads import attempts, executions
from controlplane.reads.attempts import AttemptView

ATTEMPT_MAX = 2**31 - 1


async def of_execution(request: Request) -> Response:
    """The attempts of an execution, the newest last."""
    doors, namespace = doors_of(request), namespace_of(request)
    id_, _ = read_fenced(request.path_params["execution_id"], where="path/execution_id")
    limit = limit_of(request)
    after = integer(request, "cursor", default=0, least=0, most=ATTEMPT_MAX)
    found = await doors.run(attempts.page, bucket_of(id_), id_, namespace=namespace, after=after, limit=limit + 1)
    if not found and not await doors.run(executions.read, [id_], namespace=namespace):
        raise ExecutionNotFound
    more = len(found) > limit
    return answer(
        {
            "items": [_attempt(one) for one in found[:limit]],
            "next_cursor": str(found[limit - 1].attempt) if more else None,
        }
    )


def _attempt(view: AttemptView) -> Shape:
    start, end = _members(view.start), _members(view.end)
    return present(
        {
            "attempt": view.attempt,
            "node_id": raw(start.get("node_id")),
            "session_id": raw(start.get("session_id")),
            "started_at": moment(view.started_at),
            "ended_at": None if view.ended_at is None else moment(view.ended_at),
            "duration_ms": milliseconds(view.started_at, view.ended_at or view.now),
            "ended": view.ending.value,
            "reason": view.reason or raw(end.get("reason")),
            "retry_in_seconds": raw(end.get("retry_in_seconds")),
            "retry_after_seconds": raw(end.get("retry_after_seconds")),
            "error": raw(end.get("error")),
            "error_class": raw(end.get("error_class")),
            "traceback": raw(end.get("traceback")),
            "progress": raw(view.progress),
        }
    )


def _members(said: bytes | None) -> dict[str, bytes]:
    """The members of what an event says, each as the bytes it is."""
    if said is None:
        return {}
    return {name: bytes(value) for name, value in msgspec.json.decode(said, type=dict[str, msgspec.Raw]).items()}


OPERATIONS = [
    Operation(
        scope=READ,
        method="GET",
        path="/api/v1/executions/{execution_id}/attempts",
        handler=of_execution,
        summary="Every attempt of an execution, the newest last",
        tag="executions",
        query={"limit": "1 to 200, 50 by default", "cursor": "next_cursor of the page before"},
        answers={200: "A page.", 404: "Unknown.", 422: "Not an id, or a number is not valid.", 503: "Try again."},
    ),
]
