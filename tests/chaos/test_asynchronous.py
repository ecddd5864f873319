"""An asynchronous standby: what it had not received is lost with the primary. How much is counted, and not hidden."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import asyncpg
import pytest

from controlplane.reads import verify
from tests.chaos.grounds.standby import Standby, asynchronous
from tests.integration.api.serving import Api, serving

RECEIVED, BEHIND = 10, 15
"""Submits that the standby has, and those that it has not."""


@pytest.fixture(scope="module")
def ground() -> Iterator[Standby]:
    """Two clusters, the second of which may lag."""
    ground = asynchronous()
    try:
        asyncio.run(ground.start())
        yield ground
    finally:
        asyncio.run(ground.stop())


async def submit(api: Api, n: int) -> str:
    return str((await api.submit(input={"n": n}, headers={"Idempotency-Key": f"n-{n}"}))["execution_id"])


async def lost(api: Api, ids: list[str]) -> list[str]:
    """Those of them that are not there."""
    answers = await asyncio.gather(*(api.client.get(f"/api/v1/executions/{id_}") for id_ in ids))
    return [id_ for id_, answer in zip(ids, answers, strict=True) if answer.status_code == 404]


async def test_what_the_standby_lacked_is_lost_and_can_be_asked_for_again(
    ground: Standby, record_property: Callable[[str, object], None]
) -> None:
    """The acknowledged tail is gone, nothing is broken, and whoever asks again under the same key has all of it."""
    async with serving(ground.dsn, lease_seconds=60, database_patience_seconds=60) as api:
        await api.register()
        ids = [await submit(api, n) for n in range(RECEIVED)]
        await ground.caught_up()
        await ground.standby.stop()  # not only held up: what has reached its machine it would still write
        ids += [await submit(api, RECEIVED + n) for n in range(BEHIND)]
        ground.primary.kill()
        await ground.standby.start()
        await ground.take_over(alone=True)
        gone = await lost(api, ids)
        again = [await submit(api, n) for n in range(RECEIVED + BEHIND)]
        still = await lost(api, again)
    conn = await asyncpg.connect(ground.dsn)
    broken = await verify.broken(conn, [0])
    await conn.close()
    record_property("acknowledged and lost", len(gone))

    assert gone == ids[RECEIVED:]
    assert again[:RECEIVED] == ids[:RECEIVED]
    assert (still, broken) == ([], {})
