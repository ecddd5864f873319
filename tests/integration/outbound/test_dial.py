"""The inner walls of the egress guard: each holds by itself, even where the checks in front of it were left out."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from controlplane.errors import EgressRefused
from controlplane.outbound.dial import (
    DNS_THREADS,
    INFORMATIONAL_MAX,
    LINE,
    CheckedResolver,
    Connector,
    DialRefusedError,
    Line,
    LookUp,
)
from controlplane.security.egress import EgressPolicy

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
HINT = b"HTTP/1.1 103 E\r\n\r\n"


@asynccontextmanager
async def client(policy: EgressPolicy) -> AsyncIterator[aiohttp.ClientSession]:
    token = LINE.set(Line())
    async with aiohttp.ClientSession(connector=Connector(policy, tls=ssl.create_default_context())) as session:
        yield session
    LINE.reset(token)


@asynccontextmanager
async def answering(*answers: bytes) -> AsyncIterator[str]:
    """A server that takes what comes and gives one answer after the other on the same connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
        await reader.read()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


async def test_literal_address_is_refused_at_the_socket() -> None:
    """The client never asks the resolver about a literal address."""
    async with answering(OK) as url, client(EgressPolicy()) as session:
        with pytest.raises(aiohttp.ClientConnectorError) as refused:
            await session.get(url)

    assert isinstance(refused.value.os_error, DialRefusedError)


def names(*addresses: str) -> LookUp:
    """A name server that knows these addresses for every name."""

    def look_up(host: str, port: int, family: int, kind: int) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        families = (socket.AF_INET6 if ":" in address else socket.AF_INET for address in addresses)
        return [(each, kind, 6, "", (address, port)) for each, address in zip(families, addresses, strict=True)]

    return look_up


async def test_name_is_pinned_to_its_checked_addresses() -> None:
    """What is dialled is what was checked, in the order of the answers."""
    resolver = CheckedResolver(EgressPolicy(), look_up=names("2606:4700::1111", "1.1.1.1"))
    found = await resolver.resolve("example.com", 443)
    await resolver.close()

    assert [(each["host"], each["port"], each["hostname"]) for each in found] == [
        ("2606:4700::1111", 443, "example.com"),
        ("1.1.1.1", 443, "example.com"),
    ]


@pytest.mark.parametrize(
    "addresses",
    [("10.0.0.1",), ("1.1.1.1", "10.0.0.1"), ("1.1.1.1", "::1"), ("169.254.169.254", "1.1.1.1"), ("fe80::1%lo",)],
)
async def test_one_forbidden_answer_refuses_the_name(addresses: tuple[str, ...]) -> None:
    """A name that points into the house and out of it is not tried at its better half."""
    resolver = CheckedResolver(EgressPolicy(), look_up=names(*addresses))

    with pytest.raises(EgressRefused):
        await resolver.resolve("example.com", 443)
    await resolver.close()


async def test_names_that_hang_leave_the_threads_of_others_alone() -> None:
    """The event loop's own threads answer while the resolver's wait."""
    gate = threading.Event()

    def hang(*_: object) -> list[Any]:
        gate.wait()
        return []

    resolver = CheckedResolver(EgressPolicy(), look_up=hang)
    hanging = [asyncio.create_task(resolver.resolve("example.com", 443)) for _ in range(DNS_THREADS + 1)]
    try:
        await asyncio.sleep(0)  # let them all reach their thread

        assert await asyncio.wait_for(asyncio.to_thread(lambda: "free"), 5) == "free"
    finally:
        gate.set()
        await asyncio.gather(*hanging)
        await resolver.close()


async def test_hints_are_counted_anew_for_each_request_of_a_connection() -> None:
    """As many as allowed pass each time; one more is cut off on a kept connection, too."""
    hints = HINT * INFORMATIONAL_MAX
    async with (
        answering(hints + OK, hints + OK, hints + HINT + OK) as url,
        client(EgressPolicy(allow_loopback=True)) as session,
    ):
        for _ in range(2):
            async with session.get(url) as response:
                assert await response.read() == b"ok"
        with pytest.raises(aiohttp.ClientError):
            await session.get(url)


async def test_a_silent_connection_is_probed() -> None:
    """An answer may take hours: a machine that is gone is found out by probes, on both event loops."""
    async with answering(OK) as url, client(EgressPolicy(allow_loopback=True)) as session:
        await (await session.get(url)).read()
        transport = LINE.get().transport

        assert transport is not None
        assert transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
