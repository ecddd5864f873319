"""The role that the server runs as: every row, and nothing of the schema."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import asyncpg
import pytest

from controlplane.postgres.roles import separate, standing
from tests.integration.api.serving import Receiver, serving, until
from tests.integration.stages.test_audit import append, entry

PASSWORD = "only-for-this-test"
WHOLE = {"keep_succeeded_days": 1, "partitions_weeks_ahead": 6}
MAY_NOT = [
    "create table mine (id int)",
    "alter table queue add column mine int",
    "alter function clock() security definer",
    "create or replace function clock() returns timestamptz language sql as 'select now()'",
    "create function mine() returns int language sql as 'select 1'",
    "drop table queue",
    "truncate queue",
    "create schema mine",
    "create role mine",
    "update alembic_version set version_num = ''",
    "alter table executions disable trigger all",
    "set session_replication_role = replica",
    "copy queue to program 'true'",
    "select pg_read_file('postgresql.conf')",
]


@pytest.fixture
async def app(database: str, conn: asyncpg.Connection) -> AsyncIterator[str]:
    """The DSN of this test's database, as the role that a server runs as."""
    role = f"app_{uuid.uuid4().hex[:12]}"
    await separate(conn, role)
    await conn.execute(f"alter role {role} password '{PASSWORD}'")
    yield urlsplit(database)._replace(netloc=_as(database, role)).geturl()
    await conn.execute(f"drop owned by {role}")
    await conn.execute(f"drop role {role}")


def _as(database: str, role: str) -> str:
    """Who and where, in the form of a DSN."""
    return f"{role}:{PASSWORD}@{urlsplit(database).netloc.rpartition('@')[2]}"


async def test_a_whole_life(app: str, conn: asyncpg.Connection) -> None:
    """Submit, lease, finish, tell, and forget a week later: a server needs no more than that role."""
    async with serving(app, **WHOLE) as api, Receiver() as receiver:
        session = await api.node()
        id_ = await api.run(session, result=1, webhook={"url": receiver.url, "secret": "s"})
        await receiver.wait_for(1)
        await until(lambda: _delivered(conn))
        assert (await api.read(id_))["status"] == "succeeded"
        await until(lambda: _announced(conn))
    name = await conn.fetchval("select current_database()")
    await conn.execute(f"alter database {name} set controlplane.clock_offset = '30 days'")

    async with serving(app, **WHOLE):
        await until(lambda: _gone(conn))


async def _delivered(conn: asyncpg.Connection) -> bool:
    return bool(await conn.fetchval("select exists (select from deliveries where state = 'delivered')"))


async def _announced(conn: asyncpg.Connection) -> bool:
    """What is not is kept by retention, which looks again after ten minutes."""
    behind = "select exists (select from events e, announced a where (e.xid, e.seq) > (a.xid, a.seq))"
    return not await conn.fetchval(behind)


async def _gone(conn: asyncpg.Connection) -> bool:
    return not await conn.fetchval("select exists (select from executions)")


@pytest.mark.parametrize("statement", MAY_NOT)
async def test_it_may_change_nothing_but_rows(app: str, statement: str) -> None:
    """No table is made, changed, emptied or dropped by whoever gets hold of the server."""
    conn = await asyncpg.connect(app)
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await conn.execute(statement)
    finally:
        await conn.close()


async def test_what_was_done_stays_as_it_was_told(app: str, conn: asyncpg.Connection) -> None:
    """Rows of the audit log are added by the server, never changed, and taken away by nothing but retention."""
    await append(conn, entry())
    mine = await asyncpg.connect(app)
    try:
        await append(mine, entry(1))
        for statement in ("update audit set actor = 'x'", "truncate audit", "truncate audit_heads"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await mine.execute(statement)
        with pytest.raises(asyncpg.PostgresError, match="append"):
            await mine.execute("delete from audit")
    finally:
        await mine.close()


async def test_the_next_migration_needs_no_second_word(app: str, conn: asyncpg.Connection) -> None:
    """What the migrating role makes later, the server may use at once."""
    await conn.execute("create table later (id int generated always as identity, n int)")
    mine = await asyncpg.connect(app)
    try:
        await mine.execute("insert into later (n) values (1)")
        assert await mine.fetchval("select count(*) from later") == 1
    finally:
        await mine.close()


async def test_a_name_in_front_of_ours_is_not_called(app: str) -> None:
    """The functions that run as the owner look up no name where their caller may write."""
    mine = await asyncpg.connect(app)
    try:
        await mine.execute("create temp table executions (id int)")
        await mine.execute("set search_path = pg_temp, public")

        assert await mine.fetchval("select public.ensure_partitions(60)") > 0
    finally:
        await mine.close()


async def test_statistics_are_refreshed_by_who_may_not_analyze(app: str, conn: asyncpg.Connection) -> None:
    """The server's role asks for it, the owner does it."""
    await conn.execute("create table grown as select n from generate_series(1, 2000) n")
    await conn.execute("select pg_stat_force_next_flush()")
    mine = await asyncpg.connect(app)
    try:
        assert await mine.fetchval("select analyze_grown(10, 1000, 4)") == ["grown"]
    finally:
        await mine.close()
    assert await conn.fetchval("select reltuples from pg_class where oid = 'grown'::regclass") == 2_000


async def test_what_a_role_is_told_of_itself(app: str, conn: asyncpg.Connection) -> None:
    """The server's own has nothing in excess, who migrates has."""
    mine = await asyncpg.connect(app)
    try:
        assert (await standing(mine)).excess is None
    finally:
        await mine.close()
    assert (await standing(conn)).excess == "is a superuser"


async def test_who_owns_the_schema_does_not_serve(conn: asyncpg.Connection) -> None:
    """Nor does a role that may make others: each is refused, and nothing is granted."""
    owner: str = await conn.fetchval("select current_user")
    mighty = f"app_{uuid.uuid4().hex[:12]}"
    await conn.execute(f"create role {mighty} createrole")
    try:
        for role in (owner, mighty):
            with pytest.raises(asyncpg.InvalidParameterValueError):
                await separate(conn, role)
        assert not await conn.fetchval("select has_table_privilege($1, 'queue', 'select')", mighty)
    finally:
        await conn.execute(f"drop role {mighty}")


async def test_said_twice_it_is_the_same(app: str, conn: asyncpg.Connection) -> None:
    """And a right that somebody gave in between is gone."""
    role = urlsplit(app).username
    assert role is not None
    await conn.execute(f"grant truncate on queue to {role}")

    await separate(conn, role)

    assert not await conn.fetchval("select has_table_privilege($1, 'queue', 'truncate')", role)
    assert await conn.fetchval("select has_table_privilege($1, 'queue', 'insert')", role)
