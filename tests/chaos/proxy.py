"""A TCP proxy whose way can be made bad while it is used: between server and database, node and server, caller and
server, server and receiver.

    proxy = Proxy(to="/run/postgresql/.s.PGSQL.5432")     or a pair of host and port
    proxy.weather = Weather(latency_seconds=0.2)           what holds for every connection from here on
    proxy.weather = Weather(hold=frozenset({Way.DOWN}))    answers are kept back; they arrive when it clears up
    proxy.forget()                                         the connections of now stay silent for ever: half-open
    proxy.cut()                                            all of them are reset
    proxy.double = re.compile("POST /api/v1/execute/")     such requests arrive twice, byte by byte

As on a real network what is kept back is not lost: TCP sends it again. What is lost for ever is a connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Self

READ_BYTES = 65_536
ECHO_SECONDS = 120.0
"""How long the second answer of a doubled request is waited for."""
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with no time: closing sends RST instead of FIN."""
HEAD_END = b"\r\n\r\n"
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Way(StrEnum):
    """UP: what the one who connected says. DOWN: what is answered."""

    UP = "up"
    DOWN = "down"


BOTH = frozenset(Way)


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """How bytes travel. `hold`: the ways on which none arrives until it clears up, not even the end."""

    latency_seconds: float = 0.0
    slice_bytes: int = READ_BYTES
    bytes_per_second: float = math.inf
    hold: frozenset[Way] = frozenset()


FINE = Weather()


class Proxy:
    """Listens on a port of its own, which it keeps, and passes every connection on to one place."""

    def __init__(self, to: str | tuple[str, int]) -> None:
        self.to = to
        self.port = 0
        self.double: re.Pattern[str] | None = None
        self.echoes: list[bytes] = []
        """The answers to the second of the doubled requests, whole."""
        self.connected = 0
        """Connections that were ever passed on."""
        self._weather = FINE
        self._changed = asyncio.Event()
        self._links: set[_Link] = set()
        self._echoing: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def links(self) -> int:
        """Connections that are open now."""
        return len(self._links)

    @property
    def weather(self) -> Weather:
        return self._weather

    @weather.setter
    def weather(self, weather: Weather) -> None:
        self._weather = weather
        self._wake()

    def forget(self) -> None:
        """The connections of now hear nothing more and are not closed; new ones are passed on. A lost NAT entry."""
        for link in self._links:
            link.forgotten = True

    def cut(self) -> None:
        """Reset every connection, both of its sides."""
        for link in list(self._links):
            link.reset()

    async def listen(self) -> None:
        """Take connections, at the port of before."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Reset what is there, and let nobody connect until `listen`."""
        if self._server is not None:
            self._server.close()
        self.cut()
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None

    async def settle(self) -> None:
        """Wait for the second answers of what was doubled."""
        while self._echoing:
            await asyncio.gather(*self._echoing)

    async def stop(self) -> None:
        await self.refuse()
        tasks = [*self._echoing, *(task for link in self._links for task in link.tasks)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there = await self._dial()
        except OSError:
            _reset(writer)
            return
        link = _Link(reader, writer, *there)
        self._links.add(link)
        self.connected += 1
        link.tasks = [
            asyncio.create_task(self._pass_on(link, Way.UP, link.near_reader, link.far_writer)),
            asyncio.create_task(self._pass_on(link, Way.DOWN, link.far_reader, link.near_writer)),
        ]
        try:
            await asyncio.wait(link.tasks)
        finally:
            link.close()
            self._links.discard(link)

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self.to, str):
            return await asyncio.open_unix_connection(self.to)
        return await asyncio.open_connection(*self.to)

    async def _pass_on(self, link: _Link, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests = _Requests()
        with contextlib.suppress(OSError):
            while data := await reader.read(READ_BYTES):
                if way is Way.UP and self.double is not None:
                    for request in requests.feed(data):
                        self._double(request, self.double)
                for piece in self._pieces(data):
                    await self._passage(link, way)
                    await asyncio.sleep(self._weather.latency_seconds + len(piece) / self._weather.bytes_per_second)
                    writer.write(piece)
                    await writer.drain()
            await self._passage(link, way)
            writer.write_eof()
            return
        link.reset()  # as one side was reset, so is the other

    def _pieces(self, data: bytes) -> Iterator[bytes]:
        at = 0
        while at < len(data):
            size = self._weather.slice_bytes
            yield data[at : at + size]
            at += size

    async def _passage(self, link: _Link, way: Way) -> None:
        while link.forgotten or way in self._weather.hold:
            await self._changed.wait()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _double(self, request: bytes, which: re.Pattern[str]) -> None:
        if which.match(request.split(b"\r\n", 1)[0].decode("latin-1")):
            task = asyncio.create_task(self._echo(request))
            self._echoing.add(task)
            task.add_done_callback(self._echoing.discard)

    async def _echo(self, request: bytes) -> None:
        reader, writer = await self._dial()
        try:
            async with asyncio.timeout(ECHO_SECONDS):
                writer.write(request)
                self.echoes.append(await _whole(reader))
        finally:
            writer.close()


class _Link:
    """One connection: to the one who connected (near) and to where it is passed on (far)."""

    def __init__(
        self,
        near_reader: asyncio.StreamReader,
        near_writer: asyncio.StreamWriter,
        far_reader: asyncio.StreamReader,
        far_writer: asyncio.StreamWriter,
    ) -> None:
        self.near_reader, self.near_writer = near_reader, near_writer
        self.far_reader, self.far_writer = far_reader, far_writer
        self.forgotten = False
        self.tasks: list[asyncio.Task[None]] = []
        for writer in (near_writer, far_writer):
            plug = writer.get_extra_info("socket")
            if plug.family != socket.AF_UNIX:
                plug.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def reset(self) -> None:
        for task in self.tasks:
            task.cancel()
        _reset(self.near_writer)
        _reset(self.far_writer)

    def close(self) -> None:
        self.near_writer.close()
        self.far_writer.close()


class _Requests:
    """Finds the requests in a stream of HTTP/1.1 whose bodies say their length."""

    def __init__(self) -> None:
        self._kept = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Those that are whole by now."""
        self._kept += data
        while size := _size(self._kept):
            yield self._kept[:size]
            self._kept = self._kept[size:]


def _size(data: bytes) -> int:
    """Of the message that these bytes begin with, once it is there whole; else 0."""
    head = data.find(HEAD_END)
    if head < 0:
        return 0
    length = LENGTH.search(data[:head])
    size = head + len(HEAD_END) + (int(length[1]) if length else 0)
    return size if len(data) >= size else 0


async def _whole(reader: asyncio.StreamReader) -> bytes:
    """One message, or what there is of it until the end."""
    data = b""
    while not _size(data) and (more := await reader.read(READ_BYTES)):
        data += more
    return data


def _reset(writer: asyncio.StreamWriter) -> None:
    plug = writer.get_extra_info("socket")
    if plug is not None and plug.family != socket.AF_UNIX:
        with contextlib.suppress(OSError):
            plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()
