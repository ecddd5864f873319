"""Suspend: who only waits gives the lease back, and goes on exactly once when what is awaited has come."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from controlplane.domain.approval import Decision
from controlplane.domain.execution import Status
from controlplane.domain.lease import Fence, Ready, Recorded, ReportCode, Verdict
from controlplane.domain.step import AskApproval, AwaitEvent, Done, Sleep, StepStatus
from controlplane.errors import AlreadyFinished, StepNotFound
from controlplane.postgres.pool import Connection
from controlplane.stages import approve, cancel, complete, expire, pause, signal
from controlplane.stages import suspend as stage
from controlplane.stages.signal import Signal
from tests.make import (
    LEASE_LOST,
    Made,
    a_report,
    ended,
    event_types,
    lease,
    make_execution,
    make_id,
    make_session,
    move_clock,
    must,
    no_jitter,
    outcome_row,
    queue_row,
    race,
    report,
    send,
    steps,
    suspend,
)

ECHO = Ready(1, "n.echo")
NAP = Sleep(name="nap", seconds=60)
GO = AwaitEvent(name="go", event="go")
PARKED = Recorded(code=ReportCode.RECORDED, status=Status.WAITING)


async def sleeper(conn: Connection, *ops: Sleep | AwaitEvent | AskApproval, any_: bool = False, **over: Any) -> Made:
    """An execution that waits without a lease for these, in its first attempt."""
    made = await make_execution(conn, "running", **over)
    await steps(conn, made, *(ops or (NAP,)))
    await suspend(conn, made.fence, *(op.name for op in ops or (NAP,)), any_=any_)
    return made


async def state(conn: Connection, made: Made) -> tuple[str, str | None]:
    row = await queue_row(conn, made.id)
    return row["state"], row["status_reason"]


async def test_a_wait_holds_nothing(conn: Connection) -> None:
    """No session, no deadline of the attempt, no retry and no crash spent (I-20)."""
    made = await sleeper(conn, timeout_seconds=60)

    row = await queue_row(conn, made.id)

    assert (row["state"], row["status_reason"], row["waits_until"]) == ("waiting", "sleeping", "all")
    assert (row["session_id"], row["deadline_at"], row["failures"], row["crashes"]) == (None, None, 0, 0)
    assert await event_types(conn, made.id) == ["execution.queued", "execution.suspended"]


@pytest.mark.parametrize(
    ("ops", "reason"),
    [
        ((NAP, GO), "waiting_for_event"),
        ((GO, AskApproval(name="a", request_id="a", title=None, url=None, expires_seconds=9)), "waiting_for_approval"),
    ],
)
async def test_a_wait_says_why(conn: Connection, ops: tuple[Sleep | AwaitEvent, ...], reason: str) -> None:
    """Of several things what a person can do something about."""
    made = await sleeper(conn, *ops)

    assert await state(conn, made) == ("waiting", reason)


async def test_a_sleep_ends(conn: Connection) -> None:
    """When it is due and not before; the next attempt is the second and finds it done."""
    made = await sleeper(conn)
    early = await stage.wake_due(conn, 0)
    await move_clock(conn, "61 seconds")

    late = await stage.wake_due(conn, 0)
    await move_clock(conn, "0")
    [second] = await lease(conn, made.session)
    [nap] = await steps(conn, made, NAP, fence=Fence(made.id, 2))

    assert (early, late) == ((0, []), (1, [ECHO]))
    assert (second.attempt, second.steps, second.failures) == (2, 1, 0)
    assert (nap.status, nap.timed_out) == (StepStatus.DONE, False)


async def test_a_wait_for_an_event_runs_out(conn: Connection) -> None:
    """It is done then, without a value, and says that its time was over; a later signal is for a later wait."""
    made = await sleeper(conn, replace(GO, timeout_seconds=5))
    await move_clock(conn, "6 seconds")

    await stage.wake_due(conn, 0)
    sent = await send(conn, made.id)
    await lease(conn, made.session)
    [go] = await steps(conn, made, GO, fence=Fence(made.id, 2))

    assert (go.status, go.timed_out, go.value) == (StepStatus.DONE, True, None)
    assert not sent.delivered


async def test_a_signal_wakes(conn: Connection) -> None:
    """In its own transaction: work is there when it is answered."""
    made = await sleeper(conn, GO)

    sent = await send(conn, made.id, payload=b'"now"')

    assert (sent.delivered, sent.ready) == (True, (ECHO,))
    assert await state(conn, made) == ("ready", "woken")
    assert (await event_types(conn, made.id))[-2:] == ["execution.woken", "signal.received"]


@pytest.mark.parametrize(("any_", "expected"), [(True, "ready"), (False, "waiting")])
async def test_any_or_all(conn: Connection, any_: bool, expected: str) -> None:
    """One of two is enough, or is not."""
    made = await sleeper(conn, GO, NAP, any_=any_)

    await send(conn, made.id)

    assert (await queue_row(conn, made.id))["state"] == expected


async def test_all_goes_on_with_the_last(conn: Connection) -> None:
    """Once, whichever comes last."""
    made = await sleeper(conn, GO, NAP)
    await send(conn, made.id)
    await move_clock(conn, "61 seconds")

    looks = [await stage.wake_due(conn, 0) for _ in range(2)]

    assert looks == [(1, [ECHO]), (0, [])]
    assert (await event_types(conn, made.id)).count("execution.woken") == 1


@pytest.mark.parametrize("any_", [True, False])
async def test_what_has_come_already_is_not_waited_for(conn: Connection, any_: bool) -> None:
    """It is ready at once, and says so to whoever reports."""
    made = await make_execution(conn, "running")
    await steps(conn, made, GO)
    await send(conn, made.id)

    answer, again = [await suspend(conn, made.fence, "go", any_=any_) for _ in range(2)]

    assert again == Recorded(code=ReportCode.ALREADY_RECORDED, status=Status.QUEUED)
    assert answer == Recorded(code=ReportCode.RECORDED, status=Status.QUEUED, ready=ECHO)
    assert (await event_types(conn, made.id))[-2:] == ["execution.suspended", "execution.woken"]


async def test_a_sleep_that_is_over_is_not_waited_for(conn: Connection) -> None:
    """Although no tick has seen it."""
    made = await make_execution(conn, "running")
    await steps(conn, made, NAP)
    await move_clock(conn, "61 seconds")

    assert (await suspend(conn, made.fence, "nap")).status is Status.QUEUED


async def test_said_twice(conn: Connection) -> None:
    """A repeat after a lost answer moves nothing, also when it goes on already."""
    made = await sleeper(conn, GO)
    again = await suspend(conn, made.fence, "go")
    await send(conn, made.id)
    [second] = await lease(conn, made.session)

    late = await suspend(conn, made.fence, "go")

    assert again == late == Recorded(code=ReportCode.ALREADY_RECORDED, status=Status.WAITING)
    assert second.attempt == 2
    assert (await queue_row(conn, made.id))["state"] == "leased"


async def test_other_words_of_a_suspended_attempt_are_stale(conn: Connection) -> None:
    """It has given its lease back: neither its result nor its steps count."""
    made = await sleeper(conn)

    assert await report(conn, made.fence) == LEASE_LOST
    assert not await ended(conn, made.id)


async def test_a_step_that_is_not_there(conn: Connection) -> None:
    """Refused, and the attempt goes on running."""
    made = await make_execution(conn, "running")
    await steps(conn, made, GO)

    with pytest.raises(StepNotFound):
        await suspend(conn, made.fence, "go", "nowhere")

    assert await state(conn, made) == ("leased", None)
    assert await conn.fetchval("select count(*) from steps where awaited") == 0


async def test_a_step_of_somebody_else_is_not_there(conn: Connection) -> None:
    """Names belong to an execution."""
    session = await make_session(conn)
    made, other = [await make_execution(conn, "running", session=session) for _ in range(2)]
    await steps(conn, other, GO)

    with pytest.raises(StepNotFound):
        await suspend(conn, made.fence, "go")


async def test_the_flag_decides(conn: Connection) -> None:
    """What is being cancelled does not begin to wait."""
    made = await make_execution(conn, "running")
    await steps(conn, made, NAP)
    await cancel.request(conn, [made.id], reason=None, make_id=make_id)

    assert (await suspend(conn, made.fence, "nap")).status is Status.CANCELLED


async def test_a_wait_is_cancelled_at_once(conn: Connection) -> None:
    """Nobody has to be told, and nothing of it is left for the ticks."""
    made = await sleeper(conn, NAP, GO)

    [done] = await cancel.request(conn, [made.id], reason=None, make_id=make_id)
    await move_clock(conn, "1 hour")

    assert must(done).settled
    assert await stage.wake_due(conn, 0) == (0, [])
    assert await conn.fetchval("select count(*) from steps where status = 'pending' or awaited or news") == 0


async def test_the_whole_still_has_its_deadline(conn: Connection) -> None:
    """A wait counts towards `total_seconds`."""
    made = await sleeper(conn, total_seconds=30)
    await move_clock(conn, "31 seconds")

    await expire.time_out(conn, 0, make_id=make_id)

    outcome = await outcome_row(conn, made.id)
    assert (outcome["status"], outcome["status_reason"]) == ("timeout", "total")


async def test_a_paused_wait_waits_on(conn: Connection) -> None:
    """Held back and let go, it waits for the same."""
    made = await sleeper(conn, GO)

    await pause.request(conn, made.id, reason=None)
    paused = await state(conn, made)
    await pause.resume(conn, made.id)

    assert paused == ("paused", "paused")
    assert await state(conn, made) == ("waiting", "waiting_for_event")
    assert (await send(conn, made.id)).ready


async def test_what_comes_while_it_is_paused_is_not_lost(conn: Connection) -> None:
    """It stays paused, and goes on when a person lets it."""
    made = await sleeper(conn, GO)
    await pause.request(conn, made.id, reason=None)

    sent = await send(conn, made.id)
    paused = await state(conn, made)
    await pause.resume(conn, made.id)

    assert (sent.delivered, sent.ready, paused) == (True, (), ("paused", "paused"))
    assert (await queue_row(conn, made.id))["state"] == "ready"


async def test_a_pause_asked_for_while_it_ran(conn: Connection) -> None:
    """Who suspends then is paused, and waits when it is resumed."""
    made = await make_execution(conn, "running")
    await steps(conn, made, GO)
    await pause.request(conn, made.id, reason=None)

    await suspend(conn, made.fence, "go")
    paused = await state(conn, made)
    await pause.resume(conn, made.id)

    assert paused == ("paused", "paused")
    assert await state(conn, made) == ("waiting", "waiting_for_event")


async def test_a_crash_before_it_waited_is_forgiven(conn: Connection) -> None:
    """An execution that comes as far as to wait is no crash loop."""
    made = await make_execution(conn, "running")
    await steps(conn, made, NAP)
    await conn.execute("update queue set crashes = 5")

    await suspend(conn, made.fence, "nap")

    assert (await queue_row(conn, made.id))["crashes"] == 0


async def test_an_earlier_wait_does_not_wake_a_later_one(conn: Connection) -> None:
    """What was awaited and came is over: the second wait is for the second step alone."""
    made = await sleeper(conn, GO, NAP, any_=True)
    await send(conn, made.id)
    await lease(conn, made.session)
    second = Fence(made.id, 2)
    await steps(conn, made, replace(GO, name="go#2"), fence=second)

    await suspend(conn, second, "go#2", "nap", any_=True)
    looks = await stage.fan_in(conn, 0)

    assert looks == (0, [])
    assert await state(conn, made) == ("waiting", "waiting_for_event")


async def test_a_signal_while_it_suspends(conn: Connection, other: Connection, observer: Connection) -> None:
    """Whichever is first, it goes on: the signal waits for the row, and finds the step awaited (I-19)."""
    made = await make_execution(conn, "running")
    await steps(conn, made, GO)

    parked, sent = await race(
        conn, other, observer, first=lambda c: suspend(c, made.fence, "go"), second=lambda c: send(c, made.id)
    )

    assert (parked, sent.delivered, sent.ready) == (PARKED, True, (ECHO,))


async def test_a_suspend_while_a_signal_comes(conn: Connection, other: Connection, observer: Connection) -> None:
    """The other way round it does not wait at all."""
    made = await make_execution(conn, "running")
    await steps(conn, made, GO)

    sent, parked = await race(
        conn, other, observer, first=lambda c: send(c, made.id), second=lambda c: suspend(c, made.fence, "go")
    )

    assert (sent.delivered, sent.ready, parked.status) == (True, (), Status.QUEUED)


async def test_two_signals_at_once(conn: Connection, other: Connection, observer: Connection) -> None:
    """One is taken, the other is kept for the next wait (I-19)."""
    made = await sleeper(conn, GO)

    one, two = await race(
        conn, other, observer, first=lambda c: send(c, made.id, payload=b"1"), second=lambda c: send(c, made.id)
    )

    assert (one.delivered, two.delivered) == (True, False)
    assert await conn.fetchval("select value from steps") == b"1"


async def test_a_signal_and_a_cancel_at_once(conn: Connection, other: Connection, observer: Connection) -> None:
    """Woken first, it is cancelled all the same; nothing is left behind."""
    made = await sleeper(conn, GO)

    _, [done] = await race(
        conn,
        other,
        observer,
        first=lambda c: send(c, made.id),
        second=lambda c: cancel.request(c, [made.id], reason=None, make_id=make_id),
    )

    assert must(done).settled
    assert await conn.fetchval("select count(*) from steps where awaited or news") == 0


async def test_a_decision_and_the_expiry_at_once(conn: Connection, other: Connection, observer: Connection) -> None:
    """One answer, one wake; the other changes nothing (I-19)."""
    made = await sleeper(conn, AskApproval(name="a", request_id="a", title=None, url=None, expires_seconds=60))
    for each in (conn, other):
        await move_clock(each, "61 seconds")
    transaction = conn.transaction()
    await transaction.start()
    answered = await approve.decide(
        conn,
        made.id,
        namespace=1,
        request_id="a",
        decision=Decision.APPROVED,
        feedback="ship",
        response=None,
        make_id=make_id,
    )

    during = await approve.expire_due(other, 0, make_id=make_id)
    await transaction.commit()
    after = await approve.expire_due(other, 0, make_id=make_id)

    assert (during, after, answered.processed) == (0, 0, True)
    assert (await event_types(conn, made.id)).count("execution.woken") == 1
    assert await conn.fetchval("select value from steps") == (
        b'{"decision":"approved","feedback":"ship","response":null}'
    )


async def test_an_approval_that_nobody_decides(conn: Connection) -> None:
    """It expires, and that is the answer with which the execution goes on."""
    made = await sleeper(conn, AskApproval(name="a", request_id="a", title=None, url=None, expires_seconds=60))
    await move_clock(conn, "61 seconds")

    count = await approve.expire_due(conn, 0, make_id=make_id)

    assert (count, await state(conn, made)) == (1, ("ready", "woken"))
    assert b'"decision":"expired"' in await conn.fetchval("select value from steps")


async def test_a_decision_that_nobody_told(conn: Connection) -> None:
    """A server of the version before has closed the question: a later look answers the step, and wakes once."""
    made = await sleeper(conn, AskApproval(name="a", request_id="a", title=None, url=None, expires_seconds=60))
    await conn.execute("update approvals set status = 'expired', feedback = 'late', decided_at = clock()")

    looks = [await stage.catch_up(conn, 0, stage.FIRST) for _ in range(2)]

    assert looks == [(1, [ECHO], stage.FIRST), (0, [], stage.FIRST)]
    assert await state(conn, made) == ("ready", "woken")
    assert b'"decision":"expired"' in await conn.fetchval("select value from steps")


async def test_a_batch_of_waits(conn: Connection) -> None:
    """Each is answered by itself: one waits, one is ready, one has named what is not there."""
    session = await make_session(conn)
    one, two, three = [await make_execution(conn, "running", session=session) for _ in range(3)]
    for made in (one, two):
        await steps(conn, made, GO, Done(name="d", value=b"1"))
    batch = [
        a_report(made.fence, Verdict.WAITING, waits=waits)
        for made, waits in ((one, ("go",)), (two, ("d",)), (three, ("go",)))
    ]

    answers = await complete.report(conn, batch, make_id=make_id, jitter=no_jitter)

    assert [type(one) for one in answers] == [Recorded, Recorded, StepNotFound]
    assert [await state(conn, made) for made in (one, two, three)] == [
        ("waiting", "waiting_for_event"),
        ("ready", "woken"),
        ("leased", None),
    ]


async def test_a_signal_whose_commit_was_not_heard_of(conn: Connection) -> None:
    """We send it again ourselves: it is the same signal, with or without a key."""
    made = await sleeper(conn, GO)
    same = Signal(id=make_id(0), execution_id=made.id, namespace=1, event="go", payload=b"1")

    first, again = [await signal.send(conn, same) for _ in range(2)]

    assert (first.delivered, again.delivered, again.replayed) == (True, True, False)
    assert await conn.fetchval("select count(*) from signals") == 1


async def test_a_signal_that_is_sent_again_after_the_end(conn: Connection) -> None:
    """Who did not hear that it was taken hears it now; a new one comes too late."""
    made = await make_execution(conn, "running")
    first = await send(conn, made.id, key="once")
    await report(conn, made.fence)

    again = await send(conn, made.id, key="once")

    assert (again.id, again.replayed) == (first.id, True)
    with pytest.raises(AlreadyFinished):
        await send(conn, made.id, key="another")


async def test_who_waits_for_nothing(conn: Connection) -> None:
    """Is ready at once; the door refuses it before."""
    made = await make_execution(conn, "running")

    assert (await suspend(conn, made.fence)).status is Status.QUEUED
