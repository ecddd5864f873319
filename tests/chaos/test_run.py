"""The order of faults is the seed's, and what was not done is said."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.chaos.embedded import Embedded
from tests.chaos.forwarder import Forwarder
from tests.chaos.run import Hand, Plan, Report, storm
from tests.chaos.stage import Stage

STRIKES = 8


@dataclass
class Drawn:
    """A fault that only chooses, takes as long as it likes, and ends the storm when enough was chosen."""

    name: str
    choices: list[tuple[str, float]]
    jitter: random.Random = field(default_factory=random.Random)

    async def strike(self, stage: Stage, rng: random.Random) -> None:
        self.choices.append((self.name, rng.random()))
        await asyncio.sleep(self.jitter.uniform(0.0, 0.005))
        if len(self.choices) == STRIKES:
            stage.over.set()


class Fails:
    name = "fails"

    async def strike(self, stage: Stage, rng: random.Random) -> None:
        stage.over.set()
        raise RuntimeError("it could not be healed")


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    """Nothing on it is started."""
    return Stage(tmp_path, Embedded(tmp_path), Forwarder())


async def _play(stage: Stage, seed: int, *hands: Hand) -> Report:
    stage.over.clear()
    report = Report(seed=seed, seconds=0.0)
    await storm(Plan(seed=seed, seconds=60.0, calm_seconds=0.0, rate=1.0, hands=hands), stage, report, lambda _: None)
    return report


async def _choices(stage: Stage, seed: int) -> list[tuple[str, float]]:
    choices: list[tuple[str, float]] = []
    faults = [Drawn("one", choices), Drawn("two", choices), Drawn("three", choices)]
    await _play(stage, seed, Hand(name="hand", faults=faults, rest_seconds=0.001))
    return choices


async def test_the_same_seed_is_the_same_faults(stage: Stage) -> None:
    """However long each of them takes, which come and what they choose is the same again."""
    first, again, other = [await _choices(stage, seed) for seed in (1, 1, 2)]

    assert first == again
    assert first != other


async def test_a_fault_that_could_not_be_healed_is_a_violation(stage: Stage) -> None:
    """Neither is it counted, nor does the run say that all was well."""
    report = await _play(stage, 1, Hand(name="hand", faults=[Fails()], rest_seconds=0.001))

    assert report.faults == {}
    assert set(report.violations) == {"a fault could not be done or healed", "too few faults"}
