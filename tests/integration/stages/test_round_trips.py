"""How often a flush asks the database: at a few hundred microseconds each, that is what small batches cost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from controlplane.domain.begun import Begun
from controlplane.domain.delivery import DeliveryState
from controlplane.domain.lease import Beat, Verdict
from controlplane.postgres.pool import Connection, open_pool
from controlplane.stages import checkpoint, complete, deliver, renew, submit
from tests.integration.stages.test_deliver import REFUSED, sent, walk
from tests.make import (
    STOCK,
    a_report,
    accept,
    append,
    begin,
    lease,
    make_execution,
    make_id,
    make_session,
    no_jitter,
    put,
    report,
    submission,
    webhook,
)


@pytest.fixture(autouse=True)
async def met(conn: Connection) -> None:
    """The driver has asked what types there are: it does so once for each connection."""
    await make_execution(conn, "succeeded")


async def asked(conn: Connection, call: Awaitable[object]) -> int:
    """The statements that this sends, begin and commit among them."""
    said: list[str] = []
    with conn.query_logger(lambda record: said.append(record.query)):
        await call
        await asyncio.sleep(0)  # the driver tells it a moment later
    return len(said)


async def test_a_submit_is_one(conn: Connection) -> None:
    """Whatever the batch, when nothing else has to be held or written."""
    assert await asked(conn, accept(conn, *(submission() for _ in range(5)))) == 1


async def test_a_submit_with_webhooks_is_one_too(conn: Connection) -> None:
    """They are written with their execution, or not at all."""
    assert await asked(conn, accept(conn, submission(), submission(webhooks=(webhook(),)))) == 1


async def test_a_submit_with_more_to_write_is_a_transaction(conn: Connection) -> None:
    """A key is taken in the transaction of its execution."""
    wish = submission(idempotency_key="k", request_hash=b"h" * 32)

    assert await asked(conn, accept(conn, submission(), wish)) == 4


async def test_a_claim_is_two(conn: Connection) -> None:
    """The claim, and what was asked; where there is nothing, the claim and why."""
    await make_execution(conn)
    session = await make_session(conn)

    assert await asked(conn, lease(conn, session)) == 2
    assert await asked(conn, lease(conn, session)) == 2


async def test_an_end_is_two(conn: Connection) -> None:
    """A look at what ends and whom to tell, and the end, with what they are owed."""
    made = [await make_execution(conn, "running", webhooks=webhooks) for webhooks in ((), (webhook(), webhook()))]
    batch = [a_report(one.fence) for one in made]

    assert await asked(conn, complete.report(conn, batch, make_id=make_id, jitter=no_jitter)) == 2


async def test_an_end_of_what_began_here_is_one(conn: Connection) -> None:
    """All that it has to know was known when it began."""
    begun = Begun()
    made = [await begin(conn, begun, webhooks=webhooks) for webhooks in ((), (webhook(), webhook()))]
    batch = [a_report(one.fence) for one in made]

    assert await asked(conn, complete.report(conn, batch, make_id=make_id, jitter=no_jitter, begun=begun)) == 1


async def test_what_did_not_begin_here_is_looked_at_alone(conn: Connection) -> None:
    """A look at that one, and the end of both."""
    begun = Begun()
    made = [await begin(conn, begun), await make_execution(conn, "running")]
    batch = [a_report(one.fence) for one in made]

    assert await asked(conn, complete.report(conn, batch, make_id=make_id, jitter=no_jitter, begun=begun)) == 2


async def test_an_end_that_somebody_waits_for_is_a_transaction(conn: Connection) -> None:
    """A failure is locked first: whom it had asked, and who had asked for it, end or go on with it."""
    made = await make_execution(conn, "running", webhooks=(webhook(), webhook()))

    assert await asked(conn, report(conn, made.fence, verdict=Verdict.FAILED)) == 6


async def test_a_submit_that_is_waited_for_is_one(conn: Connection) -> None:
    """It is leased as it is accepted."""
    session, wish = await make_session(conn), submission(webhooks=(webhook(),))

    assert await asked(conn, submit.accept(conn, [wish], {wish.id: session})) == 1


async def test_a_checkpoint_is_one(conn: Connection) -> None:
    """New keys, others again, and lists that grow, of several attempts; the fences and what is told included."""
    some, others = await make_execution(conn, "running"), await make_execution(conn, "running")
    batch = [put(some, b"1"), append(some, b"1", key="list"), put(others, b"2"), append(others, b"2", key="list")]

    assert await asked(conn, checkpoint.write(conn, batch)) == 1
    assert await asked(conn, checkpoint.write(conn, batch)) == 1


async def test_a_connection_goes_back_without_a_word(database: str) -> None:
    """What one use leaves is found by the next: nothing was asked in between."""
    pool = await open_pool(database, size=1, name="test")
    async with pool.acquire() as conn:
        await conn.execute("set statement_timeout = '7s'")

    async with pool.acquire() as conn:
        assert await conn.fetchval("show statement_timeout") == "7s"
    await pool.close()


async def test_a_transaction_left_open_is_rolled_back(database: str) -> None:
    """Who forgets to end one must not hand it on."""
    pool = await open_pool(database, size=1, name="test")
    async with pool.acquire() as conn:
        await conn.execute("begin")
        before = await conn.fetchval("select pg_current_xact_id()")

    async with pool.acquire() as conn:
        assert await conn.fetchval("select pg_current_xact_id()") != before
    await pool.close()


async def test_beats_of_one_bucket_are_one(conn: Connection) -> None:
    """However many processes are alive, when none of them names what it holds."""
    fleet = [await make_session(conn, f"n{n}") for n in range(5)]
    beats = [Beat(session_id=one.id, held=None, count=0) for one in fleet]

    assert await asked(conn, renew.extend(conn, beats)) == 1


async def test_who_waits_and_holds_nothing_is_kept_by_one(conn: Connection) -> None:
    """However many processes wait in their heartbeats."""
    fleet = [(await make_session(conn, f"n{n}")).id for n in range(5)]

    assert await asked(conn, renew.keep(conn, fleet, STOCK)) == 1


async def test_a_webhook_that_is_due_is_one(conn: Connection) -> None:
    """What it is signed with comes along."""
    await make_execution(conn, "succeeded", webhooks=(webhook(),))

    assert await asked(conn, walk(conn)) == 1


async def test_a_webhook_that_was_delivered_is_one(conn: Connection) -> None:
    """Its end, its attempt and its event, with nothing around them; one that was refused is a transaction."""
    for _ in range(2):
        await make_execution(conn, "succeeded", webhooks=(webhook(),))
    taken, refused = (await walk(conn)).due

    assert await asked(conn, deliver.settle(conn, [sent(taken)])) == 1
    assert await asked(conn, deliver.settle(conn, [sent(refused, REFUSED, DeliveryState.PENDING, 60.0)])) == 4
