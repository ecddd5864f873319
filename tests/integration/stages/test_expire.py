"""Expire: what a dead process held runs again; what ran out of time ends; a row in somebody's hands is left alone."""

from __future__ import annotations

import pytest

from controlplane.domain.execution import CRASHES_MAX, Status
from controlplane.domain.lease import Fence, Recorded, ReportCode, Session, Transport, Verdict
from controlplane.domain.retry import RetryPolicy
from controlplane.postgres.pool import Connection
from controlplane.stages import cancel, checkpoint, expire, log, pause, register, submit, wait
from tests.make import (
    LEASE_LOST,
    NAMESPACE,
    Made,
    accept,
    all_rows,
    counts,
    event_types,
    lease,
    make_execution,
    make_id,
    make_process,
    make_sent,
    make_session,
    move_clock,
    outcome_row,
    put,
    queue_row,
    race,
    report,
    submission,
    webhook,
)


async def expire_all(conn: Connection, offset: str = "1 hour") -> expire.Swept:
    """Later, the reaper comes by."""
    await move_clock(conn, offset)
    await expire.close_expired(conn, 0, up_seconds=1e6)
    return await expire.sweep(conn, 0, make_id=make_id)


@pytest.fixture
async def made(conn: Connection) -> Made:
    """A running execution."""
    return await make_execution(conn, "running")


async def test_a_session_in_time_is_left_alone(conn: Connection, made: Made) -> None:
    """Before its time nothing is taken from a session."""
    swept = await expire_all(conn, "29 seconds")

    assert swept.rows == 0
    assert (await queue_row(conn, made.id))["session_id"] == made.session.id


async def test_the_work_of_a_dead_session_is_ready_again(conn: Connection, made: Made) -> None:
    """A crash is a delay: the work is available at once, no retry is spent, one crash is counted."""
    swept = await expire_all(conn)
    row = await queue_row(conn, made.id)

    assert (swept.rows, swept.ready, swept.ended) == (1, ((1, "n.echo"),), ())
    assert (row["state"], row["attempt"], row["failures"], row["crashes"]) == ("ready", 1, 0, 1)
    assert (row["session_id"], row["leased_at"], row["deadline_at"]) == (None, None, None)
    assert row["status_reason"] == "lease_expired"
    assert (await event_types(conn, made.id))[-1] == "lease.expired"


async def test_sweeping_twice_frees_once(conn: Connection, made: Made) -> None:
    """A second pass finds nothing."""
    await expire_all(conn)

    assert (await expire_all(conn)).rows == 0
    assert (await queue_row(conn, made.id))["crashes"] == 1


async def test_the_old_attempt_has_lost_its_lease(conn: Connection, made: Made) -> None:
    """The process that comes back late can neither write nor complete."""
    await expire_all(conn)

    assert await report(conn, made.fence) == LEASE_LOST


async def test_an_outage_of_ours_expires_nobody(conn: Connection, made: Made) -> None:
    """A server that has been up for less than a lease closes no session: they could not have renewed."""
    await move_clock(conn, "1 hour")

    assert await expire.close_expired(conn, 0, up_seconds=29.9) == 0
    assert await expire.close_expired(conn, 0, up_seconds=30.0) == 1


async def test_a_crash_loop_ends(conn: Connection) -> None:
    """After so many crashes in a row without a checkpoint the execution has failed, and its caller is told."""
    made = await make_execution(conn, webhooks=(webhook(),))
    for n in range(CRASHES_MAX):
        await move_clock(conn, f"{n} hours")
        session = await make_session(conn)
        assert len(await lease(conn, session)) == 1
        swept = await expire_all(conn, f"{n} hours 59 minutes")
    outcome = await outcome_row(conn, made.id)

    assert swept.ended == (made.id,)
    assert (outcome["status"], outcome["status_reason"], outcome["error_class"]) == (
        "failed",
        "crash_loop",
        "CrashLoop",
    )
    assert (outcome["attempt"], outcome["failures"]) == (CRASHES_MAX, 0)
    assert await counts(conn, "deliveries") == {"deliveries": 1}


async def test_a_checkpoint_breaks_the_loop(conn: Connection, made: Made) -> None:
    """An execution that gets a little further each time may crash as often as it likes."""
    await conn.execute("update queue set crashes = $1", CRASHES_MAX - 1)
    await checkpoint.write(conn, [put(made, b"1")])

    await expire_all(conn)

    assert (await queue_row(conn, made.id))["crashes"] == 1


async def test_a_goodbye_frees_at_once(conn: Connection, made: Made) -> None:
    """Closing a session hands back its work without a crash."""
    left = await expire.leave(conn, made.session.id, 0, reason="bye", make_id=make_id)
    row = await queue_row(conn, made.id)

    assert (left.rows, left.ready) == (1, ((1, "n.echo"),))
    assert (row["state"], row["crashes"], row["status_reason"]) == ("ready", 0, "released")
    assert (await event_types(conn, made.id))[-1] == "lease.released"


async def test_a_goodbye_twice_is_one(conn: Connection, made: Made) -> None:
    """Saying goodbye again changes neither the moment nor the reason."""
    await expire.leave(conn, made.session.id, 0, reason="first", make_id=make_id)
    before = await conn.fetch("select closed_at, closed_reason from sessions")
    await move_clock(conn, "1 minute")

    again = await expire.leave(conn, made.session.id, 0, reason="second", make_id=make_id)

    assert again.rows == 0
    assert await conn.fetch("select closed_at, closed_reason from sessions") == before


async def test_who_has_left_does_not_expire(conn: Connection, made: Made) -> None:
    """A session that was closed is closed once, for the first reason."""
    await expire.leave(conn, made.session.id, 0, reason="bye", make_id=make_id)
    await move_clock(conn, "1 hour")

    assert await expire.close_expired(conn, 0, up_seconds=1e6) == 0
    assert await conn.fetchval("select closed_reason from sessions") == "bye"


async def test_a_goodbye_ends_what_was_cancelled(conn: Connection, made: Made) -> None:
    """Work that was to be cancelled is not handed out again."""
    await conn.execute("update queue set cancel_requested_at = clock(), cancel_reason = 'enough'")

    left = await expire.leave(conn, made.session.id, 0, reason="bye", make_id=make_id)

    assert left.ended == (made.id,)
    assert (await outcome_row(conn, made.id))["error"] == b'"enough"'


async def test_a_late_claim_of_a_closed_session_is_taken_back(conn: Connection, made: Made) -> None:
    """A claim that committed after the goodbye is found by the next sweep, without a crash."""
    await conn.execute("update sessions set closed_at = clock(), closed_reason = 'bye'")

    swept = await expire.sweep(conn, 0, make_id=make_id)

    assert swept.rows == 1
    assert (await queue_row(conn, made.id))["crashes"] == 0


async def test_work_in_another_bucket_than_its_session(conn: Connection) -> None:
    """A session takes work of every bucket, and when it dies the sweep of each bucket finds it."""
    session = await make_session(conn, bucket=2)
    made = await make_execution(conn, "running", session=session, bucket=1)
    await move_clock(conn, "1 hour")
    await expire.close_expired(conn, 2, up_seconds=1e6)

    swept = await expire.sweep(conn, 1, make_id=make_id)

    assert swept.rows == 1
    assert (await queue_row(conn, made.id))["state"] == "ready"


async def test_only_closed_sessions_are_looked_at(conn: Connection, made: Made) -> None:
    """Named, they are found with their work in any bucket; what others hold is not even asked for."""
    session = await make_session(conn, bucket=2)
    theirs = await make_execution(conn, "running", session=session)
    await expire.leave(conn, session.id, 1, reason="bye", make_id=make_id)
    closed = await expire.closed_sessions(conn, 2)

    nothing = await expire.sweep(conn, 0, make_id=make_id, closed={})
    swept = await expire.sweep(conn, 0, make_id=make_id, closed=closed)

    assert (closed, nothing.rows, swept.rows) == ({session.id: "bye"}, 0, 1)
    assert (await queue_row(conn, theirs.id))["state"] == "ready"
    assert (await queue_row(conn, made.id))["state"] == "leased"


async def test_work_of_a_forgotten_session_is_freed(conn: Connection, made: Made) -> None:
    """Whatever became of its session, leased work is never left lying."""
    await expire.leave(conn, made.session.id, 1, reason="bye", make_id=make_id)
    await conn.execute("delete from sessions")

    swept = await expire.sweep(conn, 0, make_id=make_id)

    assert swept.rows == 1
    assert (await queue_row(conn, made.id))["state"] == "ready"


async def test_a_waiting_execution_with_a_session_is_freed(conn: Connection, made: Made) -> None:
    """A process that waits for something keeps its lease, and loses it when it dies."""
    await conn.execute("update queue set state = 'waiting'")

    assert (await expire_all(conn)).rows == 1
    assert (await queue_row(conn, made.id))["state"] == "ready"


async def test_a_sweep_steps_over_rows_in_use(conn: Connection, other: Connection, made: Made) -> None:
    """A report that is being committed wins; the sweep does not wait for it and finds nothing later."""
    await move_clock(other, "1 hour")
    await expire.close_expired(other, 0, up_seconds=1e6)

    async with conn.transaction():
        answer = await report(conn, made.fence)
        during = await expire.sweep(other, 0, make_id=make_id)
    after = await expire.sweep(other, 0, make_id=make_id)

    assert answer == Recorded(code=ReportCode.RECORDED, status=Status.SUCCEEDED)
    assert (during.rows, after.rows) == (0, 0)


async def test_many_are_swept_in_bounded_passes(conn: Connection) -> None:
    """A pass touches no more than its batch, and the passes together everything."""
    session = await make_session(conn)
    wishes = [submission() for _ in range(expire.BATCH + 10)]
    await submit.accept(conn, wishes)
    await conn.execute(
        "update queue set state = 'leased', session_id = $1, leased_at = clock(), attempt = 1", session.id
    )

    first, second = await expire_all(conn), await expire_all(conn)

    assert (first.rows, second.rows) == (expire.BATCH, 10)


async def test_sessions_are_forgotten_late(conn: Connection, made: Made) -> None:
    """A closed session is kept until no claim of its time can still commit."""
    await expire.leave(conn, made.session.id, 0, reason="bye", make_id=make_id)
    await make_session(conn)
    await expire.forget_sessions(conn, 0, after_seconds=90)
    early = await counts(conn, "sessions")
    await move_clock(conn, "91 seconds")

    await expire.forget_sessions(conn, 0, after_seconds=90)

    assert (early, await counts(conn, "sessions")) == ({"sessions": 2}, {"sessions": 1})


@pytest.fixture
async def session(made: Made) -> Session:
    assert made.session is not None
    return made.session


async def test_what_a_full_list_does_not_name_is_taken_back(conn: Connection, made: Made, session: Session) -> None:
    """The answer of its claim was lost on the wire: it is ready again, without a crash."""
    named = await make_execution(conn, "running", session=session)
    await move_clock(conn, "21 seconds")

    swept = await expire.release_unnamed(conn, 0, session.id, [named.fence], older_than_seconds=20, make_id=make_id)
    row = await queue_row(conn, made.id)

    assert swept.rows == 1
    assert (row["state"], row["crashes"], row["status_reason"]) == ("ready", 0, "claim_lost")
    assert (await queue_row(conn, named.id))["state"] == "leased"


async def test_a_fresh_claim_is_not_taken_back(conn: Connection, made: Made, session: Session) -> None:
    """Its answer may still be on the way."""
    swept = await expire.release_unnamed(conn, 0, session.id, [], older_than_seconds=20, make_id=make_id)

    assert swept.rows == 0


async def test_an_old_attempt_of_a_row_does_not_name_it(conn: Connection, made: Made, session: Session) -> None:
    """A process that still lists attempt 1 of what it was given again as attempt 2 does not know of attempt 2."""
    await conn.execute("update queue set attempt = 2")
    await move_clock(conn, "21 seconds")

    swept = await expire.release_unnamed(
        conn, 0, session.id, [Fence(made.id, 1)], older_than_seconds=20, make_id=make_id
    )

    assert swept.rows == 1


async def test_what_was_claimed_anew_meanwhile_is_not_taken_back(
    conn: Connection, made: Made, session: Session
) -> None:
    """A server that stood still after its look finds the attempt that it looked at, or nothing."""
    await conn.execute("update queue set attempt = 2")
    await move_clock(conn, "21 seconds")

    stale = await conn.fetch(expire.UNNAMED, 0, [made.id], [1], session.id, 20.0)
    fresh = await conn.fetch(expire.UNNAMED, 0, [made.id], [2], session.id, 20.0)

    assert (len(stale), len(fresh)) == (0, 1)


async def test_an_attempt_out_of_time_ends(conn: Connection) -> None:
    """Past its deadline it has timed out; a result that comes later finds no lease to hold."""
    made = await make_execution(conn, "running", timeout_seconds=60.0, webhooks=(webhook(),))
    early = await expire.time_out(conn, 0, make_id=make_id)
    await move_clock(conn, "61 seconds")

    late = await expire.time_out(conn, 0, make_id=make_id)
    answer = await report(conn, made.fence)

    assert (early.ended, late.ended) == ((), (made.id,))
    assert (await outcome_row(conn, made.id))["status_reason"] == "start_to_close"
    assert answer == Recorded(code=ReportCode.ALREADY_RECORDED, status=Status.TIMEOUT)
    assert await counts(conn, "deliveries") == {"deliveries": 1}


async def test_out_of_time_after_a_cancel_is_cancelled(conn: Connection) -> None:
    """The cancel came first and decides."""
    made = await make_execution(conn, "running", timeout_seconds=60.0)
    await conn.execute("update queue set cancel_requested_at = clock()")
    await move_clock(conn, "61 seconds")

    await expire.time_out(conn, 0, make_id=make_id)

    assert (await outcome_row(conn, made.id))["status"] == "cancelled"


async def test_what_nobody_begins_in_time_ends(conn: Connection) -> None:
    """Counted from when it may begin, whether it waits for that, is ready or held back."""
    now, later = (submission(schedule_to_start_seconds=60.0, delay_seconds=delay) for delay in (0.0, 100.0))
    await accept(conn, now, later)
    await move_clock(conn, "61 seconds")

    first = await expire.time_out(conn, 0, make_id=make_id)
    await move_clock(conn, "161 seconds")
    second = await expire.time_out(conn, 0, make_id=make_id)
    outcome = await outcome_row(conn, now.id)

    assert (first.ended, second.ended) == ((now.id,), (later.id,))
    assert (first.stopped, outcome["status"], outcome["status_reason"]) == ((), "timeout", "schedule_to_start")
    assert (outcome["attempt"], outcome["started_at"]) == (0, None)


async def test_what_was_begun_in_time_goes_on(conn: Connection) -> None:
    """Also when it is back in the queue by then: it was begun."""
    made = submission(schedule_to_start_seconds=60.0)
    await accept(conn, made)
    [got] = await lease(conn, await make_session(conn))
    await report(conn, Fence(got.execution_id, got.attempt), Verdict.RELEASED)
    await move_clock(conn, "1 hour")

    assert (await expire.time_out(conn, 0, make_id=make_id)).rows == 0


@pytest.mark.parametrize("state", ["ready", "leased", "delayed", "waiting", "paused", "expired"])
async def test_what_takes_too_long_altogether_ends(conn: Connection, state: str) -> None:
    """Wherever it stands, and whatever was lost or waited for on the way."""
    retry = RetryPolicy(retries_max=3, delay_seconds=1_000)
    made = await make_execution(conn, "running", total_seconds=60.0, timeout_seconds=100.0, retry=retry)
    match state:
        case "ready":
            await report(conn, made.fence, Verdict.RELEASED)
        case "delayed":
            await report(conn, made.fence, Verdict.FAILED)
        case "waiting":
            await wait.begin(conn, 0, made.fence, reason="awaiting_child")
        case "paused":
            await pause.request(conn, made.id, reason=None)
            await report(conn, made.fence, Verdict.RELEASED)
        case "expired":
            await expire_all(conn, "31 seconds")
    await move_clock(conn, "59 seconds")
    early = await expire.time_out(conn, 0, make_id=make_id)
    await move_clock(conn, "61 seconds")

    late = await expire.time_out(conn, 0, make_id=make_id)
    outcome = await outcome_row(conn, made.id)

    assert (early.rows, late.ended) == (0, (made.id,))
    assert (outcome["status"], outcome["status_reason"]) == ("timeout", "total")


@pytest.mark.parametrize(
    ("timeout", "total", "reason"),
    [(60.0, None, "start_to_close"), (60.0, 90.0, "start_to_close"), (90.0, 60.0, "total")],
)
async def test_the_nearest_deadline_decides(conn: Connection, timeout: float, total: float | None, reason: str) -> None:
    """Of one attempt and of the whole; the process that runs it is told which."""
    await accept(conn, submission(timeout_seconds=timeout, total_seconds=total))
    session = await make_session(conn)
    [got] = await lease(conn, session)
    await move_clock(conn, "61 seconds")

    [stopped] = (await expire.time_out(conn, 0, make_id=make_id)).stopped

    assert got.deadline_in_seconds == pytest.approx(60, abs=5)
    assert (stopped.fence, stopped.session_id) == (Fence(got.execution_id, 1), session.id)
    assert (stopped.reason, (await outcome_row(conn, got.execution_id))["status_reason"]) == (reason, reason)


async def test_a_wait_does_not_outlast_the_whole(conn: Connection) -> None:
    """What an attempt has left after a wait is no more than the whole has left."""
    made = await make_execution(conn, "running", timeout_seconds=50.0, total_seconds=60.0)
    await wait.begin(conn, 0, made.fence, reason="awaiting_child")
    await move_clock(conn, "40 seconds")
    await wait.resume(conn, 0, made.fence, reason="awaiting_child")

    row = await queue_row(conn, made.id)

    assert row["deadline_at"] == row["total_deadline_at"]


async def test_the_deadline_is_of_the_attempt(conn: Connection) -> None:
    """Time in the queue does not count, and a new attempt gets the whole time again."""
    made = await make_execution(conn, "running", timeout_seconds=60.0)
    await expire_all(conn, "31 seconds")
    await move_clock(conn, "61 seconds")
    waiting = await expire.time_out(conn, 0, make_id=make_id)
    await lease(conn, await make_session(conn))
    await move_clock(conn, "120 seconds")

    assert (waiting.rows, (await expire.time_out(conn, 0, make_id=make_id)).rows) == (0, 0)
    assert (await queue_row(conn, made.id))["attempt"] == 2


async def test_promotes_in_the_order_of_time(conn: Connection) -> None:
    """What is due is ready, the rest stays delayed."""
    due, later = await make_execution(conn, "delayed"), await make_execution(conn, "delayed")
    await conn.execute("update queue set available_at = clock() + interval '2 hours' where id = $1", later.id)
    await move_clock(conn, "61 minutes")

    promoted = await expire.promote(conn, 0)

    assert (promoted.rows, promoted.ready) == (1, ((1, "n.echo"),))
    assert [(await queue_row(conn, made.id))["state"] for made in (due, later)] == ["ready", "delayed"]


async def take_back(conn: Connection, *fences: Fence, crash: bool = False, **over: float) -> expire.Swept:
    return await expire.take_back(conn, 0, fences, reason="node_full", crash=crash, make_id=make_id, **over)


async def test_what_was_sent_in_vain_is_taken_back(conn: Connection) -> None:
    """It is ready again, at once and as if it had never been sent: no retry, no crash."""
    made = await make_sent(conn, accepted=True)

    swept = await take_back(conn, made.fence)
    row = await queue_row(conn, made.id)

    assert (swept.rows, swept.ready, swept.ended) == (1, ((1, "n.echo"),), ())
    assert (row["state"], row["failures"], row["crashes"], row["status_reason"]) == ("ready", 0, 0, "node_full")
    assert (row["session_id"], row["sent_at"], row["accepted_at"], row["waiting_at"]) == (None, None, None, None)
    assert (await event_types(conn, made.id))[-1] == "lease.released"


async def test_what_a_process_lost_counts_as_a_crash(conn: Connection) -> None:
    """So that work which kills its process is not handed out for ever."""
    made = await make_sent(conn)

    await take_back(conn, made.fence, crash=True)

    assert (await queue_row(conn, made.id))["crashes"] == 1
    assert (await event_types(conn, made.id))[-1] == "lease.expired"


async def test_a_full_process_is_not_asked_again_at_once(conn: Connection) -> None:
    """What it had no room for waits a little, and is promoted then."""
    made = await make_sent(conn)

    await take_back(conn, made.fence, delay_seconds=5.0)
    early = await expire.promote(conn, 0)
    await move_clock(conn, "6 seconds")

    assert (early.rows, (await expire.promote(conn, 0)).rows) == (0, 1)
    assert len(await lease(conn, made.session)) == 1


async def test_what_was_cancelled_is_not_taken_back(conn: Connection) -> None:
    """It has ended, whatever its process does with it."""
    made = await make_sent(conn)
    await cancel.request(conn, [made.id], reason="enough", make_id=make_id)

    swept = await take_back(conn, made.fence, delay_seconds=5.0)

    assert swept.ended == (made.id,)
    assert (await outcome_row(conn, made.id))["error"] == b'"enough"'


async def test_what_is_taken_back_again_and_again_crashes(conn: Connection) -> None:
    """Ten in a row without a checkpoint are a crash loop, here as in a sweep."""
    made = await make_sent(conn, webhooks=(webhook(),))
    await conn.execute("update queue set crashes = $1", CRASHES_MAX - 1)

    swept = await take_back(conn, made.fence, crash=True)

    assert swept.ended == (made.id,)
    assert (await outcome_row(conn, made.id))["status_reason"] == "crash_loop"
    assert await counts(conn, "deliveries") == {"deliveries": 1}


@pytest.mark.parametrize("attempt", [1, 3])
async def test_only_the_attempt_that_runs_is_taken_back(conn: Connection, attempt: int) -> None:
    """Whoever looked when another one ran is too late."""
    made = await make_sent(conn, attempt=2)
    before = dict(await queue_row(conn, made.id))

    swept = await take_back(conn, Fence(made.id, attempt), crash=True)

    assert swept.rows == 0
    assert dict(await queue_row(conn, made.id)) == before


async def test_what_was_fetched_is_not_taken_back(conn: Connection, made: Made) -> None:
    """A process that fetches its work says itself what it holds."""
    assert (await take_back(conn, made.fence)).rows == 0


async def test_taking_back_twice_is_once(conn: Connection) -> None:
    """The second finds nothing, the next attempt included."""
    made = await make_sent(conn)
    await take_back(conn, made.fence, crash=True)
    resting = await take_back(conn, made.fence, crash=True)
    await lease(conn, made.session)

    leased = await take_back(conn, made.fence, crash=True)

    assert (resting.rows, leased.rows) == (0, 0)
    assert (await queue_row(conn, made.id))["crashes"] == 1


async def test_two_take_it_back_at_once(conn: Connection, other: Connection, observer: Connection) -> None:
    """The second waits for the first, and finds nothing."""
    made = await make_sent(conn)

    first, second = await race(
        conn,
        other,
        observer,
        first=lambda c: take_back(c, made.fence, crash=True),
        second=lambda c: take_back(c, made.fence, crash=True),
    )

    assert (first.rows, second.rows) == (1, 0)
    assert (await queue_row(conn, made.id))["crashes"] == 1


async def test_a_result_beats_taking_it_back(conn: Connection, other: Connection, observer: Connection) -> None:
    """A callback that is being committed stands."""
    made = await make_sent(conn)

    answer, taken_back = await race(
        conn, other, observer, first=lambda c: report(c, made.fence), second=lambda c: take_back(c, made.fence)
    )

    assert answer == Recorded(code=ReportCode.RECORDED, status=Status.SUCCEEDED)
    assert taken_back.rows == 0


async def test_a_line_being_written_does_not_hide_it(conn: Connection, other: Connection, observer: Connection) -> None:
    """Nobody takes it back a second time, so whoever writes in its name at this moment is waited for."""
    made = await make_sent(conn)

    _, swept = await race(
        conn,
        other,
        observer,
        first=lambda c: log.append(c, [log.Line(fence=made.fence, level="info", message="reasoner.failed")]),
        second=lambda c: take_back(c, made.fence),
    )

    assert swept.rows == 1
    assert (await queue_row(conn, made.id))["state"] == "ready"


async def test_a_result_that_waits_for_taking_it_back_is_lost(
    conn: Connection, other: Connection, observer: Connection
) -> None:
    """The attempt is withdrawn: whatever its process says afterwards is stale."""
    made = await make_sent(conn)

    _, answer = await race(
        conn, other, observer, first=lambda c: take_back(c, made.fence), second=lambda c: report(c, made.fence)
    )

    assert answer == LEASE_LOST
    assert (await queue_row(conn, made.id))["state"] == "ready"


async def test_many_are_taken_back_together(conn: Connection) -> None:
    """Live, stale, cancelled and unknown in one batch: each goes its own way."""
    session = await make_process(conn)
    live, stale, unwanted = [await make_sent(conn, session=session) for _ in range(3)]
    await cancel.request(conn, [unwanted.id], reason=None, make_id=make_id)
    fences = [live.fence, Fence(stale.id, 7), unwanted.fence, Fence(submission().id, 1)]

    swept = await take_back(conn, *fences)

    assert (swept.rows, len(swept.ready), swept.ended) == (2, 1, (unwanted.id,))
    assert (await queue_row(conn, stale.id))["session_id"] == session.id


async def refuse(conn: Connection, session: Session) -> bool:
    return await expire.refuse(conn, session.id, silent_seconds=5.0, drain_seconds=35.0)


CLOSED = "select closed_reason, draining from sessions where base_url is not null"


async def test_who_does_not_listen_is_dead(conn: Connection) -> None:
    """Its session closes as after a crash, long before its lease would have run out."""
    made = await make_sent(conn)
    await move_clock(conn, "6 seconds")

    closed = await refuse(conn, made.session)
    swept = await expire.sweep(conn, 0, make_id=make_id)

    assert closed
    assert await all_rows(conn, CLOSED) == [("refused", False)]
    assert swept.rows == 1
    assert (await queue_row(conn, made.id))["crashes"] == 1


async def test_who_was_heard_of_meanwhile_is_not_dead(conn: Connection) -> None:
    """A heartbeat came after we looked: it is only starting to listen."""
    session = await make_process(conn)
    await move_clock(conn, "4 seconds")

    assert not await refuse(conn, session)
    assert await all_rows(conn, CLOSED) == [(None, False)]


async def test_who_has_just_said_goodbye_drains(conn: Connection) -> None:
    """One of two said goodbye and did not say which: it is the one that does not listen, and it may finish."""
    leaving, staying = await make_process(conn), await make_process(conn, base_url="http://127.0.0.1:8002")
    made = await make_sent(conn, session=leaving)
    await move_clock(conn, "6 seconds")
    await register.drain(conn, 0, namespace=NAMESPACE, node_id="n", seconds=35)

    closed = await refuse(conn, leaving)
    swept = await expire.sweep(conn, 0, make_id=make_id)
    left = "select extract(epoch from expires_at - clock())::float8 from sessions where id = $1"

    assert not closed
    assert await all_rows(conn, "select id from sessions where draining") == [(leaving.id,)]
    assert 30 < await conn.fetchval(left, leaving.id) <= 35
    assert await conn.fetchval(left, staying.id) > 60
    assert swept.rows == 0
    assert (await queue_row(conn, made.id))["session_id"] == leaving.id


async def test_an_old_goodbye_explains_nothing(conn: Connection) -> None:
    """Whoever said it has gone long ago."""
    session = await make_process(conn)
    await make_process(conn, base_url="http://127.0.0.1:8002", instance_id="other")
    await register.drain(conn, 0, namespace=NAMESPACE, node_id="n", seconds=35)
    await move_clock(conn, "36 seconds")

    assert await refuse(conn, session)


async def test_a_goodbye_of_another_node_explains_nothing(conn: Connection) -> None:
    """Each node's goodbye is its own."""
    session = await make_process(conn)
    await make_process(conn, node_id="m")
    await move_clock(conn, "6 seconds")
    await register.drain(conn, 0, namespace=NAMESPACE, node_id="m", seconds=35)

    assert await refuse(conn, session)


async def test_who_drains_is_not_refused(conn: Connection) -> None:
    """It does not listen, as it said."""
    session = await make_process(conn)
    await register.drain(conn, 0, namespace=NAMESPACE, node_id="n", seconds=35)
    await move_clock(conn, "20 seconds")

    assert not await refuse(conn, session)
    assert await all_rows(conn, CLOSED) == [(None, True)]


async def test_refusing_twice_is_once(conn: Connection) -> None:
    """Two of us that find nobody at once close it once, for one reason."""
    session = await make_process(conn)
    await move_clock(conn, "6 seconds")
    first = await refuse(conn, session)
    before = await conn.fetch("select closed_at from sessions")

    assert (first, await refuse(conn, session)) == (True, False)
    assert await conn.fetch("select closed_at from sessions") == before


@pytest.mark.parametrize(
    ("transport", "draining", "reason", "crashes"),
    [
        (Transport.PUSH, False, "silent", 1),
        (Transport.PUSH, True, "drained", 0),
        (Transport.SERVERLESS, True, "drained", 0),
    ],
)
async def test_why_a_called_process_was_closed(
    conn: Connection, transport: Transport, draining: bool, reason: str, crashes: int
) -> None:
    """Who said goodbye and did not finish in time has not crashed: its work is handed on."""
    made = await make_sent(conn, session=await make_process(conn, transport=transport))
    if draining:
        await register.drain(conn, 0, namespace=NAMESPACE, node_id="n", seconds=35)

    await expire_all(conn)

    assert await all_rows(conn, CLOSED) == [(reason, draining)]
    assert (await queue_row(conn, made.id))["crashes"] == crashes


async def test_who_fetches_and_drains_may_still_expire(conn: Connection, made: Made) -> None:
    """It hands back what it holds before it leaves; when it is silent instead, it has died."""
    await conn.execute("update sessions set draining = true")

    await expire_all(conn)

    assert (await queue_row(conn, made.id))["crashes"] == 1


async def test_processes_that_are_replaced_one_after_the_other(conn: Connection) -> None:
    """An execution that kills every process it is given to has failed after ten of them."""
    made = await make_execution(conn)
    for n in range(CRASHES_MAX):
        session = await make_process(conn, instance_id=f"i{n}")
        assert len(await lease(conn, session)) == 1
        await make_process(conn, instance_id=f"i{n}+")
        swept = await expire.sweep(conn, 0, make_id=make_id)

    assert swept.ended == (made.id,)
    assert (await outcome_row(conn, made.id))["status_reason"] == "crash_loop"


async def test_goodbyes_are_no_crash_loop(conn: Connection) -> None:
    """A node that is deployed again and again loses nothing but time."""
    made = await make_execution(conn)
    for n in range(CRASHES_MAX + 1):
        session = await make_process(conn, instance_id=f"i{n}")
        assert len(await lease(conn, session)) == 1
        await register.drain(conn, 0, namespace=NAMESPACE, node_id="n", seconds=35)
        await expire_all(conn, f"{n + 1} minutes")

    assert (await queue_row(conn, made.id))["crashes"] == 0


@pytest.mark.parametrize("how", ["swept", "left", "taken_back", "handed_back", "failed"])
async def test_what_shall_pause_is_parked_when_its_attempt_is_over(conn: Connection, how: str) -> None:
    """However it ended without being the last: it waits for the word of a person, and the wish is fulfilled."""
    made = await make_sent(conn, retry=RetryPolicy(retries_max=1, delay_seconds=60.0))
    await pause.request(conn, made.id, reason=None)

    match how:
        case "swept":
            await expire_all(conn)
        case "left":
            await expire.leave(conn, made.session.id, 0, reason="bye", make_id=make_id)
        case "taken_back":
            await take_back(conn, made.fence, delay_seconds=5.0)
        case "handed_back":
            await report(conn, made.fence, Verdict.RELEASED)
        case _:
            await report(conn, made.fence, Verdict.FAILED)
    row = await queue_row(conn, made.id)

    assert (row["state"], row["status_reason"], row["pause_requested"]) == ("paused", "paused", False)
    assert (row["session_id"], row["sent_at"]) == (None, None)
    assert await lease(conn, await make_session(conn)) == []


async def test_an_attempt_that_waited_is_freed_whole(conn: Connection) -> None:
    """Nothing of its wait is left for the next attempt."""
    made = await make_sent(conn, accepted=True)
    await wait.begin(conn, 0, made.fence, reason="approval")

    await expire_all(conn)
    row = await queue_row(conn, made.id)

    assert (row["state"], row["waiting_at"], row["accepted_at"], row["status_reason"]) == (
        "ready", None, None, "node_silent",
    )  # fmt: skip
