"""The guard below the application, byte by byte: what is late, large, ambiguous or too much is cut, and nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import AsyncIterator

import orjson
import pytest

from tests.integration.api.rawhttp import Ask, Reply, connected, read_reply
from tests.integration.api.serving import DEADLINE_SECONDS, Apart, Api, until

HEAD_SECONDS = 0.6
BODY_SECONDS = 4.0
RATE_MIN = 100
HEAD_MAX = 4_096
CONNECTIONS_MAX = 40
HOUSE = {
    "head_seconds": HEAD_SECONDS,
    "head_bytes_max": HEAD_MAX,
    "body_seconds": BODY_SECONDS,
    "body_bytes_per_second_min": RATE_MIN,
    "reader_stalled_seconds": 0.5,
    "connections_max": CONNECTIONS_MAX,
}
DRIP_SECONDS = 0.05
GET = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /api/v1/memory/set HTTP/1.1\r\nHost: localhost\r\n"
SET = b'{"key":"wire","data":1}'
WHOLE = POST + b"Content-Length: %d\r\n\r\n" % len(SET) + SET
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


class Line:
    """A connection on which bytes are sent as they are."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def say(self, raw: bytes) -> None:
        self.writer.write(raw)
        with contextlib.suppress(ConnectionError):
            await self.writer.drain()

    async def hear(self) -> Reply:
        async with asyncio.timeout(DEADLINE_SECONDS):
            return await read_reply(self.reader)

    async def closed(self) -> bytes:
        """What else comes until the server closes."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            with contextlib.suppress(ConnectionError):
                return await self.reader.read()
        return b""

    async def drip(self, raw: bytes, *, seconds: float = DRIP_SECONDS) -> None:
        """Byte by byte until the server has had enough."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            for n in range(len(raw)):
                if self.reader.at_eof() or self.writer.is_closing() or self.reader._buffer:  # type: ignore[attr-defined]
                    return
                await self.say(raw[n : n + 1])
                await asyncio.sleep(seconds)


@contextlib.asynccontextmanager
async def line_to(house: Apart) -> AsyncIterator[Line]:
    reader, writer = await asyncio.open_connection(house.host, house.port)
    try:
        yield Line(reader, writer)
    finally:
        writer.transport.abort()


def code_of(reply: Reply) -> tuple[int, str]:
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.headers["x-content-type-options"] == "nosniff"
    return reply.status, orjson.loads(reply.body or b"")["code"]


async def test_a_head_that_drips_is_cut(house: Apart) -> None:
    """408 and a closed connection, at its deadline, however lively it drips."""
    async with line_to(house) as line:
        await line.say(GET)
        await line.drip(b"X: " + b"a" * 1_000)
        reply = await line.hear()

        assert code_of(reply) == (408, "too_slow")
        assert await line.closed() == b""


async def test_an_upload_that_drips_is_cut(house: Apart) -> None:
    """A body slower than the least rate does not get its whole time; the route hears that nothing more comes."""
    async with line_to(house) as line:
        began = time.monotonic()
        await line.say(POST + b"Content-Length: 1000\r\n\r\n")
        await line.drip(b" " * 1_000)
        reply = await line.hear()

        assert code_of(reply) == (408, "too_slow")
        assert reply.headers["connection"] == "close"
        assert HEAD_SECONDS <= time.monotonic() - began < BODY_SECONDS
        assert await line.closed() == b""


async def test_a_chunked_upload_has_an_end(house: Apart) -> None:
    """Fast enough, but longer than any body may take."""
    async with line_to(house) as line:
        await line.say(CHUNKED)
        began = time.monotonic()
        while not line.reader._buffer and time.monotonic() - began < DEADLINE_SECONDS:  # type: ignore[attr-defined]
            await line.say(b"64\r\n" + b" " * 100 + b"\r\n")
            await asyncio.sleep(DRIP_SECONDS)

        assert code_of(await line.hear()) == (408, "too_slow")
        assert time.monotonic() - began >= BODY_SECONDS


@pytest.mark.parametrize("raw", [b"", b"\r\n"], ids=["nothing", "empty lines"])
async def test_a_connection_that_asks_nothing_is_closed(house: Apart, raw: bytes) -> None:
    """Without a word, as nothing was asked; empty lines do not keep it open."""
    async with line_to(house) as line:
        await line.drip(raw * 100)

        assert await line.closed() == b""


async def test_a_kept_connection_is_not_hurried(house: Apart) -> None:
    """Between two requests there is no head to wait for, and the time of one is not counted to the next."""
    async with line_to(house) as line:
        for _ in range(3):
            await line.say(GET + b"\r\n")
            assert (await line.hear()).status == 200
            await asyncio.sleep(HEAD_SECONDS * 0.6)
            await line.say(GET)
            await asyncio.sleep(HEAD_SECONDS * 0.6)
            await line.say(b"\r\n")
            assert (await line.hear()).status == 200


async def test_a_long_poll_is_not_cut(house: Apart, shared: Api) -> None:
    """Who has asked may wait longer than a request may take to arrive."""
    await shared.register("waits", "x")
    session = await shared.open_session("waits")

    assert await shared.lease(session, wait_seconds=BODY_SECONDS + 1) == []


async def test_drips_do_not_hold_up_others(house: Apart) -> None:
    """Half of all connections drip; a request beside them is answered at once."""
    async with contextlib.AsyncExitStack() as stack:
        lines = [await stack.enter_async_context(line_to(house)) for _ in range(CONNECTIONS_MAX // 2)]
        drips = [asyncio.create_task(line.drip(WHOLE)) for line in lines]
        async with connected(house.host, house.port) as other:
            took = sorted([(await other.ask(Ask("GET", "/livez"))).seconds for _ in range(100)])
        for drip in drips:
            drip.cancel()

    assert took[50] < HEAD_SECONDS


@pytest.mark.parametrize(
    "head",
    [
        b"X: " + b"a" * HEAD_MAX,
        b"".join(b"X-%d: %b\r\n" % (n, b"a" * 400) for n in range(11))[:-2],
        b"".join(b"X-%d: a\r\n" % n for n in range(101))[:-2],
    ],
    ids=["a long field", "long together", "many fields"],
)
async def test_a_head_that_is_too_large(house: Apart, head: bytes) -> None:
    """431, whether it comes in one piece or in many."""
    for size in (len(head), 100):
        async with line_to(house) as line:
            await line.say(GET)
            for at in range(0, len(head), size):
                await line.say(head[at : at + size])
            await line.say(b"\r\n\r\n")

            assert code_of(await line.hear()) == (431, "head_too_large")


async def test_a_head_without_an_end_is_not_kept(house: Apart) -> None:
    """A field is refused before it ends: the parser would keep it in memory until then."""
    for start in (b"GET /", GET, GET + b"X: ", CHUNKED + b"0\r\nX: ", CHUNKED + b"1;"):
        async with line_to(house) as line:
            await line.say(start)
            began = time.monotonic()
            while not line.reader._buffer and not line.reader.at_eof():  # type: ignore[attr-defined]
                await line.say(b"a" * 1_000)
                await asyncio.sleep(0)

            assert code_of(await line.hear()) == (431, "head_too_large")
            assert time.monotonic() - began < HEAD_SECONDS  # not because it took so long


REFUSED = {
    "length and chunks": POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    "two lengths": POST + b"Content-Length: 23\r\nContent-Length: 5\r\n\r\n" + SET,
    "the same length twice": POST + b"Content-Length: 23\r\nContent-Length: 23\r\n\r\n" + SET,
    "a list of lengths": POST + b"Content-Length: 23, 23\r\n\r\n" + SET,
    "a signed length": POST + b"Content-Length: +23\r\n\r\n" + SET,
    "a packed body": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked twice": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "no coding at all": POST + b"Transfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "chunks before they were there": CHUNKED.replace(b"1.1", b"1.0") + b"0\r\n\r\n",
    "a folded field": GET + b"X: a\r\n b\r\n\r\n",
    "a folded coding": POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "bare LF": GET.replace(b"\r\n", b"\n") + b"\n",
    "bare LF behind a field": GET + b"X: a\nY: b\r\n\r\n",
    "bare CR": GET + b"X: a\rY: b\r\n\r\n",
    "bare LF in chunks": CHUNKED + b"3\nabc\n0\n\n",
    "a space before the colon": GET + b"X : a\r\n\r\n",
    "a space before the first field": b"GET /livez HTTP/1.1\r\n Host: localhost\r\n\r\n",
    "no colon": GET + b"X\r\n\r\n",
    "NUL in a name": GET + b"X\x00: a\r\n\r\n",
    "NUL in a value": GET + b"X: a\x00\r\n\r\n",
    "no host": b"GET /livez HTTP/1.1\r\n\r\n",
    "two hosts": GET + b"Host: evil.example\r\n\r\n",
    "an endless chunk": CHUNKED + b"fffffffffffffffff\r\n",
    "a tunnel": b"CONNECT localhost:22 HTTP/1.1\r\nHost: localhost\r\n\r\n",
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_two_servers_might_read_in_two_ways(house: Apart, name: str) -> None:
    """400 and a closed connection: what stands behind it is never taken for a request."""
    async with line_to(house) as line:
        await line.say(REFUSED[name] + WHOLE)
        reply = await line.hear()

        assert code_of(reply) == (400, "not_http")
        assert await line.closed() == b""


async def test_a_trailer_is_not_a_header(house: Apart) -> None:
    """It comes when the gate has long been passed: nothing of it is believed."""
    async with line_to(house) as line:
        body = b"%x\r\n%b\r\n0\r\nX-Request-ID: from-a-trailer\r\n\r\n" % (len(SET), SET)
        await line.say(CHUNKED + body)
        reply = await line.hear()

    assert reply.status == 200
    assert reply.headers["x-request-id"] != "from-a-trailer"


async def test_rubbish_behind_a_request_waits_for_its_answer(house: Apart) -> None:
    """The answer that is owed comes whole, then the connection ends."""
    async with line_to(house) as line:
        await line.say(WHOLE + b"\x00\x01\x02\r\n\r\n")
        reply = await line.hear()

        assert reply.status == 200
        assert await line.closed() == b""


async def test_an_upgrade_that_is_not_taken_ends_the_connection(house: Apart) -> None:
    """What comes behind it may be another protocol."""
    async with line_to(house) as line:
        await line.say(GET + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n" + WHOLE)

        assert (await line.hear()).status == 200
        assert await line.closed() == b""


async def test_too_many_connections_are_refused(house: Apart) -> None:
    """503 with Retry-After; health is answered even then, and room that is made is used."""
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(CONNECTIONS_MAX):
            line = await stack.enter_async_context(line_to(house))
            await line.say(GET + b"\r\n")
            assert (await line.hear()).status == 200
        async with line_to(house) as one_more, line_to(house) as prober:
            await one_more.say(WHOLE)
            await prober.say(GET + b"\r\n")
            refused, healthy = await one_more.hear(), await prober.hear()

    assert code_of(refused) == (503, "too_many_connections")
    assert refused.headers["retry-after"] == "1"
    assert (healthy.status, healthy.headers["connection"]) == (200, "close")
    assert await until(lambda: _takes_work(house), seconds=DEADLINE_SECONDS)


async def _takes_work(house: Apart) -> bool:
    async with line_to(house) as line:
        await line.say(WHOLE)
        return (await line.hear()).status == 200


async def test_a_reader_that_takes_nothing_is_cut_off(
    house: Apart, shared: Api, caplog: pytest.LogCaptureFixture
) -> None:
    """An answer of which nothing is taken is thrown away with its connection."""
    data = "x" * 6_000_000
    assert (await shared.post("/memory/set", {"key": "large", "data": data})).status_code == 200
    ask = POST.replace(b"/set", b"/get") + b'Content-Length: 15\r\n\r\n{"key":"large"}'
    with socket.create_connection((house.host, house.port)) as reader:
        reader.sendall(ask * 2)  # more than the kernel holds

        with caplog.at_level(logging.INFO, "controlplane.wire.protocol"):
            assert await until(lambda: _said(caplog, "connection.stalled"), seconds=DEADLINE_SECONDS)


async def _said(caplog: pytest.LogCaptureFixture, event: str) -> bool:
    return event in caplog.messages


async def test_a_slow_reader_gets_its_answer(house: Apart, shared: Api) -> None:
    """Who takes some of it now and then is not cut off."""
    data = "x" * 6_000_000
    assert (await shared.post("/memory/set", {"key": "large", "data": data})).status_code == 200
    ask = POST.replace(b"/set", b"/get") + b'Content-Length: 15\r\n\r\n{"key":"large"}'
    reader, writer = await asyncio.open_connection(house.host, house.port, limit=1_024)
    writer.write(ask)
    taken = 0
    while taken < len(data):
        taken += len(await reader.read(400_000))
        await asyncio.sleep(DRIP_SECONDS)
    writer.transport.abort()

    assert taken >= len(data)
