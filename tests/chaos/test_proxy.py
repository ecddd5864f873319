"""The proxy does what it says, before anything is concluded from what happens behind it."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from tests.chaos.patience import until
from tests.chaos.proxy import BOTH, FINE, Proxy, Way, Weather

SOON_SECONDS = 0.3
REQUEST = b"POST /submit HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"


class Echo:
    """Answers every piece with itself, and keeps the pieces."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while piece := await reader.read(65_536):
                self.heard.append(piece)
                writer.write(piece)
                await writer.drain()
        except OSError:
            self.heard.append(b"reset")
        finally:
            writer.transport.abort()


class Caller:
    """One connection through the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def say(self, words: bytes) -> None:
        self.writer.write(words)

    async def hear(self, size: int) -> bytes:
        async with asyncio.timeout(10):
            return await self.reader.readexactly(size)

    async def hears_nothing(self) -> bool:
        try:
            async with asyncio.timeout(SOON_SECONDS):
                await self.reader.read(1)
        except TimeoutError:
            return True
        return False


Call = Callable[[], Awaitable[Caller]]


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    """The place behind the proxy."""
    place = Echo()
    server = await asyncio.start_server(place.serve, "127.0.0.1", 0)
    place.port = server.sockets[0].getsockname()[1]
    yield place
    server.close()


@pytest.fixture
async def proxy(echo: Echo) -> AsyncIterator[Proxy]:
    """A proxy in fine weather."""
    async with Proxy(("127.0.0.1", echo.port)) as proxy:
        yield proxy


@pytest.fixture
async def call(proxy: Proxy) -> AsyncIterator[Call]:
    """Connects through the proxy; what is still open in the end is closed."""
    callers: list[Caller] = []

    async def connect() -> Caller:
        callers.append(Caller(*await asyncio.open_connection("127.0.0.1", proxy.port)))
        return callers[-1]

    yield connect
    for caller in callers:
        caller.writer.transport.abort()
    await asyncio.sleep(0)


async def test_in_fine_weather_all_arrives(call: Call) -> None:
    """A megabyte comes back as it was sent, and the end of it too."""
    caller = await call()
    words = bytes(range(256)) * 4_096
    caller.say(words)
    assert await caller.hear(len(words)) == words
    caller.writer.write_eof()

    assert await caller.reader.read() == b""


async def test_latency(proxy: Proxy, call: Call) -> None:
    """Each way takes as long as it is told."""
    proxy.weather = Weather(latency_seconds=0.1)
    caller = await call()
    began = time.monotonic()
    caller.say(b"word")
    await caller.hear(4)

    assert time.monotonic() - began >= 0.2


async def test_bandwidth(proxy: Proxy, call: Call) -> None:
    """Bytes take their time."""
    proxy.weather = Weather(bytes_per_second=20_000)
    caller = await call()
    began = time.monotonic()
    caller.say(bytes(2_000))
    await caller.hear(2_000)

    assert time.monotonic() - began >= 0.2


async def test_slices(echo: Echo, proxy: Proxy, call: Call) -> None:
    """What was said at once arrives piece by piece, whole."""
    proxy.weather = Weather(slice_bytes=1, latency_seconds=0.005)
    caller = await call()
    caller.say(b"words")

    assert await caller.hear(5) == b"words"
    assert len(echo.heard) > 1


@pytest.mark.parametrize("way", Way)
async def test_what_is_kept_back_arrives_when_it_clears_up(echo: Echo, proxy: Proxy, call: Call, way: Way) -> None:
    """One way: the other still works, and nothing is lost."""
    caller = await call()
    caller.say(b"one")
    await caller.hear(3)
    proxy.weather = Weather(hold=frozenset({way}))
    caller.say(b"two")
    assert await caller.hears_nothing()
    assert (echo.heard == [b"one", b"two"]) is (way is Way.DOWN)
    proxy.weather = FINE

    assert await caller.hear(3) == b"two"


async def test_a_forgotten_connection_stays_silent(proxy: Proxy, call: Call) -> None:
    """Half-open: it is never closed and hears nothing, while a new one works."""
    caller = await call()
    caller.say(b"one")
    await caller.hear(3)
    proxy.forget()
    caller.say(b"two")
    other = await call()
    other.say(b"three")

    assert await other.hear(5) == b"three"
    assert await caller.hears_nothing()
    assert proxy.links == 2


async def test_a_cut_resets_both_sides(echo: Echo, proxy: Proxy, call: Call) -> None:
    """RST, no orderly end: on this side and on the other."""
    caller = await call()
    caller.say(b"one")
    await caller.hear(3)
    proxy.cut()

    with pytest.raises(ConnectionResetError):
        await caller.hear(1)
    await until("the other side to be reset", lambda: _last(echo, b"reset"), seconds=5)


async def _last(echo: Echo, words: bytes) -> bool:
    return echo.heard[-1] == words


async def test_held_connections_can_be_cut(proxy: Proxy, call: Call) -> None:
    """The end of a hold may be the end of the connection: its answer never comes."""
    caller = await call()
    caller.say(b"one")
    await caller.hear(3)
    proxy.weather = Weather(hold=BOTH)
    caller.say(b"two")
    assert await caller.hears_nothing()
    proxy.cut()

    with pytest.raises(ConnectionResetError):
        await caller.hear(1)


async def test_refusing_and_listening_again_at_the_same_port(proxy: Proxy, call: Call) -> None:
    """Nobody connects while it refuses; afterwards the address is what it was."""
    await proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        await call()
    await proxy.listen()
    caller = await call()
    caller.say(b"one")

    assert await caller.hear(3) == b"one"


async def test_a_request_is_doubled_byte_by_byte(echo: Echo, proxy: Proxy, call: Call) -> None:
    """Those that are named arrive twice, even when they come in pieces; the caller hears one answer."""
    proxy.double = re.compile("POST /submit ")
    caller = await call()
    other = REQUEST.replace(b"submit", b"others")
    caller.say(REQUEST[:20])
    await asyncio.sleep(0.05)  # so that it comes in two pieces
    caller.say(REQUEST[20:] + other)
    heard = await caller.hear(len(REQUEST + other))
    await proxy.settle()

    assert heard == REQUEST + other
    assert proxy.echoes == [REQUEST]
