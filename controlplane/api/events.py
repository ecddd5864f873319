"""What happened: the trace, the log lines and notes of an execution, and the live streams (SSE and WebSocket)."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import TypeVar
from uuid import UUID

import msgspec
import orjson
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from controlplane.api import live, shapes
from controlplane.api.agentfield.workflow import owner_of
from controlplane.api.body import clean, payload, read_form
from controlplane.api.doors import EVENTS_TOPIC, Doors, doors_of, namespace_of
from controlplane.api.leases import MESSAGE_MAX
from controlplane.api.operation import NODE, READ, Operation
from controlplane.api.paging import integer, limit_of, words
from controlplane.api.shapes import answer
from controlplane.api.streams import Cursor, Overflown, Page, Said, Wants
from controlplane.api.whose import require
from controlplane.domain.ids import ExecutionId, bucket_of, is_execution, read_fenced, show_execution
from controlplane.domain.lease import Fence
from controlplane.domain.notice import moment
from controlplane.errors import ControlPlaneError, ExecutionNotFound, Invalid
from controlplane.postgres.pool import Connection
from controlplane.reads import events, executions, logs
from controlplane.reads.events import EventView, Next, Position
from controlplane.stages.log import Note

Form = TypeVar("Form")

NOTES_MAX = 1_000
SEQ_MAX = 2**63 - 1
TAGS_MAX = 50
ENCODED_MAX = 256
ENDED = frozenset({"execution.completed", "execution.failed", "execution.cancelled", "execution.timeout"})


class NoteForm(msgspec.Struct):
    """A remark for people."""

    message: str
    tags: list[str] | None = None
    timestamp: float | None = None
    agent_node_id: str | None = None


async def trace(request: Request) -> Response:
    """The events of one execution, oldest first; as a live stream when that is what is accepted."""
    if "text/event-stream" in request.headers.get("accept", ""):
        return await stream_one(request)
    doors, namespace = doors_of(request), namespace_of(request)
    id_ = await _known(request)
    limit = limit_of(request, default=200, most=1_000)
    after = integer(request, "cursor", default=0, least=0, most=SEQ_MAX)
    if before := integer(request, "before", default=0, least=0, most=SEQ_MAX):
        last = await doors.run(
            events.trace_before, bucket_of(id_), id_, namespace=namespace, before_seq=before, limit=limit + 1
        )
        return answer(_backwards([shapes.event(one) for one in last], limit))
    page = await doors.run(events.trace, bucket_of(id_), id_, namespace=namespace, after_seq=after, limit=limit + 1)
    more = len(page) > limit
    next_cursor = str(page[limit - 1].position.seq) if more else None
    return answer({"items": [shapes.event(one) for one in page[:limit]], "next_cursor": next_cursor})


async def log_lines(request: Request) -> Response:
    """The log lines of one execution, oldest first."""
    doors, namespace = doors_of(request), namespace_of(request)
    id_ = await _known(request)
    limit = limit_of(request, default=200, most=1_000)
    after = integer(request, "after", default=0, least=0, most=SEQ_MAX)
    attempt = integer(request, "attempt", default=0, least=0, most=2**31 - 1) or None
    if before := integer(request, "before", default=0, least=0, most=SEQ_MAX):
        last = await doors.run(
            logs.before,
            bucket_of(id_),
            id_,
            namespace=namespace,
            before_seq=before,
            attempt=attempt,
            limit=limit + 1,
        )
        return answer(_backwards([shapes.line(one) for one in last], limit))
    page = await doors.run(
        logs.page, bucket_of(id_), id_, namespace=namespace, after_seq=after, attempt=attempt, limit=limit + 1
    )
    more = len(page) > limit
    next_cursor = str(page[limit - 1].seq) if more else None
    return answer({"items": [shapes.line(one) for one in page[:limit]], "next_cursor": next_cursor})


def _backwards(found: list[shapes.Shape], limit: int) -> shapes.Shape:
    """A page that ends before something; `previous_cursor` is the `before` of the page before it."""
    kept = found[-limit:]
    return {"items": kept, "next_cursor": None, "previous_cursor": str(kept[0]["id"]) if len(found) > limit else None}


async def add_note(request: Request) -> Response:
    """Keep a remark with the execution in `X-Execution-ID`."""
    doors = doors_of(request)
    form = await read_form(request, NoteForm, doors.limits.body_bytes_max)
    fence = await _speaker(request)
    if len(form.message) > MESSAGE_MAX:
        raise Invalid(f"Longer than {MESSAGE_MAX} characters.", where="body.message")
    if len(form.tags or []) > TAGS_MAX:
        raise Invalid(f"More than {TAGS_MAX} tags.", where="body.tags")
    tags = [clean(tag, where="body.tags") for tag in form.tags or []]
    note = {"message": form.message, "tags": tags, "timestamp": moment(datetime.now(UTC))}
    raw, _ = payload(orjson.dumps(note), where="body", bytes_max=doors.limits.payload_bytes_max)
    if fence is None:  # a call inside a process whose execution is not known: its SDK cannot do anything about it
        return answer({"success": True, "note": note, "message": "not kept: X-Execution-ID is not known here"})
    await require(request, fence)
    await doors.lanes.log.put(Note(fence=fence, data=raw))
    doors.hints.tell(EVENTS_TOPIC)
    return answer({"success": True, "note": note, "message": "kept"})


async def _speaker(request: Request) -> Fence | None:
    """The attempt that leaves the note; for a call inside a process the one that it is part of."""
    said = request.headers.get("x-execution-id", "")
    if said and not is_execution(said):
        run_id = request.headers.get("x-run-id")
        return await owner_of(doors_of(request), namespace_of(request), clean(said, where="X-Execution-ID"), run_id)
    id_, attempt = read_fenced(said, where="X-Execution-ID")
    if attempt is None:
        raise Invalid("Needs the attempt: exec_…~1.", where="X-Execution-ID")
    return Fence(id_, attempt)


async def notes(request: Request) -> Response:
    """The notes of one execution; with `tags` those that carry one of them."""
    doors, namespace = doors_of(request), namespace_of(request)
    id_ = await _known(request)
    wanted = set(words(request, "tags"))
    found = await doors.run(events.notes, bucket_of(id_), id_, namespace=namespace, limit=NOTES_MAX)
    kept = [orjson.loads(one.data or b"{}") for one in found]
    kept = [note for note in kept if not wanted or wanted & set(note.get("tags", []))]
    return answer({"execution_id": show_execution(id_), "notes": kept, "total": len(kept)})


async def stream_all(request: Request) -> Response:
    """Every execution's life as it happens (SSE): `connected`, frames, a heartbeat every 30 s."""
    doors, namespace = doors_of(request), namespace_of(request)
    return live.sse(_frames(doors, namespace, None, live.resumed_from(request), encoded))


async def stream_one(request: Request) -> Response:
    """One execution's life from its beginning until its end (SSE)."""
    doors, namespace = doors_of(request), namespace_of(request)
    id_ = await _known(request)
    after = live.resumed_from(request)
    if after is not None and await is_over(doors, namespace, id_, after):
        return Response(status_code=204)  # what ends an EventSource: it would come back for ever
    return live.sse(_frames(doors, namespace, id_, after or Cursor(), encoded))


async def socket(websocket: WebSocket) -> None:
    """The same frames over a WebSocket; each carries its `id`."""
    doors, namespace = doors_of(websocket), namespace_of(websocket)
    try:
        after = live.resumed_from(websocket)
        id_: UUID | None = None
        if "execution_id" in websocket.path_params:
            id_, _ = read_fenced(websocket.path_params["execution_id"], where="path/execution_id")
            if not await doors.run(executions.read, [id_], namespace=namespace):
                raise ExecutionNotFound
    except ControlPlaneError as error:
        await websocket.close(1008, error.code)
        return
    await websocket.accept()
    if id_ is not None and after is not None and await is_over(doors, namespace, id_, after):
        await websocket.close(1000)
        return
    frames = _frames(doors, namespace, id_, after if id_ is None else after or Cursor(), shapes.frame)
    await live.tell(websocket, _marked(frames))


async def _known(request: Request) -> UUID:
    """The id in the path, of an execution that exists. Raises ExecutionNotFound."""
    doors, namespace = doors_of(request), namespace_of(request)
    id_, _ = read_fenced(request.path_params["execution_id"], where="path/execution_id")
    found = await doors.run(executions.read_parent, bucket_of(id_), id_, namespace=namespace)
    if found is None:
        raise ExecutionNotFound
    return id_


async def is_over(doors: Doors, namespace: int, execution_id: UUID, after: Cursor) -> bool:
    """Whether who has read as far as this has read the end. Asked in this order, so that no end falls between."""
    views = await doors.run(executions.read, [execution_id], namespace=namespace)
    if not views[ExecutionId(execution_id)].status.final:
        return False
    left = doors.streams.between(
        after,
        Cursor.far(execution_id),
        wants=wants(namespace, execution_id),
        page=life(execution_id),
        buckets=(bucket_of(execution_id),),
    )
    async with contextlib.aclosing(left):
        return not any([event.type in ENDED async for event, _ in left])


def wants(namespace: int, execution_id: UUID | None) -> Wants[EventView]:
    """Everything in the namespace, or all that one execution does."""
    return lambda event: event.namespace == namespace and execution_id in (None, event.execution_id)


def life(execution_id: UUID) -> Page[EventView]:
    """One execution's events, by its own index."""

    async def page(conn: Connection, bucket: int, after: Position, *, limit: int) -> Next[EventView]:
        return Next(await events.trace_after(conn, bucket, execution_id, after, limit=limit))

    return page


@lru_cache(maxsize=ENCODED_MAX)
def encoded(event: EventView) -> bytes:
    """What an event is on the wire, made once for all who hear it live: they do at the same moment."""
    return live.encoded(shapes.frame(event))


async def _frames(
    doors: Doors,
    namespace: int,
    execution_id: UUID | None,
    after: Cursor | None,
    form: Callable[[EventView], Form],
) -> AsyncGenerator[tuple[str | None, shapes.Shape | Form]]:
    """Frames, each with the cursor that stands after it. What was missed comes first, then what happens."""
    heard = doors.streams.follow(
        after,
        wants=wants(namespace, execution_id),
        page=None if execution_id is None else life(execution_id),
        buckets=None if execution_id is None else (bucket_of(execution_id),),
    )
    try:
        async with contextlib.aclosing(heard):
            async for said, cursor in heard:
                if said is Said.JOINED:
                    yield (
                        cursor or None,
                        {"type": "connected", "message": "Execution events stream connected", "timestamp": _now()},
                    )
                elif said is Said.QUIET:
                    yield None, {"type": "heartbeat", "timestamp": _now()}
                else:
                    yield cursor, form(said)
                    if execution_id is not None and said.type in ENDED:
                        return
    except Overflown:
        yield None, {"type": "overflow", "message": "Too slow; reconnect with Last-Event-ID.", "timestamp": _now()}


async def _marked(frames: AsyncGenerator[tuple[str | None, shapes.Shape]]) -> AsyncGenerator[shapes.Shape]:
    async with contextlib.aclosing(frames):
        async for cursor, shape in frames:
            yield shape if cursor is None else shape | {"id": cursor}


def _now() -> str:
    return moment(datetime.now(UTC))


def install_sockets(app: FastAPI) -> None:
    for path in ("/api/ui/v1/executions/ws", "/api/ui/v1/executions/{execution_id}/ws"):
        app.router.routes.append(WebSocketRoute(path, socket))


READ_ANSWERS = {200: "Found.", 404: "Unknown.", 422: "Not valid.", 503: "Try again."}
BEFORE = f"The newest before this id (the newest of all: {SEQ_MAX}); `previous_cursor` leads to those before them"
PAGE_QUERY = {"limit": "1 to 1000", "cursor": "next_cursor of the page before", "before": BEFORE}
STREAM_QUERY = {"after": "Resume after this cursor (as Last-Event-ID)"}

OPERATIONS = [
    Operation(
        scope=READ,
        streams=True,
        method="GET",
        path="/api/ui/v1/executions/events",
        handler=stream_all,
        summary="Live events of every execution (SSE)",
        tag="events",
        query=STREAM_QUERY,
        headers={"Last-Event-ID": "Resume after this event"},
        answers={200: "text/event-stream.", 422: "Not a cursor."},
    ),
    Operation(
        scope=READ,
        streams=True,
        method="GET",
        path="/api/ui/v1/executions/{execution_id}/events",
        handler=stream_one,
        summary="Live events of one execution (SSE)",
        tag="events",
        query=STREAM_QUERY,
        headers={"Last-Event-ID": "Resume after this event"},
        answers={200: "text/event-stream.", 204: "The end has been read.", 404: "Unknown.", 422: "Not valid."},
    ),
    Operation(
        scope=READ,
        streams=True,
        method="GET",
        path="/api/v1/executions/{execution_id}/events",
        handler=trace,
        summary="The trace of one execution",
        tag="events",
        query=PAGE_QUERY,
        answers=READ_ANSWERS,
    ),
    Operation(
        scope=READ,
        method="GET",
        path="/api/v1/executions/{execution_id}/logs",
        handler=log_lines,
        summary="Log lines of one execution",
        tag="events",
        query={
            "attempt": "Only of this attempt",
            "after": "The last id of the page before",
            "before": BEFORE,
            "limit": "1 to 1000",
        },
        answers=READ_ANSWERS,
    ),
    Operation(
        scope=READ,
        method="GET",
        path="/api/v1/executions/{execution_id}/notes",
        handler=notes,
        summary="Notes of one execution",
        tag="events",
        query={"tags": "Only with one of these, comma-separated"},
        answers=READ_ANSWERS,
    ),
    *(
        Operation(
            scope=NODE,
            method="POST",
            path=f"/api/{prefix}/executions/note",
            handler=add_note,
            summary="Add a note to the execution that is running",
            tag="events",
            takes=NoteForm,
            headers={"X-Execution-ID": "exec_…~attempt"},
            answers={200: "Kept.", 400: "Malformed.", 409: "The lease is lost.", 413: "Too large.", 422: "Not valid."}
            | {503: "Try again."},
        )
        for prefix in ("v1", "ui/v1")
    ),
]
