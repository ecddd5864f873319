"""Wall clocks that step by an hour: the database's clock decides, so nobody else's does."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane.domain.ids import made_at, read_execution
from controlplane.postgres.embedded import EmbeddedPostgres
from controlplane.postgres.schema import migrate
from tests.chaos.grounds.clocks import STEPS_SECONDS, Clocks
from tests.e2e.processes import Plane, Stage, until
from tests.e2e.receiver import Receiver

LEASE_SECONDS = 8.0
BETWEEN_SECONDS = 2.0
TOLERANCE_SECONDS = 60.0
"""What a busy machine takes to send a webhook; the smallest step is five times as much."""

NODE = """
import asyncio, sys, time
from pathlib import Path
from controlplane_sdk import Agent

app = Agent("n", heartbeat_seconds=0.5)

@app.reasoner
async def hold() -> list[float]:
    seen = []
    while not Path("go").exists():
        seen.append(time.time())
        await asyncio.sleep(0.2)
    return [min(seen), max(seen)]

app.run()
"""


@pytest.fixture
def clocks(tmp_path: Path) -> Clocks:
    """The clock of server and node."""
    if sys.platform != "linux":
        pytest.skip("needs Debian's libfaketime")
    return Clocks(tmp_path)


@pytest.fixture
def plane(tmp_path: Path, clocks: Clocks) -> Iterator[tuple[Stage, Plane]]:
    """A server with that clock, on a database with the real one."""
    with EmbeddedPostgres(tmp_path / "postgres", durable=False) as postgres, Stage(tmp_path) as stage:
        migrate(postgres.dsn)
        lease = {"CONTROLPLANE_LEASE_SECONDS": f"{LEASE_SECONDS:g}"}
        yield stage, stage.plane(postgres.dsn, **lease, **clocks.env)


@pytest.mark.timeout(240)
def test_steps_of_the_clock_cost_nobody_a_lease(plane: tuple[Stage, Plane], clocks: Clocks, tmp_path: Path) -> None:
    """An hour forward, two back, and minutes: one attempt; webhooks and ids have the database's time."""
    stage, server = plane
    made: list[float] = []
    with Receiver() as receiver:
        stage.node(server, NODE, name="n", **clocks.env)
        id_ = server.submit("n.hold", webhook=receiver.webhook)
        until("it to run", lambda: server.look(id_)["attempt"] == 1, seconds=30)
        for seconds in STEPS_SECONDS:
            clocks.step(seconds)
            time.sleep(BETWEEN_SECONDS)  # a few heartbeats under each time
            made.append(made_at(read_execution(server.submit("n.hold"))).timestamp() - time.time())
        (tmp_path / "go").touch()
        ended = server.end_of(id_, within=60)
        [heard] = until("the webhook", lambda: receiver.about(id_), seconds=60)
    first, last = ended["result"]
    stamp = int(heard.headers["webhook-timestamp"])

    assert last - first > max(STEPS_SECONDS)  # it has truly seen other times
    assert (ended["status"], ended["attempt"]) == ("succeeded", 1)
    assert server.event_types_of(id_)[:3] == ["execution.queued", "execution.started", "execution.completed"]
    assert abs(stamp - time.time()) < TOLERANCE_SECONDS
    assert all(abs(ahead) < TOLERANCE_SECONDS for ahead in made)
