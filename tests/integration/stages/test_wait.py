"""Wait: an attempt that waits keeps its lease, and its parents can see it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from controlplane.domain.execution import Status
from controlplane.domain.lease import ReportCode
from controlplane.errors import ExecutionNotFound, LeaseLost, NotItsNode
from controlplane.postgres.pool import Connection
from controlplane.stages import cancel, expire, wait
from controlplane.stages.wait import AWAITING_CHILD, Heard
from tests.make import (
    NAMESPACE,
    Made,
    ended,
    event_types,
    make_execution,
    make_id,
    move_clock,
    new_execution_id,
    outcome_row,
    queue_row,
    race,
    report,
)

WAITS = Heard(status=Status.WAITING, applied=True)
RUNS = Heard(status=Status.RUNNING, applied=True)


@pytest.fixture
async def made(conn: Connection) -> Made:
    """A running execution."""
    return await make_execution(conn, "running")


async def hear(conn: Connection, made: Made, *, waits: bool, **over: Any) -> Heard:
    about: dict[str, Any] = {"namespace": NAMESPACE, "node_id": "n", "attempt": made.attempt, "message": None}
    return await wait.hear(conn, made.id, waits=waits, **(about | over))


async def test_a_parent_waits_and_goes_on(conn: Connection, made: Made) -> None:
    """While its child waits it shows that it does, with its lease; then it runs as before."""
    before = await queue_row(conn, made.id)
    assert await hear(conn, made, waits=True, message="awaiting child") == WAITS
    waiting = await queue_row(conn, made.id)

    assert (waiting["state"], waiting["status_reason"]) == ("waiting", "awaiting_child")
    assert (waiting["session_id"], waiting["attempt"]) == (made.session.id, 1)
    assert await hear(conn, made, waits=False) == RUNS
    after = await queue_row(conn, made.id)
    assert {**after} == {**before}
    assert (await event_types(conn, made.id))[-2:] == ["execution.waiting", "execution.continued"]


async def test_what_it_says_is_kept(conn: Connection, made: Made) -> None:
    """The process's own words are in the trace."""
    await hear(conn, made, waits=True, message='a "child" é')

    said = await conn.fetchval("select data from events where type = 'execution.waiting'")
    assert json.loads(said) == {"reason": "awaiting_child", "message": 'a "child" é'}


async def test_saying_it_twice_is_saying_it_once(conn: Connection, made: Made) -> None:
    """The second word moves nothing, in either direction."""
    await hear(conn, made, waits=True)
    assert await hear(conn, made, waits=True) == Heard(status=Status.WAITING, applied=False)
    await hear(conn, made, waits=False)
    assert await hear(conn, made, waits=False) == Heard(status=Status.RUNNING, applied=False)

    assert (await event_types(conn, made.id)).count("execution.waiting") == 1


async def test_two_at_once(conn: Connection, other: Connection, observer: Connection, made: Made) -> None:
    """One of them is applied."""
    both = await race(
        conn,
        other,
        observer,
        first=lambda one: hear(one, made, waits=True),
        second=lambda one: hear(one, made, waits=True),
    )

    assert sorted(one.applied for one in both) == [False, True]


async def test_what_has_ended_is_not_moved(conn: Connection) -> None:
    """A late word hears how it ended."""
    made = await make_execution(conn, "failed")

    assert await hear(conn, made, waits=True) == Heard(status=Status.FAILED, applied=False)


async def test_what_is_queued_is_not_moved(conn: Connection) -> None:
    """Without an attempt there is nobody who waits."""
    made = await make_execution(conn, "queued")

    assert await hear(conn, made, waits=True, attempt=None) == Heard(status=Status.QUEUED, applied=False)


async def test_a_stale_attempt_changes_nothing(conn: Connection, made: Made) -> None:
    """Its successor goes on."""
    await move_clock(conn, "1 hour")
    await expire.close_expired(conn, 0, up_seconds=1e6)
    await expire.sweep(conn, 0, make_id=make_id)

    with pytest.raises(LeaseLost):
        await hear(conn, made, waits=True)
    assert (await queue_row(conn, made.id))["state"] == "ready"


@pytest.mark.parametrize(
    ("over", "refusal"),
    [({"namespace": 2}, ExecutionNotFound), ({"node_id": "other"}, NotItsNode), ({"attempt": 2}, LeaseLost)],
)
async def test_others_are_refused(conn: Connection, made: Made, over: dict[str, Any], refusal: type[Exception]) -> None:
    """Another namespace, another node, an attempt that there is not yet."""
    with pytest.raises(refusal):
        await hear(conn, made, waits=True, **over)

    assert (await queue_row(conn, made.id))["state"] == "leased"


async def test_nothing_is_not_found(conn: Connection) -> None:
    """An id that was never accepted."""
    with pytest.raises(ExecutionNotFound):
        await wait.hear(
            conn, new_execution_id(), namespace=NAMESPACE, node_id=None, attempt=None, waits=True, message=None
        )


async def test_another_wait_is_not_ended(conn: Connection, made: Made) -> None:
    """Who waits for something else goes on waiting when a child goes on."""
    assert await wait.begin(conn, 0, made.fence, reason="waiting_for_approval")

    assert await hear(conn, made, waits=False) == Heard(status=Status.WAITING, applied=False)
    assert await hear(conn, made, waits=True) == Heard(status=Status.WAITING, applied=False)
    assert (await queue_row(conn, made.id))["status_reason"] == "waiting_for_approval"


async def test_the_time_it_waits_is_not_active(conn: Connection, made: Made) -> None:
    """A process may be active for so long; what it waits does not count."""
    await conn.execute("update queue set sent_at = clock(), accepted_at = clock()")
    began = await conn.fetchval("select accepted_at from queue")
    await wait.begin(conn, 0, made.fence, reason=AWAITING_CHILD)
    await move_clock(conn, "2 hours")
    await wait.resume(conn, 0, made.fence, reason=AWAITING_CHILD)

    moved = await conn.fetchval("select accepted_at from queue") - began
    assert 7_200 <= moved.total_seconds() < 7_260


async def test_its_timeout_stands_still(conn: Connection) -> None:
    """An hour of waiting costs nothing of the minute that an attempt may take; what is left of it counts afterwards."""
    made = await make_execution(conn, "running", timeout_seconds=60.0)
    await hear(conn, made, waits=True)
    await move_clock(conn, "1 hour")
    await expire.time_out(conn, 0, make_id=make_id)
    await hear(conn, made, waits=False)
    await move_clock(conn, "1 hour 50 seconds")
    assert not (await expire.time_out(conn, 0, make_id=make_id)).rows

    await move_clock(conn, "1 hour 2 minutes")
    await expire.time_out(conn, 0, make_id=make_id)

    assert (await outcome_row(conn, made.id))["status"] == "timeout"


async def test_a_result_ends_what_waits(conn: Connection, made: Made) -> None:
    """A process that never says that it goes on may still report."""
    await hear(conn, made, waits=True)

    assert (await report(conn, made.fence)).code is ReportCode.RECORDED
    assert (await outcome_row(conn, made.id))["status"] == "succeeded"


async def test_the_work_of_a_dead_process_is_ready_again(conn: Connection, made: Made) -> None:
    """Whoever dies while it waits has died all the same."""
    await hear(conn, made, waits=True)
    await move_clock(conn, "1 hour")
    await expire.close_expired(conn, 0, up_seconds=1e6)
    await expire.sweep(conn, 0, make_id=make_id)
    row = await queue_row(conn, made.id)

    assert (row["state"], row["session_id"], row["waiting_at"]) == ("ready", None, None)


async def test_a_cancel_is_not_undone(conn: Connection, made: Made) -> None:
    """Who is told to stop while it waits does not go on."""
    await hear(conn, made, waits=True)
    await cancel.request(conn, [made.id], reason=None, make_id=make_id)

    assert not (await hear(conn, made, waits=False)).applied
    assert not await ended(conn, made.id)
    await report(conn, made.fence)
    assert (await outcome_row(conn, made.id))["status"] == "cancelled"


@pytest.mark.parametrize(("total", "left"), [(None, 50), (600.0, 50), (70.0, 30)])
async def test_only_the_time_of_the_attempt_stands_still(conn: Connection, total: float | None, left: float) -> None:
    """The time of the whole goes on meanwhile, and that to begin in has been kept."""
    made = await make_execution(
        conn, "running", timeout_seconds=50.0, schedule_to_start_seconds=10.0, total_seconds=total
    )
    before = await queue_row(conn, made.id)
    await wait.begin(conn, 0, made.fence, reason=AWAITING_CHILD)
    waiting = await queue_row(conn, made.id)
    await move_clock(conn, "40 seconds")
    overdue = await expire.time_out(conn, 0, make_id=make_id)
    await wait.resume(conn, 0, made.fence, reason=AWAITING_CHILD)
    after = await queue_row(conn, made.id)

    assert overdue.rows == 0
    assert before["total_deadline_at"] == waiting["deadline_at"] == after["total_deadline_at"]
    assert await conn.fetchval("select extract(epoch from deadline_at - clock())::float8 from queue") == pytest.approx(
        left, abs=5
    )
