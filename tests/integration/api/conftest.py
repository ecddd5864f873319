"""The API as its callers see it: a real server, a real database, a real receiver."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.integration.api.serving import Api, Receiver, serving


@pytest.fixture
def settings() -> dict[str, object]:
    """What a test sets otherwise than `serving` does; parametrize it."""
    return {}


@pytest.fixture
async def api(database: str, settings: dict[str, object]) -> AsyncIterator[Api]:
    """A running server on this test's database."""
    async with serving(database, **settings) as running:
        yield running


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """A server that takes webhooks."""
    async with Receiver() as listening:
        yield listening
