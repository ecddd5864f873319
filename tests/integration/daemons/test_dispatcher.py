"""The dispatcher against receivers that hang, break and lie: each comes to its end, and nobody else waits for it."""

from __future__ import annotations

import asyncio
import gzip
import re
import resource
import socket
import ssl
import struct
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from controlplane.daemons.dispatcher import Dispatcher
from controlplane.domain.placement import Placement
from controlplane.outbound.webhook import WebhookSender
from controlplane.postgres.listen import Hints
from controlplane.postgres.pool import Connection, Pool
from controlplane.security.secrets import KeyRing
from controlplane.stages import deliver
from controlplane.stages.endpoint import PATIENCE
from tests.integration.outbound.test_webhook import (
    LOOPBACK,
    OK,
    Authority,
    Behaviour,
    Reader,
    Writer,
    accept,
    answering,
    dripping,
    hang,
    listening,
    read_request,
)
from tests.make import Made, event_types, make_execution, make_session, no_jitter, webhook

DEADLINE_SECONDS = 60.0
KEYRING = KeyRing.from_text(KeyRing.generate())

HUNG = """
insert into deliveries (
  bucket, id, namespace, execution_id, webhook_n, event, host, url, body, state, attempts_max, next_at, created_at
)
select 0, ('0192' || substr(md5(n::text), 1, 25) || '000')::uuid, 1, $1, 1, 'e' || n,
  '127.' || 3 + n / 62500 || '.' || n / 250 % 250 || '.' || n % 250 + 1 || ':' || $2::int,
  'http://127.' || 3 + n / 62500 || '.' || n / 250 % 250 || '.' || n % 250 + 1 || ':' || $2::int || '/hook',
  '{}', 'pending', 5, clock() - interval '1 hour', clock()
from generate_series(1, $3::int) as n
"""
ATTEMPTS = """
select a.outcome, a.http_status, split_part(a.error, ':', 1) as class, length(a.response_body) as kept, d.state, d.url
from delivery_attempts a
join deliveries d on d.bucket = a.bucket and d.id = a.delivery_id
"""
NEXT_AFTER = """
select extract(epoch from d.next_at - clock())::float8 as seconds, extract(epoch from d.next_at - a.at)::float8 as gap
from deliveries d
join delivery_attempts a on a.bucket = d.bucket and a.delivery_id = d.id and a.attempt = d.attempt
"""


@asynccontextmanager
async def dispatching(
    pool: Pool,
    database: str,
    *,
    attempt_seconds: float = 10.0,
    in_flight_max: int = 256,
    per_host_max: int = 16,
    tls: ssl.SSLContext | None = None,
    hints: Hints | None = None,
) -> AsyncIterator[Dispatcher]:
    """A dispatcher that has just been started, and is let finish what it sends."""
    async with WebhookSender(LOOPBACK, tls=tls) as sender:
        dispatcher = Dispatcher(
            pool,
            Placement(),
            sender,
            sender,
            KEYRING,
            hints or Hints(pool, database, notify=False),
            jitter=no_jitter,
            attempt_seconds=attempt_seconds,
            in_flight_max=in_flight_max,
            per_host_max=per_host_max,
            topic="deliveries",
            told=lambda: None,
            patience=PATIENCE,
        )
        yield dispatcher
        await dispatcher.drain(DEADLINE_SECONDS)


async def owed(conn: Connection, *urls: str) -> list[Made]:
    """Finished executions, each with one delivery that is due at one of these."""
    session = await make_session(conn)
    return [
        await make_execution(conn, "succeeded", session=session, webhooks=(webhook(url, secret_sealed=None),))
        for url in urls
    ]


async def send_all(pool: Pool, database: str, **over: object) -> None:
    """One attempt at everything that is due."""
    async with dispatching(pool, database, **over) as dispatcher:  # type: ignore[arg-type]
        while await dispatcher.tick():
            pass


async def flood(reader: Reader, writer: Writer) -> None:
    """300 MB as an answer."""
    await read_request(reader)
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 300000000\r\n\r\n")
    for _ in range(300):
        writer.write(b"x" * 1_000_000)
        await writer.drain()


async def endless_hints(reader: Reader, writer: Writer) -> None:
    await read_request(reader)
    while not writer.is_closing():
        writer.write(b"HTTP/1.1 103 E\r\n\r\n" * 1_000)
        await writer.drain()


async def reset(reader: Reader, writer: Writer) -> None:
    await read_request(reader)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def says(answer: bytes) -> Behaviour:
    """Reads the request, gives this answer and hangs up."""

    async def say(reader: Reader, writer: Writer) -> None:
        await read_request(reader)
        writer.write(answer)
        await writer.drain()

    return say


def status(code: int, *fields: str, body: bytes = b"no") -> Behaviour:
    head = "\r\n".join((f"HTTP/1.1 {code} Said", f"Content-Length: {len(body)}", *fields))
    return says(head.encode() + b"\r\n\r\n" + body)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one attempt must come to: the class of its error, its status, and where the delivery stands then."""

    outcome: str = "failed"
    http_status: int | None = None
    error: str | None = None
    state: str = "pending"


def failed(error: str, http_status: int | None = None, state: str = "pending") -> Outcome:
    return Outcome("failed", http_status, error, state)


def taken(http_status: int = 200, error: str | None = None) -> Outcome:
    """The status decides; what was wrong behind it is kept for who looks."""
    return Outcome("delivered", http_status, error, "delivered")


BOMB = gzip.compress(bytes(50_000_000))
PLAIN: Mapping[str, tuple[Behaviour, Outcome]] = {
    "500": (status(500), failed("http", 500)),
    "429": (status(429), failed("http", 429)),
    "503 with a date": (status(503, "Retry-After: Fri, 31 Dec 2100 00:00:00 GMT"), failed("http", 503)),
    "410": (status(410), failed("http", 410, "dead")),
    "301": (status(301, "Location: http://127.0.0.1:1/"), failed("redirect", 301)),
    "308": (status(308, "Location: http://127.0.0.1:1/"), failed("redirect", 308)),
    "999": (status(999), failed("http", 999)),
    "hangs": (hang, failed("timeout")),
    "drips its headers": (dripping(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n"), failed("timeout")),
    "drips its body": (dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", b"x"), taken(error="timeout")),
    "drips a refusal": (dripping(b"HTTP/1.1 500 No\r\nContent-Length: 9999\r\n\r\n", b"x"), failed("http", 500)),
    "drips hints": (dripping(b"", b"HTTP/1.1 103 E\r\n\r\n"), failed("protocol")),
    "floods with hints": (endless_hints, failed("protocol")),
    "300 MB": (flood, taken()),
    "gzip bomb": (status(200, "Content-Encoding: gzip", body=BOMB), taken()),
    "bad status line": (says(b"HTTP/1.1 abc OK\r\n\r\n"), failed("protocol")),
    "not HTTP": (says(b"\x00\xff SSH-2.0-whatever\r\n" * 100), failed("protocol")),
    "204 with a body": (says(b"HTTP/1.1 204 No Content\r\n\r\nbody"), taken(204)),
    "a huge header": (says(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1_000_000 + b"\r\n\r\n"), failed("protocol")),
    "bad charset": (status(200, "Content-Type: text/plain; charset=zlib_codec", body=b"\xff\x00"), taken()),
    "closes at once": (says(b""), failed("disconnected")),
    "closes in its body": (says(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx"), taken(error="protocol")),
    "resets": (reset, failed("disconnected")),
}


async def test_every_receiver_gets_its_outcome(conn: Connection, pool: Pool, database: str, tmp_path: Path) -> None:
    """Twenty-seven ways to be a bad receiver, all at once: each its class of error, in time, in bounded memory."""
    ours, theirs = Authority.make(), Authority.make()
    for name in ("expired", "foreign", "wrong"):
        (tmp_path / name).mkdir()
    secure = {
        "certificate expired": ours.server(tmp_path / "expired", days=-1),
        "signed by a stranger": theirs.server(tmp_path / "foreign"),
        "made out to another": ours.server(tmp_path / "wrong", host="other.example"),
    }
    async with AsyncExitStack() as stack:
        expected: dict[str, tuple[str, Outcome]] = {}
        for name, (behaviour, outcome) in PLAIN.items():
            expected[(await stack.enter_async_context(listening(behaviour))).url] = name, outcome
        for name, context in secure.items():
            expected[(await stack.enter_async_context(listening(accept, context))).url] = name, failed("tls")
        async with listening(hang) as gone:
            expected[gone.url] = "nobody there", failed("connect")
        await owed(conn, *expected)
        before = peak_bytes()
        await send_all(pool, database, attempt_seconds=2.0, tls=ours.trusted())
    rows = await conn.fetch(ATTEMPTS)
    found = {
        expected[row["url"]][0]: Outcome(row["outcome"], row["http_status"], row["class"], row["state"]) for row in rows
    }

    assert found == dict(expected.values())
    assert max(row["kept"] for row in rows) == 16 * 1024
    assert peak_bytes() - before < 100_000_000


def peak_bytes() -> int:
    """The most memory that this process has ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@asynccontextmanager
async def later(database: str, seconds: float) -> AsyncIterator[Pool]:
    """Connections on which it is so much later."""
    settings = {"controlplane.clock_offset": f"{seconds} seconds"}
    async with asyncpg.create_pool(database, min_size=1, max_size=2, server_settings=settings) as pool:
        yield pool


async def test_five_attempts_by_the_clock_of_the_database(conn: Connection, database: str) -> None:
    """At once, and after 5, 10, 20 and 40 seconds and not before; each by a dispatcher that has just been started."""
    async with answering(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n") as receiver:
        [made] = await owed(conn, receiver.url)
        gaps, at = [], 0.0
        for n in range(1, 6):
            async with later(database, at - 1) as early:
                await send_all(early, database)
            assert len(receiver.requests) == n - 1 or n == 1
            async with later(database, at) as pool:
                await send_all(pool, database)
            assert len(receiver.requests) == n
            wait = await conn.fetchrow(NEXT_AFTER)
            if n < 5:
                gaps.append(round(wait["gap"]))
                at = wait["seconds"] + 0.1
        async with later(database, 86_400.0) as pool:
            await send_all(pool, database)
    row = await conn.fetchrow("select state, attempt, charged from deliveries")
    stamps = [int(one.headers["webhook-timestamp"]) for one in receiver.requests]

    assert gaps == [5, 10, 20, 40]
    assert (row["state"], row["attempt"], row["charged"], len(receiver.requests)) == ("dead", 5, 5, 5)
    assert (await event_types(conn, made.id))[-1] == "delivery.dead"
    assert len({(one.headers["webhook-id"], one.body) for one in receiver.requests}) == 1
    assert all(late - early >= gap for early, late, gap in zip(stamps, stamps[1:], gaps, strict=False))


async def test_a_host_that_comes_back_is_told_everything(conn: Connection, pool: Pool, database: str) -> None:
    """A 429 storm: nothing is sent before the time that was asked for, one probe per window, and nothing is lost."""
    asks = b"HTTP/1.1 429 Slow\r\nRetry-After: 30\r\nContent-Length: 0\r\n\r\n"
    yes = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    async with answering(*[asks] * 17, yes) as receiver:
        await owed(conn, *[receiver.url] * 20)
        await send_all(pool, database)
        stormed = len(receiver.requests)
        async with later(database, 29.0) as early:
            await send_all(early, database)
        held = len(receiver.requests)
        for n in range(1, 18 - stormed):  # each after the longest window there is
            async with later(database, 400.0 * n) as pool_then:
                await send_all(pool_then, database)
            assert len(receiver.requests) == stormed + n
        n = 18  # asked once more, and then a few at a time
        while await conn.fetchval("select exists (select from deliveries where state = 'pending')") and n < 30:
            async with later(database, 400.0 * n) as pool_then:
                await send_all(pool_then, database)
            n += 1
    states = {row["state"] for row in await conn.fetch("select state from deliveries")}

    assert stormed == held <= 16
    assert states == {"delivered"}


async def test_ten_thousand_hung_receivers_leave_room(conn: Connection, pool: Pool, database: str) -> None:
    """While they wait everybody who has answered before is told, and what is under way stays bounded."""
    made = await make_execution(conn, "succeeded")
    hung = await asyncio.get_running_loop().create_server(asyncio.Protocol, "0.0.0.0", 0)  # takes and says nothing
    async with answering(OK, keep_open=True) as healthy:
        await owed(conn, healthy.url)
        await send_all(pool, database)
        await conn.execute(HUNG, made.id, hung.sockets[0].getsockname()[1], 10_000)
        async with dispatching(pool, database, attempt_seconds=120.0, in_flight_max=32) as dispatcher:
            ticking = asyncio.create_task(tick_for_ever(dispatcher))
            await until(conn, "select count(*) = 24 from deliveries where state = 'leased'")
            await owed(conn, *[healthy.url] * 50)
            await until(conn, "select count(*) = 51 from deliveries where state = 'delivered'")
            under_way = await conn.fetchval("select count(*) from deliveries where state = 'leased'")
            ticking.cancel()
            hung.close()
            await dispatcher.drain(0)

    assert under_way == 24
    assert len(healthy.requests) == 51


async def tick_for_ever(dispatcher: Dispatcher) -> None:
    while True:
        await dispatcher.tick()
        await asyncio.sleep(0.01)


async def until(conn: Connection, look: str) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not await conn.fetchval(look):  # noqa: ASYNC110 - a database tells nobody
            await asyncio.sleep(0.02)


async def test_what_is_under_way_is_finished_at_the_end(conn: Connection, pool: Pool, database: str) -> None:
    """Told to stop while a receiver thinks: its answer is waited for and written down, and it is not sent again."""
    arrived, let_go = asyncio.Event(), asyncio.Event()

    async def think(reader: Reader, writer: Writer) -> None:
        receiver.requests.append(await read_request(reader))
        arrived.set()
        await let_go.wait()
        writer.write(OK)

    async with listening(think) as receiver:
        await owed(conn, receiver.url)
        async with dispatching(pool, database) as dispatcher:
            await dispatcher.tick()
            await arrived.wait()
            leaving = asyncio.create_task(dispatcher.drain(DEADLINE_SECONDS))
            let_go.set()
            await leaving
        await send_all(pool, database)

    assert await conn.fetchval("select state from deliveries") == "delivered"
    assert len(receiver.requests) == 1


async def test_what_cannot_be_finished_is_sent_by_another(conn: Connection, pool: Pool, database: str) -> None:
    """Cut off at the end of its time it is not charged, and goes out again under the same id when its lease is over."""
    async with answering(OK) as receiver, listening(hang) as hung:
        [made] = await owed(conn, hung.url)
        async with dispatching(pool, database) as dispatcher:
            await dispatcher.tick()
            await asyncio.wait_for(until(conn, "select count(*) = 1 from deliveries where state = 'leased'"), 5)
            await dispatcher.drain(0)
        row = await conn.fetchrow("select state, charged from deliveries")
        assert (row["state"], row["charged"], receiver.requests) == ("leased", 0, [])
        await conn.execute("update deliveries set url = $1", receiver.url)
        async with later(database, 60.0) as pool_then:
            async with pool_then.acquire() as own:
                assert await deliver.reclaim(own, 0) == 1
            await send_all(pool_then, database)

    assert await conn.fetchval("select state from deliveries") == "delivered"
    assert re.fullmatch(r"dlv_\w+", receiver.requests[0].headers["webhook-id"])
    assert (await event_types(conn, made.id))[-1] == "delivery.delivered"
