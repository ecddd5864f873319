"""Makers of rows: each leaves in the database what its arguments say, and answers with what a test needs to go on."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from uuid import UUID

import asyncpg

from controlplane.domain.begun import Begun
from controlplane.domain.execution import Accepted, Status, Submission, Webhook
from controlplane.domain.ids import ExecutionId, IdMaker, SessionId
from controlplane.domain.lease import Claim, Fence, Lease, Recorded, ReportCode, Session, Transport, Verdict
from controlplane.domain.lease import Report as ReportOf
from controlplane.domain.memory import Append, Place, Put, Remove, Scope, Write
from controlplane.domain.placement import Placement
from controlplane.domain.step import Step, StepOp, StepWrite
from controlplane.errors import ControlPlaneError
from controlplane.postgres.pool import Connection
from controlplane.stages import cancel, complete, register, signal, step, submit
from controlplane.stages import lease as lease_stage
from controlplane.stages.signal import Sent, Signal

NAMESPACE = 1
TARGET = "n.echo"
ADDRESS = "http://127.0.0.1:8001"
STOCK = Placement()
DEADLINE_SECONDS = 10.0

Answer = TypeVar("Answer")
Item = TypeVar("Item")

make_id = IdMaker(lambda: time.time_ns() // 1_000_000, random.getrandbits).new

SET_CLOCK = "select set_config('controlplane.clock_offset', $1, false)"
WAITED_FOR = """
select exists (select from pg_locks where not granted and pg_backend_pid() = any(pg_blocking_pids(pid)))
"""
BLOCKED = "select cardinality(pg_blocking_pids($1)) > 0"

TAKE = """
update queue
set state = 'leased', session_id = $3, attempt = $4, leased_at = clock(), started_at = clock(),
  deadline_at = least(clock() + make_interval(secs => timeout_seconds), total_deadline_at)
where bucket = $1
  and id = $2
"""

SEND = """
update queue
set sent_at = clock(), accepted_at = case when $3 then clock() end
where bucket = $1
  and id = $2
"""

PLACE_IN_STATE = """
update queue
set state = $3, attempt = $4, line = case when $3 = 'blocked' then coalesce(line, 'turn:' || target) else line end,
  available_at = clock() + interval '1 hour' * (case when $3 = 'delayed' then 1 else 0 end)
where bucket = $1
  and id = $2
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """An execution that a maker left in the database."""

    submission: Submission
    attempt: int
    leased_by: Session | None = None

    @property
    def id(self) -> ExecutionId:
        return self.submission.id

    @property
    def fence(self) -> Fence:
        return Fence(self.id, self.attempt)

    @property
    def session(self) -> Session:
        """The session that ran it."""
        assert self.leased_by is not None
        return self.leased_by

    @property
    def run_id(self) -> str:
        return self.submission.run_id


async def move_clock(conn: Connection, offset: str) -> None:
    """On this connection it is now `offset` later than it is (`1 hour`; `0` is the real time again)."""
    await conn.execute(SET_CLOCK, offset)


def no_jitter() -> float:
    return 0.0


def new_execution_id(bucket: int = 0) -> ExecutionId:
    return ExecutionId(make_id(bucket))


def webhook(url: str = "https://receiver.example/hook", **over: Any) -> Webhook:
    host = url.split("/")[2]
    made = Webhook(url=url, host=host, secret_sealed=b"sealed", headers_sealed=None, attempts_max=5)
    return replace(made, **over)


def submission(*, bucket: int = 0, **over: Any) -> Submission:
    """A submission that nobody has accepted yet."""
    id_ = over.pop("id", None) or new_execution_id(bucket)
    made = Submission(
        id=ExecutionId(id_),
        namespace=NAMESPACE,
        run_id=f"run-{id_}",
        root_id=id_,
        target=TARGET,
        type="reasoner",
        input=b'{"x": 1}',
    )
    return replace(made, **over)


async def make_session(
    conn: Connection,
    node_id: str = "n",
    *,
    slots: int = 8,
    heartbeat_seconds: float = 10.0,
    lease_floor_seconds: float = 30.0,
    bucket: int = 0,
) -> Session:
    """An open session of a registered node."""
    node = register.Node(namespace=NAMESPACE, id=node_id, transport="pull", version="1")
    await register.register(conn, node, bucket=0)
    return await register.open_session(
        conn,
        SessionId(make_id(bucket)),
        namespace=NAMESPACE,
        node_id=node_id,
        node_bucket=0,
        instance_id="instance",
        slots=slots,
        heartbeat_seconds=heartbeat_seconds,
        lease_floor_seconds=lease_floor_seconds,
    )


def a_process(**over: Any) -> register.Process:
    """A process that is called, as its SDK registers it."""
    made = register.Process(
        namespace=NAMESPACE,
        node_id="n",
        transport=Transport.PUSH,
        base_url=ADDRESS,
        instance_id="instance",
        slots=8,
        heartbeat_seconds=2.0,
        lease_seconds=90.0,
        acknowledges=True,
        start_to_close_seconds=7_200.0,
    )
    return replace(made, **over)


async def make_process(conn: Connection, *, bucket: int = 0, **over: Any) -> Session:
    """The session of a process that is called and has just registered."""
    process = a_process(**over)
    node = register.Node(
        namespace=process.namespace,
        id=process.node_id,
        transport=process.transport.value,
        version="1",
        base_url=process.base_url,
    )
    return await register.join(conn, node, process, SessionId(make_id(bucket)))


async def make_sent(conn: Connection, *, session: Session | None = None, accepted: bool = False, **over: Any) -> Made:
    """An attempt whose request went out to a process that is called."""
    made = await make_execution(conn, "running", session=session or await make_process(conn), **over)
    await conn.execute(SEND, bucket(made.id), made.id, accepted)
    return made


async def make_execution(
    conn: Connection,
    status: str = "queued",
    *,
    attempt: int | None = None,
    session: Session | None = None,
    **over: Any,
) -> Made:
    """An execution at this status of the wire, or in this state of the queue (`delayed`, `blocked`, `paused`)."""
    wish = submission(**over)
    await submit.accept(conn, [wish])
    if status in ("queued", "delayed", "blocked", "paused", "waiting"):
        state = "ready" if status == "queued" else status
        await conn.execute(PLACE_IN_STATE, bucket(wish.id), wish.id, state, attempt or 0)
        return Made(submission=wish, attempt=attempt or 0)
    session = session or await make_session(conn)
    made = Made(submission=wish, attempt=attempt or 1, leased_by=session)
    await conn.execute(TAKE, bucket(wish.id), wish.id, session.id, made.attempt)
    if status == "running":
        return made
    await _end(conn, made, Status(status))
    return made


async def _end(conn: Connection, made: Made, status: Status) -> None:
    if status is Status.TIMEOUT:
        raise ValueError("time_out ends those that have a timeout")
    if status is Status.CANCELLED:
        await cancel.request(conn, [made.id], reason=None, make_id=make_id)
    await report(conn, made.fence, Verdict.FAILED if status is Status.FAILED else Verdict.SUCCEEDED, retryable=False)


async def lease(
    conn: Connection, session: Session, targets: Sequence[str] = (TARGET,), *, limit: int = 256
) -> list[Lease]:
    """What this session is handed now."""
    claim = Claim(session=session, targets=tuple(targets), limit=limit)
    [answer] = await lease_stage.claim(conn, [claim], STOCK)
    return must(answer)


async def accept(conn: Connection, *wishes: Submission) -> list[Accepted]:
    return [must(answer) for answer in await submit.accept(conn, wishes)]


async def report(
    conn: Connection,
    fence: Fence,
    verdict: Verdict = Verdict.SUCCEEDED,
    *,
    begun: Begun | None = None,
    **over: Any,
) -> Recorded:
    """What is answered to a node that says this of an attempt."""
    batch = [a_report(fence, verdict, **over)]
    [answer] = await complete.report(conn, batch, make_id=make_id, jitter=no_jitter, begun=begun)
    return must(answer)


def a_report(fence: Fence, verdict: Verdict = Verdict.SUCCEEDED, **over: Any) -> ReportOf:
    fields: dict[Verdict, dict[str, Any]] = {
        Verdict.SUCCEEDED: {"result": b'{"ok": true}'},
        Verdict.FAILED: {"error": b'"boom"', "error_class": "Boom"},
    }
    return replace(ReportOf(fence=fence, verdict=verdict), **(fields.get(verdict, {}) | over))


async def steps(conn: Connection, made: Made, *ops: StepOp, fence: Fence | None = None) -> list[Step]:
    """How these steps of this execution stand once its attempt has written them."""
    [answer] = await step.write(conn, [StepWrite(fence=fence or made.fence, ops=ops)])
    return must(answer)


async def begin(conn: Connection, begun: Begun, **over: Any) -> Made:
    """An execution that a session waited for, and which `begun` knows."""
    session, wish = await make_session(conn), submission(**over)
    [answer] = await submit.accept(conn, [wish], {wish.id: session}, begun)
    assert must(answer).lease is not None
    return Made(submission=wish, attempt=1, leased_by=session)


async def suspend(conn: Connection, fence: Fence, *waits: str, any_: bool = False) -> Recorded:
    """What is answered to an attempt that only waits for these steps."""
    return await report(conn, fence, Verdict.WAITING, waits=waits, waits_any=any_)


async def send(
    conn: Connection, id_: ExecutionId, event: str = "go", payload: bytes = b"1", *, key: str | None = None
) -> Sent:
    """What is answered to who signals this execution."""
    return await signal.send(
        conn,
        Signal(
            id=make_id(bucket(id_)),
            execution_id=id_,
            namespace=NAMESPACE,
            event=event,
            payload=payload,
            idempotency_key=key,
        ),
    )


def run_place(run_id: str, key: str = "k", *, bucket: int = 0) -> Place:
    return Place(bucket, NAMESPACE, Scope.RUN, run_id, key)


def put(made: Made, value: bytes, key: str = "k", *, fence: Fence | None = None, length: int | None = None) -> Write:
    """A checkpoint of this execution in the memory of its run."""
    op = Put(place=run_place(made.run_id, key), value=value, length=length)
    return Write(ops=(op,), fence=fence or made.fence, writer=made.id)


def append(
    made: Made, *items: bytes, expected_length: int | None = None, key: str = "k", fence: Fence | None = None
) -> Write:
    op = Append(place=run_place(made.run_id, key), items=items, expected_length=expected_length)
    return Write(ops=(op,), fence=fence or made.fence, writer=made.id)


def remove(made: Made, key: str = "k") -> Write:
    return Write(ops=(Remove(place=run_place(made.run_id, key)),), fence=made.fence, writer=made.id)


def bucket(id_: UUID) -> int:
    return id_.int & 4095


def must(answer: Answer | ControlPlaneError) -> Answer:
    """The answer, or the refusal raised."""
    if isinstance(answer, ControlPlaneError):
        raise answer
    return answer


async def queue_row(conn: Connection, id_: UUID) -> asyncpg.Record:
    """The row of this execution in the queue, where it must be."""
    return await only_row(conn, "select * from queue where bucket = $1 and id = $2", bucket(id_), id_)


async def outcome_row(conn: Connection, id_: UUID) -> asyncpg.Record:
    """The outcome of this execution, which must have ended."""
    return await only_row(conn, "select * from outcomes where bucket = $1 and id = $2", bucket(id_), id_)


async def only_row(conn: Connection, query: str, *arguments: object) -> asyncpg.Record:
    rows = await conn.fetch(query, *arguments)
    assert len(rows) == 1, f"{len(rows)} rows"
    return rows[0]


async def all_rows(conn: Connection, query: str, *arguments: object) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in await conn.fetch(query, *arguments)]


async def queued(conn: Connection, id_: UUID) -> bool:
    return bool(await conn.fetch("select 1 from queue where bucket = $1 and id = $2", bucket(id_), id_))


async def ended(conn: Connection, id_: UUID) -> bool:
    return bool(await conn.fetch("select 1 from outcomes where bucket = $1 and id = $2", bucket(id_), id_))


async def event_types(conn: Connection, id_: UUID) -> list[str]:
    rows = await conn.fetch(
        "select type from events where bucket = $1 and execution_id = $2 order by seq", bucket(id_), id_
    )
    return [row["type"] for row in rows]


async def counts(conn: Connection, *tables: str) -> dict[str, int]:
    return {table: await conn.fetchval(f"select count(*) from {table}") for table in tables}


@contextlib.contextmanager
def tasks_begun() -> Iterator[list[asyncio.Task[Any]]]:
    """The tasks that are begun on this loop meanwhile."""
    loop, tasks = asyncio.get_running_loop(), list[asyncio.Task[Any]]()

    def begin(loop: asyncio.AbstractEventLoop, work: Any, **named: Any) -> asyncio.Task[Any]:
        tasks.append(asyncio.Task(work, loop=loop, **named))
        return tasks[-1]

    loop.set_task_factory(begin)
    try:
        yield tasks
    finally:
        loop.set_task_factory(None)


async def horizon_passed(observer: Connection) -> None:
    """Returns once no transaction is open that began before now, in no database of the server: other tests' neither."""
    mark = await observer.fetchval("select pg_snapshot_xmax(pg_current_snapshot())::text")
    passed = "select pg_snapshot_xmin(pg_current_snapshot()) >= $1::text::xid8"
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not await observer.fetchval(passed, mark):  # noqa: ASYNC110 - the end of a transaction has no event
            await asyncio.sleep(0.002)


async def until_blocked(observer: Connection, pid: int, *, by: int | None = None) -> None:
    """Returns once the backend waits for a lock (of the backend `by`)."""
    question = "select $2::int = any(pg_blocking_pids($1))" if by is not None else BLOCKED
    arguments = (pid,) if by is None else (pid, by)
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not await observer.fetchval(question, *arguments):  # noqa: ASYNC110 - a lock has no event
            await asyncio.sleep(0.002)


async def until_blocks(holder: Connection) -> None:
    """Returns once somebody waits for a lock that this connection's open transaction has."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not await holder.fetchval(WAITED_FOR):  # noqa: ASYNC110 - a lock has no event
            await asyncio.sleep(0.002)


async def race(
    holder: Connection,
    waiter: Connection,
    observer: Connection,
    *,
    first: Callable[[Connection], Awaitable[Item]],
    second: Callable[[Connection], Awaitable[Answer]],
) -> tuple[Item, Answer]:
    """Run `first` without its commit, let `second` wait for its locks on another connection, then commit `first`."""
    transaction = holder.transaction()
    await transaction.start()
    began = await first(holder)
    waiting = asyncio.ensure_future(second(waiter))
    try:
        await until_blocked(observer, waiter.get_server_pid())
    finally:
        await transaction.commit()
    return began, await waiting


LEASE_LOST = Recorded(code=ReportCode.LEASE_LOST, status=None)
