"""What is asked of a database: every statement that goes over one connection, as it was said."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from controlplane.postgres.pool import Pool, close_pool, open_pool


@contextlib.asynccontextmanager
async def counted(database: str) -> AsyncIterator[tuple[Pool, list[str]]]:
    """A pool of one connection, and what was said on it so far."""
    said: list[str] = []
    pool = await open_pool(database, size=1, name="counted")
    async with pool.acquire() as conn:
        conn.add_query_logger(lambda record: said.append(record.query))
    try:
        yield pool, said
    finally:
        await close_pool(pool)
