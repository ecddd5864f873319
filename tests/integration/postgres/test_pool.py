"""Pool: what comes back clean is lent again as it is, and nothing else ever is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from controlplane.postgres import pool as module
from controlplane.postgres.pool import Connection, Pool, close_pool, open_pool
from tests.make import tasks_begun

PIDS = "select pid from pg_stat_activity where application_name = 'small' and datname = current_database()"
SIZE = 2
DEADLINE_SECONDS = 20


@pytest.fixture
async def small(database: str) -> AsyncIterator[Pool]:
    made = await open_pool(database, size=SIZE, name="small")
    yield made
    await close_pool(made)


async def pid_of(pool: Pool) -> int:
    """Of the server's process behind the connection that is lent now, which is asked something."""
    async with pool.acquire() as conn:
        await conn.execute("select 1")
        return conn.get_server_pid()


async def test_the_same_one_is_lent_again_without_a_task(small: Pool) -> None:
    """Most calls come one after the other."""
    before = await pid_of(small)

    with tasks_begun() as begun:
        assert await pid_of(small) == before

    assert not begun
    assert (small.get_size(), small.get_idle_size()) == (1, 1)


async def test_two_at_once_have_two(small: Pool) -> None:
    """And both are at hand afterwards."""
    async with small.acquire() as one, small.acquire() as other:
        pids = {one.get_server_pid(), other.get_server_pid()}
        assert len(pids) == SIZE

    assert small.get_idle_size() == SIZE
    assert await pid_of(small) in pids


async def test_who_waits_is_given_what_comes_back(small: Pool) -> None:
    """It does not stay at hand then, where nobody would look who waits already."""
    async with small.acquire(), small.acquire():
        waiting = asyncio.create_task(pid_of(small))
        for _ in range(3):
            await asyncio.sleep(0)
        assert not waiting.done()

    async with asyncio.timeout(DEADLINE_SECONDS):
        assert await waiting


async def test_who_waits_too_long_is_told(small: Pool) -> None:
    """And takes nothing with it."""
    async with small.acquire(), small.acquire():
        with pytest.raises(TimeoutError):
            async with small.acquire(timeout=0.05):
                pass

    assert await pid_of(small)


async def test_a_statement_that_was_given_up_is_over_before_the_next(small: Pool) -> None:
    """Its connection is mended by asyncpg, which waits until the server has ended it."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05), small.acquire() as conn:
            await conn.execute("select pg_sleep(60)")

    async with asyncio.timeout(DEADLINE_SECONDS):
        assert await pid_of(small)


async def test_a_transaction_that_is_left_open_is_not_lent(small: Pool) -> None:
    """Not even when nothing was raised."""
    async with small.acquire() as conn:
        await conn.execute("begin")
        await conn.execute("create table left_open ()")

    async with small.acquire() as conn:
        assert await conn.fetchval("select to_regclass('left_open')") is None


async def test_one_whose_server_process_is_gone_is_not_lent(small: Pool, conn: Connection) -> None:
    """Nobody used it when it went: the next call is the first to know."""
    gone = await pid_of(small)
    await conn.execute("select pg_terminate_backend($1, 5000)", gone)
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not await conn.fetch(PIDS):  # noqa: ASYNC110 - asyncpg has heard of it, and has one at least again
            await asyncio.sleep(0.01)

    assert small.get_idle_size() == small.get_size() == 1
    assert await pid_of(small) != gone


async def test_none_is_kept_for_ever(small: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Now and then each goes back to asyncpg, which replaces what has done much and closes what is idle for long."""
    monkeypatch.setattr(module, "KEPT_SECONDS", 0.0)
    before = await pid_of(small)

    with tasks_begun() as begun:
        assert await pid_of(small) == before

    assert len(begun) == 1


async def test_those_that_are_idle_go_back_when_another_comes(small: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is used last is used next, so that the others would lie there for ever."""
    async with small.acquire(), small.acquire():
        pass
    monkeypatch.setattr(module, "KEPT_SECONDS", 0.0)  # as if a minute had passed

    with tasks_begun() as begun:
        await pid_of(small)
    assert len(begun) == SIZE  # both that were kept
    monkeypatch.setattr(module, "KEPT_SECONDS", 60.0)

    with tasks_begun() as begun:
        await pid_of(small)
    assert not begun  # it comes from asyncpg, and is kept from here on


async def test_those_that_are_expired_are_used_by_nobody(small: Pool) -> None:
    """Neither what is at hand nor what is lent at that moment."""
    async with small.acquire() as one, small.acquire() as other:
        before = {one.get_server_pid(), other.get_server_pid()}
    async with small.acquire():
        await small.expire_connections()

    async with small.acquire() as one, small.acquire() as other:
        assert {one.get_server_pid(), other.get_server_pid()}.isdisjoint(before)


async def test_closing_waits_for_what_is_lent(database: str) -> None:
    """And nothing is lent any more."""
    made = await open_pool(database, size=SIZE, name="closed")
    await pid_of(made)
    async with made.acquire() as conn:
        closing = asyncio.create_task(made.close())
        for _ in range(3):
            await asyncio.sleep(0)
        assert made.is_closing()
        assert await conn.fetchval("select 1") == 1
        assert not closing.done()
    await closing

    with pytest.raises(asyncpg.InterfaceError):
        await pid_of(made)
