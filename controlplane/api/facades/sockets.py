"""`/ws/{session_id}`: a session hears of the end of each of its jobs.

How far a session has listened is kept in its own memory, after each message. Whoever comes back is told what it missed,
after a restart and by another replica too; the last message may come twice. What a connection swallowed that nobody yet
knew to be dead is told again to whoever comes back with `?after=` and the `id` of the last message it has seen.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

import orjson
from fastapi import FastAPI
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from controlplane.api import events, live, shapes
from controlplane.api.body import clean
from controlplane.api.doors import Doors, doors_of, namespace_of
from controlplane.api.streams import Cursor, Said
from controlplane.domain.execution import Status
from controlplane.domain.facade import JOB_OF
from controlplane.domain.ids import ExecutionId, show_execution
from controlplane.domain.memory import Append, Place, Put, Scope, Write
from controlplane.domain.notice import error_text
from controlplane.errors import ControlPlaneError, Invalid, LengthMismatch, NotAList
from controlplane.reads import executions, memory
from controlplane.reads.events import EventView

PATH = "/ws/{session_id}"
KEY = "facades.heard"
"""Where the session's memory keeps its cursor: a list of one."""

PASSED_MAX = 50
"""Ends of other sessions' jobs after which the cursor moves on, or each client that comes back would read them again.

It moves in quiet times, too; but only for a session that has had jobs, so that a name alone leaves nothing behind.
"""


async def socket(websocket: WebSocket) -> None:
    """`job_complete` for each end; what the client says is left alone."""
    doors, namespace = doors_of(websocket), namespace_of(websocket)
    try:
        session = clean(websocket.path_params["session_id"], where="path/session_id")
        after = live.resumed_from(websocket) or await _heard(doors, namespace, session)
    except ControlPlaneError as error:
        await websocket.close(1008, error.code)
        return
    await websocket.accept()
    await live.tell(websocket, _ends(doors, namespace, session, after))


async def mark(doors: Doors, namespace: int, session: str) -> None:
    """A job of this session is about to be submitted: whoever listens first shall hear of its end.

    Twice or at once is harmless: an append to a list that must be empty happens once.
    """
    place = _place(doors, namespace, session)
    if await doors.run(memory.read, place) is not None:
        return
    cursor = orjson.dumps(str(await doors.streams.now()))
    with contextlib.suppress(LengthMismatch, NotAList):
        await doors.lanes.memory.put(Write(ops=(Append(place=place, items=(cursor,), expected_length=0),)))


async def _ends(doors: Doors, namespace: int, session: str, after: Cursor | None) -> AsyncGenerator[shapes.Shape]:
    target = doors.facades.jobs_target

    def wants(event: EventView) -> bool:
        return event.namespace == namespace and event.target == target and event.type in events.ENDED

    known, passed = after is not None, 0
    heard = doors.streams.follow(after, wants=wants)
    async with contextlib.aclosing(heard):
        async for said, cursor in heard:
            shape = None if isinstance(said, Said) else await _end(doors, said, session)
            if shape is not None:
                yield shape | {"id": cursor}
            passed += said is not Said.JOINED
            if shape is not None or (known and (said is Said.QUIET or passed >= PASSED_MAX)):
                await _keep(doors, namespace, session, cursor)
                known, passed = True, 0


async def _end(doors: Doors, event: EventView, session: str) -> shapes.Shape | None:
    """How a job of this session has ended; None for another's, and for one that has been forgotten since."""
    if await doors.facades.session_of(doors, event.namespace, event.execution_id) != session:
        return None
    id_ = ExecutionId(event.execution_id)
    views = await doors.run(executions.read, [id_], namespace=event.namespace)
    view = views.get(id_)
    if view is None or not view.status.final:
        return None
    said: object = error_text(view.error)
    if view.status is Status.SUCCEEDED:
        said = None if view.result is None else shapes.raw(view.result)
    return {
        "type": "job_complete",
        "job_id": show_execution(id_),
        "result": said,
        "status": JOB_OF[view.status].value,
    }


async def _heard(doors: Doors, namespace: int, session: str) -> Cursor | None:
    """How far this session has listened; None when it has no jobs yet, or its memory holds something else there."""
    value = await doors.run(memory.read, _place(doors, namespace, session))
    kept = None if value is None else orjson.loads(value.value)
    if not (isinstance(kept, list) and kept and isinstance(kept[0], str)):
        return None
    try:
        return Cursor.parse(kept[0])
    except Invalid:
        return None


async def _keep(doors: Doors, namespace: int, session: str, cursor: str) -> None:
    value = orjson.dumps([cursor])
    await doors.lanes.memory.put(Write(ops=(Put(place=_place(doors, namespace, session), value=value, length=1),)))


def _place(doors: Doors, namespace: int, session: str) -> Place:
    bucket = doors.placement.of_key(namespace, Scope.SESSION.value, session)
    return Place(bucket, namespace, Scope.SESSION, session, KEY)


def install_sockets(app: FastAPI) -> None:
    app.router.routes.append(WebSocketRoute(PATH, socket))
