"""Cancel: from here on it can only end as cancelled, whoever speaks next."""

from __future__ import annotations

import pytest

from controlplane.domain.execution import Status
from controlplane.domain.ids import ExecutionId
from controlplane.domain.lease import Verdict
from controlplane.domain.retry import RetryPolicy
from controlplane.errors import AlreadyFinished, ExecutionNotFound
from controlplane.postgres.pool import Connection
from controlplane.stages import cancel, expire
from tests.make import (
    counts,
    event_types,
    lease,
    make_execution,
    make_id,
    move_clock,
    must,
    new_execution_id,
    outcome_row,
    queue_row,
    race,
    report,
    webhook,
)


async def request(conn: Connection, id_: ExecutionId, reason: str | None = "because") -> cancel.Cancelled:
    [answer] = await cancel.request(conn, [id_], reason=reason, make_id=make_id)
    return must(answer)


@pytest.mark.parametrize(
    ("state", "previous"),
    [
        ("queued", Status.QUEUED),
        ("delayed", Status.QUEUED),
        ("blocked", Status.QUEUED),
        ("paused", Status.WAITING),
        ("waiting", Status.WAITING),
    ],
)
async def test_what_nobody_runs_ends_at_once(conn: Connection, state: str, previous: Status) -> None:
    """Without a session there is nobody to wait for."""
    made = await make_execution(conn, state, webhooks=(webhook(),))

    answer = await request(conn, made.id)
    outcome = await outcome_row(conn, made.id)

    assert (answer.previous, answer.settled, answer.session_id) == (previous, True, None)
    assert (outcome["status"], outcome["error"]) == ("cancelled", b'"because"')
    assert await counts(conn, "queue", "deliveries") == {"queue": 0, "deliveries": 1}


async def test_what_runs_is_flagged(conn: Connection) -> None:
    """The lease goes on until the node has answered; the flag and the reason stand."""
    made = await make_execution(conn, "running")

    answer = await request(conn, made.id)
    row = await queue_row(conn, made.id)

    assert (answer.previous, answer.settled, answer.session_id) == (Status.RUNNING, False, made.session.id)
    assert (row["state"], row["cancel_reason"], row["status_reason"]) == ("leased", "because", "cancelling")
    assert (await event_types(conn, made.id))[-1] == "execution.cancelling"


async def test_asking_again_changes_nothing(conn: Connection) -> None:
    """The first reason and the first moment stand, and there is one event."""
    made = await make_execution(conn, "running")
    first = await request(conn, made.id, "first")
    before = dict(await queue_row(conn, made.id))
    await move_clock(conn, "1 minute")

    again = await request(conn, made.id, "second")

    assert (again.settled, again.session_id) == (first.settled, first.session_id)
    assert dict(await queue_row(conn, made.id)) == before
    assert (await event_types(conn, made.id)).count("execution.cancelling") == 1


@pytest.mark.parametrize("status", ["succeeded", "failed", "cancelled"])
async def test_a_finished_execution_stays_as_it_is(conn: Connection, status: str) -> None:
    """A final state never moves; the refusal says which it is."""
    made = await make_execution(conn, status)

    with pytest.raises(AlreadyFinished) as refused:
        await request(conn, made.id)
    assert refused.value.facts == {"status": status}


async def test_an_unknown_execution_is_not_found(conn: Connection) -> None:
    """There is nothing to cancel."""
    with pytest.raises(ExecutionNotFound):
        await request(conn, new_execution_id())


async def test_a_batch_is_answered_in_order(conn: Connection) -> None:
    """Running, resting, finished, unknown and twice the same, in two buckets."""
    running = await make_execution(conn, "running", bucket=1)
    resting, done = await make_execution(conn), await make_execution(conn, "succeeded")
    ids = [running.id, new_execution_id(), resting.id, done.id, running.id]

    answers = await cancel.request(conn, ids, reason=None, make_id=make_id)

    assert [type(one) for one in answers] == [
        cancel.Cancelled, ExecutionNotFound, cancel.Cancelled, AlreadyFinished, cancel.Cancelled,
    ]  # fmt: skip
    assert answers[0] == answers[4]


async def test_a_failure_after_a_cancel_is_not_retried(conn: Connection) -> None:
    """However many retries are left."""
    made = await make_execution(conn, "running", retry=RetryPolicy(retries_max=5))
    await request(conn, made.id)

    await report(conn, made.fence, Verdict.FAILED)

    assert (await outcome_row(conn, made.id))["status"] == "cancelled"


async def test_an_expiry_after_a_cancel_ends_it(conn: Connection) -> None:
    """What was being cancelled when its process died is not run again."""
    made = await make_execution(conn, "running")
    await request(conn, made.id)
    await move_clock(conn, "1 hour")
    await expire.close_expired(conn, 0, up_seconds=1e6)

    swept = await expire.sweep(conn, 0, make_id=make_id)

    assert swept.ended == (made.id,)
    assert (await outcome_row(conn, made.id))["status"] == "cancelled"


async def test_grace_is_given_and_ends(conn: Connection) -> None:
    """A node has the grace to answer; after it the execution ends without it."""
    made = await make_execution(conn, "running")
    await request(conn, made.id)
    early = await expire.force_cancel(conn, 0, grace_seconds=10, make_id=make_id)
    await move_clock(conn, "11 seconds")

    late = await expire.force_cancel(conn, 0, grace_seconds=10, make_id=make_id)
    outcome = await outcome_row(conn, made.id)

    assert (early.ended, late.ended) == ((), (made.id,))
    assert (outcome["status"], outcome["error"]) == ("cancelled", b'"because"')


async def test_a_cancel_that_waits_for_the_end_comes_too_late(
    conn: Connection, other: Connection, observer: Connection
) -> None:
    """The result was being committed when the caller changed its mind: it stands."""
    made = await make_execution(conn, "running")

    _, [answer] = await race(
        conn,
        other,
        observer,
        first=lambda c: report(c, made.fence),
        second=lambda c: cancel.request(c, [made.id], reason=None, make_id=make_id),
    )

    assert isinstance(answer, AlreadyFinished)
    assert answer.facts == {"status": "succeeded"}


async def test_a_result_that_waits_for_a_cancel_is_discarded(
    conn: Connection, other: Connection, observer: Connection
) -> None:
    """The cancel was first: the end is cancelled."""
    made = await make_execution(conn, "running")

    cancelled, answer = await race(
        conn, other, observer, first=lambda c: request(c, made.id), second=lambda c: report(c, made.fence)
    )

    assert not cancelled.settled
    assert (answer.code, answer.status) == ("discarded", Status.CANCELLED)


async def test_a_cancel_that_waits_for_a_claim_flags_it(
    conn: Connection, other: Connection, observer: Connection
) -> None:
    """Work that is being handed out at this moment is cancelled at the node."""
    made, session = await make_execution(conn), (await make_execution(conn, "running")).session

    leases, answer = await race(
        conn, other, observer, first=lambda c: lease(c, session), second=lambda c: request(c, made.id)
    )

    assert [one.execution_id for one in leases] == [made.id]
    assert (answer.settled, answer.session_id) == (False, session.id)


async def test_two_cancels_at_once(conn: Connection, other: Connection, observer: Connection) -> None:
    """Of two that cancel waiting work one ends it and the other is told that it has ended."""
    made = await make_execution(conn, webhooks=(webhook(),))

    first, [second] = await race(
        conn,
        other,
        observer,
        first=lambda c: request(c, made.id),
        second=lambda c: cancel.request(c, [made.id], reason=None, make_id=make_id),
    )

    assert first.settled
    assert isinstance(second, AlreadyFinished)
    assert await counts(conn, "outcomes", "deliveries") == {"outcomes": 1, "deliveries": 1}


async def test_a_claim_steps_over_what_is_being_cancelled(conn: Connection, other: Connection) -> None:
    """What a caller is ending right now is not handed out."""
    made, session = await make_execution(conn), (await make_execution(conn, "running")).session

    async with conn.transaction():
        await request(conn, made.id)
        leases = await lease(other, session)

    assert leases == []
    assert await lease(other, session) == []
