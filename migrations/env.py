"""Run the numbered migrations on the database in DATABASE_URL, one transaction for all, one runner at a time."""

from __future__ import annotations

import asyncio
import os

import asyncpg
from alembic import context
from sqlalchemy import Connection, pool, text
from sqlalchemy.ext.asyncio import create_async_engine

# Two replicas that start together both migrate; the second waits here and then finds nothing to do.
MIGRATION_LOCK = "select pg_advisory_xact_lock(hashtext('controlplane.migrate'))"


def run(connection: Connection) -> None:
    context.configure(connection=connection, transaction_per_migration=False)
    with context.begin_transaction():
        connection.execute(text(MIGRATION_LOCK))
        context.run_migrations()


async def upgrade(url: str) -> None:
    # asyncpg reads the URL itself: SQLAlchemy would hand it `sslmode` and the like as unknown arguments.
    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(url), poolclass=pool.NullPool
    )
    async with engine.connect() as connection:
        await connection.run_sync(run)
        await connection.commit()
    await engine.dispose()


if context.is_offline_mode():
    context.configure(dialect_name="postgresql", literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
else:
    asyncio.run(upgrade(context.config.attributes.get("url") or os.environ["DATABASE_URL"]))
