"""Expire: what a dead process held runs again; what ran out of time ends; a row in somebody's hands is left alone."""

from __future__ import annotations

import pytest

from controlplane.domain.execution import CRASHES_MAX, Status
from controlplane.domain.lease import Fence, Recorded, ReportCode, Session
from controlplane.postgres.pool import Connection
from controlplane.stages import checkpoint, expire, submit
from tests.make import (
    LEASE_LOST,
    Made,
    counts,
    event_types,
    lease,
    make_execution,
    make_id,
    make_session,
    move_clock,
    outcome_row,
    put,
    queue_row,
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
