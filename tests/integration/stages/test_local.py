"""Local: calls inside a process are kept beside their execution, the newest word on each, and what has ended stays."""

from __future__ import annotations

from typing import Any

import pytest

from controlplane.domain.lease import Fence, Verdict
from controlplane.errors import LeaseLost
from controlplane.postgres.pool import Connection
from controlplane.reads import local as local_reads
from controlplane.stages import local
from controlplane.stages.local import LocalCall
from tests.make import (
    NAMESPACE,
    Made,
    all_rows,
    counts,
    lease,
    make_execution,
    make_process,
    make_sent,
    move_clock,
    only_row,
    race,
    report,
    submission,
)


def a_call(fence: Fence, local_id: str = "exec_1_a", status: str = "running", **over: Any) -> LocalCall:
    fields: dict[str, Any] = {"parent_local_id": None, "reasoner_id": "child", "input": b'{ "x": 1 }'}
    return LocalCall(fence=fence, local_id=local_id, status=status, **(fields | over))


async def keep(conn: Connection, *calls: LocalCall) -> list[bool]:
    return [answer is None for answer in await local.keep(conn, calls)]


async def views(conn: Connection, made: Made, limit: int = 100) -> list[local_reads.LocalView]:
    return await local_reads.page(conn, made.id.int & 4095, made.id, namespace=NAMESPACE, limit=limit)


@pytest.fixture
async def made(conn: Connection) -> Made:
    """An attempt in a process that is called."""
    return await make_sent(conn, accepted=True)


async def test_a_call_is_kept(conn: Connection, made: Made) -> None:
    """With everything that its process says of it, byte for byte."""
    call = a_call(
        made.fence,
        status="failed",
        parent_local_id="exec_1_b",
        status_reason="why",
        result=b"[1.0]",
        error=b'"boom"',
        duration_ms=2**40,
    )

    assert await keep(conn, call) == [True]
    [view] = await views(conn, made)
    assert (view.local_id, view.parent_local_id, view.reasoner_id, view.status) == (
        "exec_1_a", "exec_1_b", "child", "failed",
    )  # fmt: skip
    assert (view.status_reason, view.result, view.error, view.duration_ms) == ("why", b"[1.0]", b'"boom"', 2**40)
    assert await conn.fetchval("select input from local_calls") == b'{ "x": 1 }'


async def test_the_newest_word_counts(conn: Connection, made: Made) -> None:
    """A call that began ends; what was asked of it need not be said again, and its beginning stays."""
    await keep(conn, a_call(made.fence))
    await move_clock(conn, "5 seconds")

    await keep(conn, a_call(made.fence, status="succeeded", input=None, result=b"2", duration_ms=5_000))
    row = await only_row(conn, "select *, updated_at - created_at > interval '4 seconds' as later from local_calls")

    assert (row["status"], row["input"], row["result"], row["later"]) == ("succeeded", b'{ "x": 1 }', b"2", True)


@pytest.mark.parametrize("status", ["succeeded", "failed", "cancelled", "timeout"])
async def test_what_has_ended_stays(conn: Connection, made: Made, status: str) -> None:
    """Its words come in any order: a late `running` or another end changes nothing."""
    await keep(conn, a_call(made.fence, status=status, result=b"1"))
    before = await conn.fetch("select * from local_calls")

    assert await keep(conn, a_call(made.fence), a_call(made.fence, status="failed", error=b'"x"')) == [True, True]
    assert await conn.fetch("select * from local_calls") == before


async def test_saying_it_twice_is_saying_it_once(conn: Connection, made: Made) -> None:
    """A repeat after a lost answer leaves one call."""
    call = a_call(made.fence)

    assert await keep(conn, call) == await keep(conn, call) == [True]
    assert await counts(conn, "local_calls") == {"local_calls": 1}


async def test_the_last_of_a_batch_counts(conn: Connection, made: Made) -> None:
    """Two words on one call that travel together are one row, with the later word."""
    answers = await keep(conn, a_call(made.fence), a_call(made.fence, status="succeeded", result=b"1"))

    assert answers == [True, True]
    assert [(view.status, view.result) for view in await views(conn, made)] == [("succeeded", b"1")]


async def test_a_stale_attempt_keeps_nothing(conn: Connection, made: Made) -> None:
    """Only the attempt that holds its lease speaks, also beside others in one batch."""
    await report(conn, made.fence, Verdict.RELEASED)
    [again] = await lease(conn, made.session)
    live, unknown = Fence(made.id, again.attempt), Fence(submission().id, 1)

    answers = await local.keep(conn, [a_call(made.fence), a_call(live, "b"), a_call(unknown)])

    assert [type(answer) for answer in answers] == [LeaseLost, type(None), LeaseLost]
    assert [view.local_id for view in await views(conn, made)] == ["b"]


async def test_a_word_that_waits_for_a_take_over(
    conn: Connection, other: Connection, observer: Connection, made: Made
) -> None:
    """It is refused once the attempt is over."""
    _, answers = await race(
        conn, other, observer, first=lambda c: report(c, made.fence), second=lambda c: keep(c, a_call(made.fence))
    )

    assert answers == [False]
    assert await counts(conn, "local_calls") == {"local_calls": 0}


async def test_an_end_waits_for_a_word(conn: Connection, other: Connection, observer: Connection, made: Made) -> None:
    """What is being written down when the attempt ends is kept."""
    answers, _ = await race(
        conn, other, observer, first=lambda c: keep(c, a_call(made.fence)), second=lambda c: report(c, made.fence)
    )

    assert answers == [True]
    assert len(await views(conn, made)) == 1


async def test_the_calls_of_one_execution(conn: Connection, made: Made) -> None:
    """Oldest first, no more than asked, nothing of another execution or namespace."""
    for n, local_id in enumerate(("c", "a", "b")):
        await move_clock(conn, f"{n} seconds")
        await keep(conn, a_call(made.fence, local_id))
    other = await make_sent(conn, session=made.session, bucket=1)
    await keep(conn, a_call(other.fence, "d"))

    assert [view.local_id for view in await views(conn, made)] == ["c", "a", "b"]
    assert [view.local_id for view in await views(conn, made, limit=2)] == ["c", "a"]
    assert await local_reads.page(conn, 0, made.id, namespace=2, limit=9) == []


async def test_whom_a_call_belongs_to(conn: Connection, made: Made) -> None:
    """A call inside a process finds the attempt that it is part of, and its fence decides whether that still runs."""
    await keep(conn, a_call(made.fence))
    found = await local_reads.owner(conn, 0, namespace=NAMESPACE, local_id="exec_1_a")
    elsewhere = await local_reads.owner(conn, 0, namespace=2, local_id="exec_1_a")
    await report(conn, made.fence)

    assert (found, elsewhere) == ((made.id, 1), None)
    assert await local_reads.owner(conn, 0, namespace=NAMESPACE, local_id="exec_1_a") == (made.id, 1)
    assert await keep(conn, a_call(made.fence, "later")) == [False]


async def test_an_id_that_two_executions_use(conn: Connection, made: Made) -> None:
    """Nodes make these ids up: the newest is meant, and each execution keeps its own."""
    await keep(conn, a_call(made.fence, "same"))
    await move_clock(conn, "1 second")
    newer = await make_sent(conn, session=await make_process(conn, node_id="m"))
    await keep(conn, a_call(newer.fence, "same"))

    assert await local_reads.owner(conn, 0, namespace=NAMESPACE, local_id="same") == (newer.id, 1)
    kept = await all_rows(conn, "select execution_id from local_calls order by created_at")
    assert kept == [(made.id,), (newer.id,)]


async def test_calls_of_a_process_that_fetches(conn: Connection) -> None:
    """It may say so too."""
    made = await make_execution(conn, "running")

    assert await keep(conn, a_call(made.fence)) == [True]
