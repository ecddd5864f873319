"""HTTP/1.1 byte by byte: what no well-behaved client would send, and many requests at once without its cost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

HEAD_MAX = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Ask:
    """One request, verbatim. `what` says in a failure which it was; `headers` are lines without their end."""

    method: str
    path: str
    body: bytes = b""
    headers: Sequence[bytes] = ()
    what: str = ""
    host: bytes | None = b"Host: 127.0.0.1"
    length: bool = True

    def raw(self) -> bytes:
        lines = [f"{self.method} {self.path} HTTP/1.1".encode("latin-1", "surrogateescape")]
        if self.host is not None:
            lines.append(self.host)
        if self.length and (self.body or self.method == "POST"):
            lines.append(b"Content-Length: %d" % len(self.body))
        return b"\r\n".join([*lines, *self.headers, b"", self.body])


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer; `body` is None for a stream without an end, of which only the head was read."""

    status: int
    headers: dict[str, str]
    body: bytes | None
    seconds: float

    @property
    def refused_as_http(self) -> bool:
        """Whether it was no request at all, or no handshake, so that no route ever saw it."""
        body = self.body or b""
        return self.status in (400, 405, 431) and (
            any(code in body for code in (b'"code":"not_http"', b'"code":"head_too_large"'))
            or body.startswith(b"Failed to open a WebSoc")
        )


class Connection:
    """A kept-alive connection that is opened again when the server has closed it."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, ask: Ask) -> Reply:
        return await self.send(ask.raw(), head_only=ask.method == "HEAD")

    async def send(self, raw: bytes, *, head_only: bool = False) -> Reply:
        fresh = self._streams is None
        try:
            return await self._exchange(raw, head_only)
        except (ConnectionError, asyncio.IncompleteReadError):
            self.close()
            if fresh:
                raise
            return await self._exchange(raw, head_only)  # the kept connection had been closed meanwhile

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def _exchange(self, raw: bytes, head_only: bool) -> Reply:
        began = time.monotonic()
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._address, limit=HEAD_MAX)
        reader, writer = self._streams
        # An answer may come before a large body has gone out: it is read meanwhile, and the rest is not sent.
        sending = asyncio.ensure_future(_send(writer, raw))
        try:
            status, headers = await _read_head(reader)
            body = b"" if head_only or status in (204, 304) else await _read_body(reader, headers)
        finally:
            late = not sending.done()
            sending.cancel()
        if body is None or late or headers.get("connection") == "close":
            self.close()
        return Reply(status, headers, body, time.monotonic() - began)


async def _send(writer: asyncio.StreamWriter, raw: bytes) -> None:
    try:
        writer.write(raw)
        await writer.drain()
    except ConnectionError:
        return  # whether that was an answer is for the reading side to say


async def read_reply(reader: asyncio.StreamReader) -> Reply:
    """The next answer on this connection."""
    began = time.monotonic()
    status, headers = await _read_head(reader)
    body = b"" if status in (204, 304) else await _read_body(reader, headers)
    return Reply(status, headers, body, time.monotonic() - began)


async def _read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    while True:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *fields = head[:-4].split("\r\n")
        status = int(line.split(" ")[1])
        if status >= 200:
            return status, {name.lower(): value for name, _, value in (each.partition(": ") for each in fields)}


async def _read_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes | None:
    if headers.get("content-type", "").startswith("text/event-stream"):
        return None
    if headers.get("transfer-encoding") == "chunked":
        chunks = []
        while size := int((await reader.readuntil(b"\r\n"))[:-2], 16):
            chunks.append((await reader.readexactly(size + 2))[:-2])
        await reader.readexactly(2)
        return b"".join(chunks)
    return await reader.readexactly(int(headers.get("content-length", "0")))


async def ask_all(
    host: str, port: int, asks: Iterable[Ask], *, connections: int = 12, deadline_seconds: float
) -> AsyncIterator[tuple[Ask, Reply]]:
    """Every request with its answer, on so many connections at once. Raises when one is not answered in time."""
    todo = iter(asks)
    done: asyncio.Queue[tuple[Ask, Reply] | None] = asyncio.Queue(connections * 4)

    async def work() -> None:
        connection = Connection(host, port)
        try:
            for ask in todo:
                try:
                    async with asyncio.timeout(deadline_seconds):
                        reply = await connection.ask(ask)
                except (TimeoutError, ConnectionError, asyncio.IncompleteReadError) as error:
                    raise AssertionError(f"no answer to {ask.what}: {error!r}; {ask.raw()[:300]!r}") from error
                await done.put((ask, reply))
        finally:
            connection.close()

    async def run() -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(connections):
                    group.create_task(work())
        finally:
            await done.put(None)

    running = asyncio.create_task(run())
    try:
        while (found := await done.get()) is not None:
            yield found
        await running
    finally:
        running.cancel()


@asynccontextmanager
async def connected(host: str, port: int) -> AsyncIterator[Connection]:
    connection = Connection(host, port)
    try:
        yield connection
    finally:
        connection.close()
