"""Processes whose wall clock steps while they run, by libfaketime of Debian. The database's own does not.

`env` is for every process that shares these clocks. What sleeps and counts seconds (CLOCK_MONOTONIC) is not touched, as
it is not when an administrator or NTP sets the time of day.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

from tests import debian
from tests.chaos.stage import Stage

LIBRARY = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"
STEPS_SECONDS = (3600, -3600, 300, -300)


class Clocks:
    """One wall clock for all that have its environment; `step` sets it, seen within a moment."""

    def __init__(self, folder: Path) -> None:
        debian.install("libfaketime")
        self._file = folder / "clock"
        self.step(0)

    @property
    def env(self) -> Mapping[str, str]:
        return {
            "LD_PRELOAD": LIBRARY,
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",  # else Python takes every compiled module for one of another time
            "FAKETIME_CACHE_DURATION": "1",  # seconds
        }

    def step(self, seconds: int) -> None:
        """From here on it is so much ahead of the real time, or behind it. The file is never seen half written."""
        draft = self._file.with_name("clock.new")
        draft.write_text(f"{seconds:+d}s\n")
        draft.replace(self._file)


class StepClock:
    """The wall clock of these processes steps, and stays where it is until the next one."""

    name = "clock stepped"

    def __init__(self, clocks: Clocks) -> None:
        self._clocks = clocks

    async def strike(self, stage: Stage, rng: random.Random) -> None:
        self._clocks.step(rng.choice(STEPS_SECONDS))
