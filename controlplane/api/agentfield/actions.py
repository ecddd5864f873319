"""Actions: AgentField's own pull mode, in which no action was ever handed out. Answered so that such a node waits.

Nodes that fetch their work here open a session and lease (`api/leases.py`).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from controlplane.api.body import read_form
from controlplane.api.doors import Doors, doors_of, namespace_of
from controlplane.api.operation import NODE, Operation
from controlplane.api.shapes import Shape, answer
from controlplane.api.whose import require_node
from controlplane.domain.notice import moment
from controlplane.domain.target import is_name
from controlplane.errors import NodeNotFound
from controlplane.reads import nodes

LEASE_SECONDS = 300
POLL_DEFAULT_SECONDS = 5
POLL_MAX_SECONDS = 60


class ClaimForm(msgspec.Struct):
    """Who asks, and how long it would wait."""

    node_id: str
    max_items: int | None = None
    wait_seconds: int | None = None


class AckForm(msgspec.Struct):
    """What became of an action. Everything else that is said of it is left alone."""

    action_id: str
    status: str


async def claim(request: Request) -> Response:
    """Nothing to do, and when to ask again."""
    doors = doors_of(request)
    form = await read_form(request, ClaimForm, doors.limits.body_bytes_max)
    await _known(request, doors, form.node_id)
    require_node(request, form.node_id)
    wait = form.wait_seconds or 0
    poll = min(wait, POLL_MAX_SECONDS) if wait > 0 else POLL_DEFAULT_SECONDS
    return answer({"items": [], "next_poll_after": poll} | _renewed())


async def acknowledge(request: Request) -> Response:
    """Taken note of: no action of this server can be meant."""
    doors = doors_of(request)
    await read_form(request, AckForm, doors.limits.body_bytes_max)
    await _known(request, doors, request.path_params["node_id"])
    return answer(_renewed())


async def _known(request: Request, doors: Doors, node_id: str) -> None:
    namespace = namespace_of(request)
    if not is_name(node_id):
        raise NodeNotFound
    bucket = doors.placement.of_key(namespace, node_id)
    if not await doors.run(nodes.nodes, bucket, namespace=namespace, node_id=node_id):
        raise NodeNotFound


def _renewed() -> Shape:
    renewal = datetime.now(UTC) + timedelta(seconds=LEASE_SECONDS)
    return {"lease_seconds": LEASE_SECONDS, "next_lease_renewal": moment(renewal)}


ANSWERS = {
    200: "Nothing to do.",
    400: "Malformed.",
    404: "Unknown node.",
    413: "Too large.",
    422: "Not valid.",
    503: "Try again.",
}

OPERATIONS = [
    Operation(
        scope=NODE,
        method="POST",
        path="/api/v1/actions/claim",
        handler=claim,
        summary="Ask for actions; there never are any",
        tag="nodes",
        takes=ClaimForm,
        answers=ANSWERS,
    ),
    Operation(
        scope=NODE,
        method="POST",
        path="/api/v1/nodes/{node_id}/actions/ack",
        handler=acknowledge,
        summary="Acknowledge an action; there never are any",
        tag="nodes",
        takes=AckForm,
        answers=ANSWERS,
    ),
]
