"""Migrations beside servers that work: nobody is kept out while a table is read, and what is broken off goes on.

How long a lock is held depends on the machine, so what is asserted is what the time depends on: a transaction that
keeps writers out of a table reads nothing of it, however many rows there are, and outside of transactions only what
keeps nobody out is run. The times are printed.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from controlplane.postgres.schema import head, migrate, revisions
from tests.migrations import snapshot
from tests.migrations.beside import APPROVALS, Watch, Writers, fill, make_ids

ROWS = 20_000
SMALL_ROWS = 100
"""A table with fewer may be read: what there is of nodes, schedules or keys does not grow with the work."""
KEEPS_NOBODY_OUT = re.compile(r"\s*(select|(create (unique )?|drop )index concurrently)\s")
INDEXES = "select indexdef from pg_indexes where schemaname = 'public' order by indexdef"
BROKEN = "select indexrelid::regclass::text from pg_index where not indisvalid"
FILES = """
select relname, relfilenode from pg_class
where relkind = 'r' and relnamespace = 'public'::regnamespace and relname ~ '^(queue|executions|outcomes|deliveries)'
order by relname
"""


@pytest.fixture
async def first(server: str) -> AsyncIterator[str]:
    """A database with the first schema."""
    name = f"test_{uuid.uuid4().hex}"
    dsn = urlsplit(server)._replace(path=f"/{name}").geturl()
    admin = await asyncpg.connect(server)
    try:
        await admin.execute(f"create database {name}")
        await asyncio.to_thread(migrate, dsn, to="0001")
        yield dsn
        await admin.execute(f"drop database {name} with (force)")
    finally:
        await admin.close()


@pytest.fixture
async def old(first: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to it."""
    connection = await asyncpg.connect(first, statement_cache_size=0)
    yield connection
    await connection.close()


async def test_nobody_is_kept_out_while_a_table_is_read(first: str, old: asyncpg.Connection) -> None:
    """Every revision, on full tables beside servers of the first version: they go on, and no table is written anew."""
    await fill(old, ROWS)
    files = await old.fetch(FILES)
    writers = Writers(first)
    working = asyncio.create_task(writers.run())
    for revision in sorted(revisions())[1:]:
        if revision == "0004":
            await old.execute(APPROVALS, make_ids(ROWS, random.Random(4)))
        watch = Watch()
        with watch.watching():
            await asyncio.to_thread(migrate, first, to=revision)
        print(f"measured: {revision} held a lock for {watch.held_seconds * 1000:.0f} ms")
        async with asyncio.timeout(30):
            await writers.more(1)

        assert {name: rows for name, rows in watch.read.items() if rows > SMALL_ROWS} == {}, revision
        assert [one for one in watch.apart if not KEEPS_NOBODY_OUT.match(one)] == []
    print(f"measured: {writers.counts['finished']} executions; the slowest took {writers.longest_seconds:.2f} s")
    assert not working.done(), working
    working.cancel()
    assert await old.fetch(FILES) == files


async def test_full_tables_get_the_same_schema(first: str, old: asyncpg.Connection, conn: asyncpg.Connection) -> None:
    """Built apart and put together, every index is that of a database that was always empty, and is used."""
    await fill(old, 1)
    await asyncio.to_thread(migrate, first)

    assert await old.fetch(BROKEN) == []
    assert await old.fetch(INDEXES) == await conn.fetch(INDEXES)
    if old.get_server_version().major == 18:
        assert await asyncio.to_thread(snapshot.dump, first) == snapshot.FILE.read_text()


class Broken(Exception):
    """The process dies here."""


def break_off(at: int, *, half_done: bool) -> Callable[..., None]:
    """Dies after the so-manyth index was built, or when it is half there."""
    built = 0

    def after(connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        nonlocal built
        built += "index concurrently" in statement and statement.startswith("create")
        if built == at:
            built += 1
            if half_done:
                name = statement.partition("concurrently ")[2].split()[0]
                invalid = f"update pg_index set indisvalid = false where indexrelid = '{name}'::regclass"
                connection.exec_driver_sql(invalid)
            raise Broken

    return after


@pytest.mark.parametrize("half_done", [False, True], ids=["built", "half-built"])
async def test_what_is_broken_off_goes_on(
    first: str, old: asyncpg.Connection, conn: asyncpg.Connection, half_done: bool
) -> None:
    """A process that dies after any of the builds, or in it, is followed by one that finishes its work."""
    await fill(old, 1)
    deaths = 0
    while True:
        after = break_off(2 if half_done and deaths else 1, half_done=half_done)
        event.listen(Engine, "after_cursor_execute", after)
        try:
            await asyncio.to_thread(migrate, first)
            break
        except Broken:
            deaths += 1
        finally:
            event.remove(Engine, "after_cursor_execute", after)

    assert deaths > 25
    assert await old.fetch(BROKEN) == []
    assert await old.fetch(INDEXES) == await conn.fetch(INDEXES)


async def test_a_lock_that_is_not_to_be_had_keeps_nobody_waiting(first: str, old: asyncpg.Connection) -> None:
    """While somebody reads the queue for long, the migration asks again and again, and writers go on between."""
    writers = Writers(first)
    watch = Watch()
    async with asyncio.timeout(110):
        async with old.transaction():
            await old.execute("select from queue")
            working = asyncio.create_task(writers.run())
            with watch.watching():
                migrating = asyncio.create_task(asyncio.to_thread(migrate, first))
                while watch.refused < 2 and not migrating.done():  # noqa: ASYNC110 - the migration runs in a thread
                    await asyncio.sleep(0.01)
                await writers.more(20)
                assert not migrating.done()
        await migrating
    working.cancel()

    assert await old.fetchval("select version_num from alembic_version") == head()


async def test_two_at_once(first: str, old: asyncpg.Connection) -> None:
    """Of two processes that migrate full tables one does, and the other finds it done."""
    await fill(old, 1)
    command = [sys.executable, "-m", "controlplane", "migrate"]
    env = os.environ | {"DATABASE_URL": first}
    both = [await asyncio.create_subprocess_exec(*command, env=env) for _ in range(2)]

    assert [await one.wait() for one in both] == [0, 0]
    assert await old.fetch(BROKEN) == []
    assert await old.fetchval("select version_num from alembic_version") == head()
