"""Lock order: whatever is done at once to the same executions, in whatever order, nobody waits in a circle."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from uuid import UUID, uuid4

import asyncpg
import pytest

from controlplane.domain.approval import Decision
from controlplane.domain.audit import Actor, AuditId, Entry
from controlplane.domain.ids import SessionId
from controlplane.domain.lease import Beat, Claim, Fence, Session, Verdict
from controlplane.domain.limit import Rule
from controlplane.domain.memory import Op, Place, Put, Scope, Write
from controlplane.domain.pause import Paused
from controlplane.domain.placement import Placement
from controlplane.domain.retention import Keep
from controlplane.domain.step import AskApproval, AwaitEvent, Done, Sleep, StepOp, StepWrite
from controlplane.errors import ControlPlaneError, DeliveryNotFound, NodeInUse, NodeNotFound, SessionClosed
from controlplane.postgres.lane import Raced
from controlplane.postgres.pool import Connection
from controlplane.stages import (
    admit,
    approve,
    audit,
    cancel,
    checkpoint,
    complete,
    expire,
    forget,
    forget_node,
    lease,
    limit,
    log,
    redrive,
    register,
    renew,
    send,
    step,
    submit,
    suspend,
    withhold,
)
from controlplane.stages.log import Line, Progress
from tests.make import (
    NAMESPACE,
    STOCK,
    TARGET,
    Made,
    a_report,
    all_rows,
    append,
    counts,
    make_execution,
    make_id,
    make_process,
    make_session,
    move_clock,
    must,
    no_jitter,
    put,
    submission,
    until_blocked,
    webhook,
)
from tests.make import send as send_signal

EXECUTIONS = 8
ROUNDS = 6
# A circle is found after this long; by default it takes a second.
NOTICE_FAST = "set deadlock_timeout = '10ms'"

Step = Callable[[Connection, Sequence[Made]], Awaitable[object]]


@pytest.fixture
async def connections(database: str) -> AsyncIterator[list[Connection]]:
    """One for each of those that work at once."""
    opened: list[Connection] = [await asyncpg.connect(database) for _ in STEPS]
    for own in opened:
        await own.execute(NOTICE_FAST)
    yield opened
    for own in opened:
        await own.close()


async def report_all(conn: Connection, some: Sequence[Made]) -> object:
    verdicts = (Verdict.SUCCEEDED, Verdict.FAILED, Verdict.RELEASED)
    batch = [a_report(one.fence, verdicts[n % 3], retryable=False) for n, one in enumerate(some)]
    return await complete.report(conn, batch, make_id=make_id, jitter=no_jitter)


async def cancel_all(conn: Connection, some: Sequence[Made]) -> object:
    return await cancel.request(conn, [one.id for one in some], reason=None, make_id=make_id)


async def reap(conn: Connection, some: Sequence[Made]) -> object:
    await move_clock(conn, "1 hour")
    for bucket in (0, 1):
        await expire.close_expired(conn, bucket, up_seconds=1e6)
        await expire.sweep(conn, bucket, make_id=make_id)
        await expire.time_out(conn, bucket, make_id=make_id)
        await expire.force_cancel(conn, bucket, grace_seconds=0, make_id=make_id)
        await approve.expire_due(conn, bucket, make_id=make_id)
    return None


async def say_something(conn: Connection, some: Sequence[Made]) -> object:
    entries: list[log.Entry] = [Line(fence=one.fence, level="info", message="m") for one in some]
    entries += [Progress(fence=one.fence, progress=b"{}") for one in some[: len(some) // 2]]
    return await log.append(conn, entries)


async def write_own(conn: Connection, some: Sequence[Made]) -> object:
    return await checkpoint.write(
        conn, [put(one, b"1", key="a") for one in some] + [append(one, b"1", key="b") for one in some]
    )


async def write_shared(conn: Connection, some: Sequence[Made]) -> object:
    """New and old keys that everybody writes, a group for each execution."""
    places = [Place(n % 2, NAMESPACE, Scope.GLOBAL, "global", f"k{n}") for n in range(6)]
    order = random.Random(some[0].attempt + len(str(some[0].id))).sample(places, len(places))
    ops: tuple[Op, ...] = tuple(Put(place=place, value=b"[]", length=0) for place in order)
    while True:
        try:
            return await checkpoint.write(conn, [Write(ops=ops, fence=one.fence) for one in some])
        except Raced:
            continue


async def ask_people(conn: Connection, some: Sequence[Made]) -> object:
    for one in some:
        with suppress(ControlPlaneError):
            question = approve.Question(
                execution_id=one.id,
                attempt=None,
                namespace=NAMESPACE,
                request_id="r",
                url=None,
                callback_url="https://agent.example/",
                expires_seconds=60,
            )
            await approve.ask(conn, question, make_id=make_id)
    return None


async def decide(conn: Connection, some: Sequence[Made]) -> object:
    for one in some:
        with suppress(ControlPlaneError):
            await approve.decide(
                conn,
                one.id,
                namespace=NAMESPACE,
                request_id=None,
                decision=Decision.APPROVED,
                feedback=None,
                response=None,
                make_id=make_id,
            )
    return None


async def submit_children(conn: Connection, some: Sequence[Made]) -> object:
    return await submit.accept(
        conn,
        [
            submission(
                bucket=one.id.int & 1,
                parent_id=one.id,
                parent_attempt=1,
                idempotency_key="k",
                idempotency_scope=one.run_id,
            )
            for one in some
        ],
    )


async def write_steps(conn: Connection, some: Sequence[Made]) -> object:
    """A wait for a signal and a memo in one flush, which takes the rows in the strength that the wait needs."""
    await step.write(conn, [StepWrite(fence=one.fence, ops=(Done(name="d", value=b"1"),)) for one in some])
    ops: tuple[StepOp, ...] = (
        AwaitEvent(name="go", event="go"),
        Sleep(name="nap", seconds=0),
        AskApproval(name="ask", request_id="s", title=None, url=None, expires_seconds=1),
    )
    return await step.write(conn, [StepWrite(fence=one.fence, ops=ops) for one in some])


async def call_and_wait(conn: Connection, some: Sequence[Made]) -> object:
    """Every execution calls two children and gives its lease back for them."""
    names = ("b", "a")
    calls = [
        submission(
            bucket=one.id.int & 1,
            run_id=one.run_id,
            parent_id=one.id,
            parent_attempt=1,
            target=CHILD,
            step=name,
            webhooks=(webhook(),),
        )
        for one in some
        for name in names
    ]
    await submit.accept(conn, calls)
    batch = [a_report(one.fence, Verdict.WAITING, waits=names) for one in some[: len(some) // 2]]
    return await complete.report(conn, batch, make_id=make_id, jitter=no_jitter)


async def end_children(conn: Connection, _: Sequence[Made]) -> object:
    """Those that there are, of several parents in each flush."""
    for room in (3, 5, 64):
        session = await make_session(conn, "n")
        [leases] = await lease.claim(conn, [Claim(session=session, targets=(CHILD,), limit=room)], STOCK)
        if isinstance(leases, SessionClosed):  # the clock was moved in between
            continue
        batch = [a_report(Fence(one.execution_id, one.attempt)) for one in must(leases)]
        await complete.report(conn, batch, make_id=make_id, jitter=no_jitter)
    return None


async def signal_and_wake(conn: Connection, some: Sequence[Made]) -> object:
    for one in some:
        with suppress(ControlPlaneError):
            await send_signal(conn, one.id)
    for bucket in (0, 1):
        await suspend.wake_due(conn, bucket)
        await suspend.fan_in(conn, bucket)
    return None


async def submit_limited(conn: Connection, some: Sequence[Made]) -> object:
    """Children that bring the limits of their keys, in any order."""
    return await submit.accept(
        conn,
        [
            submission(
                bucket=one.id.int & 1,
                parent_id=one.id,
                parent_attempt=1,
                concurrency_key=f"k{n % 3}",
                concurrency_max=n,
                limit_bucket=0,
                line=f"key:k{n % 3}",
                fairness_key=one.run_id,
            )
            for n, one in enumerate(some)
        ],
    )


async def let_in(conn: Connection, _some: Sequence[Made]) -> object:
    for _ in range(5):
        for bucket in (0, 1):
            await admit.adopt(conn, bucket, Placement(buckets=2))
            for line in await admit.lines(conn, bucket):
                await admit.advance(conn, line, Placement(buckets=2))
    return None


async def set_limits(conn: Connection, _some: Sequence[Made]) -> object:
    for key in ("node:n", f"reasoner:{TARGET}", "key:k2", "key:k0"):
        await limit.put(conn, 0, Rule(concurrency_max=3, rate_max=2, rate_seconds=1.0), namespace=NAMESPACE, key=key)
    return None


async def cancel_audited(conn: Connection, some: Sequence[Made]) -> object:
    """Each with its row in the audit log, whose head is the last that is locked."""
    for one in some:
        async with conn.transaction():
            await cancel.request(conn, [one.id], reason=None, make_id=make_id)
            await audit.append(conn, [entry_of(one.id)])
    return None


async def limit_audited(conn: Connection, some: Sequence[Made]) -> object:
    for n, one in enumerate(some):
        async with conn.transaction():
            key = f"key:k{n % 3}"
            await limit.lock(conn, 0, namespace=NAMESPACE, key=key)
            await limit.put(conn, 0, Rule(concurrency_max=n), namespace=NAMESPACE, key=key)
            await audit.append(conn, [entry_of(one.id)])
    return None


def entry_of(id_: UUID) -> Entry:
    return Entry(
        id=AuditId(uuid4()),
        bucket=0,
        namespace=NAMESPACE,
        actor=Actor.daemon("test"),
        action="test.done",
        object_kind="execution",
        object_id=str(id_),
        before=None,
        after=None,
    )


STEPS: tuple[Step, ...] = (
    report_all, cancel_all, reap, say_something, say_something, write_own, write_shared, submit_children,
    ask_people, decide, write_steps, call_and_wait, end_children, end_children, signal_and_wake, signal_and_wake,
    submit_limited, let_in, let_in, set_limits, cancel_audited, cancel_audited, limit_audited,
)  # fmt: skip
CHILD = "n.child"


@pytest.mark.parametrize("seed", range(ROUNDS))
async def test_everything_at_once(conn: Connection, connections: list[Connection], seed: int) -> None:
    """Report, cancel, expire, log, checkpoint and submit meet on the same executions: no deadlock, nothing lost."""
    order = random.Random(seed)
    session = await make_session(conn)
    made = [
        await make_execution(
            conn, "running", session=session, webhooks=(webhook(),), timeout_seconds=60.0, bucket=n % 2
        )
        for n in range(EXECUTIONS)
    ]
    await conn.execute("update queue set crashes = 3")

    async with asyncio.timeout(60):
        await asyncio.gather(
            *(step(own, order.sample(made, EXECUTIONS)) for own, step in zip(connections, STEPS, strict=True))
        )
    parents = [one.id for one in made]
    twice = "select count(*) from queue join outcomes using (bucket, id)"
    somewhere = "select count(*) from (select id from queue union all select id from outcomes) as a where id = any($1)"
    odd = (
        "select count(*) from (select * from deliveries where webhook_n > 0) d"
        " full join outcomes o on o.id = execution_id where num_nulls(d.id, o.id) > 0"
    )

    left_open = "select count(*) from approvals a join outcomes o on o.id = execution_id where a.status = 'pending'"

    left_pending = "select count(*) from steps s join outcomes o on o.id = s.child_id where s.status = 'pending'"
    of_the_dead = (
        "select count(*) from steps s join outcomes o on o.id = s.execution_id"
        " where s.awaited or s.news or s.status = 'pending' and s.kind <> 'call'"
    )
    forgotten = (
        "select count(*) from queue q where waits_until = 'all' and not exists"
        " (select 1 from steps s where s.execution_id = q.id and s.awaited and (s.status = 'pending' or s.news))"
    )

    assert await conn.fetchval(twice) == 0
    assert await conn.fetchval("select count(*) = max(seq) from audit")
    assert await conn.fetchval(left_open) == 0
    assert await conn.fetchval(left_pending) == 0
    assert await conn.fetchval(of_the_dead) == 0
    assert await conn.fetchval(forgotten) == 0
    assert await conn.fetchval(somewhere, parents) == EXECUTIONS
    assert await conn.fetchval(odd) == 0


async def test_forgotten_while_it_is_asked_for_again(
    conn: Connection, connections: list[Connection], other: Connection
) -> None:
    """Retries in any order, deliveries sent again and the way of retention meet: no deadlock, and no loose end."""
    made = [await make_execution(conn, "succeeded", webhooks=(webhook(),), run_id=f"r{n}") for n in range(40)]
    await conn.execute("update deliveries set state = 'delivered', settled_at = clock()")
    deliveries = [row["id"] for row in await conn.fetch("select id from deliveries")]
    await move_clock(other, "31 days")

    async def remove() -> None:
        while await forget.step(other, 0, keep=Keep(succeeded_seconds=86_400.0), limit=5) is not None:
            pass

    async def ask_again(own: Connection, n: int) -> None:
        order = random.Random(n)
        for _ in range(10):
            sources = order.sample(made, 3)
            await submit.accept(own, [submission(source_execution_id=one.id) for one in sources])
            with suppress(DeliveryNotFound):
                await redrive.retry(own, order.choice(deliveries), namespace=NAMESPACE)

    async with asyncio.timeout(60):
        await asyncio.gather(remove(), *(ask_again(own, n) for n, own in enumerate(connections[:4])))
    loose = "select count(*) from executions where source_execution_id not in (select id from executions)"
    untold = "select count(*) from deliveries where execution_id not in (select id from executions)"

    assert await conn.fetchval(loose) == 0
    assert await conn.fetchval(untold) == 0
    assert (await counts(conn, "executions"))["executions"] > (await counts(conn, "queue"))["queue"]


async def test_progress_and_lines_in_opposite_order(conn: Connection, connections: list[Connection]) -> None:
    """Two flushes, each with progress of one execution and lines of both, wait for each other in one direction only."""
    made = [await make_execution(conn, "running") for _ in range(2)]

    async def flush(own: Connection, moving: Made) -> None:
        for _ in range(30):
            entries: list[log.Entry] = [Progress(fence=moving.fence, progress=b"{}")]
            entries += [Line(fence=one.fence, level="info", message="m") for one in made]
            assert await log.append(own, entries) == [None] * 3

    async with asyncio.timeout(60):
        await asyncio.gather(*(flush(own, made[n % 2]) for n, own in enumerate(connections)))

    assert await counts(conn, "logs") == {"logs": len(connections) * 30 * 2}


async def test_checkpoints_of_a_crashed_execution(conn: Connection, connections: list[Connection]) -> None:
    """Many that write for one execution and clear its crash count do not wait for each other in a circle."""
    made = await make_execution(conn, "running")

    async def write(own: Connection, n: int) -> None:
        for _ in range(20):
            await own.execute("update queue set crashes = 1")
            [answer] = await checkpoint.write(own, [put(made, b"1", key=f"k{n}")])
            must(answer)

    async with asyncio.timeout(60):
        await asyncio.gather(*(write(own, n) for n, own in enumerate(connections)))

    assert await all_rows(conn, "select count(*), min(version), max(version) from memory") == [
        (len(connections), 20, 20)
    ]


async def test_new_keys_in_opposite_order(conn: Connection, connections: list[Connection]) -> None:
    """Two checkpoints that create the same keys, named in opposite order, are done one after the other."""
    made = await make_execution(conn, "running")
    places = [Place(0, NAMESPACE, Scope.GLOBAL, "global", f"k{n}") for n in range(20)]
    forward: tuple[Op, ...] = tuple(Put(place=place, value=b"1", length=None) for place in places)
    first, second, *_ = connections

    transaction = first.transaction()
    await transaction.start()
    await checkpoint.write(first, [Write(ops=forward, fence=made.fence)])
    waiting = asyncio.ensure_future(checkpoint.write(second, [Write(ops=forward[::-1], fence=made.fence)]))
    await until_blocked(conn, second.get_server_pid())
    await transaction.commit()

    with pytest.raises(Raced):
        await waiting
    assert await counts(conn, "memory") == {"memory": 20}


FLEET = 3
SLOTS = 4
BACKLOG = 120
HELD = """
select q.id, q.attempt
from queue q
join sessions s on s.id = q.session_id
where q.state = 'leased'
  and s.base_url is not null
"""
FLEET_NOW = "select * from sessions where closed_at is null and base_url is not null"
FleetStep = Callable[[Connection, Sequence[Session], int], Awaitable[object]]
OVERFULL = "select count(*) from queue where state = 'leased' group by session_id having count(*) > $1"


async def a_fleet_member(conn: Connection, number: int, instance: str = "first") -> Session:
    return await make_process(conn, base_url=f"http://127.0.0.1:{8001 + number}", instance_id=instance, slots=SLOTS)


async def claim_for_all(conn: Connection, fleet: Sequence[Session], _: int) -> object:
    claims = [Claim(session=one, targets=(TARGET,), limit=2) for one in fleet]
    leases = [one for answer in await lease.claim(conn, claims, STOCK) if isinstance(answer, list) for one in answer]
    await send.accept(conn, [Fence(one.execution_id, one.attempt) for one in leases])
    return None


async def beat_for_all(conn: Connection, fleet: Sequence[Session], _: int) -> object:
    return await renew.extend(conn, [Beat(session_id=one.id, held=None, count=0) for one in fleet])


async def keep_all(conn: Connection, fleet: Sequence[Session], _: int) -> object:
    return await renew.keep(conn, [one.id for one in reversed(fleet)], STOCK)


async def start_again(conn: Connection, fleet: Sequence[Session], turn: int) -> object:
    """Most registrations are repeats; some are of a new process in the place of an old one."""
    for number in range(FLEET):
        await a_fleet_member(conn, number, "first" if turn % 4 else f"{id(conn)}-{turn}")
    return fleet


async def come_back_and_leave(conn: Connection, fleet: Sequence[Session], turn: int) -> object:
    for instance in ("first", "stranger"):
        await register.revive(
            conn, 0, namespace=NAMESPACE, node_id="n", instance_id=instance, session_id=SessionId(make_id(0))
        )
    if turn % 3 == 0:
        await register.drain(conn, 0, namespace=NAMESPACE, node_id="n", seconds=60)
        await expire.refuse(conn, fleet[0].id, silent_seconds=0.0, drain_seconds=0.001)
    return None


async def take_some_back(conn: Connection, _: Sequence[Session], turn: int) -> object:
    held = [Fence(row["id"], row["attempt"]) for row in await conn.fetch(HELD)]
    taken = held[turn % 2 :: 2]
    await send.prolong(conn, 0, held)
    return await expire.take_back(conn, 0, taken, reason="node_full", crash=False, make_id=make_id)


async def report_some(conn: Connection, _: Sequence[Session], turn: int) -> object:
    held = [Fence(row["id"], row["attempt"]) for row in await conn.fetch(HELD)]
    batch = [a_report(fence) for fence in held[turn % 3 :: 3]]
    await complete.report(conn, batch, make_id=make_id, jitter=no_jitter)
    return await expire.sweep(conn, 0, make_id=make_id)


async def hold_and_let_go(conn: Connection, _: Sequence[Session], turn: int) -> object:
    """A person who cannot decide."""
    await withhold.drain(conn, 0, namespace=NAMESPACE, node_id="n", reason=None, asked_by=None)
    if turn % 2:
        await withhold.pause(conn, [0], Paused.all(), namespace=NAMESPACE, reason=None, paused_by=None)
        await withhold.resume(conn, [0], Paused.all(), namespace=NAMESPACE)
    return await withhold.undrain(conn, 0, namespace=NAMESPACE, node_id="n")


FLEET_STEPS = (
    claim_for_all, claim_for_all, beat_for_all, beat_for_all, keep_all, start_again, come_back_and_leave,
    take_some_back, report_some, hold_and_let_go,
)  # fmt: skip


async def test_a_fleet_that_is_served_by_many(conn: Connection, connections: list[Connection]) -> None:
    """Claims, beats, restarts, goodbyes, drains and withdrawals meet: no deadlock, and no process over its slots."""
    await submit.accept(conn, [submission() for _ in range(BACKLOG)])
    first = [await a_fleet_member(conn, number) for number in range(FLEET)]

    async def work(own: Connection, step: FleetStep, seed: int) -> None:
        order = random.Random(seed)
        for turn in range(25):
            rows = await own.fetch(FLEET_NOW)
            fleet = [Session.from_row(row) for row in rows] or first
            await step(own, order.sample(fleet, len(fleet)), turn)
            assert await own.fetch(OVERFULL, SLOTS) == []

    async with asyncio.timeout(60):
        await asyncio.gather(
            *(work(own, step, seed) for seed, (own, step) in enumerate(zip(connections, FLEET_STEPS, strict=False)))
        )
    twice = "select count(*) from queue join outcomes using (bucket, id)"
    somewhere = "select count(*) from (select id from queue union all select id from outcomes) as a"
    open_twice = """
    select base_url from sessions where closed_at is null and not draining group by base_url having count(*) > 1
    """

    assert await conn.fetchval(twice) == 0
    assert await conn.fetchval(somewhere) == BACKLOG
    assert await conn.fetch(open_twice) == []
    assert await carry_out_the_rest(conn) == {"queue": 0, "outcomes": BACKLOG}


async def carry_out_the_rest(conn: Connection) -> dict[str, int]:
    """One process is left, and gets everything that is not done."""
    held = [Fence(row["id"], row["attempt"]) for row in await conn.fetch(HELD)]
    await expire.take_back(conn, 0, held, reason="node_full", crash=False, make_id=make_id)
    session = await a_fleet_member(conn, 0, "last")
    claim = Claim(session=session, targets=(TARGET,), limit=SLOTS)
    while leases := must((await lease.claim(conn, [claim], STOCK))[0]):
        batch = [a_report(Fence(one.execution_id, one.attempt)) for one in leases]
        await complete.report(conn, batch, make_id=make_id, jitter=no_jitter)
    return await counts(conn, "queue", "outcomes")


async def test_ends_and_waits_in_one_flush(conn: Connection, connections: list[Connection]) -> None:
    """Two flushes, each with ends of children whose parents begin to wait in the other, do not wait in a circle."""
    for _ in range(5):
        some, others = [[await a_family(conn) for _ in range(8)] for _ in range(2)]
        async with asyncio.timeout(60):
            await asyncio.gather(
                end_and_wait(connections[0], [child for _, child in some], [parent for parent, _ in others]),
                end_and_wait(connections[1], [child for _, child in others], [parent for parent, _ in some]),
            )
    await suspend.fan_in(conn, 0)

    assert await all_rows(conn, "select distinct state from queue") == [("ready",)]


async def test_children_that_run_out_of_time(conn: Connection, connections: list[Connection]) -> None:
    """One pass ends them for two reasons, while a flush lets both their parents wait: not in a circle."""
    made = [await a_family(conn, **over) for over in ({"heartbeat_seconds": 1.0}, {"timeout_seconds": 1.0})]
    parents = [parent for parent, _ in made]
    reaping, parking, holder, *_ = connections
    await move_clock(reaping, "2 seconds")

    async with asyncio.timeout(60):
        async with holder.transaction():
            await holder.fetch("select 1 from steps where execution_id = $1 for update", parents[0].id)
            parked = asyncio.ensure_future(end_and_wait(parking, [], parents))
            await until_blocked(conn, parking.get_server_pid())
            timed_out = asyncio.ensure_future(expire.time_out(reaping, 0, make_id=make_id))
            await until_blocked(conn, reaping.get_server_pid())
        await asyncio.gather(parked, timed_out)
    await suspend.fan_in(conn, 0)

    assert await all_rows(conn, "select distinct state from queue") == [("ready",)]


async def a_family(conn: Connection, **over: float) -> tuple[Made, Fence]:
    """A parent that runs, and its child that does."""
    session = await make_session(conn, "n")
    parent = await make_execution(conn, "running", session=session)
    call = submission(run_id=parent.run_id, parent_id=parent.id, parent_attempt=1, target=CHILD, step="a", **over)
    must((await submit.accept(conn, [call]))[0])
    [child] = must((await lease.claim(conn, [Claim(session=session, targets=(CHILD,), limit=1)], STOCK))[0])
    return parent, Fence(child.execution_id, child.attempt)


async def end_and_wait(conn: Connection, ending: Sequence[Fence], waiting: Sequence[Made]) -> None:
    batch = [a_report(fence) for fence in ending]
    batch += [a_report(one.fence, Verdict.WAITING, waits=("a",)) for one in waiting]
    for answer in await complete.report(conn, batch, make_id=make_id, jitter=no_jitter):
        must(answer)


async def come_and_go(conn: Connection, turn: int) -> None:
    """A process that registers, is there for a moment, and tries to come back."""
    instance = f"{id(conn)}-{turn % 3}"
    session = await make_process(conn, instance_id=instance)
    if turn % 2:
        await withhold_for_a_moment(conn)
    await expire.leave(conn, session.id, 0, reason="shutdown", make_id=make_id)
    back = await register.revive(
        conn, 0, namespace=NAMESPACE, node_id="n", instance_id=instance, session_id=SessionId(make_id(0))
    )
    if back is not None:
        await expire.leave(conn, back.id, 0, reason="shutdown", make_id=make_id)


async def withhold_for_a_moment(conn: Connection) -> None:
    with suppress(NodeNotFound):
        await withhold.pause(conn, [0], Paused.node("n"), namespace=NAMESPACE, reason=None, paused_by=None)
        await withhold.undrain(conn, 0, namespace=NAMESPACE, node_id="n")
        await withhold.resume(conn, [0], Paused.node("n"), namespace=NAMESPACE)


async def forget_it(conn: Connection, _: int) -> None:
    with suppress(NodeInUse, NodeNotFound):
        await forget_node.forget(conn, 0, buckets=[0], namespace=NAMESPACE, node_id="n")


async def forget_old_sessions(conn: Connection, _: int) -> None:
    await expire.forget_sessions(conn, 0, after_seconds=0.0)


async def test_a_node_comes_back_while_it_is_forgotten(conn: Connection, connections: list[Connection]) -> None:
    """Registrations, goodbyes, pauses and those who forget the node or its sessions meet: nothing is left half gone."""

    async def work(own: Connection, step: Callable[[Connection, int], Awaitable[None]]) -> None:
        for turn in range(40):
            await step(own, turn)

    steps = (come_and_go, come_and_go, forget_it, forget_it, forget_old_sessions, forget_old_sessions)
    async with asyncio.timeout(60):
        await asyncio.gather(*(work(own, step) for own, step in zip(connections, steps, strict=False)))
    await forget_it(conn, 0)

    assert await counts(conn, "nodes", "sessions", "pauses") == {"nodes": 0, "sessions": 0, "pauses": 0}
