"""A trap on this machine, and every way we know to lead a call into it: nothing ever arrives."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from ipaddress import IPv4Network

import pytest

from controlplane.outbound.dial import CheckedResolver, Connector
from controlplane.outbound.exchange import Client, Exchange, Fault
from controlplane.security.egress import EgressPolicy
from tests.integration.outbound.test_dial import names

HOSTS = [
    "127.0.0.1", "127.1", "127.0.1", "127.255.255.254", "2130706433", "0x7f.1", "0x7F000001", "0x7f.0x0.0x0.0x1",
    "017700000001", "0177.0.0.1", "0177.1", "0", "0.0.0.0", "0x0", "127.0.0.1.", "127.0.0.01", "0000.0.0.0",
    "localhost", "LOCALHOST", "localhost.", "ip6-localhost", "[::1]", "[::]", "[0:0:0:0:0:0:0:1]", "[::0001]",
    "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[64:ff9b::7f00:1]", "[64:ff9b:1::7f00:1]",
    "[2002:7f00:1::]", "[::ffff:0:127.0.0.1]", "[2001:0:7f00:1::]", "[fe80::1%25lo]", "[::1%lo]", "[::1%25lo]",
    "user@127.0.0.1", "user:secret@127.0.0.1", "example.com@127.0.0.1", "example.com:80@127.0.0.1",
    "127.0.0.1\\@example.com", "127.0.0.1#@example.com", "127.0.0.1%00.example.com", "127.0.0.1%2f@example.com",
    "\uff11\uff12\uff17.0.0.1", "127\u30020\u30020\u30021", "\u2460\u2461\u2466.0.0.1",
    "\u24db\u24de\u24d2\u24d0\u24db\u24d7\u24de\u24e2\u24e3",
    "loc\u00adalhost", "localho\u017ft", "%31%32%37.0.0.1", "%6cocalhost", "127.0.0.1\t", " 127.0.0.1",
    "127.0.0.1\r\nX: y",
]  # fmt: skip


@dataclass
class Trap:
    port: int
    caught: int = 0


@pytest.fixture
async def trap() -> AsyncIterator[Trap]:
    """Listens on every address of this machine, in both families."""
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        found = Trap(listener.getsockname()[1])

        async def catch(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            found.caught += 1
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            writer.close()

        async with await asyncio.start_server(catch, sock=listener):
            yield found


async def call(client: Client, url: str) -> Exchange:
    return await client.send(
        url=url,
        body=b"{}",
        headers={},
        total_seconds=5.0,
        connect_seconds=5.0,
        answer_bytes_max=100,
        repeatable=True,
    )


async def test_the_trap_works(trap: Trap) -> None:
    """What is allowed arrives, else the rest of this page would show nothing."""
    async with Client(EgressPolicy(allow_loopback=True)) as client:
        assert (await call(client, f"http://127.0.0.1:{trap.port}/")).status == 200
        assert (await call(client, f"http://[::1]:{trap.port}/")).status == 200

    assert trap.caught == 2


async def test_no_spelling_leads_into_the_house(trap: Trap) -> None:
    """Each host of the list, over both schemes: refused or not to be found, and not one connection."""
    async with Client(EgressPolicy()) as client:
        for host in HOSTS:
            for url in (f"http://{host}:{trap.port}/", f"https://{host}:{trap.port}/x?y", f"http:{host}:{trap.port}/"):
                told = await call(client, url)
                assert told.status is None, url
                assert told.fault in (Fault.FORBIDDEN, Fault.UNREACHED), (url, told.error)

    assert trap.caught == 0


async def test_a_name_that_changes_its_mind_gains_nothing(trap: Trap) -> None:
    """Public when it is asked first, this machine when asked again: each answer is checked before it is dialled."""
    answers = iter([("127.0.0.2",), ("127.0.0.1",), ("127.0.0.2", "127.0.0.1"), ("::1",)])
    policy = EgressPolicy(allow=(IPv4Network("127.0.0.2/32"),))
    resolver = CheckedResolver(policy, look_up=lambda *asked: names(*next(answers))(*asked))  # noqa: PLW0108 - anew each time
    connector = Connector(policy, tls=ssl.create_default_context())
    connector._resolver, connector._names = resolver, resolver
    connector._use_dns_cache = False
    async with Client(policy) as client:
        assert client._session is not None
        await client._session.connector.close()  # type: ignore[union-attr]
        client._session._connector = connector
        told = [await call(client, f"http://rebound.example:{trap.port}/") for _ in range(4)]

    assert [one.status for one in told] == [200, None, None, None]
    assert {one.fault for one in told[1:]} == {Fault.FORBIDDEN}
    assert trap.caught == 1
