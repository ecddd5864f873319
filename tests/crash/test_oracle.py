"""The campaign can fail: with the transactions of a stage taken away it finds what dying in between leaves behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash import chunk


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("module", "stories"), [("complete", "work"), ("submit", "control"), ("schedule", "clock"), ("signal", "waits")]
)
def test_what_is_torn_is_found(server: str, template: str, tmp_path: Path, module: str, stories: str) -> None:
    """What that stage writes together is written statement by statement, and so by halves."""
    told = chunk.run(tmp_path, server, template, stories, "--torn", f"controlplane.stages.{module}", form="moments")

    assert told["failures"]
