"""The API as its callers see it: a real server, a real database, a real receiver."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest

from tests.integration.api.serving import DEADLINE_SECONDS, Apart, Api, Receiver, serving


@pytest.fixture
def settings() -> dict[str, object]:
    """What a test sets otherwise than `serving` does; parametrize it."""
    return {}


@pytest.fixture
async def api(database: str, settings: dict[str, object]) -> AsyncIterator[Api]:
    """A running server on this test's database."""
    async with serving(database, **settings) as running:
        yield running


@pytest.fixture(scope="module")
def house(server: str, template: str, request: pytest.FixtureRequest) -> Iterator[Apart]:
    """One server and one database for a whole module, whose `HOUSE` are its settings."""
    name = f"test_{uuid.uuid4().hex}"
    with asyncio.Runner() as runner:
        runner.run(_execute(server, f"create database {name} template {template} strategy file_copy"))
        dsn = urlsplit(server)._replace(path=f"/{name}").geturl()
        apart = Apart(dsn, **getattr(request.module, "HOUSE", {}))
        try:
            yield apart
        finally:
            apart.stop()
            runner.run(_execute(server, f"drop database {name} with (force)"))


@pytest.fixture
async def shared(house: Apart) -> AsyncIterator[Api]:
    """The house, for tests that leave nothing behind: many refusals, one server."""
    async with httpx.AsyncClient(base_url=house.url, timeout=DEADLINE_SECONDS * 2, trust_env=False) as client:
        yield Api(house.app, house.host, house.port, client)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """A server that takes webhooks."""
    async with Receiver() as listening:
        yield listening


async def _execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
