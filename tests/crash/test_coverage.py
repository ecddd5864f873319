"""The list of points is complete: a new await is passed by some story, or named here with a reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash import chunk
from tests.crash.modules import ELSEWHERE, EXCEPTIONS, MODULES
from tests.crash.points import Side, points_of


@pytest.mark.timeout(600)
def test_every_point_is_passed(server: str, template: str, tmp_path: Path) -> None:
    """Both sides of every await of the stages and daemons, but for the exceptions, which no story passes."""
    passed = set(chunk.run(tmp_path, server, template, form="none")["passed"])

    known = {f"{point.name} {side}" for module in MODULES for point in points_of(module) for side in Side}
    excepted = {f"{point} {side}" for point in EXCEPTIONS for side in Side if " " not in point} | (
        known & {*EXCEPTIONS}
    )
    assert sorted(known - passed) == sorted(excepted), "write a story that passes these (tests/crash/stories)"
    assert passed <= known


def test_the_others_are_there() -> None:
    """A module that is killed elsewhere has points, or it need not be named."""
    assert all(points_of(module) for module in ELSEWHERE)
