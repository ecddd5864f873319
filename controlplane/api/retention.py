"""Retention: for how long what is over is kept here, and whether rows lie where none should."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from controlplane.api.doors import doors_of
from controlplane.api.operation import READ, Operation
from controlplane.api.shapes import answer
from controlplane.stages import prune


async def policy(request: Request) -> Response:
    """The `CONTROLPLANE_KEEP_…_DAYS` of this replica, null for what is kept; `controlplane prune` says what they do."""
    doors = doors_of(request)
    return answer({"keep_days": doors.keep.days(), "default_not_empty": await doors.run(prune.strays)})


OPERATIONS = [
    Operation(
        scope=READ,
        method="GET",
        path="/api/v1/retention",
        handler=policy,
        summary="How long what is over is kept",
        tag="retention",
        answers={
            200: "Days from the end, null for what is kept; tables with rows outside of their weeks.",
            503: "Try again.",
        },
    ),
]
