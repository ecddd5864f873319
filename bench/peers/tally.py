"""What was measured, put together: medians, spread, ratios, and the bars that they are held to. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.record import Record

OURS = "controlplane"
SUBMITS, LIVES = "submits/s", "lifecycles/s"
RATE = "per second"
NAIVE, NO_DATABASE = "fastapi, one insert", "fastapi, no database"


@dataclass(frozen=True, kw_only=True)
class Bar:
    """Ours at least so many times the best of these."""

    measure: str
    times: float
    of: tuple[str, ...]


BARS = (
    Bar(measure=SUBMITS, times=2.0, of=(NAIVE,)),
    Bar(measure=SUBMITS, times=0.6, of=(NO_DATABASE,)),
    Bar(measure=SUBMITS, times=5.0, of=("dbos",)),
    Bar(measure=LIVES, times=4.0, of=("dbos", "procrastinate", "celery")),
    Bar(measure=LIVES, times=1.5, of=("pgqueuer", "taskiq")),
)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    bar: Bar
    best: str | None
    """Whom the ratio is of; None if none of them was measured."""
    ratio: float | None
    missing: tuple[str, ...]
    """Those that could not be measured, so that the ratio says nothing of them."""

    @property
    def met(self) -> bool | None:
        """None where that cannot be said: something is not measured."""
        if self.ratio is None:
            return None
        if self.ratio < self.bar.times:
            return False
        return None if self.missing else True


@dataclass
class Tally:
    rates: dict[tuple[str, str, int], list[float]] = field(default_factory=dict)
    """Per second, round by round, of a subject, a measure, and the number of its processes."""
    absent: dict[str, str] = field(default_factory=dict)
    """Who could not be measured, or not to the end, and why."""

    def add(self, subject: str, measure: str, rate: float, *, processes: int = 1) -> None:
        self.rates.setdefault((subject, measure, processes), []).append(rate)

    def best(self, subject: str, measure: str) -> list[float]:
        """The rates of as many processes as it does best with."""
        each = [rates for (who, what, _), rates in self.rates.items() if (who, what) == (subject, measure)]
        return max(each, key=statistics.median, default=[])

    def median(self, subject: str, measure: str) -> float | None:
        rates = self.best(subject, measure)
        return statistics.median(rates) if rates else None

    def ratio(self, measure: str, subject: str) -> float | None:
        """Ours to theirs."""
        ours, theirs = self.median(OURS, measure), self.median(subject, measure)
        return ours / theirs if ours is not None and theirs else None

    def verdicts(self, bars: Iterable[Bar] = BARS) -> list[Verdict]:
        return [self._verdict(bar) for bar in bars]

    def lines(self) -> list[str]:
        """The table: what is per second, spread, and ours to it."""
        made = [f"  {'':<34}{'':<14}{'median':>9}  {'spread':<18}{'ours to it':>10}"]
        for (subject, measure, processes), rates in self.rates.items():
            ratio = self.ratio(measure, subject) if rates == self.best(subject, measure) else None
            spread = f"{min(rates):,.0f} to {max(rates):,.0f}"
            times = "" if ratio is None or subject == OURS else f"{ratio:.2f}"
            who = alone(subject, processes)
            made.append(f"  {who:<34}{measure:<14}{statistics.median(rates):>9,.0f}  {spread:<18}{times:>10}")
        made += [f"  {subject:<34}{reason}" for subject, reason in self.absent.items()]
        made += ["", *[_line(verdict) for verdict in self.verdicts()]]
        return made

    def fill(self, record: Record) -> None:
        """Everything that is known, as a record has it. A bar that misses somebody is not known; what is, is a note."""
        for subject, measure in dict.fromkeys((who, what) for who, what, _ in self.rates):
            record.add(f"{subject}: {measure}", RATE, *self.best(subject, measure))
        for (subject, measure, processes), rates in self.rates.items():
            if rates != self.best(subject, measure):
                record.add(f"less: {measure} of {alone(subject, processes)}", RATE, *rates)
        for verdict in self.verdicts():
            bar = verdict.bar
            known = None if verdict.met is None else verdict.ratio
            record.bar(f"{bar.measure}, ours to the best of {', '.join(bar.of)}", known, at_least=bar.times)
            if verdict.met is None and verdict.ratio is not None:
                record.notes.append(f"{_line(verdict).strip()}.")
        record.notes += [f"{subject} was not measured to the end: {reason}" for subject, reason in self.absent.items()]

    def _verdict(self, bar: Bar) -> Verdict:
        ratios = {name: ratio for name in bar.of if (ratio := self.ratio(bar.measure, name)) is not None}
        best = min(ratios, key=lambda name: ratios[name], default=None)
        missing = tuple(name for name in bar.of if name not in ratios)
        return Verdict(bar=bar, best=best, ratio=None if best is None else ratios[best], missing=missing)


def alone(subject: str, processes: int) -> str:
    """How a subject is called with so many processes."""
    return subject if processes == 1 else f"{subject}, {processes} processes"


def _line(verdict: Verdict) -> str:
    bar = verdict.bar
    said = {True: "met", False: "NOT met", None: "not known"}[verdict.met]
    found = "not measured" if verdict.ratio is None else f"{verdict.ratio:.2f} of {verdict.best}"
    without = f", without {', '.join(verdict.missing)}" if verdict.missing and verdict.ratio is not None else ""
    return f"  {bar.measure:<14}at least {bar.times:g} times {' / '.join(bar.of)}: {found}{without}: {said}"
