"""What leaves: head and body as they were said, in one piece where they can be, and nothing that ends a head early."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from controlplane.wire.limits import WireLimits
from controlplane.wire.protocol import Protocol

Field = tuple[bytes, bytes]
LIMITS = WireLimits(
    head_seconds=10.0,
    head_bytes_max=1_000,
    body_seconds=10.0,
    body_bytes_per_second_min=1,
    stalled_seconds=10.0,
    connections_max=10,
    message_bytes_max=1_000,
)
ASK = b"%b / HTTP/1.1\r\nHost: localhost\r\n\r\n"


def saying(fields: Sequence[Field], *bodies: bytes) -> Any:
    """An application that answers so, its body in these pieces."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": list(fields)})
        for n, body in enumerate(bodies, 1):
            await send({"type": "http.response.body", "body": body, "more_body": n < len(bodies)})

    return app


@contextlib.asynccontextmanager
async def asked(app: Any, *, method: bytes = b"GET") -> AsyncIterator[asyncio.StreamReader]:
    """The way back of a connection that has asked this application once."""
    config = uvicorn.Config(app, lifespan="off", access_log=False, server_header=False, date_header=False)
    config.load()
    state = ServerState()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Protocol(config, state, {}, limits=LIMITS), host="127.0.0.1", port=0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(ASK % method)
    try:
        yield reader
    finally:
        writer.close()
        server.close()


def length(size: int) -> Field:
    return b"content-length", b"%d" % size


@pytest.mark.parametrize("bodies", [(b"one", b"two"), (b"onetwo",), (b"", b"onetwo"), (b"onetwo", b"")])
async def test_a_body_in_pieces(bodies: tuple[bytes, ...]) -> None:
    """However it is cut, the same bytes arrive behind the head, and the connection is kept."""
    async with asked(saying([length(6), (b"x-a", b"b c")], *bodies)) as reader:
        whole = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\nx-a: b c\r\n\r\nonetwo"

        assert await reader.readexactly(len(whole)) == whole
        assert not reader.at_eof()


async def test_a_head_without_a_body() -> None:
    """HEAD: the length of what is not sent."""
    async with asked(saying([length(6)], b""), method=b"HEAD") as reader:
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n"
        assert not reader.at_eof()


@pytest.mark.parametrize("field", [(b"x-a", b"b\r\nset-cookie: c"), (b"x-a: b\r\nx", b"c"), (b"x-a", b"b\x00")])
async def test_a_field_that_holds_another_is_not_sent(field: Field) -> None:
    """Whatever a value was made of: it cannot end the head."""
    async with asked(saying([length(2), field], b"{}")) as reader:
        said = await reader.read()

    assert b"set-cookie" not in said
    assert b"x-a" not in said


@pytest.mark.parametrize("bodies", [(b"too long",), (b"b",), (b"to", b"o long")])
async def test_a_length_that_is_not_true_ends_the_connection(bodies: tuple[bytes, ...]) -> None:
    """Nobody takes the rest for the next answer."""
    async with asked(saying([length(2)], *bodies)) as reader:
        assert (await reader.read()).count(b"HTTP/1.1") <= 1


@pytest.mark.parametrize(
    ("field", "ends"), [((b"connection", b"close"), b"\r\n\r\nok"), ((b"transfer-encoding", b"chunked"), b"0\r\n\r\n")]
)
async def test_what_is_not_plain(field: Field, ends: bytes) -> None:
    """A last answer, and one whose length nobody knows."""
    fields = [field] if field[0] == b"transfer-encoding" else [length(2), field]
    async with asked(saying(fields, b"ok")) as reader:
        assert (await reader.readuntil(ends)).endswith(ends)
