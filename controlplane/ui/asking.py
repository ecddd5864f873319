"""Asking: how a page learns what it shows. It asks the very routes of the API, in the name of who looks at it.

So a page can show nothing that its reader could not ask for: the scopes of the key, its namespace and its veil hold
here because they hold there, and `copy as curl` of what a page shows is what the page has asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote, urlencode

import msgspec
import orjson
from starlette.requests import Request

from controlplane.api.doors import asker_of
from controlplane.api.fields import FIELDS
from controlplane.api.front import FOUND, Table
from controlplane.api.operation import Operation
from controlplane.api.shapes import Shape
from controlplane.api.veil import seen_by
from controlplane.domain.key import wanting
from controlplane.errors import NotFound, ScopeMissing
from controlplane.ui.payload import Payload

Json = Any
PAGE_ROWS = 50
PAYLOADS = frozenset(
    {"input", "context", "result", "error", "error_details", "value", "data", "attributes", "response", "body"}
    | {"response_body", "metadata", "traceback", "input_schema", "output_schema"}
)
"""Members whose bytes are shown as they are: read as numbers of Python, large ones would become others."""


class Api:
    """The routes of the API as a page calls them."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self._table = Table(operations)

    async def get(self, request: Request, path: str, query: Sequence[tuple[str, str]] = ()) -> Json:
        """What `GET path` answers to who looks at this page. What is no plain letter in the path is quoted, as outside.

        Raises: whatever the route raises, ScopeMissing, PayloadsHidden.
        """
        found = self._table.find("GET", unquote(path))
        if found is None:
            raise NotFound("There is no such page.")
        check(request, found.operation)
        scope = {
            **{name: value for name, value in request.scope.items() if name != FIELDS},
            "method": "GET",
            "path": unquote(path),
            "raw_path": path.encode(),
            "query_string": urlencode([pair for pair in query if pair[1]]).encode(),
            "headers": [],
            "path_params": found.path_params,
            FOUND: found,
        }
        response = await found.operation.handler(Request(scope, request.receive))
        return read(seen_by(asker_of(request), found.operation, bytes(response.body)))

    def seen(self, request: Request, path: str, shape: Shape) -> Json:
        """What this route would show of such an answer to who looks at the page. Raises: ScopeMissing."""
        found = self._table.find("GET", path)
        assert found is not None, path
        check(request, found.operation)
        return read(seen_by(asker_of(request), found.operation, orjson.dumps(shape)))


def paged(request: Request) -> list[tuple[str, str]]:
    """The page of a list that the address of this page names."""
    return [("limit", str(PAGE_ROWS)), ("cursor", request.query_params.get("cursor", ""))]


def check(request: Request, operation: Operation) -> None:
    """Whether who looks at a page may ask this. Raises: ScopeMissing."""
    if operation.scope and not asker_of(request).may(operation.scope):
        words = wanting(operation.scope)
        raise ScopeMissing(f"This needs a key with the scope {words}.", scope=words)


def read(body: bytes) -> Json:
    """JSON whose payloads stay the bytes that they are."""
    text = body.strip()
    if text[:1] == b"{":
        members = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        return {
            name: Payload(bytes(raw)) if name in PAYLOADS and bytes(raw) != b"null" else read(bytes(raw))
            for name, raw in members.items()
        }
    if text[:1] == b"[":
        return [read(bytes(raw)) for raw in msgspec.json.decode(text, type=list[msgspec.Raw])]
    return msgspec.json.decode(text)
