"""Follow: what an execution leaves behind that ended without a result ends with it, unless it shall go on."""

from __future__ import annotations

from typing import Any

import pytest

from controlplane.domain.execution import ParentEnd
from controlplane.domain.lease import Verdict
from controlplane.postgres.pool import Connection
from controlplane.stages import cancel, expire, follow
from controlplane.stages.follow import Followed
from tests.make import (
    Made,
    accept,
    all_rows,
    counts,
    ended,
    make_execution,
    make_id,
    make_session,
    move_clock,
    outcome_row,
    queue_row,
    queued,
    race,
    report,
    submission,
)


async def sweep(conn: Connection) -> Followed:
    return await follow.sweep(conn, 0, make_id=make_id)


async def child_of(conn: Connection, parent: Made, status: str = "queued", **over: Any) -> Made:
    return await make_execution(conn, status, parent_id=parent.id, run_id=parent.run_id, **over)


@pytest.fixture
async def parent(conn: Connection) -> Made:
    """A running execution."""
    return await make_execution(conn, "running", timeout_seconds=60.0)


async def end(conn: Connection, parent: Made, how: str) -> None:
    match how:
        case "failed":
            await report(conn, parent.fence, Verdict.FAILED)
        case "succeeded":
            await report(conn, parent.fence)
        case "cancelled":
            await cancel.request(conn, [parent.id], reason="enough", make_id=make_id)
            await report(conn, parent.fence, Verdict.CANCELLED)
        case "timeout":
            await move_clock(conn, "61 seconds")
            await expire.time_out(conn, 0, make_id=make_id)
        case "lost":
            await move_clock(conn, "1 hour")
            await conn.execute("update queue set deadline_at = null")
            await expire.close_expired(conn, 0, up_seconds=1e6)
            await expire.sweep(conn, 0, make_id=make_id)


@pytest.mark.parametrize(("how", "why"), [("failed", "failed"), ("cancelled", "cancelled"), ("timeout", "timed out")])
async def test_children_end_with_their_parent(conn: Connection, parent: Made, how: str, why: str) -> None:
    """Cancelled, and they say why."""
    child = await child_of(conn, parent)
    await end(conn, parent, how)

    swept = await sweep(conn)
    outcome = await outcome_row(conn, child.id)

    assert (swept.ended, swept.cancelling) == ((child.id,), False)
    assert (outcome["status"], outcome["error"]) == ("cancelled", f'"parent {why}"'.encode())
    assert (await sweep(conn), await counts(conn, "ended_parents")) == (Followed(), {"ended_parents": 0})


@pytest.mark.parametrize("how", ["succeeded", "lost"])
async def test_children_go_on(conn: Connection, parent: Made, how: str) -> None:
    """Of a parent that has its result, and of one whose next attempt may find them."""
    child = await child_of(conn, parent)
    await end(conn, parent, how)

    assert await sweep(conn) == Followed()
    assert await queued(conn, child.id)


async def test_a_failure_with_a_retry_left_is_no_end(conn: Connection) -> None:
    """The next attempt may find the child."""
    parent = await make_execution(conn, "running")
    await conn.execute("update queue set retries_max = 1")
    child = await child_of(conn, parent)
    await report(conn, parent.fence, Verdict.FAILED)

    assert (await sweep(conn), await queued(conn, child.id)) == (Followed(), True)


async def test_one_that_shall_go_on_does(conn: Connection, parent: Made) -> None:
    """Beside one that does not; one accepted before there was a policy goes on, too."""
    kept, old, child = [
        await child_of(conn, parent, on_parent_end=policy)
        for policy in (ParentEnd.KEEP, ParentEnd.CANCEL, ParentEnd.CANCEL)
    ]
    await conn.execute("update queue set on_parent_end = null where id = $1", old.id)
    await end(conn, parent, "failed")

    assert (await sweep(conn)).ended == (child.id,)
    assert [await queued(conn, one.id) for one in (kept, old)] == [True, True]


async def test_what_runs_is_told_to_stop(conn: Connection, parent: Made) -> None:
    """And its own children end when it has stopped: down the tree, a level at a time."""
    child = await child_of(conn, parent, "running", session=await make_session(conn))
    grandchild = await child_of(conn, child)
    await end(conn, parent, "failed")

    assert await sweep(conn) == Followed(rows=2, cancelling=True)
    assert (await queue_row(conn, child.id))["cancel_reason"] == "parent failed"
    assert await queued(conn, grandchild.id)
    await report(conn, child.fence, Verdict.CANCELLED)
    assert (await sweep(conn)).ended == (grandchild.id,)
    assert (await outcome_row(conn, grandchild.id))["error"] == b'"parent cancelled"'


async def test_a_deep_tree_ends_in_one_pass(conn: Connection, parent: Made) -> None:
    """As long as nothing of it runs, each level leaves the next one to the same pass."""
    last = parent
    for _ in range(10):
        last = await child_of(conn, last)
    await end(conn, parent, "failed")

    assert len((await sweep(conn)).ended) == 10
    assert await ended(conn, last.id)


async def test_thousands_let_others_go_first(conn: Connection, parent: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """A parent of many is put back behind one of few, and all end in the end."""
    monkeypatch.setattr(follow, "CHILDREN_MAX", 5)
    monkeypatch.setattr(follow, "PARENTS_MAX", 2)
    await accept(conn, *(submission(parent_id=parent.id, run_id=parent.run_id) for _ in range(12)))
    other = await make_execution(conn, "running", session=parent.session)
    child = await child_of(conn, other)
    await end(conn, parent, "failed")
    await end(conn, other, "failed")

    first = await sweep(conn)
    rest = [await sweep(conn) for _ in range(3)]

    assert (len(first.ended), child.id in first.ended) == (6, True)
    assert (sum(len(one.ended) for one in rest), rest[-1]) == (7, Followed())


async def test_two_at_once_share_the_work(database: str, conn: Connection, other: Connection, parent: Made) -> None:
    """What one has in hand the other leaves alone."""
    child = await child_of(conn, parent)
    await end(conn, parent, "failed")
    transaction = conn.transaction()
    await transaction.start()
    first = await sweep(conn)

    second = await sweep(other)
    await transaction.commit()

    assert (first.ended, second) == ((child.id,), Followed())


async def test_dying_on_the_way_loses_nothing(conn: Connection, other: Connection, parent: Made) -> None:
    """What was not committed is done by the next one."""
    child = await child_of(conn, parent)
    await end(conn, parent, "failed")
    transaction = conn.transaction()
    await transaction.start()
    await sweep(conn)
    await transaction.rollback()

    assert (await sweep(other)).ended == (child.id,)


async def test_a_child_accepted_at_that_very_moment(
    conn: Connection, other: Connection, observer: Connection, parent: Made
) -> None:
    """It holds its parent: the end waits for it, and then sees it."""
    child = submission(parent_id=parent.id, parent_attempt=parent.attempt, run_id=parent.run_id)

    await race(
        conn,
        other,
        observer,
        first=lambda one: accept(one, child),
        second=lambda one: report(one, parent.fence, Verdict.FAILED),
    )

    assert (await sweep(conn)).ended == (child.id,)


async def test_an_end_without_children_leaves_nothing(conn: Connection, parent: Made) -> None:
    """Nobody has to look after it."""
    await end(conn, parent, "failed")

    assert await all_rows(conn, "select 1 from ended_parents") == []
