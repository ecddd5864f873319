"""Health: alive, ready, and how it says that it is not."""

from __future__ import annotations

import pytest
from tests.integration.api.serving import Api


@pytest.mark.parametrize("path", ["/health", "/api/v1/health"])
async def test_health_is_what_agentfield_shows(api: Api, path: str) -> None:
    """Status, time, version and checks."""
    answer = await api.client.get(path)

    assert answer.status_code == 200
    assert answer.json().keys() == {"status", "timestamp", "version", "checks"}
    assert answer.json()["status"] == "healthy"
