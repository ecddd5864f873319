"""Hints between replicas: heard by the others, and without a trace on the connection that told them."""

from __future__ import annotations

import asyncio

import asyncpg

from controlplane.postgres.listen import CHANNEL, NOTIFY, Hints
from controlplane.postgres.pool import Pool


async def test_another_replica_is_woken(pool: Pool, database: str) -> None:
    """What one tells, the other hears; one that waits for something else does not."""
    here, there = Hints(pool, database), Hints(pool, database)
    async with here.running(), there.running(), asyncio.timeout(10):
        with there.waiter("deliveries") as waiting, there.waiter("keys") as other:
            while not there.hearing:  # noqa: ASYNC110 - it connects by itself
                await asyncio.sleep(0.01)
            await waiting.wait(0)  # what it was woken by when it began to listen
            await other.wait(0)
            here.tell("deliveries")

            assert await waiting.wait(10)
            assert not other.woken


async def test_a_hint_waits_for_no_disk_and_what_follows_it_does(conn: asyncpg.Connection) -> None:
    """Of its own transaction alone: a claim on the same connection is flushed as ever."""
    await conn.execute("set synchronous_commit = on")  # the server of the tests has none
    async with conn.transaction():
        await conn.execute(NOTIFY, CHANNEL, "x")
        within = await conn.fetchval("show synchronous_commit")

    assert (within, await conn.fetchval("show synchronous_commit")) == ("off", "on")
