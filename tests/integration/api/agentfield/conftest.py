"""Agents that are called."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.integration.api.agentfield.agent import AgentDouble
from tests.integration.api.serving import Api


@pytest.fixture
async def agent(api: Api) -> AsyncIterator[AgentDouble]:
    """A Python agent `n` with the reasoner `echo` and the skill `add`, registered and listening."""
    async with AgentDouble(api) as one:
        await one.register()
        yield one
