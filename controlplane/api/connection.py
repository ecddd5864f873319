"""Whether whoever asked is still there."""

from __future__ import annotations

from starlette.requests import Request

CONNECTION = "controlplane.connection"
"""Under this name of the scope is the transport, which knows it: as ASGI has it one begins to wait for a message and
gives up at once, which took a tenth of the time from a submit to its start.
"""


def has_left(request: Request) -> bool:
    """Whether the client has closed its connection. Not known of a server that is not ours: as if it never did."""
    connection = request.scope.get(CONNECTION)
    return connection is not None and bool(connection.is_closing())
