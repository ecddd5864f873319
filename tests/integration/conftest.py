"""More than one connection: what only happens between two."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from controlplane.postgres.pool import Connection


@pytest.fixture
async def other(database: str) -> AsyncIterator[Connection]:
    """A second connection to this test's database."""
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


@pytest.fixture
async def observer(database: str) -> AsyncIterator[Connection]:
    """A third connection, which holds no locks."""
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()
