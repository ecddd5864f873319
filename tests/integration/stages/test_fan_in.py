"""Calls as steps: a parent finds its children again, and goes on exactly once when those it awaits have ended."""

from __future__ import annotations

import pytest

from controlplane.domain.execution import Accepted, Submission
from controlplane.domain.lease import Fence, Lease, Ready, Verdict
from controlplane.domain.step import Done, StepStatus
from controlplane.errors import Invalid, LeaseLost
from controlplane.postgres.pool import Connection
from controlplane.reads import steps as reads
from controlplane.stages import cancel, submit
from controlplane.stages import suspend as stage
from tests.make import (
    NAMESPACE,
    Made,
    accept,
    all_rows,
    bucket,
    event_types,
    lease,
    make_execution,
    make_id,
    make_session,
    queue_row,
    race,
    report,
    steps,
    submission,
    suspend,
)

ECHO = Ready(1, "n.echo")
CHILD = "n.child"


def call(made: Made, name: str = "child", *, attempt: int | None = None) -> Submission:
    """What a parent asks for under this name."""
    return submission(
        bucket=bucket(made.id),
        run_id=made.run_id,
        parent_id=made.id,
        parent_attempt=attempt or made.attempt,
        target=CHILD,
        step=name,
    )


async def family(conn: Connection, *names: str, any_: bool = False) -> tuple[Made, list[Lease]]:
    """A parent that waits for children of these names, all of them leased, in the order of the names."""
    made = await make_execution(conn, "running")
    await accept(conn, *(call(made, name) for name in names))
    await suspend(conn, made.fence, *names, any_=any_)
    return made, await lease(conn, await make_session(conn), [CHILD])


def fence_of(one: Lease) -> Fence:
    return Fence(one.execution_id, one.attempt)


async def state(conn: Connection, made: Made) -> tuple[str, str | None]:
    row = await queue_row(conn, made.id)
    return row["state"], row["status_reason"]


async def test_a_call_is_a_step(conn: Connection) -> None:
    """Written with the child, in one transaction."""
    made = await make_execution(conn, "running")

    [accepted] = await accept(conn, call(made))

    assert not accepted.replayed
    assert await all_rows(conn, "select name, kind, status, child_id from steps") == [
        ("child", "call", "pending", accepted.id)
    ]


@pytest.mark.parametrize("attempt", [1, 2])
async def test_a_call_is_made_once(conn: Connection, attempt: int) -> None:
    """The same attempt and a later one are answered with the child that there is."""
    made = await make_execution(conn, "running", attempt=1)
    [first] = await accept(conn, call(made))
    await conn.execute("update queue set attempt = $1 where id = $2", attempt, made.id)

    [again] = await accept(conn, call(made, attempt=attempt))

    assert (again.id, again.replayed) == (first.id, True)
    assert await conn.fetchval("select count(*) from queue where parent_id is not null") == 1


async def test_a_flush_that_is_run_again(conn: Connection) -> None:
    """The same submission, whose answer was lost, is answered as it was."""
    made = await make_execution(conn, "running")
    wish = call(made)

    first, again = [(await accept(conn, wish))[0] for _ in range(2)]

    assert first == again


async def test_a_call_that_succeeded_is_not_made_again(conn: Connection) -> None:
    """Its result is there for the next attempt, with the step."""
    made, [child] = await family(conn, "child")
    await report(conn, fence_of(child), result=b'{"n":1}')
    await stage.fan_in(conn, 0)
    await lease(conn, made.session)

    [again] = await accept(conn, call(made, attempt=2))
    [step], _ = await reads.page(conn, bucket(made.id), made.id, namespace=NAMESPACE, after="", limit=10)

    assert (again.id, again.replayed) == (child.execution_id, True)
    assert (step.status, step.value, step.child_status) == (StepStatus.DONE, b'{"n":1}', "succeeded")


async def test_a_call_that_failed_is_made_again_by_a_later_attempt(conn: Connection) -> None:
    """By the same one it is not: what failed is what it hears."""
    made = await make_execution(conn, "running")
    [first] = await accept(conn, call(made))
    [child] = await lease(conn, await make_session(conn), [CHILD])
    await report(conn, fence_of(child), Verdict.FAILED, retryable=False)
    [same] = await accept(conn, call(made))
    await report(conn, made.fence, Verdict.RELEASED)
    await lease(conn, made.session)

    [later] = await accept(conn, call(made, attempt=2))
    [step], _ = await reads.page(conn, bucket(made.id), made.id, namespace=NAMESPACE, after="", limit=10)

    assert (same.id, same.replayed) == (first.id, True)
    assert later.id != first.id
    assert (step.child_id, step.status, step.attempt) == (later.id, StepStatus.PENDING, 2)


async def test_a_step_that_is_no_call(conn: Connection) -> None:
    """A function that was changed hears of it; no child is made."""
    made = await make_execution(conn, "running")
    await steps(conn, made, Done(name="child", value=b"1"))

    [refused] = await submit.accept(conn, [call(made)])

    assert isinstance(refused, Invalid)
    assert await conn.fetchval("select count(*) from executions where parent_id is not null") == 0


async def test_a_stale_parent_makes_no_call(conn: Connection) -> None:
    """Neither child nor step."""
    made = await make_execution(conn, "running", attempt=2)

    [refused] = await submit.accept(conn, [call(made, attempt=1)])

    assert isinstance(refused, LeaseLost)
    assert await conn.fetchval("select count(*) from steps") == 0


async def test_two_at_once_make_one_call(conn: Connection, other: Connection, observer: Connection) -> None:
    """Two replicas that are sent the same request."""
    made = await make_execution(conn, "running")

    one, [two] = await race(
        conn,
        other,
        observer,
        first=lambda c: accept(c, call(made)),
        second=lambda c: submit.accept(c, [call(made)]),
    )

    assert isinstance(two, Accepted)
    assert (two.id, two.replayed) == (one[0].id, True)


async def test_the_last_child_wakes_its_parent(conn: Connection) -> None:
    """Not the first, and once (I-20)."""
    made, [a, b] = await family(conn, "a", "b")
    waiting = await state(conn, made)

    await report(conn, fence_of(a))
    first = [await stage.fan_in(conn, 0) for _ in range(2)]
    await report(conn, fence_of(b))
    looks = [await stage.fan_in(conn, 0) for _ in range(2)]

    assert waiting == ("waiting", "awaiting_child")
    assert first == [(1, []), (0, [])]  # nothing is looked at twice
    assert looks == [(1, [ECHO]), (0, [])]
    assert await state(conn, made) == ("ready", "woken")


async def test_any_child_wakes_its_parent(conn: Connection) -> None:
    """The others go on, and their ends move nothing."""
    made, [a, b] = await family(conn, "a", "b", any_=True)
    await report(conn, fence_of(a))

    first = await stage.fan_in(conn, 0)
    await report(conn, fence_of(b))

    assert first == (1, [ECHO])
    assert await stage.fan_in(conn, 0) == (0, [])
    assert (await event_types(conn, made.id)).count("execution.woken") == 1


async def test_a_child_that_fails_has_ended_too(conn: Connection) -> None:
    """What that means is for the parent to say."""
    made, [a, b] = await family(conn, "a", "b")
    await report(conn, fence_of(a), Verdict.FAILED, retryable=False)
    await cancel.request(conn, [b.execution_id], reason=None, make_id=make_id)
    await report(conn, fence_of(b), Verdict.CANCELLED)

    await stage.fan_in(conn, 0)

    assert await state(conn, made) == ("ready", "woken")
    assert await all_rows(conn, "select name, status from steps order by name") == [("a", "failed"), ("b", "failed")]


async def test_children_that_ended_before_are_not_waited_for(conn: Connection) -> None:
    """Whoever suspends then is ready at once."""
    made = await make_execution(conn, "running")
    await accept(conn, call(made))
    [child] = await lease(conn, await make_session(conn), [CHILD])
    await report(conn, fence_of(child))

    assert (await suspend(conn, made.fence, "child")).ready == ECHO


async def test_the_last_two_children_at_once(conn: Connection, other: Connection, observer: Connection) -> None:
    """Their transactions see nothing of each other; the look that comes after sees both (I-20)."""
    made, [a, b] = await family(conn, "a", "b")
    transaction = conn.transaction()
    await transaction.start()
    await report(conn, fence_of(a))
    await report(other, fence_of(b))
    between = await stage.fan_in(other, 0)
    await transaction.commit()

    looks = [await stage.fan_in(other, 0) for _ in range(2)]

    assert between == (1, [])
    assert looks == [(1, [ECHO]), (0, [])]
    assert (await event_types(conn, made.id)).count("execution.woken") == 1


async def test_two_looks_at_once(conn: Connection, other: Connection) -> None:
    """Every replica runs the tick: one of them wakes, the other passes by."""
    made, [a] = await family(conn, "a")
    await report(conn, fence_of(a))
    transaction = conn.transaction()
    await transaction.start()

    mine = await stage.fan_in(conn, 0)
    theirs = await stage.fan_in(other, 0)
    await transaction.commit()

    assert (mine, theirs) == ((1, [ECHO]), (0, []))
    assert await stage.fan_in(other, 0) == (0, [])
    assert (await event_types(conn, made.id)).count("execution.woken") == 1


async def test_a_child_ends_while_its_parent_suspends(
    conn: Connection, other: Connection, observer: Connection
) -> None:
    """The end waits for the step, and finds it awaited."""
    made = await make_execution(conn, "running")
    await accept(conn, call(made))
    [child] = await lease(conn, await make_session(conn), [CHILD])

    parked, _ = await race(
        conn,
        other,
        observer,
        first=lambda c: suspend(c, made.fence, "child"),
        second=lambda c: report(c, fence_of(child)),
    )

    assert parked.status == "waiting"
    assert await stage.fan_in(conn, 0) == (1, [ECHO])


async def test_a_parent_suspends_while_its_child_ends(
    conn: Connection, other: Connection, observer: Connection
) -> None:
    """It waits for the end and does not wait after it."""
    made = await make_execution(conn, "running")
    await accept(conn, call(made))
    [child] = await lease(conn, await make_session(conn), [CHILD])

    _, parked = await race(
        conn,
        other,
        observer,
        first=lambda c: report(c, fence_of(child)),
        second=lambda c: suspend(c, made.fence, "child"),
    )

    assert parked.ready == ECHO
    assert await stage.fan_in(conn, 0) == (0, [])


async def test_a_child_of_a_parent_that_is_gone(conn: Connection) -> None:
    """Its end is nobody's news."""
    made, [child] = await family(conn, "a")
    await cancel.request(conn, [made.id], reason=None, make_id=make_id)

    await report(conn, fence_of(child))

    assert await stage.fan_in(conn, 0) == (0, [])
    assert await all_rows(conn, "select status, awaited, news from steps") == [("done", False, False)]


async def test_an_end_that_nobody_told(conn: Connection) -> None:
    """A server of the version before has ended the child: a later look tells the parent, once."""
    made, [a] = await family(conn, "a")
    await report(conn, fence_of(a))
    await conn.execute("update steps set status = 'pending', done_at = null, news = false")

    untold = await stage.fan_in(conn, 0)
    found = [await stage.catch_up(conn, 0, stage.FIRST) for _ in range(2)]

    assert (untold, found) == ((0, []), [(1, [], stage.FIRST), (0, [], stage.FIRST)])
    assert await stage.fan_in(conn, 0) == (1, [ECHO])
    assert await state(conn, made) == ("ready", "woken")


async def test_an_end_that_nobody_told_behind_others(conn: Connection) -> None:
    """However many open steps there are, the way through them comes to each in its turn, and begins anew."""
    made, [a, *_] = await family(conn, "a", "b", "c", any_=True)
    await report(conn, fence_of(a))
    await conn.execute("update steps set status = 'pending', done_at = null, news = false")

    looks, place = [], (made.id, "a")
    for _ in range(3):
        late, _, place = await stage.catch_up(conn, 0, place, limit=1)
        looks.append((late, place))

    assert looks == [(0, (made.id, "b")), (0, (made.id, "c")), (0, stage.FIRST)]
    assert (await stage.catch_up(conn, 0, place, limit=1))[0] == 1


async def test_many_children(conn: Connection) -> None:
    """Five hundred in a few flushes: the parent goes on with the last and not before (I-20)."""
    names = [f"c{n}" for n in range(500)]
    made = await make_execution(conn, "running")
    await accept(conn, *(call(made, name) for name in names))
    await suspend(conn, made.fence, *names)
    session = await make_session(conn)
    woken = []

    while children := await lease(conn, session, [CHILD], limit=128):
        for child in children:
            await report(conn, fence_of(child))
        woken.append(len((await stage.fan_in(conn, 0))[1]))

    assert woken == [0, 0, 0, 1]
    assert await conn.fetchval("select count(*) from steps where awaited or news or status <> 'done'") == 0
