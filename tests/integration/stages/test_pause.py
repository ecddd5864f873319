"""Pause: what waits is held back, what runs goes on to its end, and both can be let go again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from controlplane.domain.execution import Status
from controlplane.domain.ids import ExecutionId
from controlplane.domain.lease import Verdict
from controlplane.domain.retry import RetryPolicy
from controlplane.errors import AlreadyFinished, ExecutionNotFound, InvalidState
from controlplane.postgres.pool import Connection
from controlplane.stages import cancel, expire, pause
from tests.make import (
    event_types,
    lease,
    make_execution,
    make_id,
    make_session,
    move_clock,
    new_execution_id,
    outcome_row,
    queue_row,
    race,
    report,
)

Turn = Callable[[Connection, ExecutionId], Awaitable[pause.Turned]]


async def request(conn: Connection, id_: ExecutionId, reason: str | None = None) -> pause.Turned:
    return await pause.request(conn, id_, reason=reason)


@pytest.mark.parametrize("state", ["queued", "delayed", "blocked"])
async def test_what_nobody_runs_is_held_back(conn: Connection, state: str) -> None:
    """It stays in the queue, and nobody is given it."""
    made = await make_execution(conn, state)

    turned = await request(conn, made.id)
    row = await queue_row(conn, made.id)

    assert (turned.previous, turned.target, turned.ready) == (Status.QUEUED, "n.echo", False)
    assert (row["state"], row["status_reason"], row["pause_requested"]) == ("paused", "paused", False)
    assert await lease(conn, await make_session(conn)) == []


async def test_what_is_held_back_is_not_promoted(conn: Connection) -> None:
    """The time of a retry may come and go."""
    made = await make_execution(conn, "delayed")
    await request(conn, made.id)
    await move_clock(conn, "2 hours")

    assert (await expire.promote(conn, 0)).rows == 0
    assert (await queue_row(conn, made.id))["state"] == "paused"


async def test_what_runs_goes_on(conn: Connection) -> None:
    """Nobody is interrupted: the attempt keeps its lease, and its success is the end."""
    made = await make_execution(conn, "running")

    turned = await request(conn, made.id)
    row = await queue_row(conn, made.id)
    answer = await report(conn, made.fence)

    assert (turned.previous, turned.ready) == (Status.RUNNING, False)
    assert (row["state"], row["pause_requested"]) == ("leased", True)
    assert answer.status is Status.SUCCEEDED


async def test_the_reason_is_an_event(conn: Connection) -> None:
    """Who looks at the trace sees why."""
    made = await make_execution(conn)

    await request(conn, made.id, 'too "dear"')

    assert (await event_types(conn, made.id))[-1] == "execution.paused"
    assert await conn.fetchval("select data from events where type = 'execution.paused'") == (
        b'{"reason":"too \\"dear\\""}'
    )


async def test_it_is_let_go(conn: Connection) -> None:
    """What was ready is ready, in its old place in the line."""
    first, second = await make_execution(conn), await make_execution(conn)
    await request(conn, first.id)

    turned = await pause.resume(conn, first.id)
    leases = await lease(conn, await make_session(conn))

    assert (turned.previous, turned.target, turned.ready) == (Status.WAITING, "n.echo", True)
    assert [one.execution_id for one in leases] == [first.id, second.id]
    assert (await event_types(conn, first.id))[-2:] == ["execution.resumed", "execution.started"]


async def test_a_retry_keeps_its_time(conn: Connection) -> None:
    """Let go before its time has come, it waits on."""
    made = await make_execution(conn, "delayed", attempt=1)
    await request(conn, made.id)

    await pause.resume(conn, made.id)
    row = await queue_row(conn, made.id)
    await move_clock(conn, "2 hours")

    assert (row["state"], row["status_reason"]) == ("delayed", None)
    assert (await expire.promote(conn, 0)).rows == 1


async def test_a_retry_whose_time_has_come_is_ready(conn: Connection) -> None:
    """It does not wait a second time."""
    made = await make_execution(conn, "delayed")
    await request(conn, made.id)
    await move_clock(conn, "2 hours")

    await pause.resume(conn, made.id)

    assert (await queue_row(conn, made.id))["state"] == "ready"


async def test_the_wish_can_be_taken_back(conn: Connection) -> None:
    """While the attempt runs on nothing has happened yet: its failure is tried again as ever."""
    made = await make_execution(conn, "running", retry=RetryPolicy(retries_max=1))
    await request(conn, made.id)

    turned = await pause.resume(conn, made.id)
    await report(conn, made.fence, Verdict.FAILED, retry_after_seconds=0)

    assert (turned.previous, turned.ready) == (Status.RUNNING, False)
    assert (await queue_row(conn, made.id))["state"] == "ready"


async def test_a_parked_retry_is_let_go(conn: Connection) -> None:
    """A failure that was held back is tried when its time has come and a person wants it."""
    made = await make_execution(conn, "running", retry=RetryPolicy(retries_max=1, delay_seconds=60.0))
    await request(conn, made.id)
    await report(conn, made.fence, Verdict.FAILED)

    await pause.resume(conn, made.id)
    row = await queue_row(conn, made.id)

    assert (row["state"], row["failures"], row["pause_requested"]) == ("delayed", 1, False)


async def test_the_last_failure_is_the_end(conn: Connection) -> None:
    """There is nothing to hold back."""
    made = await make_execution(conn, "running")
    await request(conn, made.id)

    assert (await report(conn, made.fence, Verdict.FAILED)).status is Status.FAILED


@pytest.mark.parametrize("status", ["queued", "running"])
async def test_pausing_twice_is_refused(conn: Connection, status: str) -> None:
    """The second is told what it shows, and writes nothing."""
    made = await make_execution(conn, status)
    await request(conn, made.id)
    before = (dict(await queue_row(conn, made.id)), await event_types(conn, made.id))

    with pytest.raises(InvalidState) as refused:
        await request(conn, made.id)
    assert refused.value.facts == {"status": "waiting" if status == "queued" else "running"}
    assert (dict(await queue_row(conn, made.id)), await event_types(conn, made.id)) == before


@pytest.mark.parametrize("status", ["queued", "delayed", "blocked", "waiting", "running"])
async def test_only_what_is_paused_is_let_go(conn: Connection, status: str) -> None:
    """Anything else goes on as it does."""
    made = await make_execution(conn, status)
    before = dict(await queue_row(conn, made.id))

    with pytest.raises(InvalidState):
        await pause.resume(conn, made.id)
    assert dict(await queue_row(conn, made.id)) == before


@pytest.mark.parametrize("turn", [request, pause.resume])
async def test_what_is_being_cancelled_only_ends(conn: Connection, turn: Turn) -> None:
    """The cancel came first."""
    made = await make_execution(conn, "running")
    await request(conn, made.id)
    if turn is request:
        await pause.resume(conn, made.id)
    await cancel.request(conn, [made.id], reason=None, make_id=make_id)

    with pytest.raises(InvalidState, match="being cancelled"):
        await turn(conn, made.id)


@pytest.mark.parametrize("turn", [request, pause.resume])
async def test_what_has_ended_stays_so(conn: Connection, turn: Turn) -> None:
    """The refusal says how it ended."""
    made = await make_execution(conn, "succeeded")

    with pytest.raises(AlreadyFinished) as refused:
        await turn(conn, made.id)
    assert refused.value.facts["status"] == "succeeded"


@pytest.mark.parametrize("turn", [request, pause.resume])
async def test_the_unknown_is_not_found(conn: Connection, turn: Turn) -> None:
    """There is nothing to hold back."""
    with pytest.raises(ExecutionNotFound):
        await turn(conn, new_execution_id())


async def test_what_is_paused_can_be_cancelled(conn: Connection) -> None:
    """Nobody has to let it go first."""
    made = await make_execution(conn)
    await request(conn, made.id)

    await cancel.request(conn, [made.id], reason=None, make_id=make_id)

    assert (await outcome_row(conn, made.id))["status"] == "cancelled"


async def test_a_pause_that_waits_for_a_claim(conn: Connection, other: Connection, observer: Connection) -> None:
    """What is being handed out at this moment is flagged, not parked: its attempt goes on."""
    made, session = await make_execution(conn), await make_session(conn)

    leases, turned = await race(
        conn, other, observer, first=lambda c: lease(c, session), second=lambda c: request(c, made.id)
    )
    row = await queue_row(conn, made.id)

    assert [one.execution_id for one in leases] == [made.id]
    assert (turned.previous, row["state"], row["pause_requested"]) == (Status.RUNNING, "leased", True)


async def test_a_claim_steps_over_what_is_being_paused(conn: Connection, other: Connection) -> None:
    """It is not handed out, neither now nor later."""
    made, session = await make_execution(conn), await make_session(conn)

    async with conn.transaction():
        await request(conn, made.id)
        during = await lease(other, session)

    assert (during, await lease(other, session)) == ([], [])


async def test_a_pause_that_waits_for_the_end(conn: Connection, other: Connection, observer: Connection) -> None:
    """It comes too late, and is told so."""
    made = await make_execution(conn, "running")

    async def late(own: Connection) -> object:
        with pytest.raises(AlreadyFinished) as refused:
            await request(own, made.id)
        return refused.value.facts["status"]

    _, status = await race(conn, other, observer, first=lambda c: report(c, made.fence), second=late)

    assert status == "succeeded"


async def test_two_pause_at_once(conn: Connection, other: Connection, observer: Connection) -> None:
    """One holds it back, the other is told that it is."""
    made = await make_execution(conn)

    async def second(own: Connection) -> None:
        with pytest.raises(InvalidState):
            await request(own, made.id)

    await race(conn, other, observer, first=lambda c: request(c, made.id), second=second)

    assert (await event_types(conn, made.id)).count("execution.paused") == 1
