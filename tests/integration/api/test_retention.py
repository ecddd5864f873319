"""Retention: what the server says of how long it keeps what."""

from __future__ import annotations

from controlplane_sdk import Client
from tests.integration.api.serving import Api

NAMES = {"succeeded", "failed", "cancelled", "timeout", "events", "logs", "delivered", "dead"}


async def test_everything_is_kept_by_default(api: Api) -> None:
    """Null for each, and nothing lies where it should not."""
    answer = await api.client.get("/api/v1/retention")

    assert answer.status_code == 200
    assert answer.json() == {"keep_days": dict.fromkeys(NAMES), "default_not_empty": []}


async def test_the_sdk_asks_the_same(api: Api) -> None:
    """In Python the days are numbers or None."""
    async with Client(api.url) as client:
        found = await client.retention()

    assert (found.keep_days, found.default_not_empty) == (dict.fromkeys(NAMES), [])
