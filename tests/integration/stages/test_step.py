"""Steps: the first write under a name counts, whole or not at all, and only while the attempt holds its lease."""

from __future__ import annotations

import pytest

from controlplane.domain.lease import Fence, Verdict
from controlplane.domain.step import AskApproval, AwaitEvent, Done, Sleep, StepKind, StepStatus, StepWrite
from controlplane.errors import LeaseLost
from controlplane.postgres.pool import Connection
from controlplane.reads import steps as reads
from controlplane.stages import step
from tests.make import (
    NAMESPACE,
    all_rows,
    bucket,
    lease,
    make_execution,
    make_session,
    move_clock,
    queue_row,
    report,
    send,
    steps,
)

ONE = Done(name="one", value=b'{"a": 1e400}')


async def test_a_step_comes_back_as_it_was_written(conn: Connection) -> None:
    """Byte for byte, in the order of the names (I-17)."""
    made = await make_execution(conn, "running")

    await steps(conn, made, ONE, Done(name="a", value=b"[1, 2]"))
    found, more = await reads.page(conn, 0, made.id, namespace=NAMESPACE, after="", limit=10)

    assert [(one.name, one.kind, one.status, one.value, one.attempt) for one in found] == [
        ("a", StepKind.STEP, StepStatus.DONE, b"[1, 2]", 1),
        ("one", StepKind.STEP, StepStatus.DONE, b'{"a": 1e400}', 1),
    ]
    assert not more


async def test_the_first_write_counts(conn: Connection) -> None:
    """Whoever writes it again is told what is stored, whatever they brought."""
    made = await make_execution(conn, "running")
    await steps(conn, made, ONE)

    [again] = await steps(conn, made, Done(name="one", value=b"2"))

    assert (again.value, again.status) == (ONE.value, StepStatus.DONE)


async def test_a_name_twice_in_one_write(conn: Connection) -> None:
    """The first of the two counts, and both are answered with it."""
    made = await make_execution(conn, "running")

    found = await steps(conn, made, ONE, Done(name="one", value=b"2"))

    assert [one.value for one in found] == [ONE.value, ONE.value]


async def test_another_kind_of_step_is_answered_as_what_it_is(conn: Connection) -> None:
    """A function that was changed finds out: what was a sleep is no event."""
    made = await make_execution(conn, "running")
    await steps(conn, made, Sleep(name="s", seconds=60))

    [found] = await steps(conn, made, AwaitEvent(name="s", event="go"))

    assert found.kind is StepKind.SLEEP


@pytest.mark.parametrize("op", [ONE, Sleep(name="s", seconds=1), AwaitEvent(name="e", event="go")], ids=str)
async def test_a_stale_attempt_changes_nothing(conn: Connection, op: Done | Sleep | AwaitEvent) -> None:
    """Neither one that is over nor one that never was."""
    made = await make_execution(conn, "running", attempt=2)
    writes = [StepWrite(fence=Fence(made.id, attempt), ops=(op,)) for attempt in (1, 3)]

    answers = [(await step.write(conn, [one]))[0] for one in writes]

    assert [type(one) for one in answers] == [LeaseLost, LeaseLost]
    assert await conn.fetchval("select count(*) from steps") == 0


async def test_a_stale_write_fails_none_of_its_neighbours(conn: Connection) -> None:
    """Each execution of a flush is answered by itself."""
    session = await make_session(conn)
    one, other = [await make_execution(conn, "running", session=session) for _ in range(2)]
    batch = [StepWrite(fence=Fence(one.id, 7), ops=(ONE,)), StepWrite(fence=other.fence, ops=(ONE,))]

    lost, kept = await step.write(conn, batch)

    assert isinstance(lost, LeaseLost)
    assert isinstance(kept, list)


async def test_the_next_attempt_finds_what_was_done(conn: Connection) -> None:
    """Its lease says how much there is, and a first attempt's that there is nothing (I-17)."""
    session = await make_session(conn)
    await make_execution(conn)
    [first] = await lease(conn, session)
    fence = Fence(first.execution_id, first.attempt)
    await step.write(conn, [StepWrite(fence=fence, ops=(ONE, Done(name="two", value=b"2")))])
    await report(conn, fence, Verdict.RELEASED)

    [second] = await lease(conn, session)
    [found] = await step.write(
        conn, [StepWrite(fence=Fence(second.execution_id, 2), ops=(Done(name="one", value=b""),))]
    )

    assert (first.steps, second.steps) == (0, 2)
    assert isinstance(found, list)
    assert found[0].value == ONE.value


async def test_a_sleep_begins_once(conn: Connection) -> None:
    """Asked for again it has so much left of it, by the database's clock."""
    made = await make_execution(conn, "running")
    [first] = await steps(conn, made, Sleep(name="s", seconds=60))
    await move_clock(conn, "20 seconds")

    [again] = await steps(conn, made, Sleep(name="s", seconds=60))

    assert first.due_in_seconds == pytest.approx(60)
    assert again.due_in_seconds == pytest.approx(40, abs=5)
    assert again.status is StepStatus.PENDING


async def test_a_sleep_that_is_over_has_nothing_left(conn: Connection) -> None:
    """Also when nobody has looked yet."""
    made = await make_execution(conn, "running")
    await steps(conn, made, Sleep(name="s", seconds=60))
    await move_clock(conn, "2 minutes")

    [again] = await steps(conn, made, Sleep(name="s", seconds=60))

    assert again.due_in_seconds == 0


async def test_a_signal_that_came_before_is_taken(conn: Connection) -> None:
    """The oldest of its event, once; the next wait takes the next (I-19)."""
    made = await make_execution(conn, "running")
    for payload in (b"1", b"2"):
        await send(conn, made.id, "go", payload)
    await send(conn, made.id, "other", b"3")

    found = await steps(conn, made, *(AwaitEvent(name=name, event="go") for name in ("e", "e#2", "e#3")))

    assert [(one.status, one.value) for one in found] == [
        (StepStatus.DONE, b"1"),
        (StepStatus.DONE, b"2"),
        (StepStatus.PENDING, None),
    ]
    assert await all_rows(conn, "select event, step from signals order by seq") == [
        ("go", "e"),
        ("go", "e#2"),
        ("other", None),
    ]


async def test_a_repeated_wait_takes_no_second_signal(conn: Connection) -> None:
    """After a lost answer it is the same step, with the same payload."""
    made = await make_execution(conn, "running")
    await send(conn, made.id, "go", b"1")
    await send(conn, made.id, "go", b"2")

    found = [(await steps(conn, made, AwaitEvent(name="e", event="go")))[0] for _ in range(2)]

    assert [one.value for one in found] == [b"1", b"1"]


async def test_an_approval_is_asked_once(conn: Connection) -> None:
    """Under the name of its step, where nobody gave it another."""
    made = await make_execution(conn, "running")
    ops = [AskApproval(name="ask", request_id=r, title="Ship it?", url=None, expires_seconds=60) for r in ("ask", "x")]

    [first], [again] = [await steps(conn, made, one) for one in ops]

    assert (first.request_id, again.request_id, again.status) == ("ask", "ask", StepStatus.PENDING)
    assert await all_rows(conn, "select request_id, title, status, durable from approvals") == [
        ("ask", "Ship it?", "pending", True)
    ]


async def test_steps_are_a_sign_of_progress(conn: Connection) -> None:
    """An execution that gets on is no crash loop."""
    made = await make_execution(conn, "running")
    await conn.execute("update queue set crashes = 5")

    await steps(conn, made, ONE)

    assert (await queue_row(conn, made.id))["crashes"] == 0


async def test_pages_of_steps(conn: Connection) -> None:
    """In order, until there is no more."""
    made = await make_execution(conn, "running")
    await steps(conn, made, *(Done(name=f"s{n}", value=b"1") for n in range(5)))
    pages, after, more = [], "", True

    while more:
        found, more = await reads.page(conn, bucket(made.id), made.id, namespace=NAMESPACE, after=after, limit=2)
        pages.append([one.name for one in found])
        after = found[-1].name

    assert pages == [["s0", "s1"], ["s2", "s3"], ["s4"]]


async def test_a_page_holds_no_more_than_it_may(conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut where the values are too many, but for the first."""
    made = await make_execution(conn, "running")
    await steps(conn, made, *(Done(name=f"s{n}", value=b'"' + b"x" * 98 + b'"') for n in range(5)))
    monkeypatch.setattr(reads, "PAGE_BYTES_MAX", 250)

    found, more = await reads.page(conn, bucket(made.id), made.id, namespace=NAMESPACE, after="", limit=10)

    assert [one.name for one in found] == ["s0", "s1"]
    assert more
