"""Renew: one beat keeps everything a process holds, and tells it what it has lost."""

from __future__ import annotations

import pytest

from controlplane.domain.ids import SessionId
from controlplane.domain.lease import Beat, Extended, Fence, Session, Verdict
from controlplane.domain.placement import Placement
from controlplane.errors import SessionClosed
from controlplane.postgres.pool import Connection
from controlplane.stages import expire, renew, withhold
from tests.make import (
    NAMESPACE,
    STOCK,
    lease,
    make_execution,
    make_id,
    make_session,
    move_clock,
    must,
    race,
    report,
)


async def beat(conn: Connection, session: Session, held: tuple[Fence, ...] | None = None, count: int = 0) -> Extended:
    [answer] = await renew.extend(conn, [Beat(session_id=session.id, held=held, count=count)])
    return must(answer)


async def test_a_beat_is_another_lease(conn: Connection) -> None:
    """After a beat the session lives for a whole lease again."""
    session = await make_session(conn)
    await move_clock(conn, "29 seconds")

    answer = await beat(conn, session, count=3)
    await move_clock(conn, "58 seconds")

    assert answer == Extended(session=session, draining=False, expires_in_seconds=30.0)
    assert await expire.close_expired(conn, 0, up_seconds=100) == 0
    assert await conn.fetchval("select running from sessions") == 3


async def test_a_beat_twice_says_the_same(conn: Connection) -> None:
    """A beat repeated after a lost answer is answered alike."""
    made = await make_execution(conn, "running")
    held = (made.fence, Fence(made.id, 7))

    assert await beat(conn, made.session, held) == await beat(conn, made.session, held)


async def test_names_what_is_lost(conn: Connection) -> None:
    """What the full list names and the session no longer holds is lost: finished, taken over, of another attempt."""
    kept = await make_execution(conn, "running")
    done = await make_execution(conn, "succeeded", session=kept.session)
    taken = await make_execution(conn, "running")
    stale = Fence(kept.id, 9)

    answer = await beat(conn, kept.session, (kept.fence, done.fence, taken.fence, stale))

    assert answer.lost == (done.fence, taken.fence, stale)


async def test_a_beat_without_a_list_loses_nothing(conn: Connection) -> None:
    """The beats between carry a count, and nothing is inferred from it."""
    made = await make_execution(conn, "running")

    assert (await beat(conn, made.session, None, count=0)).lost == ()


async def test_a_late_beat_saves_a_session_that_nobody_closed(conn: Connection) -> None:
    """A session past its time that still holds its leases may go on."""
    made = await make_execution(conn, "running")
    await move_clock(conn, "1 hour")

    answer = await beat(conn, made.session, (made.fence,))

    assert answer.lost == ()
    assert await expire.close_expired(conn, 0, up_seconds=1e6) == 0


async def test_a_closed_session_stays_closed(conn: Connection) -> None:
    """The beat that comes after the expiry is refused."""
    session = await make_session(conn)
    await move_clock(conn, "31 seconds")
    await expire.close_expired(conn, 0, up_seconds=100)

    with pytest.raises(SessionClosed):
        await beat(conn, session)


async def test_an_unknown_session_is_closed(conn: Connection) -> None:
    """One bad beat does not fail its neighbours."""
    session = await make_session(conn)
    batch = [Beat(session_id=id_, held=None, count=0) for id_ in (SessionId(make_id(0)), session.id)]

    unknown, known = await renew.extend(conn, batch)

    assert isinstance(unknown, SessionClosed)
    assert must(known).session == session


async def test_the_expiry_waits_for_a_beat_and_spares_it(conn: Connection, other: Connection) -> None:
    """A beat that is being committed keeps the session, whatever the reaper sees."""
    session = await make_session(conn)
    await move_clock(conn, "31 seconds")
    await move_clock(other, "31 seconds")

    async with conn.transaction():
        await beat(conn, session)
        during = await expire.close_expired(other, 0, up_seconds=100)
    after = await expire.close_expired(other, 0, up_seconds=100)

    assert (during, after) == (0, 0)


async def test_a_beat_waits_for_the_expiry_and_is_refused(
    conn: Connection, other: Connection, observer: Connection
) -> None:
    """A session that is being closed at this moment cannot be renewed."""
    session = await make_session(conn)
    await move_clock(conn, "31 seconds")

    closed, [answer] = await race(
        conn,
        other,
        observer,
        first=lambda c: expire.close_expired(c, 0, up_seconds=100),
        second=lambda c: renew.extend(c, [Beat(session_id=session.id, held=None, count=0)]),
    )

    assert closed == 1
    assert isinstance(answer, SessionClosed)


async def test_released_work_is_lost_to_the_old_attempt_only(conn: Connection) -> None:
    """A session that got the same execution again holds the new attempt and not the old."""
    made = await make_execution(conn, "running")
    await report(conn, made.fence, Verdict.RELEASED)
    [again] = await lease(conn, made.session)
    new = Fence(again.execution_id, again.attempt)

    assert (await beat(conn, made.session, (made.fence, new))).lost == (made.fence,)


async def test_who_holds_nothing_is_kept(conn: Connection) -> None:
    """Renewed in its name, for another whole lease; it twice is it once."""
    session = await make_session(conn)
    await move_clock(conn, "29 seconds")

    kept = [await renew.keep(conn, [session.id], STOCK) for _ in range(2)]
    await move_clock(conn, "58 seconds")

    assert kept == [{session.id}] * 2
    assert await expire.close_expired(conn, 0, up_seconds=100) == 0


async def test_who_holds_something_speaks_for_itself(conn: Connection) -> None:
    """A dead process is noticed as soon as if nobody had spoken for it; what it holds is its until then."""
    idle, made = await make_session(conn), await make_execution(conn, "running")
    await move_clock(conn, "29 seconds")

    kept = await renew.keep(conn, [made.session.id, idle.id], STOCK)
    await move_clock(conn, "31 seconds")

    assert kept == {idle.id}
    assert await expire.close_expired(conn, 0, up_seconds=100) == 1
    assert await renew.keep(conn, [made.session.id, idle.id], STOCK) == {idle.id}


async def test_who_has_done_its_work_is_kept_again(conn: Connection) -> None:
    """Nothing is remembered of what it held."""
    made = await make_execution(conn, "running")
    assert await renew.keep(conn, [made.session.id], STOCK) == frozenset()

    await report(conn, made.fence, Verdict.SUCCEEDED)

    assert await renew.keep(conn, [made.session.id], STOCK) == {made.session.id}


async def test_work_in_another_bucket_is_held_as_well(conn: Connection) -> None:
    """A session lies where its node does, what it holds where its run does."""
    two = Placement(buckets=2, hashed=2)
    idle, session = await make_session(conn), await make_session(conn)
    await make_execution(conn, "running", id=make_id(1), session=session)

    assert await renew.keep(conn, [session.id, idle.id], STOCK) == {session.id, idle.id}
    assert await renew.keep(conn, [session.id, idle.id], two) == {idle.id}


async def test_who_shall_drain_or_is_closed_is_not_kept(conn: Connection) -> None:
    """It has to hear of it."""
    session, closed = await make_session(conn), await make_session(conn, "m")
    await expire.leave(conn, closed.id, 0, reason="closed", make_id=make_id)
    assert await renew.keep(conn, [session.id, closed.id], STOCK) == {session.id}

    await withhold.drain(conn, 0, namespace=NAMESPACE, node_id="n", reason=None, asked_by=None)

    assert await renew.keep(conn, [session.id, closed.id], STOCK) == frozenset()


async def test_who_is_under_other_hands_is_passed_over(conn: Connection, other: Connection) -> None:
    """Nobody waits for somebody's beat, and two replicas that keep the same ones do not wait for each other."""
    session, free = await make_session(conn), await make_session(conn)

    async with conn.transaction():
        await beat(conn, session)
        kept = await renew.keep(other, [session.id, free.id], STOCK)

    assert kept == {free.id}
