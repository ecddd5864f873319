"""The short form of each ground: load, what can go wrong with the database, and the oracle's word."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.chaos.faults import KillNode
from tests.chaos.forwarder import Forwarder
from tests.chaos.grounds.pgbouncer import PgBouncer
from tests.chaos.grounds.standby import Standby
from tests.chaos.run import Hand, Plan, run
from tests.chaos.stage import Ground, Stage

SEED = 64
STORM_SECONDS = 15.0
CALM_SECONDS = 3.0
PER_SECOND = 20.0
LEAST_ENDED = 30
DRAIN_SECONDS = 60.0
GROUNDS: dict[str, Callable[[Path], Ground]] = {"standby": Standby, "pgbouncer": PgBouncer}


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where the run keeps its files."""
    with tempfile.TemporaryDirectory(prefix="chaos-", dir="/tmp") as folder:
        yield Path(folder)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("ground", GROUNDS)
async def test_nothing_is_lost_and_nothing_is_done_twice(ground: str, folder: Path) -> None:
    """Whatever becomes of the database: all that was acknowledged ends once, and everybody is told."""
    place = GROUNDS[ground](folder)
    hands = [
        Hand(name="ground", faults=place.faults, rest_seconds=3.0),
        Hand(name="nodes", faults=[KillNode()], rest_seconds=3.0),
    ]
    plan = Plan(
        seed=SEED,
        seconds=STORM_SECONDS,
        calm_seconds=CALM_SECONDS,
        rate=PER_SECOND,
        hands=hands,
        nodes=2,
        least_share=0.0,
        least_ended=LEAST_ENDED,
        drain_seconds=DRAIN_SECONDS,
    )

    report = await run(plan, Stage(folder, place, Forwarder()))

    assert report.violations == {}, report.shape()
