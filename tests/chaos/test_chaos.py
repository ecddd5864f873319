"""The short form of `make chaos`: one kind of fault at a time, a little of everything that is under way.

What is promised holds however long it takes: these say how much must be done at least, not how fast. The long form
compares with a calm beginning of the same run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.chaos.embedded import Embedded
from tests.chaos.faults import KillNode, KillReceiver, KillServer, RollServers, StopNode, StopServer
from tests.chaos.forwarder import Forwarder
from tests.chaos.run import Hand, Plan, run
from tests.chaos.stage import Stage

SEED = 6
STORM_SECONDS = 20.0
CALM_SECONDS = 4.0
PER_SECOND = 20.0
LEAST_ENDED = 150
DRAIN_SECONDS = 60.0

SCENARIOS: dict[str, Callable[[Embedded], Sequence[Hand]]] = {
    "servers": lambda _: [
        Hand(name="servers", faults=[KillServer()], rest_seconds=2.0),
        Hand(name="stops", faults=[StopServer()], rest_seconds=4.0),
        Hand(name="rolls", faults=[RollServers()], rest_seconds=6.0),
    ],
    "nodes": lambda _: [
        Hand(name="nodes", faults=[KillNode()], rest_seconds=1.0, least=3),
        Hand(name="stops", faults=[StopNode()], rest_seconds=1.0, least=2),
        Hand(name="receivers", faults=[KillReceiver()], rest_seconds=3.0),
    ],
    "postgres": lambda ground: [Hand(name="ground", faults=ground.faults, rest_seconds=3.0, least=2)],
}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short name, because the path of a socket is one."""
    with tempfile.TemporaryDirectory(prefix="chaos-", dir="/tmp") as folder:
        yield Path(folder)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_nothing_is_lost_and_nothing_is_done_twice(scenario: str, folder: Path) -> None:
    """Whatever is killed: all that was acknowledged ends once, as its nodes say, and everybody is told."""
    ground = Embedded(folder)
    plan = Plan(
        seed=SEED,
        seconds=STORM_SECONDS,
        calm_seconds=CALM_SECONDS,
        rate=PER_SECOND,
        hands=SCENARIOS[scenario](ground),
        nodes=2,
        least_share=0.0,
        least_ended=LEAST_ENDED,
        drain_seconds=DRAIN_SECONDS,
    )

    report = await run(plan, Stage(folder, ground, Forwarder()))

    assert report.violations == {}, report.shape()
