"""A synchronous standby: nothing is acknowledged that the primary alone has, whatever becomes of the primary."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from tests.chaos.grounds.cluster import Cluster
from tests.chaos.grounds.standby import Standby
from tests.chaos.patience import until
from tests.chaos.stage import standing
from tests.integration.api.serving import Apart, Api, the_problem

PATIENCE_SECONDS = 3.0
HANGS_SECONDS = 25.0
"""Less than a statement may take, and far more than the patience that the server was told to have."""
WAITS = "select exists (select from pg_stat_activity where wait_event = 'SyncRep')"
CUT_SHORT = "select pg_terminate_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'"
BODY = {"input": {"n": 1}}
SUBMIT = "/execute/async/n.echo"


@pytest.fixture(scope="module")
def ground() -> Iterator[Standby]:
    """Two clusters, in step."""
    with standing(Standby()) as ground:
        yield ground


@pytest.fixture(scope="module")
def house(ground: Standby) -> Iterator[Apart]:
    """A server that knows both of them."""
    house = Apart(ground.dsn, database_patience_seconds=PATIENCE_SECONDS, lease_seconds=60)
    yield house
    house.stop()


@pytest.fixture
async def api(house: Apart, ground: Standby) -> AsyncIterator[Api]:
    """The server, while the two are in step."""
    if not ground.standby.alive:
        await ground.standby.start()
    await ground.in_step()
    async with httpx.AsyncClient(base_url=house.url, timeout=90, trust_env=False) as client:
        api = Api(house.app, house.host, house.port, client)
        await api.register()
        yield api


@pytest.fixture
async def away(ground: Standby, api: Api) -> None:
    """The standby has gone, and every commit waits for it."""
    await ground.standby.stop()


async def cut_short(primary: Cluster) -> None:
    """End the wait of a commit for the standby: it stands, and everybody sees it."""
    await until("a commit to wait", lambda: primary.value(WAITS), seconds=10)
    await primary.execute(CUT_SHORT)


async def test_a_commit_that_waits_for_a_standby_is_answered_in_time(ground: Standby, api: Api, away: None) -> None:
    """503 and what to do, as soon as the patience is over; who only reads does not wait."""
    async with asyncio.timeout(HANGS_SECONDS):
        answer = await api.post(SUBMIT, BODY)

    assert "try again" in the_problem(answer, 503, "database_unavailable")["detail"]
    assert answer.headers["Retry-After"]
    assert (await api.get("/executions"))["items"] is not None


async def test_a_repeated_try_acknowledges_nothing_that_the_primary_alone_has(
    ground: Standby, api: Api, away: None
) -> None:
    """A wait that is cut short leaves a commit that everybody sees. The try that finds it has to wait as well."""
    asked = asyncio.create_task(api.post(SUBMIT, BODY))
    await cut_short(ground.primary)
    answer = await asked
    seen = (await api.get("/executions", limit=1))["items"]

    the_problem(answer, 503, "database_unavailable")
    assert len(seen) == 1


async def test_a_key_acknowledges_nothing_that_the_primary_alone_has(ground: Standby, api: Api, away: None) -> None:
    """The same for a caller that comes again with its key, until there is a standby."""
    headers = {"Idempotency-Key": "once"}
    asked = asyncio.create_task(api.post(SUBMIT, BODY, headers=headers))
    await cut_short(ground.primary)
    the_problem(await asked, 503, "database_unavailable")
    the_problem(await api.post(SUBMIT, BODY, headers=headers), 503, "database_unavailable")
    [seen] = (await api.get("/executions", limit=1))["items"]
    await ground.standby.start()
    answer = await api.post(SUBMIT, BODY, headers=headers)

    assert answer.json()["execution_id"] == seen["execution_id"]


async def test_a_repeated_report_is_not_confirmed_before_it_is_safe(ground: Standby, api: Api) -> None:
    """A node whose report the primary alone has is told to say it again, also when it does."""
    session = await api.node()
    await api.submit()
    lease = await api.take(session)
    await ground.standby.stop()
    asked = asyncio.create_task(api.finish(session, lease, 1))
    await cut_short(ground.primary)
    the_problem(await asked, 503, "database_unavailable")
    the_problem(await api.finish(session, lease, 1), 503, "database_unavailable")
    await ground.standby.start()

    assert (await api.finish(session, lease, 1)).json()["results"][0]["code"] == "already_recorded"


async def test_what_was_acknowledged_survives_the_primary(ground: Standby, api: Api) -> None:
    """kill -9 of the primary and a promotion: all is there, the server goes on, and waits until there is a standby."""
    kept = [await api.submit(input={"n": n}) for n in range(20)]
    await ground.fail_over(alone=False)
    refused = await api.post(SUBMIT, BODY)
    await ground.follow()
    after = await api.submit()

    the_problem(refused, 503, "database_unavailable")
    assert [(await api.read(one["execution_id"]))["status"] for one in (*kept, after)] == ["queued"] * 21
