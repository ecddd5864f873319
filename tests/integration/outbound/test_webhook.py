"""The sender against receivers that are slow, broken, hostile or simply gone. All are real sockets on loopback."""

from __future__ import annotations

import asyncio
import gzip
import random
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from controlplane.domain.delivery import RESPONSE_BYTES_MAX, Attempt, AttemptOutcome
from controlplane.outbound.webhook import WebhookSender
from controlplane.security.egress import EgressPolicy

LOOPBACK = EgressPolicy(allow_loopback=True)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
SHORT_SECONDS = 0.3
"""The deadline where it is expected to strike. Elsewhere it is long, so that a busy machine fails no test."""

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter
Behaviour = Callable[[Reader, Writer], Awaitable[None]]


@dataclass
class Receiver:
    """A listening socket, and what arrived there."""

    port: int
    scheme: str = "http"
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/hook?token=whsec_CANARY"


@dataclass(frozen=True)
class Request:
    line: str
    headers: Mapping[str, str]
    body: bytes


async def read_request(reader: Reader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    line, *fields = head[:-4].split("\r\n")
    headers = {name.lower(): value for name, _, value in (each.partition(": ") for each in fields)}
    return Request(line, headers, await reader.readexactly(int(headers["content-length"])))


@asynccontextmanager
async def listening(behaviour: Behaviour, tls: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    """A server whose every connection is given to `behaviour` and closed when that returns."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: Reader, writer: Writer) -> None:
        tasks.add(asyncio.current_task())  # type: ignore[arg-type]
        receiver.connections += 1
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await behaviour(reader, writer)
        finally:
            receiver.hung_up.set()
            writer.close()
            with suppress(ConnectionError, ssl.SSLError, asyncio.CancelledError):
                await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    receiver = Receiver(server.sockets[0].getsockname()[1], "https" if tls else "http")
    try:
        yield receiver
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks)


@asynccontextmanager
async def answering(*answers: bytes, keep_open: bool = False) -> AsyncIterator[Receiver]:
    """A receiver that reads each request in full and gives the next of `answers`, the last one again and again."""

    async def answer(reader: Reader, writer: Writer) -> None:
        while True:
            receiver.requests.append(await read_request(reader))
            writer.write(answers[min(len(receiver.requests), len(answers)) - 1])
            await writer.drain()
            if not keep_open:
                return

    async with listening(answer) as receiver:
        yield receiver


@pytest.fixture
async def sender() -> AsyncIterator[WebhookSender]:
    async with WebhookSender(LOOPBACK) as sender:
        yield sender


async def send(
    sender: WebhookSender,
    url: str,
    body: bytes = b"{}",
    *,
    headers: Mapping[str, str] | None = None,
    total_seconds: float = 10.0,
) -> Attempt:
    """One attempt that must end in time and must not tell the secret in its URL."""
    started = time.monotonic()
    attempt = await sender.send(
        url=url, body=body, headers=headers or {}, total_seconds=total_seconds, connect_seconds=total_seconds / 2
    )

    assert time.monotonic() - started < total_seconds + 1
    assert "CANARY" not in (attempt.error or "")
    assert len(attempt.response_body) <= RESPONSE_BYTES_MAX
    return attempt


def kind(attempt: Attempt) -> str | None:
    return attempt.error and attempt.error.partition(":")[0]


async def test_request_arrives_byte_identical(sender: WebhookSender) -> None:
    """Body, path, query and headers reach the receiver exactly as given."""
    body = bytes(range(256)) + '{"a": "é\\u0000"}'.encode()
    async with answering(OK) as receiver:
        attempt = await sender.send(
            url=f"http://127.0.0.1:{receiver.port}/a/../b//%2e?x=a+b%20c&s=A%2Bb",
            body=body,
            headers={"Content-Type": "application/json; x=y", "webhook-id": "dlv_1", "X-Case": " a\"b' "},
        )

    (request,) = receiver.requests
    assert attempt.outcome is AttemptOutcome.DELIVERED
    assert request.body == body
    assert request.line == "POST /a/../b//%2e?x=a+b%20c&s=A%2Bb HTTP/1.1"
    assert request.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert request.headers["content-type"] == "application/json; x=y"
    assert request.headers["webhook-id"] == "dlv_1"
    assert request.headers["x-case"].strip() == "a\"b'"
    assert request.headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("length", [0, 1, 200_000, 3_000_000])
async def test_body_of_any_size_arrives(sender: WebhookSender, length: int) -> None:
    """The body is framed by its length, never chunked, and nothing is added."""
    body = random.Random(1).randbytes(length)
    async with answering(OK) as receiver:
        await send(sender, receiver.url, body)

    assert receiver.requests[0].body == body
    assert "transfer-encoding" not in receiver.requests[0].headers


@pytest.mark.parametrize("status", [200, 201, 202, 204, 226, 299])
async def test_any_2xx_is_delivered(sender: WebhookSender, status: int) -> None:
    """The receiver may say yes in any way it likes."""
    async with answering(b"HTTP/1.1 %d Yes\r\nContent-Length: 0\r\n\r\n" % status) as receiver:
        attempt = await send(sender, receiver.url)

    assert (attempt.outcome, attempt.http_status, attempt.error) == (AttemptOutcome.DELIVERED, status, None)
    assert not attempt.final


async def test_answer_is_kept(sender: WebhookSender) -> None:
    """What the receiver said is there for the person who debugs it, undecoded."""
    async with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n\x00\xff\xfe") as receiver:
        attempt = await send(sender, receiver.url)

    assert attempt.response_body == b"\x00\xff\xfe"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirect_fails_and_is_not_followed(sender: WebhookSender, status: int) -> None:
    """A redirect would lead past the egress policy; no second request is made."""
    answer = b"HTTP/1.1 %d Moved\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n" % status
    async with answering(answer, keep_open=True) as receiver:
        attempt = await send(sender, receiver.url)

    assert (attempt.outcome, attempt.http_status, kind(attempt)) == (AttemptOutcome.FAILED, status, "redirect")
    assert len(receiver.requests) == 1


@pytest.mark.parametrize("status", [101, 304, 400, 401, 404, 500, 503, 999])
async def test_any_other_status_fails_and_may_be_retried(sender: WebhookSender, status: int) -> None:
    """Only 2xx is a yes."""
    async with answering(b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % status) as receiver:
        attempt = await send(sender, receiver.url)

    assert (attempt.outcome, attempt.http_status, kind(attempt)) == (AttemptOutcome.FAILED, status, "http")
    assert not attempt.final


async def test_gone_is_final(sender: WebhookSender) -> None:
    """410 says: never call this URL again."""
    async with answering(b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n") as receiver:
        attempt = await send(sender, receiver.url)

    assert (attempt.outcome, attempt.http_status, attempt.final) == (AttemptOutcome.FAILED, 410, True)


@pytest.mark.parametrize(
    ("text", "seconds"), [(b"120", 120), (b"-5", None), (b"1e9", None), (b"\xff", None), (b"9" * 4000, None)]
)
async def test_retry_after_is_read_strictly(sender: WebhookSender, text: bytes, seconds: float | None) -> None:
    """A receiver under load is given the time it asks for; nonsense is ignored."""
    answer = b"HTTP/1.1 429 Slow down\r\nRetry-After: %s\r\nContent-Length: 0\r\n\r\n" % text
    async with answering(answer) as receiver:
        attempt = await send(sender, receiver.url)

    assert attempt.retry_after_seconds == seconds


async def test_retry_after_may_be_a_date(sender: WebhookSender) -> None:
    """A date counts from now."""
    at = datetime.now(UTC) + timedelta(seconds=60)
    header = at.strftime("%a, %d %b %Y %H:%M:%S GMT").encode()
    async with answering(b"HTTP/1.1 503 Busy\r\nRetry-After: %s\r\nContent-Length: 0\r\n\r\n" % header) as receiver:
        attempt = await send(sender, receiver.url)

    assert 55 < (attempt.retry_after_seconds or 0) <= 60


async def hang(reader: Reader, writer: Writer) -> None:
    """Take everything and say nothing, until the sender hangs up."""
    await reader.read()


def dripping(start: bytes, piece: bytes) -> Behaviour:
    """Send `start`, then `piece` again and again, until the sender hangs up."""

    async def drip(reader: Reader, writer: Writer) -> None:
        await read_request(reader)
        writer.write(start)
        while not writer.is_closing():
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.05)

    return drip


@pytest.mark.parametrize(
    "behaviour",
    [
        hang,
        dripping(b"HTTP/1.1 200 OK\r\n", b"X"),
        dripping(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n"),
        dripping(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
    ],
    ids=["hung", "dripping header", "dripping headers", "endless 103"],
)
async def test_no_final_status_in_time_is_a_timeout(sender: WebhookSender, behaviour: Behaviour) -> None:
    """One deadline holds for the whole attempt, however busy the receiver keeps the line."""
    async with listening(behaviour) as receiver:
        attempt = await send(sender, receiver.url, total_seconds=SHORT_SECONDS)
        await asyncio.wait_for(receiver.hung_up.wait(), 2)

    assert (attempt.outcome, attempt.http_status, kind(attempt)) == (AttemptOutcome.FAILED, None, "timeout")
    assert attempt.latency_ms >= SHORT_SECONDS * 1000 - 1


@pytest.mark.parametrize("head", [b"HTTP/1.1 103 E\r\n\r\n", b"HTTP/1.1 100 C\n\n"])
async def test_flood_of_informational_answers_is_cut_off(sender: WebhookSender, head: bytes) -> None:
    """A few early hints are fine; a stream of nothing else may not keep our processor busy until the deadline."""

    async def flood(reader: Reader, writer: Writer) -> None:
        await read_request(reader)
        while not writer.is_closing():
            writer.write(head * 50_000)
            await writer.drain()

    async with listening(flood) as receiver:
        attempt = await send(sender, receiver.url)
        await asyncio.wait_for(receiver.hung_up.wait(), 2)

    assert (attempt.outcome, kind(attempt)) == (AttemptOutcome.FAILED, "protocol")


async def test_informational_answers_before_the_final_one_are_skipped(sender: WebhookSender) -> None:
    """100 and 103 in front of the status that counts, in one piece."""
    async with answering(
        b"HTTP/1.1 100 Continue\r\n\r\n" + b"HTTP/1.1 103 E\r\nLink: </a>\r\n\r\n" * 9 + OK
    ) as receiver:
        attempt = await send(sender, receiver.url)

    assert (attempt.outcome, attempt.http_status) == (AttemptOutcome.DELIVERED, 200)
    assert attempt.response_body == b"ok"


async def test_answer_that_comes_byte_by_byte_is_read(sender: WebhookSender) -> None:
    """No boundary between two segments matters."""

    async def spell(reader: Reader, writer: Writer) -> None:
        await read_request(reader)
        for byte in b"HTTP/1.1 103 E\r\n\r\n" + OK:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)

    async with listening(spell) as receiver:
        attempt = await send(sender, receiver.url)

    assert (attempt.outcome, attempt.response_body) == (AttemptOutcome.DELIVERED, b"ok")


@pytest.mark.parametrize(("status", "outcome"), [(200, AttemptOutcome.DELIVERED), (500, AttemptOutcome.FAILED)])
async def test_status_decides_when_the_body_drips(sender: WebhookSender, status: int, outcome: AttemptOutcome) -> None:
    """A receiver that said 2xx has it; that its answer never ends costs the attempt's deadline, not a duplicate."""
    start = b"HTTP/1.1 %d Well\r\nContent-Length: 1000\r\n\r\n" % status
    async with listening(dripping(start, b"x")) as receiver:
        attempt = await send(sender, receiver.url, total_seconds=SHORT_SECONDS)
        await asyncio.wait_for(receiver.hung_up.wait(), 2)

    assert (attempt.outcome, attempt.http_status) == (outcome, status)
    assert attempt.response_body.startswith(b"xxx")


@pytest.mark.parametrize("framing", [b"Content-Length: 300000000\r\n\r\n", b"\r\n"], ids=["length", "until close"])
async def test_huge_body_is_clipped_and_the_connection_closed(sender: WebhookSender, framing: bytes) -> None:
    """300 MB cost 16 KiB and no time."""
    sent = 0

    async def flood(reader: Reader, writer: Writer) -> None:
        nonlocal sent
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n" + framing)
        for _ in range(300):
            writer.write(b"x" * 1_000_000)
            await writer.drain()
            sent += 1_000_000

    async with listening(flood) as receiver:
        attempt = await send(sender, receiver.url)
        await asyncio.wait_for(receiver.hung_up.wait(), 2)

    assert attempt.outcome is AttemptOutcome.DELIVERED
    assert attempt.response_body == b"x" * RESPONSE_BYTES_MAX
    assert sent < 100_000_000


async def test_gzip_bomb_stays_packed(sender: WebhookSender) -> None:
    """We asked for no compression and undo none."""
    bomb = gzip.compress(bytes(50_000_000))
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)
    async with answering(head + bomb) as receiver:
        attempt = await send(sender, receiver.url)

    assert attempt.response_body == bomb[:RESPONSE_BYTES_MAX]


@pytest.mark.parametrize(
    "answer",
    [
        b"\x00\xff\xfe garbage \x00",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 -200 OK\r\n\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n",
        b"HTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nNo colon whsec_CANARY\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-Huge: " + b"x" * 1_000_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X-Many: y\r\n" * 5_000 + b"\r\n",
        b"HTTP/1.1 200 " + b"x" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxy",
        b"x" * 1_000_000,
        b"POST /hook?token=whsec_CANARY HTTP/1.1\r\n\r\n",
    ],
    ids=lambda answer: repr(answer[:24]),
)
async def test_answer_that_is_not_http_fails_as_protocol(sender: WebhookSender, answer: bytes) -> None:
    """Whatever comes back, it ends as a failed attempt; nothing of it is quoted in the error."""
    async with answering(answer) as receiver:
        attempt = await send(sender, receiver.url)

    assert (attempt.outcome, attempt.http_status, kind(attempt)) == (AttemptOutcome.FAILED, None, "protocol")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nbad",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        b"HTTP/1.1 204 No Content\r\n\r\nbody that may not be",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=zlib_codec\r\nContent-Length: 1\r\n\r\n\xff",
        b"HTTP/1.1 200 OK\r\nSet-Cookie: \xff=;;;\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.0 200\r\n\r\nuntil close",
        OK + OK + b"garbage",
    ],
    ids=lambda answer: repr(answer[15:50]),
)
async def test_2xx_with_a_strange_rest_is_delivered(sender: WebhookSender, answer: bytes) -> None:
    """The status line was read; what follows is for the record only, and does not disturb the next send."""
    ends_with_connection = answer.endswith((b"short", b"hel", b"until close"))
    async with answering(answer, keep_open=not ends_with_connection) as receiver:
        first, second = await send(sender, receiver.url), await send(sender, receiver.url)

    assert first.outcome is second.outcome is AttemptOutcome.DELIVERED
    assert all("cookie" not in request.headers for request in receiver.requests)


async def test_close_before_any_answer_is_disconnected(sender: WebhookSender) -> None:
    """A receiver that hangs up without a word has not said yes."""
    async with answering(b"") as receiver:
        attempt = await send(sender, receiver.url)

    assert (attempt.outcome, kind(attempt)) == (AttemptOutcome.FAILED, "disconnected")
    assert receiver.connections == 1


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\n"])
async def test_reset_is_disconnected(sender: WebhookSender, start: bytes) -> None:
    """A connection torn down by RST fails the attempt and nothing else."""

    async def reset(reader: Reader, writer: Writer) -> None:
        await read_request(reader)
        writer.write(start)
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()

    async with listening(reset) as receiver:
        attempt = await send(sender, receiver.url)

    assert (attempt.outcome, kind(attempt)) == (AttemptOutcome.FAILED, "disconnected")


async def test_refused_connection_is_connect(sender: WebhookSender) -> None:
    """Nobody listens: failed, and worth another try."""
    async with answering(OK) as receiver:
        pass
    attempt = await send(sender, receiver.url)

    assert (attempt.outcome, kind(attempt), attempt.final) == (AttemptOutcome.FAILED, "connect", False)


async def test_unknown_name_is_dns(sender: WebhookSender) -> None:
    """Names under .invalid never resolve; a name may come back, so it is retried."""
    attempt = await sender.send(url="http://no-such.invalid/?token=whsec_CANARY", body=b"", headers={}, total_seconds=5)

    assert (attempt.outcome, attempt.final) == (AttemptOutcome.FAILED, False)
    assert kind(attempt) in {"dns", "timeout"}  # without a network the resolver may only time out


async def test_full_backlog_times_out_within_the_connect_deadline(sender: WebhookSender) -> None:
    """A host that drops our SYN costs the connect deadline, not the whole one."""
    with (
        socket.create_server(("127.0.0.1", 0), backlog=0) as server,
        socket.socket() as first,
        socket.socket() as second,
    ):
        for filler in (first, second):
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        attempt = await sender.send(url=url, body=b"", headers={}, connect_seconds=SHORT_SECONDS)

    assert (attempt.outcome, attempt.error) == (AttemptOutcome.FAILED, "timeout: no connection in time")
    assert attempt.latency_ms < 10_000


@pytest.mark.parametrize("size", [2_000_000, 20_000_000])
async def test_receiver_that_never_reads_leaves_nothing_behind(sender: WebhookSender, size: int) -> None:
    """The connection is torn down with what could not be sent; closing it politely would keep both for ever."""
    stuck = asyncio.Event()

    async def deaf(reader: Reader, writer: Writer) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await stuck.wait()

    async with listening(deaf) as receiver:
        attempt = await send(sender, receiver.url, bytes(size), total_seconds=SHORT_SECONDS)
        await no_connection_to(receiver.port)
        stuck.set()

    assert (attempt.outcome, kind(attempt)) == (AttemptOutcome.FAILED, "timeout")


async def test_receiver_that_answers_without_reading_leaves_nothing_behind(sender: WebhookSender) -> None:
    """An early 2xx counts; the rest of the body is dropped with the connection."""
    stuck = asyncio.Event()

    async def hasty(reader: Reader, writer: Writer) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(OK)
        await stuck.wait()

    async with listening(hasty) as receiver:
        attempt = await send(sender, receiver.url, bytes(20_000_000))
        await no_connection_to(receiver.port)
        stuck.set()

    assert attempt.outcome is AttemptOutcome.DELIVERED


async def no_connection_to(port: int) -> None:
    """Wait until this process holds no socket that is connected to the port."""
    await until(lambda: port not in _peers())


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that nobody announces."""
    async with asyncio.timeout(2):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def _peers() -> set[int]:
    """Remote ports of this process's established TCP sockets that still have an owner (inode other than 0)."""
    lines = Path("/proc/self/net/tcp").read_text().splitlines()[1:]
    rows = [line.split() for line in lines]
    return {int(row[2].partition(":")[2], 16) for row in rows if row[3] == "01" and row[9] != "0"}


async def test_connection_is_kept_for_the_next_send(sender: WebhookSender) -> None:
    """One receiver, one connection, many deliveries."""
    async with answering(OK, keep_open=True) as receiver:
        for _ in range(3):
            assert (await send(sender, receiver.url)).outcome is AttemptOutcome.DELIVERED

    assert (receiver.connections, len(receiver.requests)) == (1, 3)


async def test_kept_connection_that_died_is_replaced_within_the_attempt(sender: WebhookSender) -> None:
    """A receiver may close an idle connection at any time; that is nobody's failure and costs no attempt."""

    async def once(reader: Reader, writer: Writer) -> None:
        receiver.requests.append(await read_request(reader))
        writer.write(OK)
        await read_request(reader)  # the second request gets no answer

    async with listening(once) as receiver:
        outcomes = [(await send(sender, receiver.url, b"x" * 300_000)).outcome for _ in range(3)]

    assert outcomes == [AttemptOutcome.DELIVERED] * 3
    assert receiver.connections == 3
    assert {request.body for request in receiver.requests} == {b"x" * 300_000}


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:{port}/", "http://2130706433:{port}/", "http://[::ffff:127.0.0.1]:{port}/", "http://0:{port}/"],
)
async def test_literal_inner_address_is_refused_for_good(url: str) -> None:
    """Nothing is sent, and nothing will change by trying again."""
    async with answering(OK) as receiver, WebhookSender(EgressPolicy()) as sender:
        attempt = await send(sender, url.format(port=receiver.port))

    assert (attempt.outcome, kind(attempt), attempt.final) == (AttemptOutcome.REFUSED, "egress_refused", True)
    assert receiver.connections == 0


async def test_name_of_an_inner_address_is_refused_for_good() -> None:
    """The answers of the resolver are checked, not the name."""
    async with answering(OK) as receiver, WebhookSender(EgressPolicy()) as sender:
        attempt = await send(sender, f"http://localhost:{receiver.port}/")

    assert (attempt.outcome, kind(attempt), attempt.final) == (AttemptOutcome.REFUSED, "egress_refused", True)
    assert receiver.connections == 0


async def test_name_is_called_when_its_addresses_are_allowed(sender: WebhookSender) -> None:
    """The Host header keeps the name while the checked address is dialled."""
    async with answering(OK) as receiver:
        attempt = await send(sender, f"http://localhost:{receiver.port}/")

    assert attempt.outcome is AttemptOutcome.DELIVERED
    assert receiver.requests[0].headers["host"] == f"localhost:{receiver.port}"


@pytest.mark.parametrize("url", ["", "ftp://a.b/", "http://user:whsec_CANARY@a.b/", "http://a b/", "http://a.b:22/"])
async def test_unusable_url_is_refused_for_good(sender: WebhookSender, url: str) -> None:
    """Such a URL cannot have passed at submission; it still must not raise, nor be retried."""
    attempt = await send(sender, url)

    assert (attempt.outcome, attempt.http_status, attempt.final) == (AttemptOutcome.REFUSED, None, True)


async def test_header_that_cannot_be_sent_fails(sender: WebhookSender) -> None:
    """A line break never reaches the wire."""
    async with answering(OK) as receiver:
        attempt = await send(sender, receiver.url, headers={"X-A": "b\r\nX-C: d"})

    assert (attempt.outcome, kind(attempt)) == (AttemptOutcome.FAILED, "request")
    assert receiver.requests == []


async def test_proxy_of_the_environment_is_ignored(sender: WebhookSender, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy would resolve and dial for us, past the policy."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/")
    monkeypatch.setenv("no_proxy", "")
    async with answering(OK) as receiver:
        attempt = await send(sender, receiver.url)

    assert attempt.outcome is AttemptOutcome.DELIVERED


async def test_one_hung_receiver_does_not_delay_another(sender: WebhookSender) -> None:
    """A hundred attempts wait for a dead host while a live one is told at once."""
    async with listening(hang) as hung, answering(OK, keep_open=True) as live:
        waiting = [asyncio.create_task(send(sender, hung.url, total_seconds=1)) for _ in range(100)]
        await until(lambda: hung.connections == 100)
        attempt = await send(sender, live.url)

        assert attempt.outcome is AttemptOutcome.DELIVERED
        assert not any(task.done() for task in waiting)
        assert {kind(attempt) for attempt in await asyncio.gather(*waiting)} == {"timeout"}


async def test_cancellation_gets_out_and_hangs_up(sender: WebhookSender) -> None:
    """A dispatcher that is shut down does not wait for receivers."""
    arrived = asyncio.Event()

    async def arrive(reader: Reader, writer: Writer) -> None:
        await read_request(reader)
        arrived.set()
        await reader.read()

    async with listening(arrive) as receiver:
        task = asyncio.create_task(sender.send(url=receiver.url, body=b"{}", headers={}))
        await arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(receiver.hung_up.wait(), 2)


async def test_random_bytes_never_raise(sender: WebhookSender) -> None:
    """Two hundred seeded answers of cut, doubled and flipped HTTP each end as one attempt."""
    dice = random.Random(7)
    pieces = [
        b"HTTP/1.1 ", b"HTTP/1.0 ", b"200 OK", b"100 ", b"410", b"\r\n", b"\r\n\r\n", b"\n", b":", b"\0",
        b"\xff", b"0\r\n\r\n", b"Content-Length: 5\r\n", b"Content-Length: 99999999999999999999\r\n",
        b"Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n", b"Connection: upgrade\r\nUpgrade: x\r\n",
        b"Location: ://\r\n", b"Set-Cookie: =\r\n", b"Retry-After: \xc3\x28\r\n", b"hello",
    ]  # fmt: skip
    answers = [
        b"HTTP/1.1 200 OK\r\n"[: dice.choice((0, 9, 17))] + b"".join(dice.choices(pieces, k=9)) for _ in range(200)
    ]
    async with answering(*answers) as receiver:
        attempts = [await send(sender, receiver.url) for _ in answers]

    assert {attempt.outcome for attempt in attempts} == {AttemptOutcome.DELIVERED, AttemptOutcome.FAILED}


@dataclass(frozen=True)
class Authority:
    """A certificate authority made for one test."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def make(cls) -> Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        return cls(_certificate("Test CA", key, "Test CA", key, ca=True), key)

    def trusted(self) -> ssl.SSLContext:
        return ssl.create_default_context(cadata=self.certificate.public_bytes(Encoding.PEM).decode())

    def server(self, folder: Path, *, host: str = "127.0.0.1", days: int = 1) -> ssl.SSLContext:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _certificate(host, key, "Test CA", self.key, days=days)
        path = folder / "server.pem"
        path.write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            + certificate.public_bytes(Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context


def _certificate(
    name: str, key: ec.EllipticCurvePrivateKey, issuer: str, signer: ec.EllipticCurvePrivateKey, *, days: int = 1,
    ca: bool = False,
) -> x509.Certificate:  # fmt: skip
    def dn(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

    host = x509.IPAddress(IPv4Address(name)) if name[0].isdigit() else x509.DNSName(name.replace(" ", "-"))
    builder = x509.CertificateBuilder(
        issuer_name=dn(issuer),
        subject_name=dn(name),
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=datetime.now(UTC) - timedelta(days=30),
        not_valid_after=datetime.now(UTC) + timedelta(days=days),
    )
    builder = builder.add_extension(x509.SubjectAlternativeName([host]), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    issuer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    return builder.add_extension(issuer_id, critical=False).sign(signer, hashes.SHA256())


async def accept(reader: Reader, writer: Writer) -> None:
    await read_request(reader)
    writer.write(OK)
    await writer.drain()


async def test_trusted_tls_is_delivered(tmp_path: Path) -> None:
    """https works, with certificate and host verified."""
    authority = Authority.make()
    sending = WebhookSender(LOOPBACK, tls=authority.trusted())
    async with listening(accept, authority.server(tmp_path)) as receiver, sending as sender:
        attempt = await send(sender, receiver.url)

    assert attempt.outcome is AttemptOutcome.DELIVERED


@pytest.mark.parametrize(
    ("host", "days", "trusted", "words"),
    [
        ("127.0.0.1", 1, False, "certificate"),
        ("127.0.0.1", -1, True, "expired"),
        ("other.example", 1, True, "mismatch"),
    ],
    ids=["self-signed", "expired", "wrong host"],
)
async def test_untrusted_tls_fails(tmp_path: Path, host: str, days: int, trusted: bool, words: str) -> None:
    """The reason is told; nothing of the request is."""
    authority = Authority.make()
    context = authority.trusted() if trusted else None
    server = authority.server(tmp_path, host=host, days=days)
    async with listening(accept, server) as receiver, WebhookSender(LOOPBACK, tls=context) as sender:
        attempt = await send(sender, receiver.url)

    assert (attempt.outcome, kind(attempt), attempt.final) == (AttemptOutcome.FAILED, "tls", False)
    assert words in (attempt.error or "")


async def test_plain_http_behind_https_fails_as_tls(sender: WebhookSender) -> None:
    """The scheme and the port do not fit together."""

    async def plain(reader: Reader, writer: Writer) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()

    async with listening(plain) as receiver:
        receiver.scheme = "https"
        attempt = await send(sender, receiver.url)

    assert (attempt.outcome, kind(attempt)) == (AttemptOutcome.FAILED, "tls")


async def test_hung_handshake_times_out_as_connecting(sender: WebhookSender) -> None:
    """A socket that accepts and then says nothing counts as not connected."""
    async with listening(hang) as receiver:
        receiver.scheme = "https"
        attempt = await send(sender, receiver.url, total_seconds=SHORT_SECONDS)
        await asyncio.wait_for(receiver.hung_up.wait(), 2)

    assert attempt.error == "timeout: no connection in time"
