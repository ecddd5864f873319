"""How many lives the machine lives and how long they are.

A run is its seed: the same seed and lengths invent the same lives, as long as the rules stay what they are.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from controlplane.postgres.pool import Connection
from tests.property.tally import Tally
from tests.property.whole import Whole

SETTINGS = settings(
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


@dataclass(frozen=True, slots=True)
class Length:
    """So many examples of so many steps each; Hypothesis cuts some short."""

    examples: int
    steps: int


CI = Length(examples=125, steps=50)
LONG = Length(examples=20_000, steps=100)


def live(
    loop: asyncio.AbstractEventLoop,
    conn: Connection,
    dsn: str,
    length: Length,
    tally: Tally,
    *,
    hasty: bool = False,
) -> None:
    """Live as many lives as that, invented from the seed of the tally. Raises what it found, with the way to it.

    `hasty`: as it was found, without looking for the shortest way.
    """

    class Here(Whole):
        def __init__(self) -> None:
            super().__init__(loop, conn, dsn, tally)

    wanted = settings(SETTINGS, max_examples=length.examples, stateful_step_count=length.steps)
    if hasty:
        wanted = settings(wanted, phases=[Phase.generate])
    here: Any = seed(tally.seed)(Here)
    run_state_machine_as_test(here, settings=wanted)


def never(tally: Tally) -> set[str]:
    """The rules that were part of no life."""
    return {rule.function.__name__ for rule in Whole.setup_state().rules} - tally.rules.keys()
