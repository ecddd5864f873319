"""The way to the control plane: through a proxy where there is one, and never for longer than it was said."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager, suppress

import pytest

from controlplane_sdk import ServerError, ServerUnreachable, transport
from controlplane_sdk.transport import Transport


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    """Whatever this machine's own are."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@asynccontextmanager
async def listening(answer):
    """The port of a server that answers so; at the end whoever is there yet has been answered, and is gone."""
    there: set[asyncio.Task[None]] = set()

    async def hear(reader, writer):
        there.add(asyncio.current_task())
        with suppress(ConnectionError):
            await answer(reader, writer)
        writer.transport.abort()

    async with await asyncio.start_server(hear, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
        await asyncio.gather(*there)


async def answer_once(reader, writer, heard):
    head = await reader.readuntil(b"\r\n\r\n")
    heard.append(head.partition(b"\r\n")[0].decode())
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
    await reader.read()


@pytest.mark.parametrize("name", ["http_proxy", "all_proxy"])
async def test_the_proxy_of_the_environment_is_asked(monkeypatch, name):
    """And not for an address that is to be reached without it."""
    heard: list[str] = []
    async with listening(lambda reader, writer: answer_once(reader, writer, heard)) as port:
        monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
        async with Transport("http://plane.invalid", {}) as through:
            assert (await through.send("GET", "/system")).ok
        monkeypatch.setenv("no_proxy", "plane.invalid")
        async with Transport("http://plane.invalid", {}) as straight:
            with pytest.raises(ServerUnreachable, match=r"no answer from http://plane\.invalid: "):
                await straight.send("GET", "/system")

    assert heard == ["GET http://plane.invalid/api/v1/system HTTP/1.1"]


async def test_a_body_that_nobody_takes_is_given_up(monkeypatch):
    """A machine that is gone without a word takes what fits into its buffers, and nothing ever comes back."""
    monkeypatch.setattr(transport, "CONNECT_SECONDS", 0.1)
    monkeypatch.setattr(transport, "SENT_BYTES_PER_SECOND_MIN", 1 << 30)
    over = asyncio.Event()

    async def take_nothing(reader, writer):
        await over.wait()

    async with listening(take_nothing) as port, asyncio.timeout(20):
        async with Transport(f"http://127.0.0.1:{port}", {}) as way:
            with pytest.raises(ServerUnreachable):
                await way.send("POST", "/memory/write", b"x" * (32 << 20), answer_seconds=0.1)
        over.set()


async def test_a_large_body_arrives_whole(double):
    """One that is sent in pieces."""
    value = "x" * (3 * transport.BYTES_AT_ONCE_MAX)
    body = json.dumps({"writes": [{"ops": [{"op": "set", "key": "k", "scope": "global", "value": value}]}]})
    async with Transport(double.url, {"Content-Type": "application/json"}) as way:
        assert (await way.send("POST", "/memory/write", body.encode())).ok

    assert value in double.memory.values()


async def test_ids_go_as_they_are_written():
    """What is quoted once is not quoted again, and not unquoted on the way."""
    heard: list[str] = []
    server = listening(lambda reader, writer: answer_once(reader, writer, heard))
    async with server as port, Transport(f"http://127.0.0.1:{port}", {}) as way:
        await way.send("GET", "/executions/a%2Fb%20c", params={"q": "1 2&3"})

    assert heard == ["GET /api/v1/executions/a%2Fb%20c?q=1+2%263 HTTP/1.1"]


async def test_silence_in_the_middle_of_an_open_answer():
    """Pieces may take as long as they like together, and none of them longer than was said."""

    async def stall(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        await writer.drain()
        await reader.read()

    async with listening(stall) as port, Transport(f"http://127.0.0.1:{port}", {}) as way:
        pieces = way.stream("/events", headers={}, silence_seconds=0.2)
        assert await anext(pieces) == b"one"
        with pytest.raises(ServerUnreachable):
            await anext(pieces)


@pytest.mark.parametrize("said", [b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}"])
async def test_who_does_not_speak_http_to_the_end_gives_no_answer(said):
    """Cut off at once, speaking something else, or cut off in the middle."""

    async def speak(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        writer.write_eof()
        await reader.read()

    async with listening(speak) as port, Transport(f"http://127.0.0.1:{port}", {}) as way:
        with pytest.raises(ServerUnreachable):
            await way.send("GET", "/system")


async def test_a_closed_way_says_so(double):
    """Trying again would not help, so it is no answer that is missing."""
    way = Transport(double.url, {})
    await way.aclose()

    with pytest.raises(RuntimeError) as caught:
        await way.send("GET", "/system")

    assert not isinstance(caught.value, ServerError)
