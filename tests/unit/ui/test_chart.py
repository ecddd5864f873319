"""The chart: an axis that is easy to read, and pieces that lie on each other and can be seen."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from controlplane.domain.execution import Status
from controlplane.domain.lately import HOURS, Figures, Lately
from controlplane.ui.chart import HEIGHT, HEIGHT_MIN, chart, nice


def drawn(counts: dict[Status, int], *more: Status) -> Lately:
    """A day in whose sixth hour so many ended."""
    figures = Figures()
    figures.hours[5].update(counts)
    begins = datetime(2026, 3, 1, 7, tzinfo=UTC)
    return Lately(
        begins_at=[begins + timedelta(hours=n) for n in range(HOURS)],
        targets={"n.echo": figures},
        more=frozenset((5, one) for one in more),
        looked_max=500,
    )


@pytest.mark.parametrize(
    ("most", "end"), [(0, 1), (1, 1), (3, 4), (7, 10), (11, 20), (99, 100), (100, 100), (101, 200)]
)
def test_the_end_of_the_axis(most: int, end: int) -> None:
    """Not below the highest bar, and a round number."""
    assert nice(most) == end


def test_one_failure_among_thousands_is_seen() -> None:
    """It stands at the foot, and what lies on it begins where it ends."""
    day = drawn({Status.FAILED: 1, Status.SUCCEEDED: 9_000})
    failed, succeeded = chart(day, day.whole).hours[5].pieces

    assert (failed.status, failed.height, failed.y + failed.height) == (Status.FAILED, HEIGHT_MIN, HEIGHT)
    assert succeeded.y + succeeded.height == pytest.approx(failed.y)
    assert succeeded.y >= 0


def test_no_bar_leaves_the_chart() -> None:
    """Small pieces are made higher; the highest gives way."""
    day = drawn({Status.FAILED: 1, Status.TIMEOUT: 1, Status.CANCELLED: 1, Status.SUCCEEDED: 9_997})
    hour = chart(day, day.whole).hours[5]

    assert sum(one.height for one in hour.pieces) == HEIGHT


def test_a_piece_leads_to_its_hour() -> None:
    """By status, by the moments of the end, and by the target if it is one's."""
    day = drawn({Status.FAILED: 2}, Status.FAILED)
    [piece] = chart(day, day.of("n.echo"), target="n.echo").hours[5].pieces

    assert piece.more
    assert piece.leads_to == (
        "executions?status=failed&ended_after=2026-03-01T12%3A00%3A00Z&ended_before=2026-03-01T13%3A00%3A00Z"
        "&target=n.echo"
    )
