"""Announce: what has happened becomes deliveries, each once, and nothing is passed by that somebody shall hear."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from controlplane.domain.delivery import Attempt, AttemptOutcome, DeliveryState
from controlplane.domain.endpoint import Definition, Endpoint, EndpointId
from controlplane.domain.lease import Fence, Verdict
from controlplane.postgres.pool import Connection
from controlplane.stages import announce, deliver, endpoint
from controlplane.stages.deliver import Due, Sent
from controlplane.stages.endpoint import Noted, Patience, Ref
from tests.integration.stages.test_deliver import due_now, sent, walk
from tests.make import (
    NAMESPACE,
    Made,
    accept,
    all_rows,
    counts,
    event_types,
    horizon_passed,
    lease,
    make_execution,
    make_id,
    make_session,
    move_clock,
    race,
    report,
    submission,
    webhook,
)

TOLD = "select event, endpoint_id from deliveries where webhook_n is null order by event_seq, endpoint_id"
HAPPEN = """
insert into events (bucket, execution_id, namespace, run_id, target, type, attempt, at)
values (0, $1, $2, 'r', 'n.echo', $3, 1, clock())
"""
CURSOR = "select xid::text::bigint, seq, xmin::text from announced"


async def listen(conn: Connection, name: str = "e", *events: str, **over: Any) -> Endpoint:
    definition = Definition(url="https://h.example/", host="h.example:443")
    made, _ = await endpoint.create(
        conn,
        0,
        EndpointId(make_id(0)),
        replace(definition, **({"events": events} if events else {}), **over),
        namespace=NAMESPACE,
        name=name,
        secret_sealed=b"s",
        headers_sealed=None,
        same=lambda _: True,
        most=20,
    )
    return made


async def look(conn: Connection, *, limit: int = 200, open_: bool = False) -> announce.Announced:
    """One pass of the announcer. `open_`: a transaction of the test is under way."""
    if not open_:
        await horizon_passed(conn)
    horizon = await announce.horizon(conn)
    listeners = await announce.listeners(conn, [0])
    return await announce.announce(
        conn, 0, listeners, horizon=horizon, make_id=make_id, public_url="http://x", limit=limit
    )


async def happen(conn: Connection, made: Made, type_: str, *, namespace: int = NAMESPACE) -> None:
    await conn.execute(HAPPEN, made.id, namespace, type_)


async def told(conn: Connection) -> list[str]:
    return [event for event, _ in await all_rows(conn, TOLD)]


@pytest.fixture(autouse=True)
async def begun(conn: Connection) -> None:
    """A server has started."""
    await horizon_passed(conn)
    await announce.begin(conn, 0, [], horizon=await announce.horizon(conn))


async def test_each_event_is_told_once_to_each(conn: Connection) -> None:
    """A second look finds nothing new, and of two endpoints each has its own deliveries."""
    first, second = await listen(conn, "a"), await listen(conn, "b", "*")
    session = await make_session(conn)
    await accept(conn, submission())
    [held] = await lease(conn, session)
    await report(conn, Fence(held.execution_id, held.attempt))

    assert (await look(conn)).planned == 3
    assert (await look(conn)).planned == 0
    assert await all_rows(conn, TOLD) == [
        ("execution.started", second.id),
        *[("execution.completed", id_) for id_ in sorted((first.id, second.id))],
    ]


async def test_every_attempt_has_its_start(conn: Connection) -> None:
    """The key of a webhook's end does not stand in the way of the second start."""
    await listen(conn, "a", "execution.started", "execution.retrying")
    session = await make_session(conn)
    await accept(conn, submission(retry=replace(submission().retry, retries_max=2, delay_seconds=0.0)))
    for _ in range(2):
        [held] = await lease(conn, session)
        await report(conn, Fence(held.execution_id, held.attempt), Verdict.FAILED)
        await conn.execute("update queue set state = 'ready', available_at = clock()")

    await look(conn)
    assert await told(conn) == ["execution.started", "execution.retrying"] * 2


async def test_it_hears_what_comes_after_it(conn: Connection) -> None:
    """Of what had happened before it was made, nothing; also where the cursor lies behind."""
    await make_execution(conn, "succeeded")
    await listen(conn)
    await make_execution(conn, "failed")
    await look(conn)

    assert await told(conn) == ["execution.failed"]


async def test_an_endpoint_made_while_others_write(conn: Connection, other: Connection) -> None:
    """It is not seen yet when its cursor moves on, and hears all the same of what began after it."""
    await make_execution(conn, "cancelled")  # what the cursor moves past
    making = other.transaction()
    await making.start()
    await listen(other)
    await make_execution(conn, "succeeded")
    await move_clock(conn, "5 seconds")
    await look(conn, open_=True)
    await look(conn, open_=True)
    await making.commit()
    await make_execution(conn, "failed")
    await look(conn)

    assert await told(conn) == ["execution.completed", "execution.failed"]


async def test_a_late_commit_is_not_passed_by(conn: Connection, other: Connection) -> None:
    """An event whose transaction stays open has an earlier number than others, and is told when it is there."""
    await listen(conn)
    made = await make_execution(conn)
    writing = other.transaction()
    await writing.start()
    await happen(other, made, "execution.failed")
    await make_execution(conn, "succeeded")
    early = await look(conn, open_=True)
    await writing.commit()
    await look(conn)

    assert early.planned == 0
    assert await told(conn) == ["execution.failed", "execution.completed"]


async def test_a_transaction_that_hangs_silences_nobody(conn: Connection, other: Connection) -> None:
    """What is an hour old is told although something else in the database is open still."""
    await listen(conn)
    hanging = other.transaction()
    await hanging.start()
    await other.execute("select pg_current_xact_id()")
    await make_execution(conn, "succeeded")
    assert (await look(conn, open_=True)).planned == 0
    await move_clock(conn, "61 minutes")
    later = await look(conn, open_=True)
    await hanging.rollback()

    assert later.planned == 1


async def test_two_at_once(conn: Connection, other: Connection) -> None:
    """One holds the cursor, the other passes; nothing is told twice."""
    await listen(conn)
    for _ in range(20):
        await make_execution(conn, "succeeded")
    while sum(one.events for one in await asyncio.gather(look(conn, limit=3), look(other, limit=3))):
        pass

    assert await told(conn) == ["execution.completed"] * 20


async def test_a_crash_repeats_nothing(conn: Connection) -> None:
    """The deliveries of a page and the cursor behind it come together or not at all."""
    await listen(conn)
    await make_execution(conn, "succeeded")
    before = await all_rows(conn, "select xid, seq from announced")
    crash = conn.transaction()
    await crash.start()
    assert (await look(conn)).planned == 1
    await crash.rollback()

    assert (await told(conn), await all_rows(conn, "select xid, seq from announced")) == ([], before)
    assert (await look(conn)).planned == 1


async def test_a_cursor_that_was_put_back(conn: Connection) -> None:
    """The number of the event says it again: read twice it is one delivery."""
    await listen(conn)
    await make_execution(conn, "succeeded")
    await look(conn)
    await conn.execute("update announced set xid = '1', seq = 1")

    assert (await look(conn)).planned == 0
    assert await told(conn) == ["execution.completed"]


async def test_nobody_listens(conn: Connection) -> None:
    """Nothing is planned, and the cursor moves at most once a second, past events alone."""
    await make_execution(conn, "succeeded")
    await conn.execute("update announced set moved_at = clock() + interval '1 minute'")  # however slow this is
    moved = [(await look(conn), await all_rows(conn, CURSOR))[1] for _ in range(2)]
    await move_clock(conn, "2 minutes")
    moved += [(await look(conn), await all_rows(conn, CURSOR))[1] for _ in range(2)]
    await move_clock(conn, "4 minutes")
    await look(conn)
    idle = await all_rows(conn, CURSOR)

    assert moved[0] == moved[1] != moved[2]
    assert moved[2] == moved[3] == idle


async def test_a_page_is_cut(conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """By events, and by the bytes that one transaction writes; the rest comes with the next."""
    await listen(conn)
    for _ in range(3):
        await make_execution(conn, "succeeded")
    monkeypatch.setattr(announce, "PAGE_BYTES", 10)
    passes = [(await look(conn)).planned for _ in range(4)]

    assert passes == [1, 1, 1, 0]


async def test_only_its_namespace_and_targets(conn: Connection) -> None:
    """The node of a target stands for all of it."""
    await listen(conn, "node", targets=("n",))
    await listen(conn, "none", targets=("m", "n.other"))
    await make_execution(conn, "succeeded")
    await look(conn)
    elsewhere = await make_execution(conn, namespace=2)
    await happen(conn, elsewhere, "execution.failed", namespace=2)
    await look(conn)

    assert await told(conn) == ["execution.completed"]


async def test_a_webhook_hears_more_than_the_end(conn: Connection) -> None:
    """Twice what happens twice, its end as ever, and then nobody listens to it any more."""
    wish = submission(webhooks=(webhook(events=("execution.started",)), webhook("https://b.example/")))
    await accept(conn, wish)
    session = await make_session(conn)
    [held] = await lease(conn, session)
    await look(conn)
    [heard] = await due_now(conn)
    await report(conn, Fence(held.execution_id, held.attempt))
    await look(conn)

    assert (heard.event, heard.webhook_n, heard.secret_sealed) == ("execution.started", 1, b"sealed")
    assert await told(conn) == ["execution.started"]
    ends = "select webhook_n, event from deliveries where webhook_n is not null order by 1"
    assert await all_rows(conn, ends) == [(1, "execution.completed"), (2, "execution.completed")]
    assert await counts(conn, "listeners") == {"listeners": 0}


async def test_a_submit_without_events_leaves_no_listener(conn: Connection) -> None:
    """It costs what it did."""
    await accept(conn, submission(webhooks=(webhook(),)))

    assert await counts(conn, "listeners") == {"listeners": 0}


REFUSED = Attempt(
    outcome=AttemptOutcome.FAILED,
    http_status=500,
    latency_ms=1,
    error="http: 500",
    response_body=b"",
    retry_after_seconds=None,
    final=False,
)
PATIENCE = Patience(dead_max=2, failing_seconds=3_600.0)


async def due(conn: Connection) -> list[Due]:
    return list((await walk(conn, per_host=99)).due)


async def fail(conn: Connection, one: Due, state: DeliveryState = DeliveryState.DEAD, status: int = 500) -> None:
    sent = Sent(due=one, attempt=replace(REFUSED, http_status=status), state=state, wait_seconds=0.0)
    assert await deliver.settle(conn, [sent], PATIENCE) == [None]


async def standing(conn: Connection) -> tuple[Any, ...]:
    [row] = await all_rows(conn, "select state, dead_streak, failing_since is not null from endpoints")
    return row


async def test_it_is_disabled_after_long(conn: Connection) -> None:
    """Enough dead in a row are not enough: it must have failed for as long as it takes."""
    await listen(conn)
    made = [await make_execution(conn, "succeeded") for _ in range(3)]
    await look(conn)
    first, second, third = await due(conn)
    await fail(conn, first)
    await fail(conn, second)
    early = await standing(conn)
    await move_clock(conn, "61 minutes")
    await fail(conn, third)

    assert early == ("enabled", 2, True)
    assert await standing(conn) == ("disabled", 3, True)
    said = [await event_types(conn, one.id) for one in made]
    assert sum(types.count("endpoint.disabled") for types in said) == 1


async def test_one_that_was_taken_ends_the_row(conn: Connection) -> None:
    """Whoever takes one again has not failed any more, however calmly it is settled."""
    await listen(conn)
    for _ in range(2):
        await make_execution(conn, "succeeded")
    await look(conn)
    first, second = await due(conn)
    await fail(conn, first)
    failed = await standing(conn)
    await deliver.settle(conn, [sent(second)], PATIENCE)

    assert (failed, await standing(conn)) == (("enabled", 1, True), ("enabled", 0, False))


async def test_only_the_first_failure_is_written(conn: Connection) -> None:
    """A receiver that is down costs its endpoint one write, and none for each attempt."""
    await listen(conn)
    for _ in range(3):
        await make_execution(conn, "succeeded")
    await look(conn)
    first, *others = await due(conn)
    await fail(conn, first, DeliveryState.PENDING)
    before = await all_rows(conn, "select xmin::text, failing_since from endpoints")
    for one in others:
        await fail(conn, one, DeliveryState.PENDING)

    assert await all_rows(conn, "select xmin::text, failing_since from endpoints") == before


async def test_a_stale_attempt_disables_nothing(conn: Connection) -> None:
    """A dispatcher that comes back late changes neither the delivery nor its endpoint."""
    await listen(conn)
    await make_execution(conn, "succeeded")
    await look(conn)
    [old] = await due(conn)
    await move_clock(conn, "2 minutes")
    await deliver.reclaim(conn, 0)
    late = Sent(due=old, attempt=replace(REFUSED, http_status=410), state=DeliveryState.DEAD, wait_seconds=0.0)

    assert [type(one).__name__ for one in await deliver.settle(conn, [late], PATIENCE)] == ["LeaseLost"]
    assert await standing(conn) == ("enabled", 0, False)


async def test_parked_and_released(conn: Connection) -> None:
    """What is due for a disabled endpoint waits without being looked at, and is due when it is enabled."""
    made = await listen(conn)
    await make_execution(conn, "succeeded")
    await look(conn)
    ref = Ref(made.id, None)
    await endpoint.disable(conn, 0, ref, namespace=NAMESPACE, by="me", reason=None)
    passed = [await due(conn), await due(conn)]
    waits = await announce.release(conn, 0)
    await endpoint.enable(conn, 0, ref, namespace=NAMESPACE)
    released = await announce.release(conn, 0)
    [one] = await due(conn)

    assert (passed, waits, released) == ([[], []], 0, 1)
    assert (one.endpoint_id, one.charged) == (made.id, 0)
    await fail(conn, one, DeliveryState.PENDING)  # its number fences as ever


async def test_racing_for_the_last_place(conn: Connection, other: Connection, observer: Connection) -> None:
    """Two endpoints of one name made at once are one."""

    async def make(on: Connection) -> Endpoint:
        return await listen(on, "same")

    first, second = await race(conn, other, observer, first=make, second=make)

    assert first.id == second.id
    assert await counts(conn, "endpoints") == {"endpoints": 1}


async def test_flushes_that_meet_do_not_wait_in_a_circle(conn: Connection, other: Connection) -> None:
    """Two of them, each with a success and a failure of the same two endpoints, the other way round."""
    ids = [(await listen(conn, name)).id for name in ("a", "b", "c", "d")]
    await conn.execute("update endpoints set dead_streak = 1, failing_since = clock()")

    def noted(turn: int) -> list[Noted]:
        odd = [(n + turn) % 2 == 1 for n in range(4)]
        return [
            Noted(endpoint_id=id_, taken=well, dead=not well, gone=False) for id_, well in zip(ids, odd, strict=True)
        ]

    async def flush(on: Connection, turn: int) -> None:
        for n in range(30):
            async with on.transaction():
                await endpoint.note(on, noted(turn + n), Patience(dead_max=1_000, failing_seconds=0.0))

    async with asyncio.timeout(60):
        await asyncio.gather(flush(conn, 0), flush(other, 1))

    assert await counts(conn, "endpoints") == {"endpoints": 4}
