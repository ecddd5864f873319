"""What has ended lately, hour by hour and target by target: figures for people, of a bounded look."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from controlplane.domain.execution import Status

HOURS = 24
ENDS = (Status.FAILED, Status.TIMEOUT, Status.CANCELLED, Status.SUCCEEDED)
"""How something ends; what somebody may have to look after is first."""


@dataclass(slots=True, kw_only=True)
class Figures:
    """`hours`: what ended in each, the oldest first. `run_milliseconds`: of all that succeeded, in order."""

    hours: list[dict[Status, int]] = field(default_factory=lambda: [dict.fromkeys(ENDS, 0) for _ in range(HOURS)])
    run_milliseconds: Sequence[float] = ()

    @property
    def totals(self) -> dict[Status, int]:
        return {status: sum(hour[status] for hour in self.hours) for status in ENDS}

    @property
    def count(self) -> int:
        return sum(self.totals.values())

    @property
    def failure_rate(self) -> float | None:
        """The share that failed or ran out of time. What was cancelled says nothing of the function."""
        totals = self.totals
        unhappy = totals[Status.FAILED] + totals[Status.TIMEOUT]
        told = unhappy + totals[Status.SUCCEEDED]
        return unhappy / told if told else None

    def run_time(self, share: float) -> float | None:
        """So many milliseconds were enough for this share of what succeeded (the nearest rank)."""
        if not self.run_milliseconds:
            return None
        return self.run_milliseconds[max(0, math.ceil(share * len(self.run_milliseconds)) - 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lately:
    """The last 24 hours of the clock, of which the last is not over. `begins_at`: of each hour.

    `more`: the hours and statuses of which only the newest were looked at, so that the figures are too low.
    `looked_max`: how many those are.
    """

    begins_at: Sequence[datetime]
    targets: dict[str, Figures]
    more: frozenset[tuple[int, Status]]
    looked_max: int

    def of(self, target: str) -> Figures:
        return self.targets.get(target) or Figures()

    @property
    def whole(self) -> Figures:
        """All targets together."""
        return together(self.targets.values())


def together(parts: Iterable[Figures]) -> Figures:
    whole = Figures()
    for part in parts:
        for sum_, hour in zip(whole.hours, part.hours, strict=True):
            for status, count in hour.items():
                sum_[status] += count
        whole.run_milliseconds = [*whole.run_milliseconds, *part.run_milliseconds]
    whole.run_milliseconds = sorted(whole.run_milliseconds)
    return whole
