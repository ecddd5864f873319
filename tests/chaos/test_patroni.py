"""Patroni: the leader is killed, another one leads by itself, and the server goes on with what it acknowledged."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import httpx
import pytest

from tests.chaos.grounds.patroni import KillLeader, Patroni
from tests.integration.api.serving import Api, serving

PATIENCE_SECONDS = 120.0


@pytest.fixture(scope="module")
def ground() -> Iterator[Patroni]:
    """Two members, in step."""
    ground = Patroni()
    try:
        asyncio.run(ground.start())
        yield ground
    finally:
        asyncio.run(ground.stop())


@pytest.mark.timeout(400)
async def test_what_was_acknowledged_survives_the_leader(ground: Patroni) -> None:
    """All of it is there, submits go on under the next leader, and nobody restarted the server."""
    async with (
        serving(ground.dsn, lease_seconds=120, database_patience_seconds=PATIENCE_SECONDS) as server,
        httpx.AsyncClient(base_url=server.url, timeout=2 * PATIENCE_SECONDS, trust_env=False) as client,
    ):
        api = Api(server.app, server.host, server.port, client)
        await api.register()
        kept = [await api.submit(input={"n": n}) for n in range(10)]
        killing = asyncio.create_task(KillLeader(ground).strike(None, random.Random(0)))
        while not killing.done():
            kept.append(await api.submit())
            await asyncio.sleep(0.5)  # a caller every now and then, all the while
        await killing
        shown = [(await api.read(one["execution_id"]))["status"] for one in kept]

    assert shown == ["queued"] * len(kept)
    assert len(kept) > 10
