"""The attempts of an execution, from the events that the stages left."""

from __future__ import annotations

import pytest

from controlplane.domain.lease import NODE_SILENT, Fence, Verdict
from controlplane.domain.retry import RetryPolicy
from controlplane.postgres.pool import Connection
from controlplane.reads import attempts
from controlplane.reads.attempts import AttemptView, Ending
from controlplane.stages import cancel, expire, log
from controlplane.stages.log import Progress
from tests.make import (
    NAMESPACE,
    Made,
    lease,
    make_execution,
    make_id,
    make_process,
    make_session,
    move_clock,
    must,
    report,
)

AT_ONCE = RetryPolicy(retries_max=9, delay_seconds=0)


async def of(conn: Connection, made: Made, *, after: int = 0, limit: int = 50) -> list[AttemptView]:
    return await attempts.page(conn, 0, made.id, namespace=NAMESPACE, after=after, limit=limit)


async def test_every_attempt_says_how_it_ended(conn: Connection) -> None:
    """Failed and tried again, handed back, lost with its process, and at last succeeded; the newest last."""
    made = await make_execution(conn, retry=AT_ONCE)
    session = await make_session(conn)
    await lease(conn, session)
    await report(conn, Fence(made.id, 1), Verdict.FAILED)
    await lease(conn, session)
    await report(conn, Fence(made.id, 2), Verdict.RELEASED)
    await lease(conn, session)
    await move_clock(conn, "31 seconds")
    await expire.close_expired(conn, 0, up_seconds=3_600)
    await expire.sweep(conn, 0, make_id=make_id)
    await lease(conn, await make_session(conn))
    running = (await of(conn, made))[-1]
    await report(conn, Fence(made.id, 4))

    found = await of(conn, made)

    assert [(one.attempt, one.ending.value) for one in found] == [
        (1, "retried"),
        (2, "released"),
        (3, "expired"),
        (4, "succeeded"),
    ]
    assert (running.ending, running.ended_at) == (Ending.RUNNING, None)
    assert all(one.ended_at is not None and one.ended_at >= one.started_at for one in found)


async def test_pages_go_on_after_a_number(conn: Connection) -> None:
    """No attempt twice, none left out."""
    made = await make_execution(conn, retry=AT_ONCE)
    session = await make_session(conn)
    for n in range(1, 6):
        await lease(conn, session)
        await report(conn, Fence(made.id, n), Verdict.FAILED)

    pages = [await of(conn, made, after=after, limit=2) for after in (0, 2, 4)]

    assert [[one.attempt for one in page] for page in pages] == [[1, 2], [3, 4], [5]]
    assert {one.ending for page in pages for one in page} == {Ending.RETRIED}


@pytest.mark.parametrize(
    ("verdict", "ending"), [(Verdict.SUCCEEDED, Ending.SUCCEEDED), (Verdict.FAILED, Ending.RETRIED)]
)
async def test_a_silent_process_may_still_say_how_it_went(conn: Connection, verdict: Verdict, ending: Ending) -> None:
    """Its lease expired, and then its word came and counted: that is how the attempt ended."""
    made = await make_execution(conn, retry=AT_ONCE)
    await lease(conn, await make_process(conn))
    await expire.take_back(conn, 0, [made.fence._replace(attempt=1)], reason=NODE_SILENT, crash=True, make_id=make_id)
    before = [one.ending for one in await of(conn, made)]
    await report(conn, made.fence._replace(attempt=1), verdict)

    assert before == [Ending.EXPIRED]
    assert [one.ending for one in await of(conn, made)] == [ending]


async def test_a_cancel_between_two_attempts_ends_none(conn: Connection) -> None:
    """The attempt before it had failed, and that is what it still says."""
    made = await make_execution(conn, retry=AT_ONCE)
    await lease(conn, await make_session(conn))
    await report(conn, made.fence._replace(attempt=1), Verdict.FAILED)
    [done] = await cancel.request(conn, [made.id], reason=None, make_id=make_id)

    assert must(done).settled
    assert [(one.ending, one.reason) for one in await of(conn, made)] == [(Ending.RETRIED, None)]


async def test_the_last_end_says_why(conn: Connection) -> None:
    """The reason of the outcome belongs to the attempt that ended it; error, class and traceback are in its event."""
    made = await make_execution(conn)
    await lease(conn, await make_session(conn))
    await report(conn, made.fence._replace(attempt=1), Verdict.FAILED, traceback="line 1")

    [found] = await of(conn, made)

    assert (found.ending, found.reason) == (Ending.FAILED, "user_error")
    assert found.end == b'{"error":"boom","error_class":"Boom","traceback":"line 1"}'


async def test_progress_belongs_to_the_attempt_that_made_it(conn: Connection) -> None:
    """The last word on how far it is, with the attempt that said it; a later attempt starts from nothing."""
    made = await make_execution(conn, retry=AT_ONCE)
    session = await make_session(conn)
    await lease(conn, session)
    fence = made.fence._replace(attempt=1)
    for done in (b'{"done":1}', b'{"done":2}'):
        await log.append(conn, [Progress(fence=fence, progress=done)])
    await report(conn, fence, Verdict.FAILED)
    await lease(conn, session)

    assert [one.progress for one in await of(conn, made)] == [b'{"done":2}', None]


async def test_another_namespace_sees_none(conn: Connection) -> None:
    """Nor does anybody see attempts of an execution that has none."""
    made = await make_execution(conn)
    await lease(conn, await make_session(conn))
    waits = await make_execution(conn)

    assert await attempts.page(conn, 0, made.id, namespace=2, after=0, limit=50) == []
    assert await of(conn, waits) == []
