"""Figures of the last 24 hours: shares and times of a bounded look."""

from __future__ import annotations

import pytest

from controlplane.domain.execution import Status
from controlplane.domain.lately import Figures, together


@pytest.mark.parametrize(
    ("times", "share", "expected"),
    [((), 0.5, None), ((7.0,), 0.95, 7.0), ((1.0, 2.0), 0.5, 1.0), (tuple(range(1, 101)), 0.95, 95)],
)
def test_the_nearest_rank(times: tuple[float, ...], share: float, expected: float | None) -> None:
    """A time that was measured, and none where none was."""
    assert Figures(run_milliseconds=times).run_time(share) == expected


def test_what_ran_out_of_time_has_failed() -> None:
    """And where all was cancelled there is no share."""
    figures = Figures()
    figures.hours[3][Status.CANCELLED] = 4
    assert figures.failure_rate is None

    figures.hours[3][Status.TIMEOUT] = 1
    figures.hours[4][Status.SUCCEEDED] = 3
    assert figures.failure_rate == 0.25


def test_together() -> None:
    """Hour by hour; the times in order."""
    one, other = Figures(run_milliseconds=(1.0, 9.0)), Figures(run_milliseconds=(5.0,))
    one.hours[0][Status.FAILED] = 1
    other.hours[0][Status.FAILED] = 2
    whole = together([one, other])

    assert whole.hours[0][Status.FAILED] == 3
    assert whole.run_milliseconds == [1.0, 5.0, 9.0]
