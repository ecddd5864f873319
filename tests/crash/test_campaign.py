"""Killed at every moment at which something new can be left behind; `make crash` kills at both sides of all points."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash import chunk

PARTS = 4
KILLS_LEAST = 200
"""A part that kills less has lost its stories."""


@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("part", range(PARTS))
def test_nothing_is_lost_nothing_twice(server: str, template: str, tmp_path: Path, part: int) -> None:
    """Wherever a process dies, the next one comes to the very end to which an undisturbed one comes."""
    told = chunk.run(tmp_path, server, template, "--part", f"{part}/{PARTS}", form="moments")

    assert told["failures"] == []
    assert told["kills"] > KILLS_LEAST
