"""The smallest HTTP/1.1 client that can load a server from the same two cores without being the bottleneck itself.

One keep-alive connection, one request at a time; answers must carry Content-Length, as ours do. Loopback only.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator


class Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int) -> Connection:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def request(self, head: bytes, body: bytes) -> tuple[int, bytes]:
        """Send a request (`head` without Content-Length and the empty line) and read its answer."""
        self._writer.write(b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body))
        answer = await self._reader.readuntil(b"\r\n\r\n")
        status = int(answer[9:12])
        at = answer.lower().index(b"content-length:") + 15
        return status, await self._reader.readexactly(int(answer[at : answer.index(b"\r", at)]))

    def close(self) -> None:
        self._writer.close()


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
        for _ in left:
            began = time.perf_counter()
            status, answer = await connection.request(head, body())
            took.append(time.perf_counter() - began)
            if status != expect:
                raise RuntimeError(f"{status}: {answer[:300]!r}")
        connection.close()

    await asyncio.gather(*[one() for _ in range(connections)])
    return took


def for_seconds(seconds: float) -> Iterator[None]:
    """Items until the time is over, from the first on."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        yield
