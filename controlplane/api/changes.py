"""Changes of memory as they happen (WebSocket and SSE), and those of the last hour.

AgentField's client takes every message for a change, so nothing else is ever sent: a WebSocket is kept alive by its
pings, SSE by `id:` lines without data, which also move the cursor on.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import UTC, datetime

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from controlplane.api import live, shapes
from controlplane.api.body import clean
from controlplane.api.doors import Doors, doors_of, namespace_of
from controlplane.api.operation import READ_OR_NODE, Operation
from controlplane.api.paging import limit_of, words
from controlplane.api.scopes import scope_of
from controlplane.api.shapes import answer
from controlplane.api.streams import Cursor, Said
from controlplane.domain.memory import KEY_MAX, SCOPE_ID_MAX, Scope, like, matches
from controlplane.errors import ControlPlaneError, Invalid
from controlplane.reads import changes
from controlplane.reads.changes import ChangeView

PAGE = 100  # rows that are read at once: each may be 72 KiB
PATTERNS_MAX = 100
HISTORY_DEFAULT = 100
HISTORY_MAX = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Sought:
    """What somebody wants to hear of; without patterns, scope or scope id: everything."""

    namespace: int
    patterns: tuple[str, ...]
    scope: Scope | None
    scope_id: str | None

    def meant(self, view: ChangeView) -> bool:
        return (
            view.namespace == self.namespace
            and self.scope in (None, view.scope)
            and self.scope_id in (None, view.scope_id)
            and (not self.patterns or any(matches(pattern, view.key) for pattern in self.patterns))
        )


async def socket(websocket: WebSocket) -> None:
    """Every change as a message. Closed with 1001 when the server stops, with 1013 when the client is too slow."""
    doors = doors_of(websocket)
    try:
        frames = _frames(doors, _sought(websocket), live.resumed_from(websocket))
        await anext(frames)  # joined before the handshake is over: what is written from then on is heard
    except ControlPlaneError as error:
        await websocket.close(1008, error.code)
        return
    async with contextlib.aclosing(frames):
        await websocket.accept()
        await live.tell(websocket, _messages(frames), code=live.GOING_AWAY)


async def stream(request: Request) -> Response:
    """Every change as an event of SSE, whose `id:` is the cursor to come back with."""
    return live.sse(_frames(doors_of(request), _sought(request), live.resumed_from(request)))


async def history(request: Request) -> Response:
    """The last changes, oldest first; those of an hour are kept."""
    doors, sought = doors_of(request), _sought(request)
    views = await doors.run(
        changes.latest,
        doors.placement.all(),
        namespace=sought.namespace,
        since=_since(request),
        scope=sought.scope,
        scope_id=sought.scope_id,
        likes=[like(pattern) for pattern in sought.patterns] or None,
        limit=limit_of(request, default=HISTORY_DEFAULT, most=HISTORY_MAX),
    )
    return answer([shapes.change(view) for view in views])


async def _frames(
    doors: Doors, sought: Sought, after: Cursor | None
) -> AsyncGenerator[tuple[str | None, shapes.Shape | None]]:
    heard = doors.changes.follow(after, wants=sought.meant)
    async with contextlib.aclosing(heard):
        async for said, cursor in heard:
            yield cursor, None if isinstance(said, Said) else shapes.change(said)


async def _messages(frames: AsyncGenerator[tuple[str | None, shapes.Shape | None]]) -> AsyncGenerator[shapes.Shape]:
    async with contextlib.aclosing(frames):
        async for cursor, shape in frames:
            if shape is not None:
                yield shape | {"cursor": cursor}


def _sought(connection: Request | WebSocket) -> Sought:
    query = connection.query_params
    patterns = tuple(word.strip() for word in words(connection, "patterns") if word.strip())
    if len(patterns) > PATTERNS_MAX:
        raise Invalid(f"More than {PATTERNS_MAX} patterns.", where="query/patterns")
    for pattern in patterns:
        clean(pattern, where="query/patterns", chars_max=KEY_MAX)
    scope, scope_id = query.get("scope"), query.get("scope_id")
    return Sought(
        namespace=namespace_of(connection),
        patterns=patterns,
        scope=scope_of(scope, "query/scope") if scope else None,
        scope_id=clean(scope_id, where="query/scope_id", chars_max=SCOPE_ID_MAX) if scope_id else None,
    )


def _since(request: Request) -> datetime | None:
    """An instant; without a zone it is taken as UTC."""
    text = request.query_params.get("since")
    if not text:
        return None
    try:
        at = datetime.fromisoformat(text)
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):
        raise Invalid("Not an instant of ISO 8601.", where="query/since") from None


def install_sockets(app: FastAPI) -> None:
    app.router.routes.append(WebSocketRoute("/api/v1/memory/events/ws", socket))


QUERY = {
    "patterns": "Of these keys, comma-separated; * stands for any text",
    "scope": "run (or workflow), session, actor, global",
    "scope_id": "Of this run, session or actor",
}

OPERATIONS = [
    Operation(
        scope=READ_OR_NODE,
        streams=True,
        method="GET",
        path="/api/v1/memory/events/sse",
        handler=stream,
        summary="Live changes of memory (SSE)",
        tag="memory",
        query=QUERY | {"after": "Resume after this cursor (as Last-Event-ID)"},
        headers={"Last-Event-ID": "Resume after this change"},
        answers={200: "text/event-stream.", 422: "Not valid."},
    ),
    Operation(
        scope=READ_OR_NODE,
        method="GET",
        path="/api/v1/memory/events/history",
        handler=history,
        summary="The last changes of memory",
        tag="memory",
        query=QUERY | {"since": "Not before this instant (ISO 8601)", "limit": f"1 to {HISTORY_MAX}"},
        answers={200: "The changes, oldest first.", 422: "Not valid.", 503: "Try again."},
    ),
]
