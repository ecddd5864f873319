"""How a stream is told: as lines of SSE, or as messages of a WebSocket."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator

import orjson
from starlette.requests import HTTPConnection
from starlette.responses import Response, StreamingResponse
from starlette.websockets import WebSocket, WebSocketDisconnect

from controlplane.api.shapes import Shape
from controlplane.api.streams import Cursor, Overflown
from controlplane.errors import DatabaseUnavailable

RETRY_MS = 2_000
NORMAL = 1000
GOING_AWAY = 1001
TRY_AGAIN_LATER = 1013
ONE_LINE = bytes.maketrans(b"\r\n", b"  ")
STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


def resumed_from(connection: HTTPConnection) -> Cursor | None:
    """The cursor that a client comes back with. Raises Invalid for anything we did not make."""
    text = connection.headers.get("last-event-id") or connection.query_params.get("after")
    return Cursor.parse(text) if text else None


def encoded(shape: Shape) -> bytes:
    """As the `data:` of a frame says it. A payload is spliced in as it came, and its lines would end ours: in JSON they
    only stand between tokens."""
    return orjson.dumps(shape).translate(ONE_LINE)


def sse(frames: AsyncGenerator[tuple[str | None, Shape | bytes | None]]) -> Response:
    """Frames, each with the cursor to resume after; those in bytes are encoded already. One without a shape only moves
    the cursor on."""
    return StreamingResponse(_lines(frames), media_type="text/event-stream", headers=STREAM_HEADERS)


async def tell(websocket: WebSocket, frames: AsyncGenerator[Shape], *, code: int = NORMAL) -> None:
    """Send every frame as a text until there are no more, which is said with this code, or the client goes."""
    sending = asyncio.create_task(_send(websocket, frames, code))
    hearing = asyncio.create_task(_hear(websocket))
    try:
        await asyncio.wait({sending, hearing}, return_when=asyncio.FIRST_COMPLETED)
        if sending.done():
            await sending
    except (WebSocketDisconnect, RuntimeError):  # RuntimeError: Starlette's word for sending after the close
        return
    finally:
        sending.cancel()
        hearing.cancel()
        await asyncio.gather(sending, hearing, return_exceptions=True)


async def _send(websocket: WebSocket, frames: AsyncGenerator[Shape], code: int) -> None:
    try:
        async with contextlib.aclosing(frames):
            async for frame in frames:
                await websocket.send_text(orjson.dumps(frame).decode())
    except (Overflown, DatabaseUnavailable):
        code = TRY_AGAIN_LATER
    await websocket.close(code)


async def _hear(websocket: WebSocket) -> None:
    """Until the client goes; what it says is left alone."""
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
        while True:
            await websocket.receive()


async def _lines(frames: AsyncGenerator[tuple[str | None, Shape | bytes | None]]) -> AsyncIterator[bytes]:
    """`id:` and `data:` lines only: named events would be missed by `EventSource.onmessage`."""
    yield b"retry: %d\n" % RETRY_MS
    with contextlib.suppress(Overflown, DatabaseUnavailable):  # the end of the stream: its reader comes back
        async with contextlib.aclosing(frames):
            async for cursor, shape in frames:
                mark = b"" if cursor is None else b"id: %b\n" % cursor.encode()
                if shape is None:
                    yield mark + b"\n"
                else:
                    said = shape if isinstance(shape, bytes) else encoded(shape)
                    yield b"%bdata: %b\n\n" % (mark, said)
