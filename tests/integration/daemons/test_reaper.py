"""The reaper frees what dead processes hold, and asks no more of the database for it than it must."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from controlplane.daemons.reaper import Reaper
from controlplane.postgres.pool import Connection, Pool
from controlplane.stages import expire
from tests.make import STOCK, Made, make_execution, make_id, make_session, no_jitter, queue_row


@pytest.fixture
async def asked(database: str) -> AsyncIterator[tuple[Pool, list[str]]]:
    """A pool of one connection, and every statement that goes through it."""
    statements: list[str] = []

    async def hear(conn: Connection) -> None:
        conn.add_query_logger(lambda query: statements.append(query.query))

    async with asyncpg.create_pool(database, min_size=1, max_size=1, init=hear) as pool:
        yield pool, statements


@pytest.fixture
async def made(conn: Connection) -> Made:
    """An execution that runs."""
    return await make_execution(conn, "running", session=await make_session(conn))


def nobody(*_: object) -> None:
    """Nobody is told."""


def reaper(pool: Pool) -> Reaper:
    return Reaper(
        pool,
        STOCK,
        make_id=make_id,
        cancel_grace_seconds=10.0,
        ready=nobody,
        ended=nobody,
        due=nobody,
        stopped=nobody,
        cancelling=nobody,
        jitter=no_jitter,
        blocked=nobody,
    )


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
