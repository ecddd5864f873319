"""Identities: not here, and said at once, because AgentField's SDK asks for one while its event loop waits."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from controlplane.api.agentfield.absent import IDENTITIES, PAGE
from controlplane.api.operation import NODE, Operation
from controlplane.api.shapes import answer


async def register(_: Request) -> Response:
    """No identity; the agent logs one line and goes on without. The body is not even read."""
    return answer({"success": False, "error": f"{IDENTITIES} are not served here, see {PAGE}."})


OPERATIONS = [
    Operation(
        scope=NODE,
        method="POST",
        path="/api/v1/did/register",
        handler=register,
        summary="Refuse an identity, at once",
        tag="nodes",
        answers={200: "`success` is false."},
    )
]
