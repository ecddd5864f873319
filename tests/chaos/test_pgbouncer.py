"""PgBouncer in transaction mode: every statement of a whole story passes, and nothing is heard that was not said."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import asyncpg
import httpx
import pytest

from controlplane.postgres.listen import Hints
from controlplane.postgres.pool import SESSION_SETTINGS, open_pool
from controlplane.reads import verify
from tests.chaos.grounds.pgbouncer import PgBouncer
from tests.chaos.stage import standing
from tests.integration.api.serving import Apart, Api, Receiver

AT_ONCE = 40
SECRET = "whsec_of_a_test"
HEARS_SECONDS = 20.0


@pytest.fixture(scope="module")
def ground() -> Iterator[PgBouncer]:
    """A pooler before a cluster; six connections for everybody."""
    with standing(PgBouncer()) as ground:
        yield ground


@pytest.fixture(scope="module")
def house(ground: PgBouncer) -> Iterator[Apart]:
    """A server behind the pooler, which hears hints past it."""
    house = Apart(ground.dsn, database_pooler=True, database_direct_url=ground.cluster.dsn, lease_seconds=60)
    yield house
    house.stop()


@pytest.fixture
async def api(house: Apart) -> AsyncIterator[Api]:
    """The server, with a client that is as patient as it is."""
    async with httpx.AsyncClient(base_url=house.url, timeout=90, trust_env=False) as client:
        yield Api(house.app, house.host, house.port, client)


async def test_a_story_passes_through_the_pooler(ground: PgBouncer, api: Api) -> None:
    """Many at once submit, lease, remember and finish, a webhook is sent, and every promise holds."""
    session = await api.node()
    async with Receiver() as receiver:
        hook = {"url": receiver.url, "secret": SECRET}
        ids = await asyncio.gather(*(api.submit(webhook=hook, input={"n": n}) for n in range(AT_ONCE)))
        leases = []
        while len(leases) < AT_ONCE:
            leases += await api.lease(session, limit=AT_ONCE)
        answers = await asyncio.gather(*(api.finish(session, lease, 1) for lease in leases))
        await receiver.wait_for(AT_ONCE)
    shown = await asyncio.gather(*(api.read(one["execution_id"]) for one in ids))
    conn = await asyncpg.connect(ground.dsn, statement_cache_size=0)
    broken = await verify.broken(conn, [0])
    await conn.close()

    assert {answer.status_code for answer in answers} == {200}
    assert {one["status"] for one in shown} == {"succeeded"}
    assert not broken


async def test_the_settings_of_a_session_are_those_of_the_role(ground: PgBouncer) -> None:
    """Nothing can be set per session here, and what is planned is planned as everywhere."""
    conn = await asyncpg.connect(ground.dsn, statement_cache_size=0)
    found = {name: await conn.fetchval(f"show {name}") for name in SESSION_SETTINGS}
    await conn.close()

    assert found == SESSION_SETTINGS


async def test_hints_go_past_the_pooler(ground: PgBouncer) -> None:
    """A replica tells through the pooler and hears past it."""
    pool = await open_pool(ground.dsn, size=2, name="hints", pooler=True)
    here, there = Hints(pool, None), Hints(pool, ground.cluster.dsn)
    async with here.running(), there.running():
        with there.waiter("topic") as waiter:
            await waiter.wait(HEARS_SECONDS)  # once it listens, everybody is woken
            here.tell("topic")
            heard = await waiter.wait(HEARS_SECONDS)
    await pool.close()

    assert heard


async def test_a_killed_pooler_takes_nothing_along(ground: PgBouncer, api: Api) -> None:
    """kill -9 of the pooler: submits wait for it, and none that was acknowledged is missing."""
    await api.register("waits")
    before = await api.submit("waits.echo")
    await ground.kill_pooler()
    asked = asyncio.create_task(api.submit("waits.echo"))
    await asyncio.sleep(0.2)  # long enough for a try that finds nobody there
    assert not asked.done()
    await ground.start_pooler()
    after = await asked

    assert [(await api.read(one["execution_id"]))["status"] for one in (before, after)] == ["queued"] * 2
