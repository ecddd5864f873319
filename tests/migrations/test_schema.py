"""The migrations, and the page that shows what they add up to."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from controlplane.postgres.schema import head, migrate, revisions
from tests.migrations import snapshot

OPERATIONAL = [
    "executions",
    "queue",
    "outcomes",
    "events",
    "logs",
    "memory",
    "memory_items",
    "nodes",
    "sessions",
    "reasoners",
    "webhooks",
    "deliveries",
    "delivery_attempts",
    "idempotency_keys",
    "limits",
    "schedules",
    "schedule_ticks",
    "api_keys",
    "local_calls",
    "approvals",
    "memory_changes",
    "memory_vectors",
    "retention_walks",
    "bulks",
    "ended_parents",
    "breakers",
    "caps",
    "census",
    "audit",
    "audit_heads",
    "tickets",
    "endpoints",
    "listeners",
]
KEY = """
select a.attname
from pg_index i
join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
where i.indrelid = $1::regclass and (i.indisprimary or i.indisunique)
"""


async def test_snapshot_shows_the_migrations(database: str, conn: asyncpg.Connection) -> None:
    """migrations/schema.sql is what the migrations make."""
    if conn.get_server_version().major != 18:
        pytest.skip("the snapshot is pg_dump's text of PostgreSQL 18")

    assert await asyncio.to_thread(snapshot.dump, database) == snapshot.FILE.read_text(), "run `make schema`"


async def test_migrating_again_changes_nothing(database: str, conn: asyncpg.Connection) -> None:
    """Two replicas that both migrate at their start leave one schema."""
    await asyncio.gather(*[asyncio.to_thread(migrate, database) for _ in range(2)])

    assert await conn.fetchval("select version_num from alembic_version") == head()


def test_revisions_are_what_alembic_finds() -> None:
    """The names of the files say which revisions there are, and in which order they follow one another."""
    config = Config()
    config.set_main_option("script_location", "migrations")
    found = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]

    assert found == sorted(revisions(), reverse=True)
    assert found[0] == head()


@pytest.mark.parametrize("table", OPERATIONAL)
async def test_every_key_starts_with_the_bucket(table: str, conn: asyncpg.Connection) -> None:
    """No row is found, and no two are told apart, without naming the bucket first."""
    first = [row["attname"] for row in await conn.fetch(KEY, table)]

    assert first
    assert set(first) == {"bucket"}


@pytest.mark.parametrize("table", OPERATIONAL)
async def test_every_row_carries_its_namespace(table: str, conn: asyncpg.Connection) -> None:
    """There is no operational row that does not say whose it is."""
    columns = "select column_name from information_schema.columns where table_name = $1 and is_nullable = 'NO'"
    named = {row["column_name"] for row in await conn.fetch(columns, table)}

    assert {"bucket", "namespace"} <= named


async def test_partitions_are_made_ahead(conn: asyncpg.Connection) -> None:
    """A row of next month finds its partition; the DEFAULT ones stay empty."""
    made = "select max(relname) from pg_class where relname like 'executions\\_2%' and relkind = 'r'"
    last = await conn.fetchval(made)
    week = "date_trunc('week', clock() at time zone 'UTC' + interval '27 days')"
    due = await conn.fetchval(f"select to_char({week}, '\"executions\"_YYYY_MM_DD')")

    assert last >= due


async def test_making_partitions_again_makes_none(conn: asyncpg.Connection) -> None:
    """The janitor may come as often as it likes."""
    assert await conn.fetchval("select ensure_partitions(4)") == 0
    assert await conn.fetchval("select ensure_partitions(5)") == 5


async def test_a_url_may_say_how_to_encrypt(database: str) -> None:
    """`?sslmode=…`, as managed databases give it out, is understood by the migrations, too."""
    await asyncio.to_thread(migrate, f"{database}{'&' if '?' in database else '?'}sslmode=prefer")
