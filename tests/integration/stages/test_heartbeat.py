"""Heartbeat: an attempt of which nothing is heard for too long has failed; whatever it writes is a sign of life."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from controlplane.domain.lease import Fence, Verdict
from controlplane.domain.retry import RetryPolicy
from controlplane.domain.step import Done
from controlplane.domain.vector import Embedding, Keep
from controlplane.postgres.pool import Connection
from controlplane.stages import cancel, checkpoint, embed, expire, local, log, wait
from tests.make import (
    LEASE_LOST,
    Made,
    accept,
    event_types,
    lease,
    make_id,
    make_session,
    move_clock,
    outcome_row,
    put,
    queue_row,
    report,
    run_place,
    steps,
    submission,
)

RETRIES = RetryPolicy(retries_max=1, delay_seconds=5.0, jitter=0.0)
Say = Callable[[Connection, Made], Awaitable[object]]


async def begun(conn: Connection, **over: Any) -> Made:
    """A running attempt that may be silent for a minute."""
    wish = submission(**({"heartbeat_seconds": 60.0} | over))
    await accept(conn, wish)
    session = await make_session(conn)
    [one] = await lease(conn, session)
    return Made(submission=wish, attempt=one.attempt, leased_by=session)


async def time_out(conn: Connection, offset: str) -> expire.Swept:
    await move_clock(conn, offset)
    return await expire.time_out(conn, 0, make_id=make_id)


async def test_a_silent_attempt_is_tried_again(conn: Connection) -> None:
    """As its policy says, at the price of a retry; its node is told, and what it says then is stale."""
    made = await begun(conn, retry=RETRIES)
    assert (await time_out(conn, "59 seconds")).rows == 0

    swept = await time_out(conn, "61 seconds")
    row = await queue_row(conn, made.id)

    assert [(one.fence, one.reason) for one in swept.stopped] == [(made.fence, "heartbeat")]
    assert (row["state"], row["failures"], row["status_reason"], row["session_id"]) == ("delayed", 1, "retrying", None)
    assert row["available_at"] - await conn.fetchval("select clock()") <= timedelta(seconds=5)
    assert await report(conn, made.fence) == LEASE_LOST


async def test_without_a_retry_it_times_out(conn: Connection) -> None:
    """With the reason, and the class of the error by which a policy can name it."""
    made = await begun(conn)

    swept = await time_out(conn, "61 seconds")
    outcome = await outcome_row(conn, made.id)

    assert swept.ended == (made.id,)
    assert (outcome["status"], outcome["status_reason"]) == ("timeout", "heartbeat")
    assert outcome["error_class"] == expire.HEARTBEAT_MISSED


async def test_a_policy_may_call_it_fatal(conn: Connection) -> None:
    """Then no retry is spent on it."""
    made = await begun(conn, retry=RetryPolicy(retries_max=3, fatal_errors=(expire.HEARTBEAT_MISSED,)))

    assert (await time_out(conn, "61 seconds")).ended == (made.id,)


async def progress(conn: Connection, made: Made) -> object:
    return await log.append(conn, [log.Progress(fence=made.fence, progress=b'{"done": 1}')])


async def line(conn: Connection, made: Made) -> object:
    return await log.append(conn, [log.Line(fence=made.fence, level="info", message="here")])


async def note(conn: Connection, made: Made) -> object:
    return await log.append(conn, [log.Note(fence=made.fence, data=b"{}")])


async def memory(conn: Connection, made: Made) -> object:
    return await checkpoint.write(conn, [put(made, b"1")])


async def vector(conn: Connection, made: Made) -> object:
    kept = Keep(
        place=run_place(made.run_id), embedding=Embedding(values=(1.0,), norm=1.0), metadata=None, fence=made.fence
    )
    return await embed.write(conn, [kept])


async def local_call(conn: Connection, made: Made) -> object:
    one = local.LocalCall(fence=made.fence, local_id="l", parent_local_id=None, reasoner_id="r", status="running")
    return await local.keep(conn, [one])


async def a_step(conn: Connection, made: Made) -> object:
    return await steps(conn, made, Done(name="one", value=b"1"))


@pytest.mark.parametrize("say", [progress, line, note, memory, vector, local_call, a_step])
async def test_whatever_it_writes_is_a_sign(conn: Connection, say: Say) -> None:
    """From then on it may be silent for as long again, and no longer."""
    await begun(conn)
    made = await begun(conn)
    await move_clock(conn, "50 seconds")
    await say(conn, made)

    assert len((await time_out(conn, "109 seconds")).ended) == 1
    assert (await time_out(conn, "111 seconds")).ended == (made.id,)


async def test_many_signs_cost_one_write(conn: Connection) -> None:
    """A sign that would move the deadline by little does not touch the row that others lock."""
    made = await begun(conn)
    await move_clock(conn, "30 seconds")
    await memory(conn, made)
    before = await conn.fetchval("select xmin::text from queue")
    await move_clock(conn, "35 seconds")

    await memory(conn, made)

    assert await conn.fetchval("select xmin::text from queue") == before


async def test_without_a_heartbeat_a_write_leaves_the_row_alone(conn: Connection) -> None:
    """What has none may be silent for ever, and pays nothing."""
    made = await begun(conn, heartbeat_seconds=None)
    before = await conn.fetchval("select xmin::text from queue")
    await move_clock(conn, "30 days")

    await memory(conn, made)

    assert await conn.fetchval("select xmin::text from queue") == before
    assert (await time_out(conn, "60 days")).rows == 0


async def test_signs_do_not_prolong_the_attempt(conn: Connection) -> None:
    """Nor all of it: the nearest deadline counts, and says which one it was."""
    made = await begun(conn, timeout_seconds=100.0, retry=RETRIES)
    for at in ("50 seconds", "90 seconds"):
        await move_clock(conn, at)
        await progress(conn, made)

    assert (await time_out(conn, "99 seconds")).rows == 0
    assert (await time_out(conn, "101 seconds")).ended == (made.id,)
    assert (await outcome_row(conn, made.id))["status_reason"] == "start_to_close"


async def test_the_lease_tells_the_attempt_its_own_deadline(conn: Connection) -> None:
    """Not that of its next sign of life."""
    await accept(conn, submission(heartbeat_seconds=60.0, timeout_seconds=100.0, total_seconds=90.0))

    [one] = await lease(conn, await make_session(conn))

    assert one.deadline_in_seconds is not None
    assert 80 < one.deadline_in_seconds <= 90
    assert one.heartbeat_seconds == 60


async def test_who_waits_for_a_child_is_excused(conn: Connection) -> None:
    """While the child is unfinished, and for a heartbeat after its end."""
    made = await begun(conn)
    child = submission(parent_id=made.id, target="n.other")
    await accept(conn, child)

    assert (await time_out(conn, "61 seconds")).stopped == ()
    await move_clock(conn, "80 seconds")
    await cancel.request(conn, [child.id], reason=None, make_id=make_id)
    assert (await time_out(conn, "122 seconds")).stopped == ()
    assert (await time_out(conn, "183 seconds")).ended == (made.id,)


async def test_who_waits_for_people_is_not_silent(conn: Connection) -> None:
    """Its time stands still, and goes on where it stood."""
    made = await begun(conn, timeout_seconds=100.0)
    await move_clock(conn, "30 seconds")
    await wait.begin(conn, 0, made.fence, reason="approval")
    assert (await time_out(conn, "1 hour")).rows == 0
    await wait.resume(conn, 0, made.fence, reason="approval")

    assert (await time_out(conn, "1 hour 59 seconds")).rows == 0
    assert (await time_out(conn, "1 hour 61 seconds")).ended == (made.id,)


async def test_being_cancelled_it_ends_as_cancelled(conn: Connection) -> None:
    """The cancel came first and decides."""
    made = await begun(conn, retry=RETRIES)
    await cancel.request(conn, [made.id], reason="enough", make_id=make_id)

    await time_out(conn, "61 seconds")

    assert (await outcome_row(conn, made.id))["status"] == "cancelled"


async def test_handed_back_it_has_no_heartbeat(conn: Connection) -> None:
    """Only who runs it can be silent; the next attempt has its whole time."""
    made = await begun(conn)
    await report(conn, made.fence, Verdict.RELEASED)
    assert (await time_out(conn, "1 hour")).rows == 0
    [again] = await lease(conn, await make_session(conn))

    assert (await time_out(conn, "1 hour 59 seconds")).rows == 0
    assert [one.fence for one in (await time_out(conn, "1 hour 61 seconds")).stopped] == [Fence(made.id, again.attempt)]


async def test_its_events_say_why(conn: Connection) -> None:
    """The history of attempts names the error."""
    made = await begun(conn, retry=RETRIES)

    await time_out(conn, "61 seconds")
    data = await conn.fetchval("select data from events where type = 'execution.retrying'")

    assert (await event_types(conn, made.id))[-1] == "execution.retrying"
    assert b'"error_class":"HeartbeatMissed"' in data
