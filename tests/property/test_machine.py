"""Many short lives of a control plane, invented by Hypothesis from one seed.

`make property` lives many more and longer ones (`python -m tests.property --help`); a failure prints the steps and a
blob that repeats it.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import pytest

from tests.property.chunk import lives
from tests.property.course import CI, never
from tests.property.tally import Tally

EXAMPLES_MIN = 500
STEPS_MIN = 25_000
PARTS_MAX = 12
"""Hypothesis cuts lives short: as many parts as it takes, which are always the same."""
HAPPENED = ("died, was done", "died, was not done", "two servers at once", "one waited for the other")
HAPPENED_MIN = 20
HASTY = "CI" in os.environ
"""There the way as it was found is enough: the shortest one takes minutes, and comes by hand from the same seed."""
SEED = int(os.environ.get("PROPERTY_SEED", "6"))


@pytest.mark.timeout(1500)
def test_the_stages_keep_their_promises(database: str, record_property: Callable[[str, object], None]) -> None:
    """Whatever is asked, repeated, lost or cancelled, the database looks as the model says; and every rule is drawn."""
    tally = Tally(seed=SEED)

    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as alone:
        for part in range(PARTS_MAX):
            if tally.examples < EXAMPLES_MIN or tally.steps < STEPS_MIN:
                lived = alone.submit(lives, database, SEED + part, CI, HASTY).result()
                assert lived["failure"] is None, lived["failure"]
                tally.add(lived)

    record_property("said", str(tally))
    assert tally.steps >= STEPS_MIN
    assert not never(tally)
    assert min(tally.happened[what] for what in HAPPENED) >= HAPPENED_MIN
