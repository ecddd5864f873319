"""The chart of what has ended lately: bars of an SVG that the server draws, and the same figures as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import urlencode

from controlplane.domain.execution import Status
from controlplane.domain.lately import ENDS, HOURS, Figures, Lately
from controlplane.domain.notice import moment

HEIGHT = 150
"""Of the bars, in pixels; their width is in per cent of the page."""
HEIGHT_MIN = 3.0
"""So high is a piece at least: one failure among thousands is seen."""
LINE_HEIGHT, LINE_HEIGHT_MIN = 22, 2.0
"""Of the small chart in a row of a table."""
STEP = 100 / HOURS
BAR = STEP * 0.78
LABEL_EVERY = 6
NICE = (1, 2, 4, 5, 10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What ended so in one hour. `x`, `width` in per cent, `y`, `height` in pixels; `more`: there are more."""

    status: Status
    count: int
    more: bool
    leads_to: str
    x: float
    y: float
    height: float
    width: float = BAR


@dataclass(frozen=True, slots=True, kw_only=True)
class Hour:
    """One bar, the most pressing at its foot. `label`: where the time is written below. `cells`: a row of the table.

    `top`: where the bar ends; `more`: there are more of it than were looked at.
    """

    begins: str
    ends: str
    middle: float
    label: str
    top: float
    more: bool
    pieces: Sequence[Piece]
    cells: Sequence[Piece]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    hours: Sequence[Hour]
    totals: Sequence[Piece]
    top: int
    count: int
    cut: bool
    looked_max: int
    height: int


def chart(lately: Lately, figures: Figures, *, target: str | None = None) -> Chart:
    """These figures, each piece with the list that shows what it counts."""
    return _chart(lately, figures, target, height=HEIGHT, height_min=HEIGHT_MIN)


def sparkline(lately: Lately, figures: Figures) -> Chart:
    """The same, to stand in a line, where nothing leads anywhere."""
    return _chart(lately, figures, None, height=LINE_HEIGHT, height_min=LINE_HEIGHT_MIN)


def _chart(lately: Lately, figures: Figures, target: str | None, *, height: int, height_min: float) -> Chart:
    top = nice(max(sum(hour.values()) for hour in figures.hours))
    begin, end = lately.begins_at[0], lately.begins_at[-1] + timedelta(hours=1)
    cut = {status for _, status in lately.more}
    totals = [
        _piece(status, count, status in cut, begin, end, target) for status, count in reversed(figures.totals.items())
    ]
    return Chart(
        hours=[
            _hour(lately, n, hour, target, height / top, height, height_min) for n, hour in enumerate(figures.hours)
        ],
        totals=totals,
        top=top,
        count=figures.count,
        cut=bool(lately.more),
        looked_max=lately.looked_max,
        height=height,
    )


def _hour(
    lately: Lately, n: int, counts: dict[Status, int], target: str | None, scale: float, height: int, height_min: float
) -> Hour:
    begins = lately.begins_at[n]
    ends = begins + timedelta(hours=1)
    x, foot = n * STEP + (STEP - BAR) / 2, float(height)
    cells = []
    for status in ENDS:
        count, more = counts[status], (n, status) in lately.more
        high = min(max(count * scale, height_min), foot) if count else 0.0
        foot -= high
        cells.append(_piece(status, count, more, begins, ends, target, x=x, y=foot, height=high))
    return Hour(
        begins=f"{begins:%Y-%m-%d %H:%M}",
        ends=f"{ends:%H:%M}",
        middle=round(n * STEP + STEP / 2, 3),
        label=f"{begins:%H:%M}" if begins.hour % LABEL_EVERY == 0 else "",
        top=round(foot, 2),
        more=any(one.more and one.count for one in cells),
        pieces=[one for one in cells if one.count],
        cells=cells[::-1],
    )


def _piece(
    status: Status,
    count: int,
    more: bool,
    begin: datetime,
    end: datetime,
    target: str | None,
    *,
    x: float = 0.0,
    y: float = 0.0,
    height: float = 0.0,
) -> Piece:
    asked = {"status": status.value, "ended_after": moment(begin), "ended_before": moment(end)}
    query = urlencode(asked | ({"target": target} if target else {}))
    return Piece(
        status=status,
        count=count,
        more=more,
        leads_to=f"executions?{query}",
        x=round(x, 3),
        y=round(y, 2),
        height=round(height, 2),
        width=round(BAR, 3),
    )


def nice(most: int) -> int:
    """The end of an axis for so many: a number that is easy to halve in the head."""
    power = 1
    while most > 10 * power:
        power *= 10
    return next(power * step for step in NICE if power * step >= most)
