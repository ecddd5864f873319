"""Send: what is under way to a process that is called, and what is known of it; a stale attempt changes nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from controlplane.domain.lease import Fence, Session, Transport, Verdict
from controlplane.errors import LeaseLost
from controlplane.postgres.pool import Connection
from controlplane.stages import cancel, expire, log, send, wait
from controlplane.stages.log import Line
from tests.make import (
    Made,
    all_rows,
    lease,
    make_execution,
    make_id,
    make_process,
    make_sent,
    make_session,
    move_clock,
    queue_row,
    race,
    report,
    submission,
)

AFTER = 10.0
"""Seconds after which a request that nobody holds is looked into."""

Write = Callable[[Connection, Fence], Awaitable[object]]


async def accept(conn: Connection, fence: Fence) -> bool:
    [answer] = await send.accept(conn, [fence])
    return answer is None


async def prolong(conn: Connection, fence: Fence) -> bool:
    return await send.prolong(conn, fence.execution_id.int & 4095, [fence]) == {fence}


async def withdraw(conn: Connection, fence: Fence) -> bool:
    return await send.withdraw(conn, fence.execution_id.int & 4095, fence)


WRITES = [accept, prolong, withdraw]


async def unanswered(conn: Connection) -> list[Fence]:
    return [one.fence for one in await send.unanswered(conn, 0, after_seconds=AFTER)]


async def active(conn: Connection, after_seconds: float) -> list[int]:
    """The whole seconds for which attempts have been active that were so for longer than this."""
    return [round(one.active_seconds) for one in await send.overrun(conn, 0, after_seconds=after_seconds)]


@pytest.fixture
async def made(conn: Connection) -> Made:
    """An attempt whose request is out."""
    return await make_sent(conn)


async def test_taken_is_written_down_once(conn: Connection, made: Made) -> None:
    """The first time that its process took it stays, however often it is said."""
    first = await accept(conn, made.fence)
    at = (await queue_row(conn, made.id))["accepted_at"]
    await move_clock(conn, "1 minute")

    again = await accept(conn, made.fence)

    assert (first, again) == (True, True)
    assert at is not None
    assert (await queue_row(conn, made.id))["accepted_at"] == at


async def test_a_request_that_is_held_is_fresh(conn: Connection, made: Made) -> None:
    """As long as somebody of ours holds it, it is under way."""
    await move_clock(conn, "9 seconds")
    held = await prolong(conn, made.fence)
    await move_clock(conn, "18 seconds")

    assert held
    assert await unanswered(conn) == []


async def test_a_withdrawal_is_marked(conn: Connection, made: Made) -> None:
    """So the word of its process for being stopped is not taken for a person's cancel."""
    assert await withdraw(conn, made.fence)
    assert (await queue_row(conn, made.id))["status_reason"] == "withdrawing"
    assert await withdraw(conn, made.fence)


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("attempt", [1, 3])
async def test_a_stale_attempt_changes_nothing(conn: Connection, write: Write, attempt: int) -> None:
    """Only the attempt that holds the lease is spoken of."""
    made = await make_sent(conn, attempt=2)
    before = dict(await queue_row(conn, made.id))

    assert not await write(conn, Fence(made.id, attempt))
    assert dict(await queue_row(conn, made.id)) == before


@pytest.mark.parametrize("write", WRITES)
async def test_who_lost_the_lease_changes_nothing(conn: Connection, made: Made, write: Write) -> None:
    """Handed back, the attempt is nobody's."""
    await report(conn, made.fence, Verdict.RELEASED)
    before = dict(await queue_row(conn, made.id))

    assert not await write(conn, made.fence)
    assert dict(await queue_row(conn, made.id)) == before


@pytest.mark.parametrize("write", WRITES)
async def test_what_was_fetched_was_not_sent(conn: Connection, write: Write) -> None:
    """The attempts of a process that fetches its work are none of our business here."""
    made = await make_execution(conn, "running")

    assert not await write(conn, made.fence)


@pytest.mark.parametrize("write", WRITES)
async def test_a_write_that_waits_for_a_take_over(
    conn: Connection, other: Connection, observer: Connection, made: Made, write: Write
) -> None:
    """An answer that is read while its attempt is taken over comes too late."""

    async def take_over(own: Connection) -> None:
        await report(own, made.fence, Verdict.RELEASED)
        await lease(own, made.session)

    _, answer = await race(conn, other, observer, first=take_over, second=lambda c: write(c, made.fence))
    row = await queue_row(conn, made.id)

    assert not answer
    assert (row["attempt"], row["accepted_at"], row["status_reason"]) == (2, None, None)


async def test_a_batch_is_answered_in_its_place(conn: Connection) -> None:
    """Live, stale and unknown ones, in two buckets."""
    session = await make_process(conn, bucket=1)
    live = [await make_sent(conn, session=session, bucket=n) for n in (1, 0)]
    batch = [live[0].fence, Fence(live[0].id, 9), live[1].fence, Fence(submission().id, 1)]

    answers = await send.accept(conn, batch)

    assert [type(answer) for answer in answers] == [type(None), LeaseLost, type(None), LeaseLost]


async def test_a_callback_may_overtake_the_answer(conn: Connection, made: Made) -> None:
    """The result comes before the 202 is read: the answer finds nothing left to write down."""
    await report(conn, made.fence)

    assert not await accept(conn, made.fence)


async def test_a_request_that_nobody_holds_is_unanswered(conn: Connection, made: Made) -> None:
    """Not at once, and not once its process has taken it."""
    taken = await make_sent(conn, session=made.session, accepted=True)
    fetched = await make_execution(conn, "running")
    early = await unanswered(conn)
    await move_clock(conn, "11 seconds")

    [late] = await send.unanswered(conn, 0, after_seconds=AFTER)

    assert early == []
    assert (late.fence, late.session_id) == (made.fence, made.session.id)
    assert {taken.id, fetched.id}.isdisjoint({late.fence.execution_id})


async def test_a_line_of_its_log_is_a_sign(conn: Connection, made: Made) -> None:
    """Who writes for an attempt has taken it, whatever became of the answer; it is taken since it was sent."""
    await log.append(conn, [Line(fence=made.fence, level="info", message="m")])
    await move_clock(conn, "11 seconds")

    found = await unanswered(conn)
    row = await queue_row(conn, made.id)

    assert found == []
    assert row["accepted_at"] == row["sent_at"]


async def test_a_line_of_an_earlier_attempt_is_none(conn: Connection, made: Made) -> None:
    """What attempt 1 has logged says nothing of attempt 2."""
    await log.append(conn, [Line(fence=made.fence, level="info", message="m")])
    await report(conn, made.fence, Verdict.RELEASED)
    [again] = await lease(conn, made.session)
    await move_clock(conn, "11 seconds")

    assert await unanswered(conn) == [Fence(made.id, again.attempt)]


async def test_who_waits_has_taken_it(conn: Connection, made: Made) -> None:
    """An attempt that asks people is surely in its process; it is not asked for, and not withdrawn."""
    await wait.begin(conn, 0, made.fence, reason="approval")
    await move_clock(conn, "11 seconds")

    found = await unanswered(conn)

    assert found == []
    assert (await queue_row(conn, made.id))["accepted_at"] is not None


async def test_who_waits_is_not_withdrawn(conn: Connection, made: Made) -> None:
    """The reason for which it waits stays, or it would never go on."""
    await wait.begin(conn, 0, made.fence, reason="approval")

    assert not await withdraw(conn, made.fence)
    assert await wait.resume(conn, 0, made.fence, reason="approval")


async def test_who_is_withdrawn_begins_no_wait(conn: Connection, made: Made) -> None:
    """The mark stays until its process has stopped, or its word for that would be taken for the end."""
    await withdraw(conn, made.fence)

    assert not await wait.begin(conn, 0, made.fence, reason="approval")
    assert (await queue_row(conn, made.id))["status_reason"] == "withdrawing"


async def test_an_attempt_is_active_since_it_was_taken(conn: Connection, made: Made) -> None:
    """The time before does not count: a process knows nothing of it."""
    await move_clock(conn, "5 seconds")
    await accept(conn, made.fence)
    await move_clock(conn, "105 seconds")

    assert await active(conn, 99) == [100]
    assert await active(conn, 101) == []


async def test_time_that_it_waited_is_not_active(conn: Connection) -> None:
    """Neither while it waits nor afterwards, and each wait counts."""
    made = await make_sent(conn, accepted=True)
    during = []
    for minutes in (1, 3):
        await move_clock(conn, f"{minutes} minutes")
        await wait.begin(conn, 0, made.fence, reason="approval")
        await move_clock(conn, f"{minutes + 1} minutes")
        during += await active(conn, 1)
        await wait.resume(conn, 0, made.fence, reason="approval")
    await move_clock(conn, "5 minutes")

    assert during == []
    assert await active(conn, 179) == [180]
    assert await active(conn, 181) == []


async def test_what_was_never_taken_overruns_nothing(conn: Connection, made: Made) -> None:
    """It is unanswered, which is looked into sooner."""
    await move_clock(conn, "1 day")

    assert await active(conn, 1) == []


async def test_what_is_to_be_stopped(conn: Connection, made: Made) -> None:
    """Every attempt that was sent and is to be cancelled, with the words of who wants it, the first one first."""
    taken = await make_sent(conn, session=made.session, accepted=True)
    fetched = await make_execution(conn, "running")
    await cancel.request(conn, [taken.id, fetched.id], reason="enough", make_id=make_id)
    await move_clock(conn, "1 second")
    await cancel.request(conn, [made.id], reason=None, make_id=make_id)

    first, second = await send.cancelling(conn, 0)

    assert (first.fence, first.reason, first.accepted, first.run_id) == (taken.fence, "enough", True, taken.run_id)
    assert (second.fence, second.reason, second.accepted) == (made.fence, None, False)


async def test_what_has_stopped_is_not_to_be_stopped(conn: Connection, made: Made) -> None:
    """Its end takes it from the list."""
    await cancel.request(conn, [made.id], reason=None, make_id=make_id)
    await report(conn, made.fence, Verdict.CANCELLED)

    assert await send.cancelling(conn, 0) == []


async def test_what_a_process_holds(conn: Connection, made: Made) -> None:
    """What it runs and what waits in it, of this bucket; nothing of another process and nothing that was fetched."""
    waits = await make_sent(conn, session=made.session)
    await wait.begin(conn, 0, waits.fence, reason="approval")
    await make_sent(conn, session=made.session, bucket=1)
    await make_sent(conn, session=await make_process(conn, node_id="m"))
    await make_execution(conn, "running", session=await make_session(conn))

    assert sorted(await send.held(conn, 0, made.session.id)) == sorted([made.fence, waits.fence])


async def test_who_is_called(conn: Connection) -> None:
    """Every open process with an address, how long it is silent, and whether it drains."""
    await make_session(conn)
    await make_process(conn, node_id="gone", instance_id="old")
    drains = await make_process(conn, node_id="gone", instance_id="new")
    await conn.execute("update sessions set draining = true where id = $1", drains.id)
    await move_clock(conn, "7 seconds")
    fresh = await make_process(conn)

    first, second = await send.called(conn, 0)

    assert (first.session, first.draining, round(first.silent_seconds)) == (drains, True, 7)
    assert (second.session, second.draining, round(second.silent_seconds)) == (fresh, False, 0)


async def sessions(conn: Connection) -> tuple[Session, Session]:
    """A function that exists only while it is called, and a process that sends heartbeats."""
    function = await make_process(conn, node_id="f", transport=Transport.SERVERLESS, lease_seconds=40.0)
    return function, await make_process(conn, lease_seconds=40.0)


async def test_functions_live_as_long_as_we_do(conn: Connection) -> None:
    """They send no heartbeats, so we beat for them; for nobody else."""
    function, process = await sessions(conn)
    for seconds in (11, 22, 33, 44):
        await move_clock(conn, f"{seconds} seconds")
        await send.renew_serverless(conn, 0)

    assert await expire.close_expired(conn, 0, up_seconds=1e6) == 1
    assert await all_rows(conn, "select id from sessions where closed_at is null") == [(function.id,)]
    assert process.id != function.id


async def test_a_pause_of_us_all_ends_no_function(conn: Connection) -> None:
    """Nobody beat for it, and whoever looks for expired sessions comes first: it could not register by itself again."""
    function, _ = await sessions(conn)
    await move_clock(conn, "1 hour")

    assert await expire.close_expired(conn, 0, up_seconds=1e6) == 1
    assert await all_rows(conn, "select id from sessions where closed_at is null") == [(function.id,)]


async def test_a_fresh_function_is_left_alone(conn: Connection) -> None:
    """All replicas beat for it; it is written to four times in a lease and not each time that somebody looks."""
    function, _ = await sessions(conn)
    await move_clock(conn, "9 seconds")
    before = await conn.fetch("select id, xmin::text from sessions")

    await send.renew_serverless(conn, 0)

    assert await conn.fetch("select id, xmin::text from sessions") == before
    assert function.transport is Transport.SERVERLESS


async def test_a_closed_function_stays_closed(conn: Connection) -> None:
    """What was replaced is not brought back."""
    await sessions(conn)
    await make_process(conn, node_id="f", transport=Transport.SERVERLESS, instance_id="new")
    await move_clock(conn, "30 seconds")

    await send.renew_serverless(conn, 0)

    closed = "select renewed_at = opened_at from sessions where closed_at is not null"
    assert await all_rows(conn, closed) == [(True,)]


async def test_two_replicas_beat_at_once(conn: Connection, other: Connection) -> None:
    """The second steps over what the first holds."""
    await sessions(conn)
    for own in (conn, other):
        await move_clock(own, "30 seconds")

    async with conn.transaction():
        await send.renew_serverless(conn, 0)
        await send.renew_serverless(other, 0)

    assert await expire.close_expired(conn, 0, up_seconds=1e6) == 0
