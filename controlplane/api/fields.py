"""The header fields of a request, by name: looked through once for everybody who asks."""

from __future__ import annotations

from starlette.requests import HTTPConnection
from starlette.types import Scope

FIELDS = "controlplane.fields"
"""Where in a request's scope they are kept. Starlette's own go through the list for each name anew."""


def fields_of(scope: Scope) -> dict[bytes, bytes]:
    """The first field of each name, as bytes."""
    found: dict[bytes, bytes] | None = scope.get(FIELDS)
    if found is None:
        found = scope[FIELDS] = dict(reversed(scope["headers"]))
    return found


def field(request: HTTPConnection, name: bytes) -> str | None:
    """What the first field of this name (in lower case) says."""
    said = fields_of(request.scope).get(name)
    return None if said is None else said.decode("latin-1")
