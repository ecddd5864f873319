"""The statistician: what has grown tenfold is looked at again, by whichever role asks, and nobody waits for it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from controlplane.daemons import statistician as daemon
from controlplane.daemons.statistician import Statistician
from controlplane.postgres.pool import SESSION_SETTINGS, Connection, Pool
from controlplane.stages import lease

ROWS = """
insert into queue (bucket, id, namespace, target, run_id, state, priority, available_at, retries_max, webhooks)
select 0, gen_random_uuid(), 1, 'n.echo', 'run', 'ready', 0, clock(), 0, 0
from generate_series(1, $1)
"""
KNOWN = "select reltuples::int from pg_class where oid = 'queue'::regclass"


@pytest.fixture
async def pool(database: str) -> AsyncIterator[Pool]:
    async with asyncpg.create_pool(database, min_size=1, max_size=1, server_settings=SESSION_SETTINGS) as pool:
        yield pool


async def fill(conn: Connection, rows: int) -> None:
    """So many more are ready, and PostgreSQL has counted them."""
    await conn.execute(ROWS, rows)
    await conn.execute("select pg_stat_force_next_flush()")


async def test_what_has_grown_is_looked_at_once(conn: Connection, pool: Pool) -> None:
    """From never to many, and again at ten times as many; in between the last look is good enough."""
    statistician = Statistician(pool)

    await fill(conn, 900)
    assert await statistician.tick() == 0
    await fill(conn, 200)
    assert (await statistician.tick(), await conn.fetchval(KNOWN)) == (1, 1_100)
    await fill(conn, 8_900)
    assert await statistician.tick() == 0
    await fill(conn, 1_100)
    assert (await statistician.tick(), await conn.fetchval(KNOWN)) == (1, 11_100)
    assert await statistician.tick() == 0


async def test_a_plan_of_a_small_queue_does_not_stay(conn: Connection, pool: Pool) -> None:
    """A claim that a server planned while there was next to nothing takes the first in line from a full queue."""
    async with pool.acquire() as mine:
        await mine.execute("set plan_cache_mode = force_generic_plan")
        await fill(conn, 200)
        types = (
            "smallint, smallint, text[], int, uuid, boolean, bytea, boolean, text, text[], smallint[], timestamptz[]"
        )
        await mine.execute(f"prepare claim ({types}) as {lease.CLAIM}")
        explain = "explain execute claim (0, 1, '{n.echo}', 16, null, false, '{}', false, 'n', '{}', '{}', '{}')"
        await mine.fetch(explain)
        await fill(conn, 20_000)

    await Statistician(pool).tick()

    async with pool.acquire() as mine:
        plan = "\n".join(row[0] for row in await mine.fetch(explain))
    assert "queue_ready" in plan
    assert "Sort" not in plan


async def test_a_table_in_other_hands_is_left_for_the_next_pass(
    conn: Connection, other: Connection, pool: Pool
) -> None:
    """Autovacuum is at it, or a migration: nobody waits behind us, and we neither wait nor try at once again."""
    statistician = Statistician(pool)
    await fill(conn, 2_000)
    async with other.transaction():
        await other.execute("lock table queue in share update exclusive mode")
        assert [await statistician.tick(), await statistician.tick()] == [1, 0]
        assert await conn.fetchval(KNOWN) < 2_000

    await statistician.tick()
    assert await conn.fetchval(KNOWN) == 2_000


async def test_it_says_whether_somebody_holds_an_old_snapshot(
    other: Connection, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not of one that is young, and no longer once what it held back is cleared away."""
    said: list[bool] = []
    statistician = Statistician(pool, pinned=said.append)
    async with other.transaction(isolation="repeatable_read"):
        await other.fetchval("select count(*) from queue")
        await statistician.tick()
        monkeypatch.setattr(daemon, "PINNED_SECONDS", 0.0)
        await statistician.tick()
    monkeypatch.setattr(daemon, "PINNED_SECONDS", 3_600.0)
    await statistician.tick()
    monkeypatch.setattr(daemon, "CLEARED_SECONDS", 0.0)
    await statistician.tick()

    assert said == [False, True, True, False]
