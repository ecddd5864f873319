"""The reaper frees what dead processes hold, and asks no more of the database for it than it must."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from controlplane.daemons.reaper import FORGET_AFTER_SECONDS, WHOLE_SECONDS, Reaper
from controlplane.postgres.pool import Connection, Pool
from controlplane.stages import expire
from tests.crash import daemons
from tests.integration.api.counting import counted
from tests.make import Made, make_execution, make_id, make_session, queue_row

DEADLINE_SECONDS = 20.0


@pytest.fixture
async def asked(database: str) -> AsyncIterator[tuple[Pool, list[str]]]:
    """A pool of one connection, and every statement that goes through it."""
    async with counted(database) as pool_and_said:
        yield pool_and_said


@pytest.fixture
async def made(conn: Connection) -> Made:
    """An execution that runs."""
    return await make_execution(conn, "running", session=await make_session(conn))


def reaper(pool: Pool, *, whole_seconds: float = 1e6) -> Reaper:
    """The whole is looked at once, at the beginning, or as often as a test says."""
    return daemons.reaper(pool, whole_seconds=whole_seconds)


async def test_the_whole_is_looked_at_once_in_a_while(asked: tuple[Pool, list[str]], made: Made) -> None:
    """Every session that holds work is asked for first of all, and then not with every pass."""
    pool, statements = asked
    one = reaper(pool)
    for _ in range(3):
        await one.tick()

    assert statements.count(expire.HOLDERS) == 1
    assert statements.count(expire.CLOSED) == 2


async def test_a_dead_process_is_found_with_any_pass(
    asked: tuple[Pool, list[str]], conn: Connection, made: Made
) -> None:
    """One that dies after the whole look loses its work with the next pass, and none that lives does."""
    pool, _ = asked
    one = reaper(pool)
    await one.tick()
    alive = await make_execution(conn, "running", session=await make_session(conn))
    await conn.execute("update sessions set closed_at = clock(), closed_reason = 'bye' where id = $1", made.session.id)

    moved = await one.tick()

    assert moved == 1
    assert (await queue_row(conn, made.id))["state"] == "ready"
    assert (await queue_row(conn, alive.id))["state"] == "leased"


async def test_one_that_is_not_heard_of_is_freed_in_the_pass_that_closes_it(
    asked: tuple[Pool, list[str]], conn: Connection
) -> None:
    """Its session runs out, is closed and swept in one pass, as it was when every pass looked at the whole."""
    pool, _ = asked
    one = reaper(pool)
    await one.tick()
    session = await make_session(conn, heartbeat_seconds=0.001, lease_floor_seconds=0.001)
    made = await make_execution(conn, "running", session=session)
    await conn.execute("update sessions set expires_at = clock() - interval '1 second'")

    await one.tick()

    assert (await queue_row(conn, made.id))["state"] == "ready"


async def test_who_stood_still_expires_nobody(asked: tuple[Pool, list[str]], conn: Connection) -> None:
    """A server that was stopped, or had no processor, answered nobody meanwhile: they get their time once more."""
    pool, _ = asked
    one = daemons.reaper(pool, whole_seconds=1e6, still_seconds=0.2)
    await one.tick()
    session = await make_session(conn, heartbeat_seconds=0.05, lease_floor_seconds=0.05)
    await conn.execute("update sessions set expires_at = clock() - interval '1 second'")

    time.sleep(0.3)  # noqa: ASYNC251 - what the test is about
    await one.tick()
    after = await conn.fetchval("select closed_at from sessions where id = $1", session.id)

    assert after is None
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not await conn.fetchval("select closed_at from sessions where id = $1", session.id):
            await one.tick()


@pytest.mark.parametrize(
    ("reason", "crashes"), [("expired", 1), ("refused", 1), ("silent", 1), ("replaced", 1), ("bye", 0)]
)
async def test_how_it_died_is_known_with_any_pass(
    asked: tuple[Pool, list[str]], conn: Connection, made: Made, reason: str, crashes: int
) -> None:
    """Whether its end counts as a crash of what it ran does not depend on the pass that finds it."""
    pool, _ = asked
    one = reaper(pool)
    await one.tick()
    await conn.execute("update sessions set closed_at = clock(), closed_reason = $1", reason)

    await one.tick()
    row = await queue_row(conn, made.id)

    assert (row["state"], row["crashes"]) == ("ready", crashes)


async def test_one_that_closes_between_the_question_and_the_sweep(conn: Connection, made: Made) -> None:
    """What was asked is not asked again in this pass; the next one asks anew."""
    before = await expire.closed_sessions(conn, 0)
    await conn.execute("update sessions set closed_at = clock(), closed_reason = 'bye'")

    first = await expire.sweep(conn, 0, make_id=make_id, closed=before)
    second = await expire.sweep(conn, 0, make_id=make_id, closed=await expire.closed_sessions(conn, 0))

    assert (first.rows, second.rows) == (0, 1)


async def test_a_claim_after_its_session_is_forgotten(
    asked: tuple[Pool, list[str]], conn: Connection, made: Made
) -> None:
    """The claim of a server that was stopped for minutes is found by the next look at the whole."""
    pool, _ = asked
    one = reaper(pool, whole_seconds=0.01)
    await one.tick()
    await conn.execute("delete from sessions")
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not await one.tick():
            pass

    assert (await queue_row(conn, made.id))["state"] == "ready"


async def test_more_than_a_pass_frees_of_a_forgotten_session(
    asked: tuple[Pool, list[str]], conn: Connection, made: Made
) -> None:
    """The whole is looked at again until it holds nothing more: who held it is nobody's closed session any more."""
    pool, _ = asked
    for _ in range(expire.BATCH):
        await make_execution(conn, "running", session=made.session)
    await conn.execute("delete from sessions")
    one = reaper(pool)
    moved = [await one.tick() for _ in range(3)]

    assert moved == [expire.BATCH, 1, 0]
    assert await conn.fetchval("select count(*) from queue where state = 'leased'") == 0


async def test_a_pass_that_forgets_what_it_could_not_free(
    asked: tuple[Pool, list[str]], conn: Connection, made: Made
) -> None:
    """A server alone that was stopped for minutes forgets a session at once; what it held comes back all the same."""
    pool, _ = asked
    one = reaper(pool, whole_seconds=0.01)
    await one.tick()
    for _ in range(expire.BATCH):
        await make_execution(conn, "running", session=made.session)
    await conn.execute(
        "update sessions set closed_reason = 'expired', closed_at = clock() - make_interval(secs => $1)",
        FORGET_AFTER_SECONDS + 1,
    )
    freed = 0
    async with asyncio.timeout(DEADLINE_SECONDS):
        while freed <= expire.BATCH:
            freed += await one.tick()

    assert await conn.fetchval("select count(*) from sessions") == 0
    assert await conn.fetchval("select count(*) from queue where state = 'leased'") == 0


def test_a_look_at_the_whole_is_never_far() -> None:
    """What no closed session accounts for comes back within the seconds that are promised after a lease."""
    assert WHOLE_SECONDS <= 5.0
