"""What a bench measured, in one shape: a table, a last line of JSON, and a file for docs/performance.md.

A figure is the median of its rounds with the lowest and highest beside it; a bar is a figure, or a ratio inside the
run, held to a number that was set before.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

MEMORY = Path("/proc/meminfo")
PACKAGES = ("asyncpg", "fastapi", "httpx", "uvicorn", "uvloop")


@dataclass(frozen=True)
class Figure:
    """What was measured, round by round."""

    name: str
    unit: str
    rounds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    def facts(self) -> dict[str, Any]:
        low, high = min(self.rounds), max(self.rounds)
        return {
            "unit": self.unit, "median": _short(self.median), "low": _short(low), "high": _short(high),
            "rounds": len(self.rounds),
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Bar:
    """`found` is at least, or at most, the number; without `found` it could not be measured."""

    says: str
    found: float | None
    at_least: float | None = None
    at_most: float | None = None

    @property
    def met(self) -> bool | None:
        if self.found is None:
            return None
        over = self.at_least is None or self.found >= self.at_least
        return over and (self.at_most is None or self.found <= self.at_most)

    def facts(self) -> dict[str, Any]:
        limits = {"at_least": self.at_least, "at_most": self.at_most}
        known = {name: value for name, value in limits.items() if value is not None}
        found = None if self.found is None else _short(self.found)
        return {"says": self.says, "found": found, **known, "met": self.met}


@dataclass
class Record:
    """One run of one bench.

    `title` and `what` are the heading and the sentence of its part of docs/performance.md; `command` repeats it.
    """

    bench: str
    title: str
    what: str
    command: str
    settings: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)
    bars: list[Bar] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Sentences that belong beside the figures: what could not be measured and why, where another is ahead."""

    def add(self, name: str, unit: str, *rounds: float) -> None:
        """Rounds of a figure, which may come one by one."""
        self.figures.setdefault(name, Figure(name, unit, [])).rounds.extend(rounds)

    def median(self, name: str) -> float | None:
        return self.figures[name].median if name in self.figures else None

    def ratio(self, name: str, other: str) -> float | None:
        """Of two medians of this run; None where one is missing."""
        ours, theirs = self.median(name), self.median(other)
        return ours / theirs if ours is not None and theirs else None

    def bar(
        self, says: str, found: float | None, *, at_least: float | None = None, at_most: float | None = None
    ) -> None:
        self.bars.append(Bar(says=says, found=found, at_least=at_least, at_most=at_most))

    def facts(self) -> dict[str, Any]:
        return {
            "bench": self.bench,
            "title": self.title,
            "what": self.what,
            "command": self.command,
            "machine": machine(),
            "versions": {**versions(), **self.versions},
            "settings": self.settings,
            "figures": {name: figure.facts() for name, figure in self.figures.items()},
            "bars": [bar.facts() for bar in self.bars],
            "notes": self.notes,
        }

    def tell(self, keep: Path | None = None) -> None:
        """Print it, the last line as JSON, and write it to the file."""
        width = max([len(name) for name in self.figures], default=0)
        print(f"{self.title}\n{self.settings}\n")
        for name, figure in self.figures.items():
            spread = f"({_shown(min(figure.rounds))} to {_shown(max(figure.rounds))}, {len(figure.rounds)} rounds)"
            print(f"  {name:<{width}}  {_shown(figure.median):>12} {figure.unit:<12} {spread}")
        print()
        for bar in self.bars:
            print(f"  {bar.says}: {_bar(bar)}")
        for note in self.notes:
            print(f"  {note}")
        facts = self.facts()
        if keep is not None:
            keep.write_text(json.dumps(facts, indent=1) + "\n")
        print(json.dumps(facts))


def keeping(parser: argparse.ArgumentParser) -> None:
    """The option that every bench has."""
    parser.add_argument("--json", type=Path, help="the file to keep the record in, e.g. docs/performance/latency.json")


def p99(figures: Sequence[float]) -> float:
    """In the unit of the figures."""
    return statistics.quantiles(figures, n=100)[98]


def machine() -> dict[str, Any]:
    memory = int(MEMORY.read_text().split()[1]) // 1024 if MEMORY.exists() else None
    return {"cores": os.cpu_count(), "memory_mb": memory, "system": platform.system()}


def versions() -> dict[str, str]:
    ours = {"controlplane": version("controlplane"), "python": platform.python_version()}
    return ours | {name: version(name) for name in PACKAGES}


def _bar(bar: Bar) -> str:
    wanted = f"at least {bar.at_least:g}" if bar.at_least is not None else f"at most {bar.at_most:g}"
    if bar.found is None:
        return f"not measured ({wanted})"
    return f"{_shown(bar.found)} ({wanted}): {'met' if bar.met else 'NOT met'}"


def _shown(number: float) -> str:
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:,.3g}"


def _short(number: float) -> float:
    """Four digits are more than a run can tell apart."""
    return float(f"{number:.4g}") if abs(number) < 1000 else round(number)
