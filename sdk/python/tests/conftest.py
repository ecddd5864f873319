"""A control plane's double for every test, and a way to have an agent serve while the test looks on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from controlplane_sdk import Agent
from sdk.python.tests.sdk_double import Double

Serving = Callable[[Agent], AbstractAsyncContextManager[None]]


@pytest.fixture
def double() -> Iterator[Double]:
    with Double() as running:
        yield running


@pytest.fixture
def make_agent(double: Double) -> Callable[..., Agent]:
    def make(**options: Any) -> Agent:
        return Agent(node_id="n", server=double.url, **({"heartbeat_seconds": 1, "drain_seconds": 5} | options))

    return make


@pytest.fixture
def serving() -> Serving:
    @asynccontextmanager
    async def serve(app: Agent) -> AsyncIterator[None]:
        task = asyncio.create_task(app.serve())
        try:
            yield
        finally:
            app.stop()
            await asyncio.wait_for(task, 30)

    return serve
