"""What this server does not want to read yet is not held against who sends it."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from controlplane.settings import Settings
from controlplane.wire.protocol import Protocol
from tests.integration.api.serving import DEADLINE_SECONDS

LIMITS = Settings(head_seconds=0.1, body_seconds=0.5).wire
WAIT_SECONDS = 2.5
BODY = b"x" * 4_000_000


async def slow(scope: Any, receive: Any, send: Any) -> None:
    """Reads only when its time has come."""
    await asyncio.sleep(WAIT_SECONDS)
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"7")]})
    await send({"type": "http.response.body", "body": b"%d" % size})


async def test_a_body_that_is_not_read_is_not_late() -> None:
    """It waits longer in front of our door than a body may take, and arrives whole."""
    config = uvicorn.Config(slow, lifespan="off", log_config=None)
    protocol = partial(Protocol, config, ServerState(), {}, limits=LIMITS)
    async with await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0) as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY)
        async with asyncio.timeout(DEADLINE_SECONDS):
            answer = await reader.readuntil(b"4000000")
        writer.transport.abort()

    assert answer.startswith(b"HTTP/1.1 200")
