"""Calls as older clients of AgentField make them: synchronous, by a path for reasoners and one for skills."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from controlplane.api.executions import SUBMIT_HEADERS, SYNC_ANSWERS, SubmitForm, answer_end
from controlplane.api.operation import EXECUTE, Operation
from controlplane.api.shapes import Shape
from controlplane.reads.executions import ExecutionView


async def call(request: Request) -> Response:
    """Accept, wait for the end and answer with the result in the older shape."""
    return await answer_end(request, _result)


def _result(_: ExecutionView, shape: Shape) -> Shape:
    return {
        "result": shape["result"],
        "node_id": shape["node_id"],
        "duration_ms": shape["duration_ms"],
        "timestamp": shape["finished_at"],
    }


OPERATIONS = [
    Operation(
        scope=EXECUTE,
        method="POST",
        path=f"/api/v1/{kind}s/{{target}}",
        handler=call,
        summary=f"Call a {kind} and wait for its result (older clients)",
        tag="executions",
        takes=SubmitForm,
        headers=SUBMIT_HEADERS,
        answers=SYNC_ANSWERS,
    )
    for kind in ("reasoner", "skill")
]
