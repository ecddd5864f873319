"""Hints between replicas: heard by the others, and without a trace on the connection that told them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import asyncpg

from controlplane.postgres.listen import CHANNEL, NOTIFY, Hints
from controlplane.postgres.pool import Pool


async def test_another_replica_is_woken(pool: Pool, database: str) -> None:
    """What one tells, the other hears; one that waits for something else does not."""
    here, there = Hints(pool, database), Hints(pool, database)
    async with here.running(), there.running(), asyncio.timeout(10):
        with there.waiter("deliveries") as waiting, there.waiter("keys") as other:
            await until(lambda: there.hearing)
            await waiting.wait(0)  # what it was woken by when it began to listen
            await other.wait(0)
            here.tell("deliveries")

            assert await waiting.wait(10)
            assert not other.woken


async def test_who_is_alone_tells_nobody(pool: Pool, database: str, conn: asyncpg.Connection) -> None:
    """Until somebody comes, who is known at once; and again when that one has gone."""
    heard: list[str] = []
    await conn.add_listener(CHANNEL, lambda _conn, _pid, _channel, payload: heard.append(str(payload)))
    here, there = (Hints(pool, database, present_seconds=0.05, gone_seconds=1.0) for _ in range(2))
    async with asyncio.timeout(30), here.running():
        await until(lambda: here.alone)
        here.tell("nobody")
        async with there.running():
            with there.waiter("somebody") as waiting:
                await until(lambda: not here.alone)
                assert not there.alone
                await waiting.wait(0)
                here.tell("somebody")
                assert await waiting.wait(10)
        await until(lambda: here.alone)

    assert any("somebody" in payload for payload in heard)
    assert not any("nobody" in payload for payload in heard)


async def test_who_hears_nothing_is_never_sure_to_be_alone(pool: Pool, database: str) -> None:
    """Behind a pooler nobody can be heard, and all are told."""
    here = Hints(pool, None, present_seconds=0.05, gone_seconds=0.0)
    there = Hints(pool, database, present_seconds=0.05, gone_seconds=30.0)
    async with asyncio.timeout(30), here.running(), there.running():
        with there.waiter("topic") as waiting:
            await until(lambda: there.hearing)
            await waiting.wait(0)
            here.tell("topic")
            assert await waiting.wait(10)
            assert not here.alone
            assert not there.alone  # it has not listened for long enough


async def until(fact: Callable[[], bool]) -> None:
    while not fact():  # noqa: ASYNC110 - replicas come and go by themselves
        await asyncio.sleep(0.01)


async def test_a_hint_waits_for_no_disk_and_what_follows_it_does(conn: asyncpg.Connection) -> None:
    """Of its own transaction alone: a claim on the same connection is flushed as ever."""
    await conn.execute("set synchronous_commit = on")  # the server of the tests has none
    async with conn.transaction():
        await conn.execute(NOTIFY, CHANNEL, "x")
        within = await conn.fetchval("show synchronous_commit")

    assert (within, await conn.fetchval("show synchronous_commit")) == ("off", "on")
