"""Explain: why an execution waits, or what it does, in one sentence and the facts behind it."""

from __future__ import annotations

from dataclasses import replace

from starlette.requests import Request
from starlette.responses import Response

from controlplane.api.doors import doors_of, namespace_of
from controlplane.api.links import linked
from controlplane.api.operation import READ, Operation
from controlplane.api.shapes import answer, present
from controlplane.domain.explain import explain
from controlplane.domain.ids import read_fenced, show_execution
from controlplane.domain.notice import moment
from controlplane.errors import ExecutionNotFound
from controlplane.reads import explain as facts


async def of_execution(request: Request) -> Response:
    """The sentence, its cause as a stable word, since when, the next step, and the facts."""
    doors = doors_of(request)
    id_, _ = read_fenced(request.path_params["execution_id"], where="path/execution_id")
    standing = await doors.run(
        facts.standing,
        id_,
        namespace=namespace_of(request),
        placement=doors.placement,
        cancel_grace_seconds=doors.limits.cancel_grace_seconds,
        dispatch_seconds=doors.limits.push_dispatch_seconds,
    )
    if standing is None:
        raise ExecutionNotFound
    if standing.approval is not None:
        standing = replace(standing, approval=linked(doors, standing.approval))
    found = explain(standing)
    shape = {
        "execution_id": show_execution(id_),
        "status": standing.status.value,
        "code": found.code.value,
        "sentence": found.sentence,
        "since": None if found.since is None else moment(found.since),
        "fix": found.fix,
        "facts": present(found.facts),
    }
    return answer(present(shape))


OPERATIONS = [
    Operation(
        scope=READ,
        method="GET",
        path="/api/v1/executions/{execution_id}/explain",
        handler=of_execution,
        summary="Why an execution waits, in one sentence",
        tag="executions",
        answers={200: "The sentence and its facts.", 404: "Unknown.", 422: "Not an id.", 503: "Try again."},
    ),
]
