"""A disk without a free byte: what cannot be kept is not acknowledged, and all goes on once there is space."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from tests.chaos.grounds.full_disk import FullDisk
from tests.chaos.stage import standing
from tests.integration.api.serving import Apart, Api, the_problem

PATIENCE_SECONDS = 1.0
LARGE = {"input": {"text": "word " * 60_000}}
"""More than the free space of the pages that there are."""
SUBMIT = "/execute/async/n.echo"


@pytest.fixture(scope="module")
def ground() -> Iterator[FullDisk]:
    """A cluster on a small disk."""
    with standing(FullDisk()) as ground:
        yield ground


@pytest.fixture(scope="module")
def house(ground: FullDisk) -> Iterator[Apart]:
    """A server with little patience."""
    house = Apart(ground.dsn, database_patience_seconds=PATIENCE_SECONDS, lease_seconds=60)
    yield house
    house.stop()


@pytest.fixture
async def api(house: Apart, ground: FullDisk) -> AsyncIterator[Api]:
    """The server; in the end there is space again."""
    async with httpx.AsyncClient(base_url=house.url, timeout=90, trust_env=False) as client:
        yield Api(house.app, house.host, house.port, client)
    ground.free()


async def test_a_full_disk_refuses_and_loses_nothing(ground: FullDisk, api: Api) -> None:
    """Writes are refused, with what to do; reads go on; with space all goes on, and nothing acknowledged is gone."""
    session = await api.node()
    kept = [await api.submit(input={"n": 0})]
    ground.fill()
    refused = await api.post(SUBMIT, LARGE)
    while refused.status_code == 202:  # it still had some pages of its own
        kept.append(refused.json())
        refused = await api.post(SUBMIT, LARGE)
    shown = [await api.read(one["execution_id"]) for one in kept]
    ground.free()
    kept.append(await api.submit(**LARGE))
    leases = await api.lease(session, limit=100)
    answers = [await api.finish(session, lease, 1) for lease in leases]

    assert "free some" in the_problem(refused, 503, "database_full")["detail"]
    assert {one["status"] for one in shown} == {"queued"}
    assert {lease["execution_id"] for lease in leases} == {one["execution_id"] for one in kept}
    assert {answer.status_code for answer in answers} == {200}
