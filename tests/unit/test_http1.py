"""The client that loads the server in the benches: it must neither mistake one answer for another nor wait for ever."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from bench.http1 import Connection, load, post

ANSWER = b"HTTP/1.1 202 Accepted\r\nContent-Type: text/plain\r\ncontent-length: 5\r\n\r\nhello"
DEADLINE_SECONDS = 20


@contextlib.asynccontextmanager
async def answering(*pieces: bytes) -> AsyncIterator[int]:
    """The port of a server that answers each request with these pieces, one after the other, and closes without any."""

    talks: list[asyncio.Task[None] | None] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talks.append(asyncio.current_task())
        with contextlib.suppress(asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n") and pieces:
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
        await asyncio.gather(*filter(None, talks))


@pytest.mark.parametrize("cut", [1, 25, len(ANSWER) - 6, len(ANSWER) - 1, len(ANSWER)])
async def test_an_answer_is_whole_before_it_is_one(cut: int) -> None:
    """Wherever the network parts it."""
    async with answering(ANSWER[:cut], ANSWER[cut:]) as port:
        connection = await Connection.open(port)
        for _ in range(2):
            assert await connection.request(post("/x"), b"") == (202, b"hello")
        connection.close()


async def test_whoever_closes_answers_nothing() -> None:
    """The bench ends with that, and does not wait."""
    async with answering() as port:
        connection = await Connection.open(port)
        for _ in range(2):  # who asks again waits no longer
            async with asyncio.timeout(DEADLINE_SECONDS):
                with pytest.raises(ConnectionError):
                    await connection.request(post("/x"), b"")


async def test_another_status_ends_the_load() -> None:
    """A rate of refusals is no rate."""
    async with answering(ANSWER) as port:
        with pytest.raises(RuntimeError, match="202: b'hello'"):
            await load(port, post("/x"), bytes, connections=1, requests=3, expect=200)
