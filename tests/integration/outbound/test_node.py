"""The caller of nodes against processes that are slow, broken, full or gone. All are real sockets on loopback."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import pytest

from controlplane.domain.call import Stop
from controlplane.domain.ids import ExecutionId, SessionId, show_execution
from controlplane.domain.lease import Fence, Lease, Session, Transport, Verdict
from controlplane.errors import Invalid
from controlplane.outbound.node import RING_LINES, NodeCaller
from controlplane.security.egress import EgressPolicy

LOOPBACK = EgressPolicy(allow_loopback=True)
LONG_SECONDS = 20.0
BYTES_MAX = 1_000
ID = ExecutionId(uuid.UUID("019ab000-0000-7000-8000-000000000000"))
FENCE = Fence(ID, 3)
FENCED = f"{show_execution(ID)}~3"

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter
Behaviour = Callable[[Reader, Writer], Awaitable[None]]


@dataclass
class Process:
    """A listening socket, and what arrived there."""

    port: int
    heads: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    @property
    def session(self) -> Session:
        return Session(
            id=SessionId(uuid.uuid4()),
            namespace=1,
            node_id="n",
            instance_id="i",
            slots=1,
            heartbeat_seconds=2,
            lease_seconds=120,
            transport=Transport.PUSH,
            base_url=f"http://127.0.0.1:{self.port}",
        )


@asynccontextmanager
async def answering(answer: bytes | Behaviour) -> AsyncIterator[Process]:
    """A process that gives this answer to everything, or does this after it has read the request."""

    async def serve(reader: Reader, writer: Writer) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = next((one for one in head.split("\r\n") if one.lower().startswith("content-length")), ":0")
            process.heads.append(head)
            process.bodies.append(await reader.readexactly(int(length.partition(":")[2])))
            if isinstance(answer, bytes):
                writer.write(answer)
                await writer.drain()
            else:
                await answer(reader, writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    process = Process(server.sockets[0].getsockname()[1])
    try:
        yield process
    finally:
        server.close()


def said(status: int, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def hang(reader: Reader, _: Writer) -> None:
    await reader.read()


async def reset(_: Reader, writer: Writer) -> None:
    writer.transport.abort()


@pytest.fixture
async def nodes() -> AsyncIterator[NodeCaller]:
    async with NodeCaller(LOOPBACK, answer_bytes_max=BYTES_MAX, token="letmein") as caller:
        yield caller


@pytest.fixture
def gone() -> Session:
    """A process at whose address nobody listens."""
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return Process(place.getsockname()[1]).session


LEASE = Lease(
    execution_id=ID,
    attempt=3,
    failures=0,
    namespace=1,
    target="n.echo",
    type="reasoner",
    run_id="run",
    root_id=ID,
    parent_id=None,
    session_key=None,
    actor_key=None,
    input=b'{"x" : 1.0}',
    context=None,
    timeout_seconds=None,
    created_at=datetime(2026, 11, 26, tzinfo=UTC),
)


async def test_work_is_handed_over(nodes: NodeCaller) -> None:
    """To the function's own path, byte for byte, with the operator's token."""
    async with answering(said(202, b"{}")) as process:
        answer = await nodes.hand_over(process.session, LEASE, total_seconds=LONG_SECONDS)

    head = process.heads[0].lower()
    assert process.heads[0].startswith("POST /reasoners/echo HTTP/1.1\r\n")
    assert process.bodies == [b'{"x" : 1.0}']
    assert f"\r\nx-execution-id: {FENCED}\r\n" in head
    assert "\r\nauthorization: bearer letmein\r\n" in head
    assert (answer.status, answer.body, answer.sent, answer.broken) == (202, b"{}", True, False)


async def test_functions_are_handed_an_event(nodes: NodeCaller) -> None:
    """At one path for all of them."""
    async with answering(said(200, b"1")) as process:
        session = replace(process.session, transport=Transport.SERVERLESS)
        await nodes.hand_over(session, replace(LEASE, type="skill"), total_seconds=LONG_SECONDS)

    assert process.heads[0].startswith("POST /execute HTTP/1.1\r\n")
    assert json.loads(process.bodies[0])["skill"] == "echo"


@pytest.mark.parametrize(
    ("answer", "sent", "broken"),
    [
        (reset, True, True),
        (b"hello\r\n\r\n", True, True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{", True, True),
        (said(200, b"{}"), True, False),
    ],
    ids=["reset", "not HTTP", "cut", "whole"],
)
async def test_what_is_known_of_an_answer(
    nodes: NodeCaller, answer: bytes | Behaviour, sent: bool, broken: bool
) -> None:
    """Once a connection stood, the work may have arrived, whatever came back."""
    async with answering(answer) as process:
        got = await nodes.hand_over(process.session, LEASE, total_seconds=LONG_SECONDS)

    assert (got.sent, got.broken) == (sent, broken)
    assert len(process.heads) == 1


async def test_no_answer_in_time(nodes: NodeCaller) -> None:
    """Nobody knows, either."""
    async with answering(hang) as process:
        got = await nodes.hand_over(process.session, LEASE, total_seconds=0.3)

    assert (got.status, got.sent, got.broken) == (None, True, True)


async def test_nobody_listens(nodes: NodeCaller, gone: Session) -> None:
    """Then nothing was sent, for sure."""
    got = await nodes.hand_over(gone, LEASE, total_seconds=LONG_SECONDS)

    assert (got.status, got.sent) == (None, False)


async def test_an_address_that_is_not_allowed() -> None:
    """Is not dialled, also when it is found out only now; nothing was sent."""
    async with answering(said(200, b"1")) as process, NodeCaller(EgressPolicy(), answer_bytes_max=9) as nodes:
        got = await nodes.hand_over(process.session, LEASE, total_seconds=LONG_SECONDS)
        there = await nodes.listens(process.session)

    assert (got.status, got.sent, there) == (None, False, None)
    assert process.heads == []


async def test_a_redirect_is_not_followed(nodes: NodeCaller) -> None:
    """It would lead past the check of addresses."""
    async with answering(said(302, b"", "Location: http://169.254.169.254/")) as process:
        got = await nodes.hand_over(process.session, LEASE, total_seconds=LONG_SECONDS)

    assert (got.status, len(process.heads)) == (302, 1)


async def test_more_than_anybody_may_answer(nodes: NodeCaller) -> None:
    """Is clipped, and said to be."""
    async with answering(said(200, b"x" * 5_000)) as process:
        got = await nodes.hand_over(process.session, LEASE, total_seconds=LONG_SECONDS)

    assert (len(got.body), got.clipped, got.broken) == (BYTES_MAX, True, False)


@pytest.mark.parametrize(
    ("text", "seconds"), [("7", 7), ("0", 0), ("9" * 9, 3_600), ("9" * 30, None), ("-1", None), ("soon", None)]
)
async def test_when_to_ask_again(nodes: NodeCaller, text: str, seconds: float | None) -> None:
    """As the process says, within an hour."""
    async with answering(said(503, b"", f"Retry-After: {text}")) as process:
        got = await nodes.hand_over(process.session, LEASE, total_seconds=LONG_SECONDS)

    assert (got.status, got.retry_after_seconds) == (503, seconds)


@pytest.mark.parametrize(
    ("answer", "stop"),
    [
        (said(200, b'{"cancelled":true,"execution_id":"x"}'), Stop.STOPPED),
        (said(200, b'{"cancelled":false,"reason":"execution_not_active"}'), Stop.IDLE),
        (said(200, b'{"cancelled":false,"reason":"busy"}'), Stop.UNKNOWN),
        (said(200, b"[]"), Stop.UNKNOWN),
        (said(404, b"{}"), Stop.UNABLE),
        (said(405, b""), Stop.UNABLE),
        (said(500, b""), Stop.UNKNOWN),
        (reset, Stop.UNKNOWN),
    ],
)
async def test_what_a_process_says_to_being_told_to_stop(
    nodes: NodeCaller, answer: bytes | Behaviour, stop: Stop
) -> None:
    """Only what is certain counts."""
    async with answering(answer) as process:
        assert await nodes.stop(process.session, FENCE, run_id="run", reason=None) is stop

    assert process.heads[0].startswith(f"POST /_internal/executions/{FENCED}/cancel HTTP/1.1\r\n")
    assert json.loads(process.bodies[0])["reason"] == "cancelled"


async def test_nobody_is_there_to_be_stopped(nodes: NodeCaller, gone: Session) -> None:
    """And functions cannot be told at all."""
    serverless = replace(gone, transport=Transport.SERVERLESS)

    assert await nodes.stop(gone, FENCE, run_id="run", reason=None) is Stop.GONE
    assert await nodes.stop(serverless, FENCE, run_id="run", reason=None) is Stop.UNABLE


@pytest.mark.parametrize(
    ("answer", "there"), [(said(200, b"{}"), True), (said(404, b""), True), (said(500, b""), True), (reset, None)]
)
async def test_whether_somebody_listens(nodes: NodeCaller, answer: bytes | Behaviour, there: bool | None) -> None:
    """Whoever answers anything does; a connection that breaks says nothing."""
    async with answering(answer) as process:
        assert await nodes.listens(process.session) is there

    assert process.heads[0].startswith("GET /health HTTP/1.1\r\n")


async def test_whether_nobody_listens(nodes: NodeCaller, gone: Session) -> None:
    """A refused connection is certain."""
    assert await nodes.listens(gone) is False


def ring(*lines: object) -> bytes:
    """A process's own log, as it is served."""
    return b"".join(json.dumps({"v": 1, "seq": n, "line": one}).encode() + b"\n" for n, one in enumerate(lines))


def ended(id_: str, event: str = "reasoner.completed", **attributes: object) -> str:
    return json.dumps({"execution_id": id_, "event_type": event, "attributes": attributes})


async def test_what_a_process_remembers(nodes: NodeCaller) -> None:
    """The ends of attempts of ours, among whatever else it has logged."""
    other = f"{show_execution(ID)}~4"
    lines = [
        "hello",
        5,
        '{"event_type":"reasoner.completed"}',
        ended("exec_1_2", result=1),
        ended(show_execution(ID), result=1),
        ended(FENCED, "reasoner.started"),
        ended(FENCED, result=[1, None]),
        ended(other, "reasoner.failed", error="boom"),
    ]
    async with answering(said(200, ring(*lines) + b"{cut off")) as process:
        remembered = await nodes.remembers(process.session)

    done, failed = remembered[FENCE], remembered[Fence(ID, 4)]
    assert process.heads[0].startswith(f"GET /agentfield/v1/logs?tail_lines={RING_LINES} HTTP/1.1\r\n")
    assert remembered.keys() == {FENCE, Fence(ID, 4)}
    assert done is not None
    assert failed is not None
    assert (done.verdict, done.result) == (Verdict.SUCCEEDED, b"[1, null]")
    assert (failed.verdict, failed.error) == (Verdict.FAILED, b'"boom"')


@pytest.mark.parametrize(
    "attributes", [{"_elided": True}, {"result": "<20000 bytes elided>"}, {"result": float("nan")}]
)
async def test_what_a_process_remembers_in_part(nodes: NodeCaller, attributes: dict[str, object]) -> None:
    """It is over; with what result is not known."""
    async with answering(said(200, ring(ended(FENCED, **attributes)))) as process:
        assert await nodes.remembers(process.session) == {FENCE: None}


@pytest.mark.parametrize("answer", [said(404, b"{}"), said(401, b"{}"), reset, said(200, b"\xff\xfe\n[[[")])
async def test_a_process_that_keeps_no_log(nodes: NodeCaller, answer: bytes | Behaviour) -> None:
    """Remembers nothing."""
    async with answering(answer) as process:
        assert await nodes.remembers(process.session) == {}


async def test_a_long_log_holds_nobody_up(nodes: NodeCaller) -> None:
    """While it is read, the event loop goes on: no turn of it takes anything like the whole time."""
    lines = b'{"line":"\\"reasoner.x"}\n' * 500_000
    turns: list[float] = []

    async def turn() -> None:
        while True:
            turns.append(asyncio.get_running_loop().time())
            await asyncio.sleep(0)

    async with answering(said(200, lines)) as process:
        turning = asyncio.create_task(turn())
        assert await nodes.remembers(process.session) == {}
        turning.cancel()

    longest = max(later - earlier for earlier, later in itertools.pairwise(turns))
    assert longest < (turns[-1] - turns[0]) / 4


async def test_functions_say_what_they_are(nodes: NodeCaller) -> None:
    """As the bytes they said it in."""
    async with answering(said(200, b'{"id":"fn"}')) as process:
        assert await nodes.discover(f"http://127.0.0.1:{process.port}/fn") == b'{"id":"fn"}'

    assert process.heads[0].startswith("GET /fn/discover HTTP/1.1\r\n")


@pytest.mark.parametrize(
    "answer", [said(500, b"{}"), reset, said(200, b"x" * 2_000), b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"]
)
async def test_functions_that_do_not_say_what_they_are(nodes: NodeCaller, answer: bytes | Behaviour) -> None:
    """It is the address that is not valid, and neither it nor what was answered is said back."""
    async with answering(answer) as process:
        with pytest.raises(Invalid) as refused:
            await nodes.discover(f"http://127.0.0.1:{process.port}/fn?key=CANARY")

    assert refused.value.fix
    assert "CANARY" not in refused.value.detail
