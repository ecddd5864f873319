"""Fronts: where in its line work was found last, for when looking from the beginning is dear.

While somebody holds an old snapshot, all that was ever claimed stays in front of what is ready, and a look from the
beginning of a line steps over it. This process then begins where it found work last, and looks from the beginning only
now and then: for what another process was handed, what became ready in an old place, and priorities that are new.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

LOOK_SECONDS = 3.0
"""How often each line is looked at from its beginning all the same."""
LATE = timedelta(seconds=1)
"""How much later than its moment a row may be seen, as long as its transaction takes; later ones wait for a look."""
LINES_MAX = 10_000
PRIORITIES_MAX = 16
"""With more of them a line is looked at as ever."""


Found = tuple[str, int, datetime]
"""Of a row: its target, its priority, and when it had become ready."""


class Front(NamedTuple):
    """From which moment on work of this target and priority is looked for."""

    target: str
    priority: int
    at: datetime


@dataclass(slots=True)
class _Line:
    at: dict[int, datetime] = field(default_factory=dict)
    looks_at: float = float("-inf")


class Fronts:
    """Of one process. While nobody holds back what is dead there are none."""

    def __init__(self) -> None:
        self._pinned = False
        self._lines: dict[tuple[int, int, str], _Line] = {}

    def pin(self, pinned: bool) -> None:
        """Whether somebody holds back what is dead."""
        self._pinned = pinned
        if not pinned:
            self._lines.clear()

    def of(self, bucket: int, namespace: int, targets: Sequence[str], *, now: float) -> list[Front]:
        """Where to look, in the order of the targets and the most urgent first.

        Whoever asks looks at the lines of the other targets from their beginning, and need not again for a while.
        """
        if not self._pinned:
            return []
        if len(self._lines) > LINES_MAX:
            self._lines.clear()
        found: list[Front] = []
        for target in targets:
            line = self._lines.setdefault((bucket, namespace, target), _Line())
            if now >= line.looks_at:
                line.looks_at = now + LOOK_SECONDS
            elif len(line.at) <= PRIORITIES_MAX:
                found += [Front(target, priority, line.at[priority]) for priority in sorted(line.at, reverse=True)]
        return found

    def took(
        self,
        bucket: int,
        namespace: int,
        rows: Sequence[Found],
        *,
        asked: Sequence[str],
        places: Sequence[Front],
        cut: bool,
    ) -> None:
        """Work was found here, by a claim that asked for these targets and began at these places.

        `cut`: it found as much as it wanted, so that there may be more. What a look from the beginning found then has
        others in an old place behind it: the next claims go on from there, and not from the newest.
        """
        if not self._pinned:
            return
        began = {(place.target, place.priority): place.at for place in places}
        begun = {place.target for place in places}
        newest: dict[tuple[str, int], datetime] = {}
        for target, priority, at in rows:
            newest[target, priority] = max(at, newest.get((target, priority), at))
        for (target, priority), at in newest.items():
            line = self._lines.setdefault((bucket, namespace, target), _Line())
            known, from_ = line.at.get(priority), began.get((target, priority))
            if known is None or (from_ is None and cut):
                line.at[priority] = at - LATE
            elif from_ is None or known >= from_:  # else another claim has been set back meanwhile
                line.at[priority] = max(known, at - LATE)
        if cut:
            for target in set(asked) - begun - {target for target, _ in newest}:
                self._lines.setdefault((bucket, namespace, target), _Line()).looks_at = float("-inf")  # not its turn
