"""The front of a run without a proxy: a connection goes to the next server that takes it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Sequence

from tests.e2e.processes import free_port

CHUNK_BYTES = 65_536
HOST = "127.0.0.1"


class Forwarder:
    """Spreads connections over the servers that are there. One that is lost on the way is lost for both ends."""

    def __init__(self) -> None:
        self._port = free_port()
        self._turns = itertools.count()
        self._ports: Sequence[int] = ()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self._port}"

    async def start(self, ports: Sequence[int]) -> None:
        self._ports = ports
        self._server = await asyncio.start_server(self._forward, HOST, self._port)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        found = await self._open()
        if found is None:
            writer.transport.abort()
            return
        there, back = found
        await asyncio.gather(_pump(reader, back), _pump(there, writer))

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        first = next(self._turns) % len(self._ports)
        for port in (*self._ports[first:], *self._ports[:first]):
            with contextlib.suppress(OSError):
                return await asyncio.open_connection(HOST, port)
        return None


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()
