"""Run the numbered migrations on the database in DATABASE_URL, one transaction each, one runner at a time.

Beside servers that work: a lock that is not to be had at once is given up and asked for again, for as long as it is
waited for everybody else waits behind it; and no migration holds one while it reads a table (`postgres/indexes.py`).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from alembic import context
from sqlalchemy import Connection, event, pool
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

# Two replicas that start together both migrate; the second looks until it has this, and then finds nothing to do. It
# never waits in the database: an index that is built concurrently waits for every statement that runs.
MIGRATION_LOCK = "select pg_try_advisory_xact_lock(hashtext('controlplane.migrate'))"
# Whoever has it does nothing else with this connection, for as long as an index takes.
STAY = "set local idle_in_transaction_session_timeout = 0"
LOOK_SECONDS = 0.1

LOCK_TIMEOUT = "set local lock_timeout = '50ms'"
"""Per statement; a migration changes up to three tables that are always busy."""
LOCK_PATIENCE_SECONDS = 600.0
LOCK_RETRY_SECONDS = 0.5
PASSING = frozenset({"55P03", "40P01"})
"""A lock that was not to be had, a deadlock."""


def run(connection: Connection) -> None:
    context.configure(connection=connection, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()


def wait_briefly(connection: Connection) -> None:
    if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":  # no transaction, whatever it says
        connection.exec_driver_sql(LOCK_TIMEOUT)


@asynccontextmanager
async def alone(url: str) -> AsyncIterator[None]:
    """While nobody else migrates. The lock belongs to a transaction, so it holds through a pooler, too."""
    conn = await asyncpg.connect(url, statement_cache_size=0)
    try:
        while True:
            transaction = conn.transaction()
            await transaction.start()
            if await conn.fetchval(MIGRATION_LOCK):
                break
            await transaction.rollback()
            await asyncio.sleep(LOOK_SECONDS)
        await conn.execute(STAY)
        yield
        await transaction.rollback()
    finally:
        await conn.close()


async def upgrade(url: str) -> None:
    # asyncpg reads the URL itself: SQLAlchemy would hand it `sslmode` and the like as unknown arguments.
    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(url), poolclass=pool.NullPool
    )
    event.listen(engine.sync_engine, "begin", wait_briefly)
    until = asyncio.get_running_loop().time() + LOCK_PATIENCE_SECONDS
    try:
        async with alone(url):
            while True:
                try:
                    async with engine.connect() as connection:
                        await connection.run_sync(run)
                        await connection.commit()
                    return
                except DBAPIError as error:
                    passing = getattr(error.orig, "sqlstate", None) in PASSING
                    if not passing or asyncio.get_running_loop().time() > until:
                        raise
                await asyncio.sleep(LOCK_RETRY_SECONDS)
    finally:
        await engine.dispose()


if context.is_offline_mode():
    context.configure(dialect_name="postgresql", literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
else:
    asyncio.run(upgrade(context.config.attributes.get("url") or os.environ["DATABASE_URL"]))
