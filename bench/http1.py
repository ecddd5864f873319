"""The smallest HTTP/1.1 client that can load a server from the same two cores without being the bottleneck itself.

One keep-alive connection, one request at a time; answers must carry Content-Length, as ours do. Loopback only. No
streams: reading an answer through them takes longer than some of the servers take to give it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from typing import cast


class Connection(asyncio.Protocol):
    """`came`: when the answer to the last request was here, by this machine's clock."""

    def __init__(self) -> None:
        self.came = 0.0
        self._seen = b""
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    @classmethod
    async def open(cls, port: int) -> Connection:
        _, connection = await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", port)
        return connection

    async def request(self, head: bytes, body: bytes) -> tuple[int, bytes]:
        """Send a request (`head` without Content-Length and the empty line) and read its answer."""
        if self._transport.is_closing():  # while nobody waited for an answer, who would have been told
            raise ConnectionResetError("it was closed before the request")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body))
        return await self._answer

    def close(self) -> None:
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._seen += data
        head, found, body = self._seen.partition(b"\r\n\r\n")
        if not found:
            return
        at = head.lower().index(b"content-length:") + 15
        end = head.find(b"\r", at)
        if len(body) < int(head[at : end if end > 0 else None]):
            return
        self.came, self._seen = time.time(), b""
        if self._answer is not None and not self._answer.done():
            self._answer.set_result((int(head[9:12]), body))

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error or ConnectionResetError("it was closed before an answer came"))


def post(path: str) -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n".encode()


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n".encode()


async def load(
    port: int,
    head: bytes,
    body: Callable[[], bytes],
    *,
    connections: int,
    requests: int | Iterator[object],
    expect: int,
) -> list[float]:
    """Send so many requests over so many connections; the seconds that each took. Raises on any other status.

    `requests` may be an iterator, too: one request for each of its items, such as `for_seconds` gives.
    """
    left = iter(range(requests)) if isinstance(requests, int) else requests
    took: list[float] = []

    async def one() -> None:
        connection = await Connection.open(port)
        with contextlib.closing(connection):
            for _ in left:
                began = time.perf_counter()
                status, answer = await connection.request(head, body())
                took.append(time.perf_counter() - began)
                if status != expect:
                    raise RuntimeError(f"{status}: {answer[:300]!r}")

    await asyncio.gather(*[one() for _ in range(connections)])
    return took


def for_seconds(seconds: float) -> Iterator[None]:
    """Items until the time is over, from the first on."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        yield
